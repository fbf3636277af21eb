"""What a view shows where: ground, hair, face, neck, clothes, and what lies before the face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from deidcli.faces.align import Image

GROUND, HAIR, FACE, NECK, CLOTHES, OCCLUDER = range(6)
"""The classes. Hats count as hair, ears, beards and glasses as face."""
CLASSES = 6
SIDE = 192
"""px of a view that the network sees."""
REFINE_RADIUS = 0.02
"""Radius of the guided filter, in sides of the view."""
REFINE_EPSILON = 1e-3
"""Its regularization, for pictures in [0, 1]."""


WIDTHS = (16, 32, 64, 96, 128)
"""Channels of the segmenter from the view's full side to a sixteenth."""


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Segmenter(nn.Module):
    """A small U-Net (Ronneberger et al. 2015, arXiv:1505.04597, fig. 1).

    (N, 3, S, S) -> (N, 6, S, S) logits of the classes in `segmentation`; S a multiple of 16.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS, last: int = 24) -> None:
        super().__init__()
        a, b, c, d, e = widths
        self.d0 = _convolution(3, a)
        self.d1 = nn.Sequential(_convolution(a, b, 2), _convolution(b, b))
        self.d2 = nn.Sequential(_convolution(b, c, 2), _convolution(c, c))
        self.d3 = nn.Sequential(_convolution(c, d, 2), _convolution(d, d))
        self.d4 = nn.Sequential(_convolution(d, e, 2), _convolution(e, e), _convolution(e, e))
        self.u3, self.u2 = _convolution(e + d, d), _convolution(d + c, c)
        self.u1, self.u0 = _convolution(c + b, b), _convolution(b + a, last)
        self.out = nn.Conv2d(last, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.d0(x)
        b = self.d1(a)
        c = self.d2(b)
        d = self.d3(c)
        y = self.u3(torch.cat([_doubled(self.d4(d)), d], 1))
        y = self.u2(torch.cat([_doubled(y), c], 1))
        y = self.u1(torch.cat([_doubled(y), b], 1))
        y = self.u0(torch.cat([_doubled(y), a], 1))
        return cast(Tensor, self.out(y))


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def to_input(views: Sequence[Image]) -> Tensor:
    """(N, 3, 192, 192) float32, about [-2, 2]."""
    small = [cv2.resize(view, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for view in views]
    batch = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float()
    return ((batch / 255 - 0.5) * 4).contiguous(memory_format=torch.channels_last)


def _blurred(values: NDArray[Any], window: tuple[int, int]) -> NDArray[np.float32]:
    return np.asarray(cv2.blur(values, window), np.float32)


def refined(shares: NDArray[np.float32], view: Image) -> NDArray[np.float32]:
    """Shares at 192 px brought to the view's side, along the view's own edges.

    Source: He, Sun, Tang 2013, "Guided Image Filtering", eq. 5 and 6, gray guide.

    Args:
        shares: (192, 192, C). view: (S, S, 3).

    Returns:
        (S, S, C) float32 in [0, 1], summing to 1.
    """
    side = len(view)
    small = cv2.resize(view, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32) / np.float32(255)
    window = (2 * max(1, round(SIDE * REFINE_RADIUS)) + 1,) * 2
    mean: NDArray[Any] = _blurred(gray, window)
    variance = _blurred(gray * gray, window) - mean * mean
    means = _blurred(shares, window)
    covariance = _blurred(shares * gray[:, :, None], window) - means * mean[:, :, None]
    slope = covariance / (variance + REFINE_EPSILON)[:, :, None]
    offset = means - slope * mean[:, :, None]
    slope, offset = _blurred(slope, window), _blurred(offset, window)
    full = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    size = (side, side)
    grown = cv2.resize(slope, size) * full[:, :, None] + cv2.resize(offset, size)
    grown = np.clip(grown, 0, 1)
    return np.asarray(grown / np.maximum(grown.sum(2, keepdims=True), 1e-6), np.float32)
