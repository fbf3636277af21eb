"""Data that a whole-set method stores on disk between its pass over all faces and the run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deidcli.data.sink import write_atomic, writing
from deidcli.methods.base import Plan, PlanFace


def write_scan(folder: Path, shard: int, faces: Sequence[PlanFace]) -> None:
    """Store the chips of a shard's faces for `make_plan`."""
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
    """Run `np.save`, but report a full disk as such; numpy's own error has no errno."""
    with open(path, "wb") as file:
        np.save(_Stream(file.write), values)
        file.flush()
        os.fsync(file.fileno())


@dataclass(frozen=True)
class _Stream:
    """A writable object that numpy does not treat as a file."""

    write: Callable[[bytes], int]


def is_scanned(folder: Path, shard: int) -> bool:
    """Return whether `write_scan` has finished for a shard."""
    return (folder / f"{shard:06d}.json").exists()


def read_scans(folder: Path, shards: int) -> Iterator[PlanFace]:
    """Yield all faces of all shards; the chips stay on disk until they are accessed."""
    for shard in range(shards):
        listed = json.loads((folder / f"{shard:06d}.json").read_text())
        if not listed:
            continue
        chips = np.load(folder / f"{shard:06d}.npy", mmap_mode="r")
        for (seed, person), chip in zip(listed, chips, strict=True):
            yield PlanFace(int(seed), chip, person)


def write_plan(folder: Path, plan: Plan) -> None:
    """Store a plan; it exists only when it is complete."""
    unfinished = folder.with_name(f"plan-{os.getpid()}")
    with writing():
        unfinished.mkdir(parents=True, exist_ok=True)
        for name, values in plan.items():
            _save(unfinished / f"{name}.npy", values)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(unfinished, folder)


def forget(plan: Path, scan: Path) -> None:
    """Remove a plan and the scans that it was made from."""
    for folder in (scan, plan):
        shutil.rmtree(folder, ignore_errors=True)


def has_plan(folder: Path) -> bool:
    """Return whether a plan is stored."""
    return folder.is_dir()


def read_plan(folder: Path) -> Plan:
    """Read a stored plan, with its arrays mapped from disk."""
    return {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
