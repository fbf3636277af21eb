"""Checks before a run, and the pass over the whole input that whole-set methods need."""

from __future__ import annotations

import hmac
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deidcli.data.columns import Wish
from deidcli.data.images import FORMAT_OF_EXTENSION, READ_ONLY_EXTENSIONS
from deidcli.data.journal import Journal, private_folder
from deidcli.data.listing import printable
from deidcli.data.sink import scratch, write_atomic, writing
from deidcli.data.source import Source
from deidcli.errors import DeidError, UsageError
from deidcli.methods import method_warning
from deidcli.methods.base import Plan, PlanFace
from deidcli.crypto.passwords import Kdf, derive, new_kdf
from deidcli.pipeline.run import RunKeys
from deidcli.settings import RunSettings


def default_output(roots: Path | Sequence[Path]) -> Path:
    """INPUT-deid, beside INPUT; of several inputs, beside the folder that they all lie in.

    Raises:
        UsageError: that folder is the file system's root.
    """
    paths = [roots.resolve()] if isinstance(roots, Path) else sorted({r.resolve() for r in roots})
    only = paths[0]
    if len(paths) > 1:
        only = Path(os.path.commonpath([path.parent for path in paths]))
    if not only.name:
        raise UsageError("the inputs have no folder in common", "name the output with --out")
    known = only.suffix.lower() in (".parquet", *FORMAT_OF_EXTENSION, *READ_ONLY_EXTENSIONS)
    stem = only.stem if len(paths) == 1 and known and not only.is_dir() else only.name
    return only.parent / f"{stem}-deid"


def predicted_attributes(asked: Sequence[str] | None, source: Source) -> tuple[str, ...]:
    """Attributes that were asked for and that no input has a label for: the classifier's work."""
    return tuple(name for name in asked or () if name not in source.label_names)


def check_output(out: Path, source: Source) -> None:
    """Make sure that nothing of anybody else's is touched. Writes nothing.

    Raises:
        DeidError: OUT lies in INPUT or holds it, is a file, or holds something that is not ours.
    """
    try:
        _check_output(out, source)
    except OSError as error:  # a name too long, a parent that is a file
        raise DeidError(
            f"{out} cannot be used: {error.strerror}", "choose another folder with --out"
        ) from None


def _check_output(out: Path, source: Source) -> None:
    if not out.name or printable(str(out)) != str(out):
        raise DeidError(f"{printable(str(out))!r} cannot be the output", "name a folder with --out")
    for root in (*source.roots, *source.linked):
        _check_apart(out, root, source)
    for path in (out, private_folder(out)):
        if path.exists() and not path.is_dir():
            raise DeidError(f"{path} is a file", "choose another folder with --out")
    if Journal(out).read_run() is not None:
        return
    if out.is_dir() and any(entry.name != scratch(out).name for entry in out.iterdir()):
        raise DeidError(
            f"{out} holds something that deid did not write there",
            "choose an empty or new folder with --out",
        )
    journal = private_folder(out)
    if journal.is_dir() and not all(_is_ours(entry.name) for entry in journal.iterdir()):
        raise DeidError(
            f"{journal} holds something that deid did not write there",
            "choose another folder with --out",
        )


def _check_apart(out: Path, root: Path, source: Source) -> None:
    real_out, real_root = out.resolve(), root.resolve()
    private = private_folder(real_out)
    inside = real_root.is_dir() and (
        real_out.is_relative_to(real_root) or private.is_relative_to(real_root)
    )
    if inside or real_root.is_relative_to(real_out) or real_root.is_relative_to(private):
        raise DeidError(
            f"the output {out} and the input {root} lie one in the other",
            f"choose a folder beside it, such as --out {default_output(source.roots)}",
        )


def _is_ours(name: str) -> bool:
    """Whether a run that was killed before its record was written may have left this behind."""
    return name in ("lock", "parts") or bool(re.fullmatch(r"\d+-[0-9a-f]{16}", name))


def open_output(out: Path) -> None:
    """Make OUT and try whether it can be written."""
    with writing():
        scratch(out).mkdir(parents=True, exist_ok=True)
        probe = scratch(out) / f"{os.getpid()}-probe"
        probe.write_bytes(b"deid")
        probe.unlink()


def wish_of(settings: RunSettings) -> Wish:
    """What is published beside the pictures.

    Labels of attributes that were not asked for, or that the method's picture does not keep, stand
    in no file: they would tell what the picture hides, or be wrong.
    """
    return Wish(settings.columns, settings.keep_identity, settings.attributes)


