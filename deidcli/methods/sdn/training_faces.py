"""The faces that `deid train sdn` learns from, with what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deidcli.errors import DeidError
from deidcli.faces.align import MEAN_FACE_5
from deidcli.methods.sdn.fitting import batch_of
from deidcli.methods.sdn.networks import GRID, PADDING, at_grid
from deidcli.training.chips import load_all, load_landmarks, require_labels

KNOWN_PICTURES = 8
"""Pictures of a person, at least, for the person to be a class of the classifier."""
FLIPPED = (2, 3, 0, 1, 4)
"""Which landmark each becomes in a flipped picture; see MEAN_FACE_5."""


@dataclass
class Faces:
    """Faces with what is known of them, on the CPU."""

    chips: Tensor
    """(N, S, S, 3) uint8 RGB."""
    labels: Tensor
    """(N, 40) float32: 1 present, 0 absent, -1 not labeled."""
    landmarks: Tensor
    """(N, 10) float32: less the mean face, in sides of it."""
    persons: Tensor
    """(N,) int64: number of the person, -1 for one with few pictures."""

    def __len__(self) -> int:
        return len(self.chips)

    @property
    def people(self) -> int:
        """Persons that are classes."""
        return max(1, int(self.persons.max()) + 1)


def load_faces(
    paths: Sequence[Path], side: int, cache: Path, limit: int, labeled: bool = False
) -> Faces:
    """Load the faces of some data sets that the detector found.

    Args:
        side: of the chips, px. cache: folder of the cut chips. limit: take only so many, evenly
            spread; 0: all. labeled: make sure that they have labels.

    Raises:
        DeidError: there is no face, or there are no labels.
    """
    found = load_all(paths, side, PADDING, cache, extend=True)
    if labeled:
        require_labels(found)
    rows = np.flatnonzero(found.found)
    if 0 < limit < len(rows):
        rows = rows[np.linspace(0, len(rows) - 1, limit).round().astype(np.int64)]
    if not len(rows):
        raise DeidError("no face was found in the data", "is it a set of faces?")
    labels = found.labels[rows].astype(np.float32)
    points = load_landmarks(paths, cache)[rows] - MEAN_FACE_5.astype(np.float32)
    return Faces(
        torch.from_numpy(np.ascontiguousarray(found.chips[rows])),
        torch.from_numpy(np.where(labels == 0, -1, (labels + 1) / 2).astype(np.float32)),
        torch.from_numpy(points.reshape(len(rows), 10)),
        torch.from_numpy(_numbered(found.persons[rows])),
    )


def _numbered(persons: NDArray[np.object_]) -> NDArray[np.int64]:
    """Number the persons with KNOWN_PICTURES; -1 for the others."""
    _, numbers, counts = np.unique(persons.astype(str), return_inverse=True, return_counts=True)
    known = np.flatnonzero(counts >= KNOWN_PICTURES)
    places = np.full(len(counts), -1, np.int64)
    places[known] = np.arange(len(known))
    return np.asarray(places[numbers])


def flipped_landmarks(points: Tensor) -> Tensor:
    """Return the landmarks (N, 10) of flipped pictures, from those of the pictures."""
    flipped = points.view(-1, 5, 2)[:, list(FLIPPED)]
    return (flipped * torch.tensor([-1.0, 1.0])).flatten(1)


def flipped_half(chips: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Flip about half of a batch (N, 3, S, S); return it and which ones, (N,) bool on the CPU."""
    flips = torch.rand(len(chips), generator=generator) < 0.5
    chosen = flips.to(chips.device)[:, None, None, None]
    return torch.where(chosen, chips.flip(3), chips), flips


def evenly(rows: Tensor, count: int) -> Tensor:
    """Take so many rows, evenly spread; all, if there are fewer."""
    some = torch.linspace(0, len(rows) - 1, min(count, len(rows))).round().long()
    return rows[some]


def chips_at_grid(chips: Tensor) -> Tensor:
    """Average chips (N, S, S, 3) uint8 to (N, 64, 64, 3) uint8."""
    if chips.shape[1] == GRID:
        return chips
    parts = [at_grid(batch_of(some)) * 255 for some in torch.split(chips, 512)]
    return torch.cat([part.round().to(torch.uint8).permute(0, 2, 3, 1) for part in parts])
