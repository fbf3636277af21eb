"""Where a face lies in a chip, and where in a drawn picture."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deidcli.faces.align import Image, Mask, chip_affine
from deidcli.methods.masks import rounded_ellipse

SIDE = 128
"""px of a chip; table 3's FC(16384, .) takes 1024 x 4 x 4 features."""
PADDING = 0.5
"""Padding of a chip, in sides of the mean face: the head with most of its hair, and little that a
picture of the generator does not show."""
MARGIN_SIDE = 144
"""px of a chip with a margin around it, at the chip's scale, for shifts in training."""
MARGIN_PADDING = ((1 + 2 * PADDING) * MARGIN_SIDE / SIDE - 1) / 2
DRAWN_LANDMARKS = np.array(
    [[171.0, 121.0], [146.0, 123.0], [83.0, 122.0], [108.5, 123.0], [128.0, 170.5]]
)
"""dlib's five landmarks in a drawn picture of 256 px: the generator centers all of its faces so."""
CENTER, HALF, POWER = (0.5, 0.42), (0.95, 0.9), 2.4
"""Of the mask, a rounded ellipse, in sides of the mean face."""
EDGE = 12.0
"""Width of the mask's soft edge, px."""


def drawn_chip(picture: Image) -> Image:
    """(256, 256, 3), or (256, 256) -> the chip with its margin, mirrored where the picture ends."""
    affine = chip_affine(DRAWN_LANDMARKS, MARGIN_SIDE, MARGIN_PADDING)
    scale = np.hypot(*affine[:, 0])
    soft = cv2.GaussianBlur(picture, (0, 0), 0.4 / scale)  # or it is sampled too thinly
    return np.asarray(
        cv2.warpAffine(soft, affine, (MARGIN_SIDE, MARGIN_SIDE), borderMode=cv2.BORDER_REFLECT_101),
        np.uint8,
    )


def drawn_side_of(share: NDArray[np.float32]) -> Image:
    """Shares (S, S) of a view, the drawn picture's middle and half as much around it, as bytes of
    the drawn picture alone: (256, 256)."""
    wide = cv2.resize(share, (384, 384))[64:-64, 64:-64]
    return np.asarray(np.rint(wide * 255), np.uint8)


VEIL = 8
"""Side of the cells over which a head is averaged, px."""


def veiled(chips: Tensor, share: Tensor, side: int = VEIL) -> Tensor:
    """Chips (N, 3, S, S), averaged over cells of `side` px where `share`, of any shape that fits,
    is 1."""
    coarse = functional.interpolate(
        functional.avg_pool2d(chips, side), scale_factor=float(side), mode="bilinear"
    )
    return torch.lerp(chips, coarse, share)


def window() -> Mask:
    """(128, 128) float32 in [0, 1]: how much of a made chip is published at each pixel. It leaves
    out what a drawn picture does not show."""
    return rounded_ellipse(SIDE, PADDING, CENTER, HALF, POWER, EDGE)
