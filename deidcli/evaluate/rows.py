"""A figure of `deid score` as a row: value, interval, definition, reference levels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deidcli.evaluate import features, identity
from deidcli.evaluate.intervals import Interval, wilson
from deidcli.evaluate.pairs import PairRef
from deidcli.faces import recognizers


@dataclass(frozen=True)
class Row:
    """One figure."""

    metric: str
    value: float | None
    """None: not available, `definition` gives the reason."""
    n: int
    definition: str
    better: str
    """`higher` or `lower`, or empty if neither is better."""
    low: float | None = None
    high: float | None = None
    recognizer: str = ""
    group: str = ""
    """The group of faces; empty: all."""
    original: float | None = None
    """The same figure for the originals."""
    chance: float | None = None
    with_withheld: float | None = None
    """The same share with withheld pictures in the denominator: one face each, counted as not
    found for utility and as not recognized for privacy."""


@dataclass(frozen=True)
class Faces:
    """The features and metadata of all scored faces."""

    data: features.Features
    refs: tuple[PairRef, ...]
    """The pair of each face."""
    withheld: int
    attributes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.refs)

    @property
    def persons(self) -> list[str | None]:
        return [ref.person for ref in self.refs]

    def labels(self, name: str) -> NDArray[np.int8]:
        """Return (F,) labels: +1, -1, or 0 if unknown."""
        return np.array([ref.labels.get(name, 0) for ref in self.refs], dtype=np.int8)

    def only(self, rows: NDArray[np.int64]) -> Faces:
        """Return a subset of the faces."""
        data = {key: values[rows] for key, values in self.data.items()}
        return Faces(data, tuple(self.refs[row] for row in rows), 0, self.attributes)


def share(hits: NDArray[Any]) -> tuple[float, Interval]:
    n = len(hits)
    total = float(np.sum(hits))
    return (total / n if n else math.nan), wilson(total, n)


def share_row(
    metric: str,
    hits: NDArray[Any],
    definition: str,
    better: str,
    withheld: int | None = None,
    **more: Any,
) -> Row:
    """Return a row for a share; withheld faces count as hits if higher is more private."""
    value, (low, high) = share(hits)
    with_withheld = None
    if withheld is not None:
        extra = withheld if better == "higher" and more.get("recognizer") else 0
        with_withheld = (float(np.sum(hits)) + extra) / max(len(hits) + withheld, 1)
    return Row(metric, value, len(hits), definition, better, low, high,
               with_withheld=with_withheld, **more)  # fmt: skip


def distances_of(name: str) -> identity.Distances:
    return partial(recognizers.distances, name)
