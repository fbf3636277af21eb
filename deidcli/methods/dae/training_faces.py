"""Faces for the training of `dae`: which ones, in batches, and what networks make of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deidcli.methods.blend import PADDING, SIDE
from deidcli.methods.dae import losses
from deidcli.methods.dae.networks import Autoencoder, pack
from deidcli.methods.dae.recipe import Recipe
from deidcli.training.chips import Chips, load_all

BLOCK = 512
"""Faces that go through a network at once where no gradient is kept."""


def faces_of(paths: Sequence[Path], cache: Path, limit: int) -> tuple[Chips, NDArray[np.int64]]:
    """Return the faces that were found, and which rows of the data they are.

    Args:
        paths: data sets, as `deid anonymize` takes them. cache: folder of the cut chips.
        limit: at most so many faces, evenly spread; 0: all.

    Raises:
        DeidError: there is no data, or no face in it.
    """
    chips = load_all(paths, SIDE, PADDING, cache, extend=True)
    rows = np.flatnonzero(chips.found)
    if 0 < limit < len(rows):
        rows = rows[np.linspace(0, len(rows) - 1, limit).round().astype(np.int64)]
    mask = np.zeros(len(chips), dtype=np.bool_)
    mask[rows] = True
    return chips.keep(mask), rows


def tensor_of(faces: Chips) -> Tensor:
    """Return the (N, S, S, 3) uint8 chips as a tensor."""
    return torch.from_numpy(faces.chips)


def batch_of(chips: Tensor, rows: Tensor, device: str) -> Tensor:
    """Return some rows of (N, S, S, 3) uint8 chips as (B, 3, S, S) float32 RGB in [0, 1].

    Channels stay last in memory, which is how the chips lie and what convolutions like best.
    """
    return chips[rows].to(device).permute(0, 3, 1, 2).float() / 255


def random_half(count: int, generator: torch.Generator) -> Tensor:
    """Return (count,) bool: each true with probability one half."""
    return torch.rand(count, generator=generator) < 0.5


def flipped(faces: Tensor, where: Tensor) -> Tensor:
    """Return (N, 3, S, S) faces, those `where` (N,) bool holds flipped left to right."""
    return torch.where(where.to(faces.device)[:, None, None, None], faces.flip(3), faces)


@torch.no_grad()
def in_blocks(function: Callable[[Tensor], Tensor], chips: Tensor, device: str) -> Tensor:
    """Return a function's values of all faces, on the CPU.

    Args:
        function: (B, 3, S, S) float32 RGB in [0, 1] -> (B, ...). chips: (N, S, S, 3) uint8.
    """
    parts = torch.split(torch.arange(len(chips)), BLOCK)
    return torch.cat([function(batch_of(chips, rows, device)).cpu() for rows in parts])


def to_reconstruct(faces: Tensor, color: bool) -> Tensor:
    """Return what an autoencoder is to reconstruct: the faces, gray without color."""
    if color:
        return faces
    return pack(faces, False).view(-1, 1, SIDE, SIDE).expand(-1, 3, -1, -1)


@torch.no_grad()
def reconstruction_error(autoencoder: Autoencoder, chips: Tensor, settings: Recipe) -> float:
    """Return the mean squared error of (N, S, S, 3) uint8 chips, pixels in [0, 1]."""
    total = 0.0
    for rows in torch.split(torch.arange(len(chips)), BLOCK):
        faces = batch_of(chips, rows, settings.device)
        made = autoencoder.decode(autoencoder.encode(faces))
        error = losses.reconstruction_loss(made, to_reconstruct(faces, settings.color))
        total += float(error) * len(rows)
    return total / len(chips)


@torch.no_grad()
def flipped_codes(autoencoder: Autoencoder, codes: Tensor, device: str) -> Tensor:
    """Return the (N, D) codes of the flipped faces that (N, D) codes stand for."""
    parts = torch.split(codes, BLOCK)
    encode, decode = autoencoder.encode, autoencoder.decode
    return torch.cat([encode(decode(part.to(device)).flip(3)).cpu() for part in parts])
