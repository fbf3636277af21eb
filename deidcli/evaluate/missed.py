"""Faces left in an output: a second, slower search of a sample of the published pictures.

`deid verify --faces` and `deid score` call `look_again`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from deidcli.data.finished_output import read_named
from deidcli.data.geometry import read_private
from deidcli.data.images import BadImage, decode
from deidcli.data.journal import Journal
from deidcli.data.sink import write_atomic
from deidcli.errors import DeidError
from deidcli.evaluate.intervals import Interval, wilson
from deidcli.faces.align import Affine, unit_from_chip
from deidcli.faces.second_look import Place, SecondLook, left_over
from deidcli.processes import worker_pool
from deidcli.weights.files import file_sha256

Progress = Callable[[str, int, int], None]
"""Called as (phase, pictures done now, pictures in all)."""
RECORD_FILE = "missed.json"
"""Relative to OUT.private."""
SAMPLE = 200
"""Default number of pictures to search."""


@dataclass(frozen=True)
class Missed:
    """The result of a second search of an output."""

    looked: int
    """Number of pictures searched."""
    published: int
    found: dict[str, list[Place]]
    """Published name -> places that look like a face and were not replaced."""
    unread: int = 0
    """Number of pictures in the sample that could not be read."""

    @property
    def faces(self) -> int:
        """Total number of places."""
        return sum(map(len, self.found.values()))

    @property
    def interval(self) -> Interval:
        """95 % interval (Wilson) of the share of pictures with a face left."""
        return wilson(len(self.found), self.looked)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; no names, because a name leads to a face."""
        low, high = self.interval
        share = len(self.found) / self.looked if self.looked else None
        return {
            "looked": self.looked,
            "published": self.published,
            "pictures": len(self.found),
            "faces": self.faces,
            "share": share,
            "low": low,
            "high": high,
            "unread": self.unread,
        }


def kept_or_new(
    out: Path,
    record: Mapping[str, Any],
    sample: int | None,
    device: str,
    workers: int,
    progress: Progress,
) -> Missed:
    """Return the result of `look_again`, cached in OUT.private/missed.json."""
    path = Journal(out).folder / RECORD_FILE
    key = {"sample": sample, "pictures": file_sha256(out / "SHA256SUMS"), "version": 1}
    try:
        before = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        before = {}
    if isinstance(before, dict) and before.get("key") == key:
        told = before["missed"]
        found = {
            name: [Place(**{**place, "box": tuple(place["box"])}) for place in places]
            for name, places in told["found"].items()
        }
        return Missed(**{**told, "found": found})
    missed = look_again(out, record, sample, device, workers, progress)
    data = json.dumps({"key": key, "missed": asdict(missed)}).encode()
    write_atomic(path, data, path.parent)
    return missed


def look_again(
    out: Path,
    record: Mapping[str, Any],
    sample: int | None,
    device: str,
    workers: int,
    progress: Progress,
) -> Missed:
    """Search a sample of the published pictures for faces that were not replaced.

    Args:
        record: manifest.json.
        sample: number of pictures, drawn at random but the same every time; None: all.

    Raises:
        DeidError: OUT.private is missing, so it is unknown which faces were replaced.
    """
    units = replaced_units(out, record)
    names = sorted(units)
    chosen = names
    if sample is not None and sample < len(names):
        chosen = random.Random(0).sample(names, sample)
    found: dict[str, list[Place]] = {}
    looked = unread = 0
    progress("looking again", 0, len(chosen))
    for name, places in _work(out, {n: units[n] for n in chosen}, device, workers):
        progress("looking again", 1, len(chosen))
        if places is None:
            unread += 1
            continue
        looked += 1
        if places:
            found[name] = places
    return Missed(looked, len(names), dict(sorted(found.items())), unread)


def replaced_units(out: Path, record: Mapping[str, Any]) -> dict[str, list[Affine]]:
    """Map published names to each replaced face's affine, from picture to unit square.

    Raises:
        DeidError: OUT.private is missing.
    """
    places = read_private(out)
    if places is None:
        private = Journal(out).folder.name
        raise DeidError(
            f"{private} is not beside {out.name}: which faces were replaced is not known",
            f"bring {private}, or look at it with deid score --against",
        )
    chip, crops = record["chip"], record["settings"]["output"] == "crops"
    listed = pq.read_table(out / "metadata.parquet", columns=["file_name"])["file_name"]
    if crops:  # each is a chip with its face in the middle and no other
        whole = unit_from_chip(np.eye(2, 3), chip["size"], chip["padding"])
        return {name: [whole] for name in listed.to_pylist()}
    return {
        name: [
            unit_from_chip(np.array(f["affine"]).reshape(2, 3), chip["size"], chip["padding"])
            for f in places.get(name, [])
        ]
        for name in listed.to_pylist()
    }


def _work(
    out: Path,
    units: Mapping[str, Sequence[Affine]],
    device: str,
    workers: int,
) -> Iterator[tuple[str, list[Place] | None]]:
    """Search the pictures, several at a time; None for unreadable ones."""
    waiting: list[tuple[str, Future[list[Place] | None]]] = []
    with worker_pool(max(1, min(workers, len(units))), 1) as pool:
        for name, data in read_named(out, list(units)):
            if data is None:
                yield name, None
                continue
            waiting.append((name, pool.submit(_look, data, units[name], device)))
            if len(waiting) >= 4 * workers:  # their bytes stay in memory until they are done
                first, done = waiting.pop(0)
                yield first, done.result()
        for name, task in waiting:
            yield name, task.result()


@cache
def _second_look(device: str) -> SecondLook:
    return SecondLook(device)


def _look(data: bytes, units: Sequence[Affine], device: str) -> list[Place] | None:
    try:
        pixels = decode(data).pixels
    except BadImage:
        return None
    return left_over(_second_look(device)(pixels), units)
