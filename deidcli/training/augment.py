"""Augmentation of face chips in batches: no Python per sample."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


def resized(chips: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize (N, S, S, 3) uint8 chips to another side."""
    if chips.shape[1] == side:
        return chips
    return np.stack([np.asarray(cv2.resize(chip, (side, side)), np.uint8) for chip in chips])


def augment(chips: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Vary a batch: flip, rotate, scale, shift, resolution, color.

    Args:
        chips: (N, S, S, 3) uint8 RGB.
        side: of the result, px.

    Returns:
        (N, 3, side, side) float32 RGB in [0, 255], channels-last in memory.
    """
    images = chips.permute(0, 3, 1, 2).float()  # stays channels-last
    images = _move(images, side, generator)
    images = _blur(images, generator)
    return _recolor(images, generator).contiguous(memory_format=torch.channels_last)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _move(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Flip half of them, rotate by up to 8 degrees, scale by up to 10 %, shift by up to 4 %."""
    count = len(images)
    flip = (_uniform(count, -1, 1, generator) > 0).float() * 2 - 1
    angle = _uniform(count, -0.14, 0.14, generator)
    scale = torch.exp(_uniform(count, -0.1, 0.1, generator))
    cosines, sines = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift = _uniform(2 * count, -0.08, 0.08, generator).view(2, count)  # of half the side
    rows = [cosines * flip, -sines, shift[0], sines * flip, cosines, shift[1]]
    grid = functional.affine_grid(
        torch.stack(rows, 1).view(count, 2, 3), [count, 3, side, side], align_corners=False
    )
    # Black outside, as align.crop leaves it.
    return functional.grid_sample(images, grid, align_corners=False)


def _blur(images: Tensor, generator: torch.Generator) -> Tensor:
    """Bring a third of them to a lower resolution and back: published sets have small faces."""
    chosen = _uniform(len(images), 0, 1, generator) < 1 / 3
    side = images.shape[-1]
    small = max(8, round(side * float(_uniform(1, 0.3, 0.9, generator))))
    if not chosen.any():
        return images
    reduced = functional.interpolate(
        images[chosen], (small, small), mode="bilinear", antialias=True, align_corners=False
    )
    images[chosen] = functional.interpolate(
        reduced, (side, side), mode="bilinear", align_corners=False
    )
    return images


def _recolor(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation by up to 25 %, add a cast; 5 % become gray."""
    count = len(images)

    def each(low: float, high: float, channels: int = 1) -> Tensor:
        return _uniform(count * channels, low, high, generator).view(count, channels, 1, 1)

    gray = images.mean(1, keepdim=True)
    saturation = each(0.75, 1.25) * (each(0, 1) > 0.05)
    images = gray + (images - gray) * saturation
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * each(0.75, 1.25)
    return (images * each(0.8, 1.2) * each(0.95, 1.05, 3)).clamp(0, 255)
