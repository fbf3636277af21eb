"""`--overwrite`: remove what an earlier run wrote, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from deidcli.data.journal import PRIVATE, PUBLISHED, Journal, is_own
from deidcli.data.listing import printable
from deidcli.data.sink import writing
from deidcli.data.sums import read_sums
from deidcli.errors import DeidError

_TREES = ("images", "data", "sealed")
"""Folders of OUT in which every file is tracked individually."""


def clear(journal: Journal) -> None:
    """Remove an earlier run of deid from OUT and OUT.private; its record is removed last.

    The files of a run are known from its parts, the names it recorded before writing, and
    SHA256SUMS.

    Raises:
        DeidError: the folders contain files that deid did not write. Nothing is removed then.
    """
    if journal.read_run() is None:
        return
    known = _known(journal)
    for folder, names in ((journal.out, PUBLISHED), (journal.folder, PRIVATE)):
        for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
            if not is_own(entry.name, names):
                raise _foreign(entry)
    for path in _files(journal.out):
        if path.relative_to(journal.out).as_posix() not in known:
            raise _foreign(path)
    with writing():
        for name in _TREES:
            _remove_tree(journal.out / name)
        for folder, names in ((journal.out, PUBLISHED), (journal.folder, PRIVATE)):
            own = [e for e in folder.iterdir() if is_own(e.name, names)] if folder.is_dir() else []
            for entry in sorted(own, key=lambda e: e.name == "run.json"):
                if entry.name == "lock":
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()


def _foreign(path: Path) -> DeidError:
    return DeidError(
        f"{printable(str(path))} is not a file that deid wrote",
        "move it away, or choose another folder with --out",
    )


def _files(out: Path) -> Iterator[Path]:
    """Yield every file and link in the folders of published files."""
    for name in _TREES:
        if (out / name).is_symlink():
            yield out / name
        for folder, folders, files in os.walk(out / name):
            path = Path(folder)
            yield from (path / file for file in files)
            yield from (path / entry for entry in folders if (path / entry).is_symlink())


def _known(journal: Journal) -> set[str]:
    """Return everything that the run wrote or was about to write, relative to OUT."""
    try:
        known = set(read_sums(journal.out))
    except (OSError, ValueError):
        known = set()
    for part in sorted(journal.parts.glob("*.parquet")):
        try:
            with pq.ParquetFile(part) as file:
                table = file.read(columns=["source", "outputs.list.element.name"])
        except (pa.ArrowException, OSError):
            continue
        for row in table.to_pylist():
            known |= {f"images/{output['name']}" for output in row["outputs"]}
            known.add(f"data/{row['source'].rpartition('#')[0]}")
    for note in sorted(journal.begun.glob("*")):
        for line in note.read_text("utf-8").splitlines():
            try:
                known.add(str(json.loads(line)))
            except ValueError:  # the last line of a run that was killed
                continue
    return known


def _remove_tree(top: Path) -> None:
    if top.is_symlink() or not top.is_dir():
        top.unlink(missing_ok=True)
        return
    for folder, folders, files in os.walk(top, topdown=False):
        path = Path(folder)
        for name in (*files, *folders):
            entry = path / name
            if entry.is_dir() and not entry.is_symlink():
                entry.rmdir()
            else:
                entry.unlink()
    top.rmdir()
