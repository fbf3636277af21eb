"""Five landmarks for a detected face: dlib's, CenterFace's, or none that fit.

dlib's 5-point predictor is exact on upright faces and unreliable on others. CenterFace's points are
coarser but follow a face in any orientation. A face that CenterFace sees rotated is therefore set
upright by its points before dlib's predictor runs. Points that do not fit their box are discarded,
CenterFace's are tried instead, and a face for which none fit is marked as such.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import dlib
import numpy as np

from deidcli.faces.align import (
    MEAN_FACE_5,
    Affine,
    Box,
    Image,
    Points,
    apply_affine,
    invert,
    scale_of,
    similarity,
    unit_affine,
)
from deidcli.faces.regions import REGIONS
from deidcli.weights.files import pip_file
from deidcli.weights.pip_files import DLIB_LANDMARKS


@dataclass(frozen=True)
class BoxShape:
    """How a detector draws its boxes, in sides of the mean face, in its unit square."""

    width: float
    height: float
    center: tuple[float, float]

    @property
    def size(self) -> float:
        """Side of the square with the same area."""
        return math.sqrt(self.width * self.height)


DLIB_BOX = BoxShape(1.3, 1.3, (0.49, 0.48))
"""dlib's boxes: medians over 300 CelebA training faces; 98 % of the widths are between 1.06 and
1.47."""
CENTERFACE_BOX = BoxShape(1.17, 1.56, (0.50, 0.38))
"""CenterFace's boxes, from the hairline to the chin: medians over 596 CelebA training faces; 98 %
of the widths are between 0.99 and 1.31, of the heights between 1.35 and 1.81."""
CENTERFACE_POINTS = np.array(
    [[0.2265, 0.2185], [0.7727, 0.2080], [0.4970, 0.5295], [0.2653, 0.7682], [0.7242, 0.7587]]
)
"""CenterFace's five points in the mean face's unit square: medians over 150 faces."""

FITTING_SIZES = (0.69, 1.36)
"""Range of box sizes that landmarks may imply, relative to the detector's usual box."""
FITTING_OFFSET = 0.35
"""Largest offset of the box's center from the usual one, in sides of the mean face, in x and y."""
TURNED = math.radians(25)
"""Least roll at which a face is set upright before dlib's predictor runs."""
COVERED = 0.95
"""Least share of a box that the head region of its landmarks must cover."""
SPREAD, SPREADS = 0.96, 20
"""Factor of a face's scale per step until it does, and the maximum number of steps."""
UPRIGHT_SIDE = 200
"""Side in px of the upright picture for dlib's predictor."""


@cache
def _predictor() -> Any:
    return dlib.shape_predictor(str(pip_file(DLIB_LANDMARKS)))


def landmarks(frame: Image, box: Box) -> Points:
    """Return dlib's five landmarks of an upright face: (5, 2) float64 in frame pixels.

    Args:
        frame: (H, W, 3) uint8 RGB, or (H, W) gray, which is a third of the work.
        box: in the convention of dlib's detectors.
    """
    x0, y0, x1, y1 = box
    rect = dlib.rectangle(round(x0), round(y0), round(x1) - 1, round(y1) - 1)
    shape = _predictor()(frame, rect)
    return np.array([(point.x, point.y) for point in shape.parts()], dtype=np.float64)


def landmarks_from_box(box: Box, shape: BoxShape = DLIB_BOX) -> Points:
    """Return the five landmarks of an upright mean face in a detector's box: (5, 2)."""
    unit = _unit_of_box(box, shape)
    return apply_affine(invert(unit), MEAN_FACE_5)


def _unit_of_box(box: Box, shape: BoxShape) -> Affine:
    """Return the affine from frame pixels to the unit square for an upright mean face in a box."""
    x0, y0, x1, y1 = box
    scale = shape.size / max(math.sqrt(max(x1 - x0, 0) * max(y1 - y0, 0)), 1e-3)
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    shift = np.array(shape.center) - scale * middle
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])


def dlib_box(box: Box, shape: BoxShape) -> Box:
    """Return the box that dlib's detectors would draw for a face in another detector's box."""
    if shape == DLIB_BOX:
        return box
    half = DLIB_BOX.width / 2
    low, high = (np.array(DLIB_BOX.center) + side for side in (-half, half))
    corners = apply_affine(invert(_unit_of_box(box, shape)), np.stack([low, high]))
    return (*map(float, corners[0]), *map(float, corners[1]))  # type: ignore[return-value]


