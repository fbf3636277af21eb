"""The faces that `a3gan` learns from, in batches, and the sheet of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import DeidError
from deidcli.faces import align, recognizers
from deidcli.methods.a3gan.networks import SIZES
from deidcli.methods.a3gan.recipe import Run
from deidcli.methods.a3gan.settings import READ_ATTRIBUTES
from deidcli.methods.blend import PADDING
from deidcli.training.chips import Chips, load_all, load_landmarks, require_labels
from deidcli.training.loop import log

BLOCK = 256
"""Faces that go through a network at once where no gradient is kept."""


@dataclass
class Faces:
    """N faces for training, as arrays."""

    chips: Tensor
    """(N, S, S, 3) uint8 RGB."""
    labels: Tensor
    """(N, 12) float32 of READ_ATTRIBUTES: 1 present, 0 absent, -1 not labeled."""
    all_labels: Tensor
    """(N, 40) float32: the same for all of CelebA's attributes."""
    shape: Tensor
    """(N, 10) float32: landmarks less the mean face's, in the unit square."""

    def __len__(self) -> int:
        return len(self.chips)


def load_faces(
    paths: Sequence[Path], run: Run, cache: Path, limit: int = 0, labeled: bool = False
) -> Faces:
    """Return the faces that the detector found in data sets.

    Args:
        limit: at most so many, evenly spread; 0: all.
        labeled: make sure that they have labels.

    Raises:
        DeidError: there is no face, or no label where there must be one.
    """
    side = SIZES[run.settings.size].side
    chips = load_all(paths, side, PADDING, cache, extend=True)
    if labeled:
        require_labels(chips)
    rows = np.flatnonzero(chips.found)
    if 0 < limit < len(rows):
        rows = rows[np.linspace(0, len(rows) - 1, limit).round().astype(np.int64)]
    shape = load_landmarks(paths, cache)[rows] - align.MEAN_FACE_5.astype(np.float32)
    return Faces(
        torch.from_numpy(chips.chips[rows]),
        torch.from_numpy(_labels(chips, READ_ATTRIBUTES)[rows]),
        torch.from_numpy(_labels(chips, CELEBA_ATTRIBUTES)[rows]),
        torch.from_numpy(shape).flatten(1),
    )


def _labels(chips: Chips, names: Sequence[str]) -> NDArray[np.float32]:
    """Return (N, names): 1, 0, or -1 where there is no label."""
    columns = [CELEBA_ATTRIBUTES.index(name) for name in names]
    labels = chips.labels[:, columns].astype(np.float32)
    return np.where(labels == 0, -1, (labels + 1) / 2).astype(np.float32)


def to_batch(chips: Tensor, rows: Tensor, device: str) -> Tensor:
    """Return rows (B,) of (N, S, S, 3) uint8 as (B, 3, S, S) float32 in [0, 1], channels last."""
    return chips[rows].to(device).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def in_blocks(function: Callable[[Tensor], Tensor], chips: Tensor, device: str) -> Tensor:
    """Return what a function makes of batches of all the chips (N, S, S, 3), joined, on the CPU."""
    parts = torch.split(torch.arange(len(chips)), BLOCK)
    return torch.cat([function(to_batch(chips, rows, device)).cpu() for rows in parts])


def dlib_embeddings(chips: Tensor, path: Path) -> Tensor:
    """Return dlib's descriptors (N, 128) float32 of chips (N, S, S, 3), kept in the file `path`."""
    if path.is_file():
        kept = np.load(path)
        if len(kept) == len(chips):
            return torch.from_numpy(kept)
    log(f"descriptors of {len(chips)} faces")
    unit = align.chip_from_unit(np.eye(2, 3), chips.shape[1], PADDING)
    points = align.apply_affine(unit, align.MEAN_FACE_5)
    parts = [
        recognizers.embed("dlib", [recognizers.cut("dlib", chip, points) for chip in block])
        for block in np.array_split(chips.numpy(), max(1, len(chips) // BLOCK))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.concatenate(parts))
    return torch.from_numpy(np.concatenate(parts))


def write_sheet(path: Path, rows: Sequence[Tensor]) -> None:
    """Write a picture of rows of chips, each (N, 3, S, S) in [0, 1].

    Raises:
        DeidError: the file could not be written.
    """
    lines = [torch.cat(list(row.detach().cpu().clamp(0, 1)), 2) for row in rows]
    picture = (torch.cat(lines, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), picture[..., ::-1]):
        raise DeidError(f"{path} could not be written", "is the folder writable?")
