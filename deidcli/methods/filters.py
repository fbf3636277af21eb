"""Blackout, pixelate and blur: methods that need no training.

Their region and strength are sized by the face, so they protect alike at any resolution. The
defaults were chosen by measurement (docs/methods/filters.md): of the pictures that they publish,
at most 1 % are recognized at rank 1 by any recognizer that we have. The fixed pixel sizes that
papers compare with (a 9x9 Gaussian, an 8x8 mosaic) are settings; they do not protect.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deidcli.faces.landmarks import DLIB_BOX
from deidcli.faces.regions import HEAD_PADDING, Region, region_mask
from deidcli.methods import Chip, Context, Plan, PlanFace

SIZE = 128
"""Side of the chips that the filters work on. What they leave is far coarser."""
FINE_SIZE = 512
"""Side where a strength is given in frame pixels, so that a chip pixel is finer than those."""


class _Filter:
    """What the three share: a chip that holds the head, and the mask of the region."""

    def __init__(self, region: Region, size: int) -> None:
        self.chip = Chip(size, HEAD_PADDING)
        self.mask = region_mask(region, size, HEAD_PADDING)
        self.face_width = DLIB_BOX.width * size / (2 * HEAD_PADDING + 1)
        """Width of a detector's box in chip pixels."""

    def prepare(self, faces: Iterable[PlanFace]) -> Plan | None:
        return None


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

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        return torch.zeros_like(chips)


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

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        side = chips.shape[-1]
        block = np.full(len(chips), self.face_width / self.settings.blocks)
        if self.settings.block_px:
            block = self.settings.block_px * context.scales
        cells = np.clip(np.rint(side / block), 1, side).astype(int)
        out = torch.empty_like(chips)
        for count in np.unique(cells):  # one pass a mosaic size; by default there is one
            rows = torch.from_numpy(np.flatnonzero(cells == count))
            small = F.interpolate(chips[rows], size=(int(count), int(count)), mode="area")
            out[rows] = F.interpolate(small, size=(side, side), mode="nearest")
        return out


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

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        sigmas = np.full(len(chips), self.settings.sigma * self.face_width)
        if self.settings.kernel_px:
            # OpenCV's rule for the sigma of a kernel, getGaussianKernel
            frame_sigma = 0.3 * ((self.settings.kernel_px - 1) * 0.5 - 1) + 0.8
            sigmas = frame_sigma * context.scales
        out = torch.empty_like(chips)
        for sigma in np.unique(sigmas):
            rows = torch.from_numpy(np.flatnonzero(sigmas == sigma))
            out[rows] = gaussian_blur(chips[rows], float(sigma))
        return out


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (N, C, H, W) images; beyond the edge the edge repeats."""
    side = images.shape[-1]
    radius = max(1, min(int(np.ceil(3 * sigma)), side - 1))
    x = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = images.shape[1]
    padded = F.pad(images, (radius, radius, 0, 0), mode="replicate")
    wide = F.conv2d(padded, kernel.expand(channels, 1, 1, -1), groups=channels)
    padded = F.pad(wide, (0, 0, radius, radius), mode="replicate")
    return F.conv2d(padded, kernel.expand(channels, 1, 1, -1).mT, groups=channels)