def fits(points: Points, box: Box, shape: BoxShape = DLIB_BOX) -> bool:
    """Return whether landmarks fit their box.

    The predictor is trained on frontal faces; on profiles and false positives it may put all five
    points close together, and a region sized by them would miss the head.
    """
    if np.ptp(points, axis=0).max() < 1:
        return False
    unit = unit_affine(points)
    x0, y0, x1, y1 = box
    size = math.sqrt(max(x1 - x0, 0) * max(y1 - y0, 0)) * scale_of(unit)
    middle = apply_affine(unit, np.array([[(x0 + x1) / 2, (y0 + y1) / 2]]))[0]
    low, high = FITTING_SIZES
    offset = float(np.abs(middle - np.array(shape.center)).max())
    return low <= size / shape.size <= high and offset <= FITTING_OFFSET


def find_landmarks(
    gray: Image, box: Box, shape: BoxShape, points: Points | None = None
) -> Points | None:
    """Find five landmarks of a face that fit and whose head region covers the box.

    A region is sized by the landmarks. If their head region would leave part of the box uncovered,
    they are moved to the box's center and spread until it does not.

    Args:
        gray: (H, W) uint8.
        points: (5, 2), CenterFace's own for this face.

    Returns:
        (5, 2) float64 in dlib's order, frame pixels; None if none fit.
    """
    found = _find(gray, box, shape, points)
    return None if found is None else covering(found, box, shape)


def covering(points: Points, box: Box, shape: BoxShape) -> Points:
    """Return landmarks, spread if needed so that the head region covers COVERED of the box.

    Args:
        points: (5, 2) that fit the box.
    """
    unit = unit_affine(points)
    if head_share(unit, box) >= COVERED:
        return points
    middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    for step in range(SPREADS):
        grown = unit.copy()
        grown[:, :2] *= SPREAD**step
        grown[:, 2] = np.array(shape.center) - grown[:, :2] @ middle
        if head_share(grown, box) >= COVERED:
            break
    return apply_affine(invert(grown), MEAN_FACE_5)


def head_share(unit: Affine, box: Box) -> float:
    """Return the share of a box that lies in the head region of a face's unit square."""
    steps = (np.arange(16) + 0.5) / 16
    x, y = np.meshgrid(box[0] + steps * (box[2] - box[0]), box[1] + steps * (box[3] - box[1]))
    u, v = apply_affine(unit, np.stack([x.ravel(), y.ravel()], 1)).T
    head = REGIONS["head"]
    inside = np.hypot((u - head.x) / head.half_width, (v - head.y) / head.half_height) <= 1
    return float(inside.mean())


def _find(gray: Image, box: Box, shape: BoxShape, points: Points | None = None) -> Points | None:
    """Find five landmarks of a face that fit its box.

    Args:
        gray: (H, W) uint8.
        points: (5, 2), CenterFace's own for this face.

    Returns:
        (5, 2) float64 in dlib's order, frame pixels; None if none fit.
    """
    if points is None:
        found = landmarks(gray, dlib_box(box, shape))
        return found if fits(found, box, shape) else None
    rough = similarity(points, CENTERFACE_POINTS) if np.ptp(points, axis=0).max() >= 1 else None
    if rough is None or abs(math.atan2(rough[1, 0], rough[0, 0])) < TURNED:
        found = landmarks(gray, dlib_box(box, shape))
    else:
        found = _landmarks_upright(gray, rough)
    if fits(found, box, shape):
        return found
    if rough is None:
        return None
    found = apply_affine(invert(rough), MEAN_FACE_5)
    return found if fits(found, box, shape) else None


def _landmarks_upright(gray: Image, rough: Affine) -> Points:
    """Return dlib's landmarks of a face that is upright in the unit square of `rough`."""
    scale, padding = UPRIGHT_SIDE / 2, 0.5
    shift = np.array([[0, 0, padding * scale], [0, 0, padding * scale]])
    affine = rough * scale + shift
    upright = cv2.warpAffine(gray, affine, (UPRIGHT_SIDE, UPRIGHT_SIDE), flags=cv2.INTER_LINEAR)
    half = DLIB_BOX.width / 2
    low = (np.array(DLIB_BOX.center) - half + padding) * scale
    high = (np.array(DLIB_BOX.center) + half + padding) * scale
    found = landmarks(np.asarray(upright, np.uint8), (*low, *high))
    return apply_affine(invert(affine), found)
