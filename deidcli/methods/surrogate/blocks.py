"""What is read off pictures one by one, kept in blocks, so that a killed run goes on.

Pictures themselves are not kept here. A block is written once and whole; what it holds depends on
its items alone, so a run that goes on has what an unbroken one has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from deidcli.training.loop import log

BLOCK = 64
"""Items of a block: a kill costs so many at most."""
SAID_EVERY = 10
"""Blocks between two lines of the log."""
Row = Mapping[str, Any]
"""Name -> an array or a number: what is read off one item."""
Item = TypeVar("Item")


def read_once(
    folder: Path, items: Iterable[Item], read: Callable[[Item], Row | None]
) -> dict[str, NDArray[Any]]:
    """Read items one by one, or take from `folder` what was read of them before.

    Args:
        folder: of the blocks; its name must change with whatever decides the rows.
        items: in a fixed order. Those of blocks that are there are passed over.
        read: gives the same arrays of every item; None leaves an item out.

    Returns:
        Name -> (N, ...) the rows that are not left out; `item` (N,) int64 tells whose they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.parent.chmod(0o700)  # what was read off faces is nobody else's
    source = iter(items)
    paths: list[Path] = []
    count = BLOCK
    while count == BLOCK:
        path = folder / f"{len(paths):06d}.npz"
        taken = islice(source, BLOCK)
        if path.is_file():
            count = sum(1 for _ in taken)
        else:
            rows = [read(item) for item in taken]
            count = len(rows)
            _write(path, len(paths) * BLOCK, rows)
            if len(paths) % SAID_EVERY == 0:
                log(f"{folder.name}: {len(paths) * BLOCK + count} done")
        paths.append(path)
    return _joined(paths)


def _write(path: Path, first: int, rows: list[Row | None]) -> None:
    kept = [(first + index, row) for index, row in enumerate(rows) if row is not None]
    arrays: dict[str, Any] = {"item": np.array([item for item, _ in kept], np.int64)}
    for name in kept[0][1] if kept else ():
        arrays[name] = np.stack([row[name] for _, row in kept])
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(partial, path)


def _joined(paths: list[Path]) -> dict[str, NDArray[Any]]:
    """The blocks one after the other; memory holds them once."""
    counts = [len(np.load(path)["item"]) for path in paths]
    ends = np.cumsum(counts)
    joined: dict[str, NDArray[Any]] = {"item": np.zeros(0, np.int64)}
    for path, end, count in zip(paths, ends, counts, strict=True):
        if not count:
            continue
        with np.load(path) as block:
            for name in block.files:
                rows = block[name]
                if not len(joined.get(name, ())):
                    joined[name] = np.empty((int(ends[-1]), *rows.shape[1:]), rows.dtype)
                joined[name][end - count : end] = rows
    return joined
