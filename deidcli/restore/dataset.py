"""`deid restore`: restore the faces of an output with its password into another folder.

Only OUT and the passphrase are needed, on any machine. A sealed output gives the original pixels of
each replaced region; every byte involved is checked before anything is written, and a wrong
passphrase is an error. An unsealed output is restored by the method's network. A wrong passphrase
then gives other faces if OUT.private has the face positions; otherwise it cannot open the sealed
file that has them.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deidcli.crypto.keys import Kdf, Keys, derive
from deidcli.crypto.sealing import is_manifest_of
from deidcli.data.finished_output import Picture, read_pictures
from deidcli.data.geometry import Places
from deidcli.data.journal import private_folder
from deidcli.data.manifest import manifest_bytes, manifest_digest, read_manifest
from deidcli.data.sealed import FILE, SealedRows
from deidcli.data.sink import Unwritable
from deidcli.data.sums import read_sums
from deidcli.errors import DeidError
from deidcli.methods import method_facts, method_weights
from deidcli.restore.picture import NetworkRestorer, Restorer, SealRestorer
from deidcli.restore.written import Restored, RestoredFiles
from deidcli.version import __version__
from deidcli.weights.files import file_sha256
from deidcli.weights.own import own_weights

Progress = Callable[[str, int, int], None]
"""Called as (phase, pictures done now, pictures in all)."""

RECORD = "restored.json"
"""The file that says what a folder is; written last."""
MARK = ".deid-restore"
"""A file in an unfinished folder, locked by the process that fills it."""
MEANINGS = {
    "pictures": "published",
    "exact": "with the original pixels of every face, out of the seal",
    "network": "with faces made by the network; that the password was right is not checked",
    "copied": "as published: no face, or none that was not blacked out",
    "failed": "cannot be restored, left out",
    "faces": "brought back",
    "blacked_out": "faces that stay black: the gate had refused the method's",
}
"""The names of the counts."""
_OWN = {"images", "data", "metadata.parquet", RECORD}
_WHOLE = "take OUT as it was published"
NOTE = (
    "Faces brought back from a de-identified data set by deid restore: pictures of the people in "
    "it, to be kept as the originals are. Not to be published."
)


def restore(
    out: Path,
    to: Path,
    passphrase: bytes,
    *,
    networks_only: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    batch_size: int = 16,
    progress: Progress = lambda phase, done, total: None,
) -> dict[str, Any]:
    """Restore OUT into another folder.

    Args:
        networks_only: ignore a seal and use the method's network.
        overwrite: replace what an earlier restore wrote to `to`.

    Returns:
        The content of restored.json.

    Raises:
        DeidError: nothing in OUT can be restored, `to` cannot be used, or, for a sealed OUT, the
            passphrase is wrong or a byte was changed. Nothing is written then.
    """
    record = can_be_restored(out, networks_only)
    check_target(out, to, overwrite)
    by_seal = is_sealed(out, record) and not networks_only
    if by_seal:
        _check_plain(out, record)
    keys = derive(passphrase, Kdf.from_dict(record.get("password")))
    restorer: Restorer
    if by_seal:
        check_seal(out, record, keys)
        restorer = SealRestorer(keys, record["fingerprint"], SealedRows(out))
    else:
        _check_weights(record)
        is_crop = record["settings"]["output"] == "crops"
        places = None if is_crop else Places(out, record["fingerprint"], keys)
        restorer = NetworkRestorer(record, keys, places, device, batch_size)
    with _unfinished(to) as folder:
        counts, failed = _restore_all(out, folder, record, restorer, progress)
        said = {
            "deid_version": __version__,
            "note": NOTE,
            "restored_run": record["fingerprint"],
            "method": record["method"],
            "by": restorer.name,
            "counts": counts,
            "failed": failed,
        }
        text = json.dumps(said, indent=2, ensure_ascii=False) + "\n"
        (folder / RECORD).write_text(text, encoding="utf-8")
    return said


def can_be_restored(out: Path, networks_only: bool = False) -> dict[str, Any]:
    """Return the manifest of an output that a password can restore.

    Raises:
        DeidError: this is not a finished output, or has neither a seal nor a network that restores.
    """
    record = read_manifest(out)
    if record is None:
        raise DeidError(f"{out} is not a finished output (no manifest.json)", "give OUT")
    try:
        method = str(record["method"])
        usable = "password" in record and bool(record["fingerprint"])
        usable = usable and isinstance(record["settings"]["output"], str)
        usable = usable and isinstance(record["input"]["kind"], str)
        usable = usable and isinstance(record["counts"]["published"], int)
    except (KeyError, TypeError):
        raise DeidError(f"{out / 'manifest.json'} was changed", "restore that file") from None
    sealed = is_sealed(out, record)
    if not sealed and not method_facts(method).needs_password:
        raise DeidError(
            f"nothing in {out} can be restored: {method} has no way back, and it is not sealed",
            "deid anonymize --seal keeps the originals, encrypted, with what is published",
        )
    if networks_only and not method_facts(method).needs_password:
        raise DeidError(f"{method} has no network that restores", "leave out --networks-only")
    if not usable:
        raise DeidError(f"{out / 'manifest.json'} was changed", "restore that file")
    return record


def is_sealed(out: Path, record: dict[str, Any]) -> bool:
    """Return whether anything indicates that an output is sealed; the seal must then be valid."""
    settings = record.get("settings")
    asked = isinstance(settings, dict) and bool(settings.get("seal"))
    return asked or "seal" in record or "seal_mac" in record or (out / FILE).exists()


def _check_plain(out: Path, record: dict[str, Any]) -> None:
    """Check without a password that manifest.json is as deid writes it and has a valid digest."""
    plain = (out / "manifest.json").read_bytes() == manifest_bytes(record)
    if not plain or record.get("digest") != manifest_digest(record):
        raise DeidError(f"{out / 'manifest.json'} was changed since it was written", _WHOLE)


def check_seal(out: Path, record: dict[str, Any], keys: Keys) -> None:
    """Prove with the passphrase that a sealed output is exactly what the run wrote.

    The MAC covers the content of manifest.json; through its checksums, metadata.parquet and
    SHA256SUMS; through those, every picture and the sealed file.

    Raises:
        DeidError: a byte was changed, a file is missing, or the passphrase is wrong.
    """
    _check_plain(out, record)
    if not is_manifest_of(keys, record):
        raise DeidError(
            f"the password is not the one that {out} was sealed with, or its manifest was forged",
            "check the password",
        )
    files = {name: record["files"][name] for name in ("metadata.parquet", "SHA256SUMS")}
    _check_files(out, files)
    _check_files(out, read_sums(out))


def _check_files(out: Path, sums: dict[str, str]) -> None:
    for name, sha256 in sums.items():
        try:
            same = file_sha256(out / name) == sha256
        except OSError:
            raise DeidError(f"{out / name} cannot be read", _WHOLE) from None
        if not same:
            raise DeidError(f"{out / name} was changed since it was sealed", _WHOLE)


def _check_weights(record: dict[str, Any]) -> None:
    """Check that the weights are the run's; others would give other faces without any sign."""
    try:
        names = method_weights(record["method"], record["settings"]["method_settings"])
        changed = [n for n in names if record["weights"].get(n) != own_weights(n)[1].sha256]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DeidError("manifest.json was changed", "restore that file") from None
    if changed:
        raise DeidError(
            f"it was made with other weights than those installed: {', '.join(changed)}",
            f"install deid {record.get('deid_version')}, which made it",
        )


