"""Crop a face as an aligned chip, and paste a chip back without a visible seam.

Chips follow dlib's convention: a similarity transform maps the five landmarks to a mean face, and
`padding` widens the square around that mean face by a share of its side. The affine of a chip is
six numbers (a, b, c, d, e, f), row-major 2x3, that map frame pixels to chip pixels:
x' = a x + b y + c, y' = d x + e y + f.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB in [0, 255]."""
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in frame pixels, upper bounds excluded; may reach outside the frame."""
Points = NDArray[np.float64]
"""(P, 2) float64, x and y in pixels."""
Affine = NDArray[np.float64]
"""(2, 3) float64."""
Mask = NDArray[np.float32]
"""(S, S) float32 in [0, 1]."""

MEAN_FACE_5 = np.array(
    [
        [0.8595674595992, 0.2134981538014],
        [0.6460604764104, 0.2289674387677],
        [0.1205750620789, 0.2137274526848],
        [0.3340850613712, 0.2290642403242],
        [0.4901123135679, 0.6277975316475],
    ]
)
"""dlib's mean face in the unit square, in the order of its 5-point predictor: the corners of the
eye at the right of the picture (outer, inner), those of the eye at the left (outer, inner), the
base of the nose. Source: dlib, image_transforms/interpolation.h, get_face_chip_details."""


def similarity(source: Points, target: Points) -> Affine:
    """Return the similarity transform from `source` to `target` with least squared error.

    Args:
        source, target: (P, 2), P >= 2, not all points equal.

    Returns:
        (2, 3) affine. Source: Umeyama 1991, eq. 40 to 43, without reflection.
    """
    source_mean, target_mean = source.mean(0), target.mean(0)
    x, y = (source - source_mean).T
    u, v = (target - target_mean).T
    variance = float((x * x + y * y).sum())
    if variance <= 0:
        raise ValueError("the source points are all equal")
    a = float((x * u + y * v).sum()) / variance
    b = float((x * v - y * u).sum()) / variance
    rotation = np.array([[a, -b], [b, a]])
    return np.hstack([rotation, (target_mean - rotation @ source_mean)[:, None]])


def unit_affine(landmarks: Points) -> Affine:
    """Return the affine from frame pixels to the unit square of the mean face.

    Args:
        landmarks: (5, 2) in dlib's order (see MEAN_FACE_5), frame pixels.

    Every chip's affine follows from it by `chip_from_unit`, whatever its size and padding.
    """
    return similarity(np.asarray(landmarks, dtype=np.float64), MEAN_FACE_5)


def chip_from_unit(unit: Affine, size: int, padding: float) -> Affine:
    """Return the affine from frame pixels to a chip of `size` x `size` px.

    Args:
        unit: `unit_affine` of the face.
        size: side of the chip in px.
        padding: share of the mean face's side added on each side (dlib's recognizer: 0.25).
    """
    scale = size / (2 * padding + 1)
    # dlib's chip coordinates run from 0 to size; pixel centers are half a pixel in.
    return unit * scale + np.array([[0, 0, 1], [0, 0, 1]]) * (padding * scale - 0.5)


def unit_from_chip(affine: Affine, size: int, padding: float) -> Affine:
    """Undo `chip_from_unit`: return the affine from frame pixels to the unit square."""
    scale = size / (2 * padding + 1)
    return (affine - np.array([[0, 0, 1], [0, 0, 1]]) * (padding * scale - 0.5)) / scale


def chip_affine(landmarks: Points, size: int, padding: float) -> Affine:
    """Return `chip_from_unit` for a face's (5, 2) landmarks."""
    return chip_from_unit(unit_affine(landmarks), size, padding)


def apply_affine(affine: Affine, points: Points) -> Points:
    """Transform (P, 2) points with a (2, 3) affine."""
    return np.asarray(points @ affine[:, :2].T + affine[:, 2], dtype=np.float64)


def invert(affine: Affine) -> Affine:
    """Return the inverse of a (2, 3) affine."""
    return np.asarray(cv2.invertAffineTransform(affine), dtype=np.float64)


def scale_of(affine: Affine) -> float:
    """Return the chip pixels per frame pixel of a similarity transform."""
    return float(np.hypot(affine[0, 0], affine[1, 0]))


