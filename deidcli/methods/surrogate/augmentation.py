"""How the segmenter's pictures are varied: covered, moved, recolored, blurred, made noisy."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deidcli.faces.segmenter import OCCLUDER
from deidcli.methods.surrogate.losses import IGNORED

COVERED = 0.35
"""Share of pictures with something before the face."""
SKIN_COLORED = 0.4
"""Share of these in which it has the color of a face, as a hand has."""
ZOOM = (0.75, 1.6)
"""What is seen of a picture's side: over 1 there is a rim around it."""
TURN = 0.25
"""Deviation of the angle, radians."""
SHIFT = 0.35
"""Farthest shift, in half sides."""
COARSER = (0.75, 0.5, 0.35)
"""Resolutions that a third of a batch is brought to and back, in three of four steps."""


def _uniform(shape: tuple[int, ...], low: float, high: float, source: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=source)


def varied(
    pictures: Tensor, labels: Tensor, textures: Tensor, step: int, source: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Vary a batch of drawn pictures and their label maps.

    Args:
        pictures: (N, 3, S, S) uint8 RGB. labels: (N, S, S) uint8, see `teacher.label_map`.
        textures: (M, 3, S, S) uint8, what covers are made of.
        step: of the training; in every other one the rim is labeled, see `moved`.

    Returns:
        (N, 3, S, S) float32, about [-2, 2], as `segmentation.to_input` makes it; (N, S, S) int64.
    """
    x, y = covered(pictures.float() / 255, labels.long(), textures, source)
    x, y = moved(x, y, bool(step % 2), source)
    x = _noisy(_blurred(_recolored(x, source), source), source)
    return ((x - 0.5) * 4).contiguous(memory_format=torch.channels_last), y


def covered(
    pictures: Tensor, labels: Tensor, textures: Tensor, source: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Lay something over a third of the pictures and label it OCCLUDER.

    Args:
        pictures: (N, 3, S, S) float in [0, 1]. labels: (N, S, S) int64. Neither is changed.
    """
    pictures, labels = pictures.clone(), labels.clone()
    seed = int(torch.randint(1 << 62, (1,), generator=source))
    draws = np.random.default_rng(seed)  # OpenCV's ellipses take numbers, not tensors
    side = pictures.shape[-1]
    for picture, label in zip(pictures, labels, strict=True):
        if draws.random() < COVERED:
            shape = _blob(side, draws)
            texture = _texture(textures, draws)
            soft = torch.from_numpy(cv2.GaussianBlur(shape.astype(np.float32), (3, 3), 0.7))
            picture.mul_(1 - soft).add_(texture * soft)
            label[torch.from_numpy(shape > 0)] = OCCLUDER
    return pictures, labels


def _texture(textures: Tensor, draws: np.random.Generator) -> Tensor:
    """(3, S, S) in [0, 1]: another picture, rolled, or the color of its face, shaded."""
    other = textures[int(draws.integers(len(textures)))].float() / 255
    side = other.shape[-1]
    if draws.random() >= SKIN_COLORED:
        return other.roll([int(draws.integers(side)) for _ in range(2)], (1, 2))
    high, low, left, right = (round(share * side / 128) for share in (70, 90, 55, 75))
    color = other[:, high:low, left:right].mean((1, 2), keepdim=True)
    walk = np.cumsum(draws.standard_normal((1, side, side)), axis=1) / 12
    shade = torch.from_numpy(1 + 0.15 * walk).float()
    return (color * shade).clamp(0, 1)


def _blob(side: int, draws: np.random.Generator) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(S, S) 1 within some ellipses that lie on a heap, as fingers and microphones do."""
    scale = side / 128
    shape = np.zeros((side, side), np.uint8)
    x, y = scale * draws.integers(20, 108), scale * draws.integers(30, 125)
    for _ in range(draws.integers(1, 6)):
        axes = (round(scale * draws.integers(3, 9)), round(scale * draws.integers(8, 34)))
        middle = [int(value + 8 * scale * draws.normal()) for value in (x, y)]
        cv2.ellipse(shape, middle, axes, float(draws.uniform(0, 180)), 0, 360, 1, -1)
    return shape


def moved(
    x: Tensor, labels: Tensor, rim_labeled: bool, source: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Zoom, turn, shift and flip.

    Args:
        rim_labeled: repeat the picture's edge with its labels in the rim, as a view of a picture
            that ends there shows it; else mirror the picture there and label nothing.
    """
    count, _, side, _ = x.shape
    zoom = torch.exp(_uniform((count,), math.log(ZOOM[0]), math.log(ZOOM[1]), source))
    angle = TURN * torch.randn(count, generator=source)
    shift = _uniform((2, count), -SHIFT, SHIFT, source)
    flip = (torch.rand(count, generator=source) < 0.5).float() * 2 - 1
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    rows = [cosine * flip, -sine, shift[0], sine * flip, cosine, shift[1]]
    affine = torch.stack(rows, 1).view(count, 2, 3)
    grid = functional.affine_grid(affine, [count, 3, side, side], align_corners=False)
    padding = "border" if rim_labeled else "reflection"
    x = functional.grid_sample(x, grid, "bilinear", padding, align_corners=False)
    found = functional.grid_sample(
        labels[:, None].float(), grid, "nearest", "border", align_corners=False
    )
    labels = found[:, 0].round().long()
    if not rim_labeled:
        labels[~(grid.abs() <= 1).all(-1)] = IGNORED
    return x, labels


def _recolored(x: Tensor, source: torch.Generator) -> Tensor:
    """Change brightness, cast, saturation and gamma."""
    count = len(x)

    def each(low: float, high: float, channels: int = 1) -> Tensor:
        return _uniform((count, channels, 1, 1), low, high, source)

    x = x * each(0.75, 1.3, 3) * each(0.6, 1.4) + each(-0.12, 0.12)
    gray = x.mean(1, keepdim=True)
    x = gray + (x - gray) * each(0.2, 1.4)
    return x.clamp(0, 1) ** each(0.7, 1.4)


def _blurred(x: Tensor, source: torch.Generator) -> Tensor:
    """Bring a third of them to a lower resolution and back, in three of four steps."""
    choice = int(torch.randint(1 + len(COARSER), (1,), generator=source))
    some = len(x) // 3
    if choice == 0 or some == 0:
        return x
    small = functional.interpolate(x[:some], scale_factor=COARSER[choice - 1], mode="area")
    large = functional.interpolate(small, x.shape[2:], mode="bilinear")
    return torch.cat([large, x[some:]])


def _noisy(x: Tensor, source: torch.Generator) -> Tensor:
    strength = _uniform((len(x), 1, 1, 1), 0, 0.05, source)
    return x + torch.randn(x.shape, generator=source) * strength
