"""What happens to a published chip on its way to `restore`, for training and for fitting.

A chip is pasted into a frame of another resolution, rounded to eight bits, often compressed, and
cut out again, as align.paste, images.encode and align.crop do it. Gradients pass through the two
warps; rounding and JPEG are real and pass them on unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deidcli.methods.sdn.networks import GRID


@dataclass(frozen=True)
class Passage:
    """One way for a whole batch."""

    scale: float
    """Chip pixels per frame pixel; 0: published as a crop, where only rounding happens."""
    quality: int
    """Of the JPEG; 0: a format without loss."""


def passage_of(reader: int, generator: torch.Generator) -> Passage:
    """Draw a way of one kind: 0 a crop; 1 into a fine frame, as CelebA's; 2 into a coarse one.

    Half of the fine ones have CelebA's own scale; JPEG of 88 to 97, or a format without loss.
    """
    place, how = torch.rand(2, generator=generator).tolist()
    if reader == 0:
        return Passage(0.0, 0)
    quality = 0 if how < 0.2 else 95 if how < 0.7 else round(88 + 30 * (how - 0.7))
    if reader == 2:
        return Passage(0.5 + 0.5 * place, quality)
    return Passage(0.43 if place < 0.5 else 0.25 + 0.5 * (place - 0.5), quality)


def random_passage(generator: torch.Generator) -> Passage:
    """Draw a way of any kind, most of them as into CelebA's frames."""
    kind = float(torch.rand(1, generator=generator))
    return passage_of(0 if kind < 0.15 else 1 if kind < 0.75 else 2, generator)


def passed(chips: Tensor, passage: Passage, generator: torch.Generator) -> Tensor:
    """Return chips (N, 3, 64, 64), float in [0, 1], as `restore` gets to see them."""
    if not passage.scale:
        return _rounded(chips.clamp(0, 1))
    count, side = len(chips), 16 * int(np.ceil(GRID / passage.scale / 16)) + 16
    angle = 0.35 * (torch.rand(count, generator=generator) - 0.5)
    shift = torch.rand(count, 1, 2, generator=generator) - 0.5
    turn = passage.scale * torch.stack(
        [
            torch.stack([angle.cos(), -angle.sin()], 1),
            torch.stack([angle.sin(), angle.cos()], 1),
        ],
        1,
    )  # (N, 2, 2): frame -> chip, around both centers
    points = _centers(side) - side / 2
    frames = _sampled(chips, points @ turn.transpose(1, 2) + GRID / 2 + shift, side)
    frames = _rounded(frames.clamp(0, 1), passage.quality)
    factor = max(1, int(1 / passage.scale))
    if factor > 1:
        frames = functional.avg_pool2d(frames, factor)
    back = torch.linalg.inv(turn).transpose(1, 2)
    points = ((_centers(GRID) - GRID / 2 - shift) @ back + side / 2) / factor
    return _rounded(_sampled(frames, points, GRID))


def _centers(side: int) -> Tensor:
    """Return x and y of the pixels' centers, (1, side * side, 2)."""
    line = torch.arange(side) + 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], -1).view(1, -1, 2)


def _sampled(images: Tensor, points: Tensor, side: int) -> Tensor:
    """Sample (N, 3, S, S) bilinearly at (N, side * side, 2) pixel positions."""
    grid = points.view(len(points), side, side, 2) / images.shape[-1] * 2 - 1
    return functional.grid_sample(
        images, grid.to(images), align_corners=False, padding_mode="border"
    )


def _rounded(images: Tensor, quality: int = 0) -> Tensor:
    """Round to eight bits, and compress as JPEG (without color subsampling, as images.encode
    writes it)."""
    with torch.no_grad():
        levels = (images * 255).round()
        if quality:
            levels = _jpeg(levels, quality)
        real = levels / 255
    return images + (real - images).detach()


def _jpeg(levels: Tensor, quality: int) -> Tensor:
    """Compress all pictures of a batch as one tall one, whose blocks do not overlap two of them."""
    count, _, height, width = levels.shape
    assert height % 8 == 0
    tall = levels.permute(0, 2, 3, 1).reshape(count * height, width, 3).to(torch.uint8)
    pixels = cv2.cvtColor(tall.cpu().numpy(), cv2.COLOR_RGB2BGR)
    full = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, full]
    _, data = cv2.imencode(".jpg", pixels, options)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    back = torch.from_numpy(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))
    return back.view(count, height, width, 3).permute(0, 3, 1, 2).to(levels)