def crop(frame: Image, affine: Affine, size: int, extend: bool = False) -> Image:
    """Crop a (size, size, 3) uint8 RGB chip from a frame.

    Outside the frame the chip is black, as in dlib, or (`extend`) repeats the frame's edge.

    If the chip is smaller than the face, the region is first averaged down by integer factors to
    avoid aliasing.
    """
    x0, y0, x1, y1 = frame_box(affine, size, frame.shape)
    if x0 >= x1 or y0 >= y1:
        return np.zeros((size, size, 3), np.uint8)
    region = frame[y0:y1, x0:x1]  # OpenCV cannot warp from pictures beyond 32,767 px
    factor = int(1.0 / scale_of(affine))
    if factor < 2:
        moved = affine.copy()
        moved[:, 2] += affine[:, :2] @ np.array([x0, y0], dtype=np.float64)
        return _warp(region, moved, size, extend)
    height, width = max(1, (y1 - y0) // factor), max(1, (x1 - x0) // factor)
    region = region[: height * factor, : width * factor]
    small = cv2.resize(region, (width, height), interpolation=cv2.INTER_AREA)
    # Pixel centers: small (i, j) is the mean of a block centered (factor - 1) / 2 in.
    shift = (factor - 1) / 2
    to_frame = np.array([[factor, 0, x0 + shift], [0, factor, y0 + shift], [0, 0, 1.0]])
    return _warp(np.asarray(small, np.uint8), affine @ to_frame, size, extend)


def frame_box(affine: Affine, size: int, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return the box of frame pixels that a chip touches, clipped, upper bounds excluded."""
    corners = np.array([[-1, -1], [size, -1], [-1, size], [size, size]], dtype=np.float64)
    points = apply_affine(invert(affine), corners)
    low = np.floor(points.min(0)).astype(int)
    high = np.ceil(points.max(0)).astype(int) + 1
    height, width = shape[:2]
    x0, y0 = (int(max(0, v)) for v in low)
    x1, y1 = int(min(width, high[0])), int(min(height, high[1]))
    return x0, y0, x1, y1


def box_pixels(box: Box, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return the pixels (x0, y0, x1, y1) that a box touches, clipped to the frame, upper bounds
    excluded."""
    height, width = shape[:2]
    x0, x1 = (min(max(value, 0.0), float(width)) for value in (box[0], box[2]))
    y0, y1 = (min(max(value, 0.0), float(height)) for value in (box[1], box[3]))
    return math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)


def _warp(frame: Image, affine: Affine, size: int, extend: bool) -> Image:
    border = cv2.BORDER_REPLICATE if extend else cv2.BORDER_CONSTANT
    chip = cv2.warpAffine(frame, affine, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(chip, dtype=np.uint8)


def paste(frame: Image, chip: Image, affine: Affine, mask: Mask) -> None:
    """Paste a chip over a frame, in place, with the inverse of the affine that cropped it.

    Args:
        frame: (H, W, 3) uint8 RGB, changed in place.
        chip: (S, S, 3) uint8 RGB.
        affine: the (2, 3) affine from frame pixels to chip pixels.
        mask: (S, S) float32 in [0, 1], the chip's weight at each pixel. 1 replaces the frame's
            pixel completely; a soft edge outside that region hides the seam.
    """
    x0, y0, x1, y1 = frame_box(affine, chip.shape[0], frame.shape)
    if x0 >= x1 or y0 >= y1:
        return
    chip, mask, affine = _shrink(chip, mask, affine)
    to_chip = affine.copy()
    to_chip[:, 2] += affine[:, :2] @ np.array([x0, y0], dtype=np.float64)
    size, flags = (x1 - x0, y1 - y0), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    new = cv2.warpAffine(chip, to_chip, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    share = cv2.warpAffine(mask, to_chip, size, flags=flags, borderMode=cv2.BORDER_CONSTANT)
    region = frame[y0:y1, x0:x1]
    region[:] = cv2.blendLinear(new, np.ascontiguousarray(region), share, 1.0 - share)


def _shrink(chip: Image, mask: Mask, affine: Affine) -> tuple[Image, Mask, Affine]:
    """Average a chip down by an integer factor if it is much finer than the frame."""
    factor = int(scale_of(affine))
    if factor < 2:
        return chip, mask, affine
    side = max(2, chip.shape[0] // factor)
    ratio = side / chip.shape[0]
    small = cv2.resize(chip, (side, side), interpolation=cv2.INTER_AREA)
    small_mask = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA)
    shift = np.array([[0, 0, 1], [0, 0, 1]]) * (ratio - 1) / 2
    return np.asarray(small, np.uint8), np.asarray(small_mask, np.float32), affine * ratio + shift
