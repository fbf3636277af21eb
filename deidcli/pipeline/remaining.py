"""What is left of a run: unfinished shards, and those with lost output or temporary failures.

A finished shard is compared with the current state: the files that it wrote, and the prints of its
inputs. An input whose content has changed stops the run with a clear error, because its published
picture would belong to another one; but an input that had failed is retried.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from deidcli.data import sealed
from deidcli.data.journal import Journal
from deidcli.data.parquet import ParquetShard
from deidcli.data.reading import file_print
from deidcli.data.sink import staged_name
from deidcli.data.source import LABEL_FILE, Item, Shard
from deidcli.errors import DeidError
from deidcli.methods import method_facts
from deidcli.pipeline.run import Run


@dataclass(frozen=True)
class Left:
    """Shards to be processed, and why finished ones are among them."""

    shards: tuple[Shard, ...]
    gone: int
    """Number of shards whose output no longer exists."""
    failed: int
    """Number of inputs that failed and may succeed now."""
    plan_anew: bool = False
    """A whole-set method has to scan all faces again, because more inputs can be read now."""

    def why(self) -> str:
        """Explain to the user what is processed again in a finished run."""
        said = ["some of the output is gone and is made again"] if self.gone else []
        if self.failed:
            said.append(f"inputs that failed and are tried again: {self.failed}")
        return "; ".join(said) or "some of it was not finished"


def unfinished(run: Run) -> Left:
    """Return everything that the same command has to do, again or for the first time.

    Raises:
        DeidError: an input has changed since its picture was published.
    """
    journal, prints = Journal(run.out), _Prints()
    found: dict[int, Shard] = {}
    gone = failed = 0
    for shard in run.source.shards:
        rows = _rows(journal, shard)
        again = [] if rows is None else _to_be_tried(shard, rows, prints, run)
        is_gone = rows is not None and not _is_there(run, shard, rows)
        if rows is None or again or is_gone:
            found[shard.index] = shard
        gone, failed = gone + is_gone, failed + len(again)
    if failed and method_facts(run.settings.method).whole_set:
        return Left(run.source.shards, gone, failed, plan_anew=True)
    for shard in _together(run, list(found.values())):
        found[shard.index] = shard
    return Left(tuple(found[number] for number in sorted(found)), gone, failed)


def missing(run: Run) -> list[Shard]:
    """Return shards without part or output; there must be none before the manifest is written."""
    journal = Journal(run.out)
    found = {}
    for shard in run.source.shards:
        rows = _rows(journal, shard)
        if rows is None or not _is_there(run, shard, rows):
            found[shard.index] = shard
    for shard in _together(run, list(found.values())):
        found[shard.index] = shard
    return [found[number] for number in sorted(found)]


def _rows(journal: Journal, shard: Shard) -> list[dict[str, Any]] | None:
    """Return a finished shard's part; None if it does not exist or cannot be read."""
    try:
        rows = journal.read_part(shard.index)
    except (pa.ArrowException, OSError, KeyError):
        return None
    return rows if len(rows) == len(shard) else None


def _is_there(run: Run, shard: Shard, rows: Sequence[dict[str, Any]]) -> bool:
    names = [output["name"] for row in rows for output in row["outputs"]]
    if run.settings.seal and not sealed.is_kept(Journal(run.out), shard.index):
        return False
    if not isinstance(shard, ParquetShard):
        return all((run.out / "images" / name).is_file() for name in names)
    staged = Journal(run.out).staging / staged_name(shard.index)
    return not names or staged.exists() or (run.out / "data" / run.files[shard.key]).exists()


def _together(run: Run, shards: Iterable[Shard]) -> list[Shard]:
    """Return finished shards that have to be processed again with others. A file that they share is
    joined from the staged rows of all of them, and those are removed after joining."""
    again = list(shards)
    staging = Journal(run.out).staging
    keys = {shard.key for shard in again if isinstance(shard, ParquetShard)}
    found: list[Shard] = [
        shard
        for shard in run.source.shards
        if isinstance(shard, ParquetShard)
        and shard.key in keys
        and not (staging / staged_name(shard.index)).exists()
    ]
    if run.settings.seal and again:
        found += [
            shard
            for shard in run.source.shards
            if not (staging / sealed.staged_name(shard.index)).exists()
        ]
    return found


class _Prints:
    """Prints of files, each computed once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, path: str) -> str:
        if path not in self._known:
            self._known[path] = file_print(path)
        return self._known[path]


def _to_be_tried(
    shard: Shard, rows: Sequence[dict[str, Any]], prints: _Prints, run: Run
) -> list[str]:
    """Return keys of inputs that failed temporarily, or that failed and have changed.

    Raises:
        DeidError: an input that did not fail has changed.
    """
    out, whole_set = run.out, method_facts(run.settings.method).whole_set
    if isinstance(shard, ParquetShard):
        same = prints.of(shard.path)
        changed = [row for row in rows if same and row["print"] and row["print"] != same]
        tried = [row["source"] for row in rows if row["passes"] and (same or not whole_set)]
        if changed and not tried:
            raise _changed(out, shard.key)
        return tried
    found = []
    for item, row in zip(shard.items, rows, strict=True):
        if row["source"] != item.key:
            raise _changed(out, item.key)
        if row["passes"]:  # if all had to be made again, only what can be read now
            if not whole_set or prints.of(item.path):
                found.append(item.key)
        elif _holds_other(item, row, prints):
            if row["status"] != "failed":
                raise _changed(out, item.key)
            found.append(item.key)
    return found


def _holds_other(item: Item, row: dict[str, Any], prints: _Prints) -> bool:
    if item.status and item.reason != LABEL_FILE:
        return bool(row["status"] != item.status)
    if row["status"] == "skipped" and item.reason != LABEL_FILE:
        return True
    now = prints.of(item.path)
    # A file that cannot be read now has not changed.
    return bool(now and row["print"] != now)


def _changed(out: Path, key: str) -> DeidError:
    return DeidError(
        f"the input has changed since {out} was begun: {key} holds something else",
        "choose another --out, or start anew with --overwrite",
    )