def warnings_of(source: Source, settings: RunSettings) -> list[str]:
    """What the user should know before the run, one line each."""
    said = [*source.private_warnings, *source.warnings]
    predicted = predicted_attributes(settings.attributes, source)
    if predicted:
        said.append(f"the input has no labels for {', '.join(predicted)}: they are predicted")
    if settings.on_no_face == "copy":
        said.append(
            "WARNING: pictures in which no face is found will be copied as they are; a face that "
            "the detector misses is published"
            + (", also where a second look finds one (--yes)" if settings.yes else "")
        )
    said += source.columns.notes()
    unprotected = method_warning(settings.method, settings.method_settings)
    if unprotected:
        said.append(unprotected)
    if source.names_people and settings.names == "keep":
        said.append("folders or files seem to be named after people: --names random renames them")
    return said


def other_run(out: Path, found: Sequence[str]) -> DeidError:
    """The error for a second run with other settings or other inputs."""
    if any(text.startswith("inputs") for text in found) and len(found) == 1:
        return DeidError(
            f"the input has changed since {out} was begun",
            "choose another --out, or start anew with --overwrite",
        )
    shown = [text for text in found if not text.startswith("inputs")] or ["the version of deid"]
    return DeidError(
        f"{out} was made with other settings: {'; '.join(shown)}",
        "choose another --out, or start anew with --overwrite",
    )


def run_keys(
    out: Path, passphrase: bytes | None, secret: bytes, record: Mapping[str, Any] | None
) -> RunKeys | None:
    """The keys of a run with a passphrase.

    Args:
        secret: the run's own.
        record: run.json of the run that is resumed; None: a new run.

    Raises:
        DeidError: the run was begun with another passphrase. Faces of two passphrases in one OUT
            could never be restored together.
    """
    if passphrase is None:
        return None
    kdf = new_kdf(secret) if record is None else Kdf.from_dict(record.get("password"))
    keys = derive(passphrase, kdf)
    if record is not None and not hmac.compare_digest(
        keys.verifier.hex(), str(record.get("verifier"))
    ):
        raise DeidError(
            f"{out} was begun with another password",
            "give that one, choose another --out, or start anew with --overwrite",
        )
    return RunKeys(keys, kdf, secret)


def write_scan(folder: Path, shard: int, faces: Sequence[PlanFace]) -> None:
    """Keep the chips of a shard's faces for `make_plan`."""
    with writing():
        folder.mkdir(parents=True, exist_ok=True)
        shape = (len(faces), *(faces[0].chip.shape if faces else (0, 0, 3)))
        chips = np.stack([face.chip for face in faces]) if faces else np.zeros(shape, np.uint8)
        unfinished = folder / f".{shard:06d}-{os.getpid()}.npy"
        _save(unfinished, chips)
        os.replace(unfinished, folder / f"{shard:06d}.npy")
    listed = [[str(face.seed), face.person] for face in faces]
    write_atomic(folder / f"{shard:06d}.json", json.dumps(listed).encode(), folder)


def _save(path: Path, values: NDArray[Any]) -> None:
    """`np.save`, but where the disk is full the error says so: numpy's own has no number."""
    with open(path, "wb") as file:
        np.save(_Stream(file.write), values)
        file.flush()
        os.fsync(file.fileno())


@dataclass(frozen=True)
class _Stream:
    """What is written to as to a file, and not taken for one."""

    write: Callable[[bytes], int]


def is_scanned(folder: Path, shard: int) -> bool:
    """Whether `write_scan` has finished for a shard."""
    return (folder / f"{shard:06d}.json").exists()


def read_scans(folder: Path, shards: int) -> Iterator[PlanFace]:
    """All faces of all shards; the chips stay on disk until they are touched."""
    for shard in range(shards):
        listed = json.loads((folder / f"{shard:06d}.json").read_text())
        if not listed:
            continue
        chips = np.load(folder / f"{shard:06d}.npy", mmap_mode="r")
        for (seed, person), chip in zip(listed, chips, strict=True):
            yield PlanFace(int(seed), chip, person)


def write_plan(folder: Path, plan: Plan) -> None:
    """Keep a plan; it is there only when it is whole."""
    unfinished = folder.with_name(f"plan-{os.getpid()}")
    with writing():
        unfinished.mkdir(parents=True, exist_ok=True)
        for name, values in plan.items():
            _save(unfinished / f"{name}.npy", values)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(unfinished, folder)


def forget(plan: Path, scan: Path) -> None:
    """Remove a plan and the scans that it was made of."""
    for folder in (scan, plan):
        shutil.rmtree(folder, ignore_errors=True)


def has_plan(folder: Path) -> bool:
    """Whether a plan was kept."""
    return folder.is_dir()


def read_plan(folder: Path) -> Plan:
    """A kept plan, its arrays mapped from disk."""
    return {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
