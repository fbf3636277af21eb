"""What a view shows where: ground, hair, face, neck, clothes, and what lies before the face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
