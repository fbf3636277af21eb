"""The faces that `a3gan` learns from beside the drawn pairs, and the sheet of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import DeidError
from deidcli.methods.a3gan.geometry import PADDING, SIDE
from deidcli.methods.a3gan.settings import ATTRIBUTES
from deidcli.training.chips import load_all, require_labels


@dataclass(frozen=True)
class Faces:
    """N faces for training, as arrays."""

    chips: Tensor
    """(N, S, S, 3) uint8 RGB."""
    labels: Tensor
    """(N, 10) float32 of ATTRIBUTES: 1 present, 0 absent, -1 not labeled."""

    def __len__(self) -> int:
        return len(self.chips)


def load_faces(paths: Sequence[Path], cache: Path, limit: int = 0, labeled: bool = True) -> Faces:
    """Return the faces that the detector found in data sets.

    Args:
        limit: at most so many, evenly spread; 0: all.
        labeled: make sure that they have labels.

    Raises:
        DeidError: there is no face, or no label where there must be one.
    """
    chips = load_all(paths, SIDE, PADDING, cache, extend=True)
    if labeled:
        require_labels(chips)
    rows = np.flatnonzero(chips.found)
    if 0 < limit < len(rows):
        rows = rows[np.linspace(0, len(rows) - 1, limit).round().astype(np.int64)]
    columns = [CELEBA_ATTRIBUTES.index(name) for name in ATTRIBUTES]
    labels = chips.labels[rows][:, columns].astype(np.float32)
    known = np.where(labels == 0, -1, (labels + 1) / 2).astype(np.float32)
    return Faces(torch.from_numpy(chips.chips[rows]), torch.from_numpy(known))


def to_batch(chips: Tensor, device: str) -> Tensor:
    """Return (B, S, S, 3) uint8 as (B, 3, S, S) float32 in [0, 1], channels last."""
    return chips.to(device).permute(0, 3, 1, 2).float() / 255


def augmented(chips: Tensor, random: torch.Generator) -> Tensor:
    """Return chips (B, 3, S, S), half of them mirrored, brightness and contrast varied a little."""
    flipped, gain, shift = (torch.rand(len(chips), 1, 1, 1, generator=random) for _ in range(3))
    chips = torch.where(flipped.to(chips.device) < 0.5, chips.flip(3), chips)
    gain, shift = 0.9 + 0.2 * gain.to(chips.device), 0.1 * shift.to(chips.device) - 0.05
    return (chips * gain + shift).clamp(0, 1).contiguous(memory_format=torch.channels_last)


def write_sheet(path: Path, rows: Sequence[Tensor]) -> None:
    """Write a picture of rows of chips, each (N, 3, S, S) in [0, 1].

    Raises:
        DeidError: the file could not be written.
    """
    lines = [torch.cat(list(row.detach().cpu().float().clamp(0, 1)), 2) for row in rows]
    picture = (torch.cat(lines, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), picture[..., ::-1]):
        raise DeidError(f"{path} could not be written", "is the folder writable?")
