"""How sharp and how noisy a face is in its frame, and a drawn one made so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deidcli.faces.align import Affine, Image, frame_box, scale_of

Floats = NDArray[np.float32]
"""(S, S) or (S, S, 3) float32, levels of 255."""

SIGMAS = (0.35, 0.5, 0.65, 0.8, 1.0, 1.25, 1.6, 2.0, 2.6, 3.4)
AMOUNTS = (2.5, 1.8, 1.3, 0.9, 0.6, 0.3)


@dataclass(frozen=True)
class Grain:
    """How sharp and how noisy a face is in its own frame."""

    scale: float
    """Pixels of the view per pixel of the frame."""
    sharpness: float
    """Variance of the Laplacian of the gray face, levels of 255 squared."""
    noise: float
    """Deviation of the noise, levels of 255."""


def grain_of(frame: Image, affine: Affine, share: Floats) -> Grain:
    """Read the grain of a face.

    Args:
        affine: (2, 3), frame pixels to view pixels. share: (S, S) where the face is in the view.
    """
    x0, y0, x1, y1 = frame_box(affine, len(share), frame.shape)
    moved = affine.copy()
    moved[:, 2] += affine[:, :2] @ np.array([x0, y0], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    inside = cv2.warpAffine(share, moved, (x1 - x0, y1 - y0), flags=flags)
    gray = cv2.cvtColor(frame[y0:y1, x0:x1], cv2.COLOR_RGB2GRAY).astype(np.float32)
    return Grain(scale_of(affine), _sharpness(gray, inside), noise_of(gray))


def as_sharp(drawn: Floats, face: Floats, grain: Grain, noise: Floats) -> Floats:
    """The drawn picture as sharp and as grainy as the old face is in its frame.

    Whatever is found at the frame's scale is applied at the view's.

    Args:
        drawn: (S, S, 3). face: (S, S) where its face is. noise: (S, S) of deviation 1.
    """
    side = max(16, round(len(drawn) / grain.scale))
    gray = cv2.resize(drawn.mean(2), (side, side), interpolation=cv2.INTER_LINEAR)
    inside = cv2.resize(face, (side, side), interpolation=cv2.INTER_LINEAR)
    # Noise of this deviation adds 20 times its square to the variance of the Laplacian.
    wanted = max(1.0, grain.sharpness - 20 * grain.noise**2)
    steps = (*(-amount for amount in AMOUNTS), 0.0, *SIGMAS)
    reached = [_sharpness(_filtered(gray, step), inside) for step in steps]
    best = steps[int(np.argmin([abs(np.log((value + 1) / wanted)) for value in reached]))]
    filtered = _filtered(drawn, best, grain.scale)
    grown = cv2.resize(noise[:side, :side], (len(drawn),) * 2, interpolation=cv2.INTER_CUBIC)
    return np.asarray(filtered + grain.noise * grown[:, :, None], np.float32)


def _filtered(picture: Floats, step: float, scale: float = 1.0) -> Floats:
    """Blurred by a sigma of `step` times `scale` px; below 0 sharpened by so much."""
    if step == 0:
        return picture
    if step > 0:
        return np.asarray(cv2.GaussianBlur(picture, (0, 0), step * scale), np.float32)
    blurred = cv2.GaussianBlur(picture, (0, 0), 1.0 * scale)
    return np.asarray(picture - step * (picture - blurred), np.float32)


def _sharpness(gray: NDArray[Any], share: NDArray[Any]) -> float:
    """The variance of the Laplacian of a gray picture within a part."""
    weight = share > 0.9
    if weight.sum() < 50:
        return 0.0
    return float(cv2.Laplacian(gray, cv2.CV_32F)[weight].var())


def noise_of(gray: Floats) -> float:
    """The deviation of the noise, in levels of 255.

    Source: Immerkaer 1996, "Fast Noise Variance Estimation", eq. 5; the median in place of the
    mean, so that edges count less.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    seen = np.abs(cv2.filter2D(gray, cv2.CV_32F, kernel))
    return float(np.median(seen) / 0.6745 / 6)
