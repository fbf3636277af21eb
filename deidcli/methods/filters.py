"""Blackout, pixelate and blur: methods that need no training.

Their region and strength are sized by the face, so they protect alike at any resolution. The
defaults were chosen by measurement (docs/methods/filters.md): of the pictures that they publish,
at most 1 % are recognized at rank 1 by any recognizer that we have. The fixed pixel sizes that
papers compare with (a 9x9 Gaussian, an 8x8 mosaic) are settings; they do not protect.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from deidcli.faces.landmarks import DLIB_BOX
from deidcli.faces.regions import HEAD_PADDING, Region, region_mask
from deidcli.methods.base import Chip, Context, OnPixels, Pixels

SIZE = 128
"""Side of the chips that the filters work on. What they leave is far coarser."""
FINE_SIZE = 512
"""Side where a strength is given in frame pixels, so that a chip pixel is finer than those."""


class _Filter(OnPixels):
    """What the three share: a chip that holds the head, and the mask of the region."""

    def __init__(self, region: Region, size: int) -> None:
        self.chip = Chip(size, HEAD_PADDING)
        self.mask = region_mask(region, size, HEAD_PADDING)
        self.face_width = DLIB_BOX.width * size / (2 * HEAD_PADDING + 1)
        """Width of a detector's box in chip pixels."""


@dataclass(frozen=True)
class BlackoutSettings:
    """Settings of blackout."""

    region: Region = "head"
    """What is covered: the whole head as far as it shows, or the face alone."""


class Blackout(_Filter):
    """A black ellipse over the region."""

    def __init__(self, settings: BlackoutSettings, device: str) -> None:
        super().__init__(settings.region, SIZE)
        self.settings = settings
        self.blank = settings.region == "head"
        """The gate's fallback would be the same picture."""

    def on_pixels(self, chips: Pixels, context: Context) -> Pixels:
        return np.zeros_like(chips)


@dataclass(frozen=True)
class PixelateSettings:
    """Settings of pixelate."""

    blocks: float = 2.5
    """Blocks across the width of the face."""
    block_px: float = 0.0
    """Side of a block in frame pixels instead, as papers have it; 0: use `blocks`."""
    region: Region = "head"
    """What is covered: the whole head as far as it shows, or the face alone."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.blocks <= 64:
            raise ValueError("blocks must lie between 0.5 and 64")
        if not 0 <= self.block_px <= 4096:
            raise ValueError("block_px must lie between 0 and 4096")


class Pixelate(_Filter):
    """A mosaic: each block shows the mean of its pixels."""

    def __init__(self, settings: PixelateSettings, device: str) -> None:
        super().__init__(settings.region, FINE_SIZE if settings.block_px else SIZE)
        self.settings = settings

    def on_pixels(self, chips: Pixels, context: Context) -> Pixels:
        side = chips.shape[1]
        block = np.full(len(chips), self.face_width / self.settings.blocks)
        if self.settings.block_px:
            block = self.settings.block_px * context.scales
        cells = np.clip(np.rint(side / block), 1, side).astype(int)
        return np.stack([mosaic(chip, int(n)) for chip, n in zip(chips, cells, strict=True)])


def mosaic(chip: Pixels, cells: int) -> Pixels:
    """(S, S, 3) as `cells` by `cells` blocks, each of the mean of the pixels that it touches."""
    side = len(chip)
    first = np.arange(cells) * side // cells
    last = -(-(np.arange(1, cells + 1) * side) // cells)
    sums = np.zeros((side + 1, side + 1, 3))
    sums[1:, 1:] = chip.cumsum(0, dtype=np.float64).cumsum(1)
    whole = (
        sums[last][:, last] - sums[first][:, last] - sums[last][:, first] + sums[first][:, first]
    )
    count = (last - first)[:, None] * (last - first)
    small = np.asarray(whole / count[..., None], np.float32)
    shown = np.arange(side) * cells // side
    return small[shown][:, shown]


@dataclass(frozen=True)
class BlurSettings:
    """Settings of blur."""

    sigma: float = 0.5
    """Standard deviation of the Gaussian as a share of the width of the face."""
    kernel_px: int = 0
    """Side of a fixed kernel in frame pixels instead, as papers have it; 0: use `sigma`."""
    region: Region = "head"
    """What is covered: the whole head as far as it shows, or the face alone."""

    def __post_init__(self) -> None:
        if not 0.001 <= self.sigma <= 2:
            raise ValueError("sigma must lie between 0.001 and 2")
        if not 0 <= self.kernel_px <= 999 or (self.kernel_px and self.kernel_px % 2 == 0):
            raise ValueError("kernel_px must be 0 or an odd number up to 999")


class Blur(_Filter):
    """A Gaussian blur."""

    def __init__(self, settings: BlurSettings, device: str) -> None:
        super().__init__(settings.region, FINE_SIZE if settings.kernel_px else SIZE)
        self.settings = settings

    def on_pixels(self, chips: Pixels, context: Context) -> Pixels:
        sigmas = np.full(len(chips), self.settings.sigma * self.face_width)
        if self.settings.kernel_px:
            # OpenCV's rule for the sigma of a kernel, getGaussianKernel
            frame_sigma = 0.3 * ((self.settings.kernel_px - 1) * 0.5 - 1) + 0.8
            sigmas = frame_sigma * context.scales
        return np.stack([blurred(chip, float(s)) for chip, s in zip(chips, sigmas, strict=True)])


def blurred(chip: Pixels, sigma: float) -> Pixels:
    """Gaussian blur of (S, S, 3); beyond the edge the edge repeats."""
    radius = max(1, min(int(np.ceil(3 * sigma)), len(chip) - 1))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    border = cv2.BORDER_REPLICATE
    return np.asarray(cv2.sepFilter2D(chip, -1, kernel, kernel, borderType=border), np.float32)