# ---------------------------------------------------------------------------- the target


def check_target(out: Path, to: Path, overwrite: bool) -> None:
    """Check that nothing will be written into OUT or over files. Writes nothing.

    Raises:
        DeidError: `to` is OUT, lies inside it, contains it, or contains something else.
    """
    real_to, real_out = to.resolve(), out.resolve()
    for folder in (real_out, private_folder(real_out)):
        if real_to.is_relative_to(folder) or folder.is_relative_to(real_to):
            raise DeidError(f"{to} and {folder} lie one in the other", "choose another --to")
    if not to.exists():
        return
    if not to.is_dir():
        raise DeidError(f"{to} is a file", "choose another folder with --to")
    names = {entry.name for entry in to.iterdir()}
    if not names:
        return
    if RECORD not in names or not names <= _OWN:
        raise DeidError(
            f"{to} holds something that deid restore did not write there",
            "choose an empty or new folder with --to",
        )
    if not overwrite:
        raise DeidError(
            f"{to} holds what an earlier restore wrote", "choose another --to, or --overwrite"
        )


@contextmanager
def _unfinished(to: Path) -> Iterator[Path]:
    """Create a folder beside `to`, accessible only to its owner; on success it becomes `to`."""
    folder = to.with_name(to.name + ".incomplete")
    try:
        if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
            raise DeidError(
                f"{folder} holds something that deid restore did not write there", "move it away"
            )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(folder, 0o700)
        mark = open(folder / MARK, "w")  # noqa: SIM115 - locked until the end
    except OSError as error:
        raise DeidError(
            f"{folder} cannot be written: {error.strerror}", "choose another folder with --to"
        ) from None
    with mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DeidError(f"another restore is writing to {folder}", "wait for it") from None
        try:
            for entry in folder.iterdir():
                if entry.name != MARK:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            yield folder
            if to.exists():
                shutil.rmtree(to)
            (folder / MARK).unlink()
            os.replace(folder, to)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise DeidError(
                f"{to} cannot be written: {error.strerror or error}",
                "check the folder, its space and its permissions",
            ) from None
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


# ---------------------------------------------------------------------------- the pictures


@dataclass
class _Tally:
    counts: Counter[str]
    failed: list[dict[str, str]]

    def add(self, result: Restored) -> None:
        self.counts[result.how] += 1
        self.counts["faces"] += result.faces
        self.counts["blacked_out"] += result.blacked_out
        if result.how == "failed":
            entry = {"file_name": result.picture.name, "reason": result.reason}
            self.failed.append(entry)


def _restore_all(
    out: Path, folder: Path, record: dict[str, Any], restorer: Restorer, progress: Progress
) -> tuple[dict[str, int], list[dict[str, str]]]:
    tally, total = _Tally(Counter(), []), int(record["counts"]["published"])
    progress("restoring", 0, total)
    with RestoredFiles(out, folder) as files:
        waiting: list[Picture] = []
        for picture in read_pictures(out):
            waiting.append(picture)
            if restorer.is_full(waiting):
                _close(waiting, restorer, files, tally)
                progress("restoring", len(waiting), total)
                waiting = []
        _close(waiting, restorer, files, tally)
        progress("restoring", len(waiting), total)
    keys = ("exact", "network", "copied", "failed", "faces", "blacked_out")
    pictures = sum(tally.counts[key] for key in keys[:4])
    return {"pictures": pictures, **{key: tally.counts[key] for key in keys}}, tally.failed


def _close(waiting: list[Picture], restorer: Restorer, files: RestoredFiles, tally: _Tally) -> None:
    for result in restorer(waiting):
        written = result
        if result.how != "failed":
            try:
                files.write(result)
            except Unwritable as error:
                written = Restored(result.picture, "failed", reason=f"its name: {error}")
        tally.add(written)
