"""Choose and check the output folder; files that deid did not write are never touched."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from deidcli.data.images import FORMAT_OF_EXTENSION, READ_ONLY_EXTENSIONS
from deidcli.data.journal import Journal, private_folder
from deidcli.data.listing import printable
from deidcli.data.sink import scratch, writing
from deidcli.data.source import Source
from deidcli.errors import DeidError, UsageError


def default_output(roots: Path | Sequence[Path]) -> Path:
    """Return INPUT-deid, beside INPUT; for several inputs, beside their common folder.

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


def check_output(out: Path, source: Source) -> None:
    """Check that no foreign files would be touched. Writes nothing.

    Raises:
        DeidError: OUT lies inside INPUT or contains it, is a file, or contains foreign files.
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
    """Return whether this may be left from a run that was killed before it wrote its record."""
    return name in ("lock", "parts") or bool(re.fullmatch(r"\d+-[0-9a-f]{16}", name))


def open_output(out: Path) -> None:
    """Create OUT and check that it can be written."""
    with writing():
        scratch(out).mkdir(parents=True, exist_ok=True)
        probe = scratch(out) / f"{os.getpid()}-probe"
        probe.write_bytes(b"deid")
        probe.unlink()
