"""Find the faces of a frame: boxes, scores and five landmarks.

Detectors: `hog` (dlib's frontal HOG detector, fast), `cnn` (dlib's mmod network, finds
profiles), and `auto`, which runs the network where HOG finds nothing. docs/detectors.md has the
measurements behind the defaults.
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
    Image,
    Points,
    apply_affine,
    scale_of,
    unit_affine,
)
from deidcli.processes import resolve_device
from deidcli.weights import DLIB_LANDMARKS, pip_file

UPSAMPLE = 2.0
"""Both detectors see windows of 80 px and more, so doubling the frame finds faces from 40 px."""
SMALL_PICTURE, SMALL_UPSAMPLE = 0.0625, 1.5
"""Pictures up to 250x250 px are mostly one face cut out: there faces from 53 px are looked for, in
half the time. Doubling found no more faces in 1,000 of CelebA's training pictures."""
WORKING_MEGAPIXELS = 12.0
"""The largest picture that HOG works on; larger frames are reduced to it first."""
CNN_WORKING_MEGAPIXELS = 3.0
"""The same for the network, whose memory grows with the picture: about 0.1 GB a megapixel."""
SECOND_LOOK_MEGAPIXELS = 1.5
"""The same for the network where HOG has already looked in vain (`auto`)."""

BOX_WIDTH = 1.3
"""Width of dlib's HOG box in sides of the mean face: the median over 300 CelebA training faces
was 1.285, 98 % lay between 1.06 and 1.47."""
BOX_CENTER = np.array([0.49, 0.48])
"""Center of that box in the mean face's unit square; the same faces, same medians."""
PLAUSIBLE_WIDTHS = (0.9, 1.75)
PLAUSIBLE_OFFSET = 0.35

LONGEST_SIDE = 16_000
"""px of a working picture; dlib's HOG corrupts memory on far longer ones."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in frame pixels, upper bounds excluded; may reach outside the frame."""


@dataclass(frozen=True)
class Face:
    """A detected face, in frame pixels."""

    box: Box
    score: float
    """The detector's own confidence; comparable within one detector only."""
    landmarks: Points
    """(5, 2) float64, in the order of `align.MEAN_FACE_5`."""


def working_scale(height: int, width: int, megapixels: float = WORKING_MEGAPIXELS) -> float:
    """How much a frame is enlarged (or reduced, if below 1) before detection."""
    most = UPSAMPLE if height * width > SMALL_PICTURE * 1e6 else SMALL_UPSAMPLE
    area = math.sqrt(megapixels * 1e6 / (height * width))
    return min(most, area, LONGEST_SIDE / max(height, width))


def resize(frame: Image, scale: float) -> Image:
    """Scale a frame for detection; areas are averaged when it shrinks."""
    if scale == 1.0:
        return frame
    height, width = frame.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(frame, size, interpolation=how), dtype=np.uint8)


@cache
def _hog() -> Any:
    return dlib.get_frontal_face_detector()


@cache
def _predictor() -> Any:
    return dlib.shape_predictor(str(pip_file(DLIB_LANDMARKS)))


def to_gray(frame: Image) -> Image:
    """(H, W, 3) uint8 RGB to (H, W) uint8."""
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def detect_hog(frame: Image, threshold: float = 0.0) -> list[tuple[Box, float]]:
    """dlib's HOG detector. Boxes and scores, best first."""
    scale = working_scale(*frame.shape[:2])
    # Gray finds the same faces as color (docs/detectors.md) in two thirds of the time.
    rects, scores, _ = _hog().run(resize(to_gray(frame), scale), 0, threshold)
    return [
        (
            (
                rect.left() / scale,
                rect.top() / scale,
                (rect.right() + 1) / scale,
                (rect.bottom() + 1) / scale,
            ),
            float(score),
        )
        for rect, score in zip(rects, scores, strict=True)
    ]


def landmarks(frame: Image, box: Box) -> Points:
    """dlib's five landmarks of a face: (5, 2) float64 in frame pixels.

    Args:
        frame: (H, W, 3) uint8 RGB, or (H, W) gray, which is a third of the work.
    """
    x0, y0, x1, y1 = box
    rect = dlib.rectangle(round(x0), round(y0), round(x1) - 1, round(y1) - 1)
    shape = _predictor()(frame, rect)
    return np.array([(point.x, point.y) for point in shape.parts()], dtype=np.float64)


def landmarks_from_box(box: Box) -> Points:
    """Where the five landmarks of an upright mean face lie in a detector's box: (5, 2)."""
    x0, y0, x1, y1 = box
    side = (x1 - x0) / BOX_WIDTH
    center = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    return np.asarray((MEAN_FACE_5 - BOX_CENTER) * side + center, dtype=np.float64)


def plausible(points: Points, box: Box) -> bool:
    """Whether landmarks fit their box.

    The predictor is trained on frontal faces; on profiles and false alarms it may put five points
    on a heap, and a region sized by them would miss the head.
    """
    if np.ptp(points, axis=0).max() < 1:
        return False
    unit = unit_affine(points)
    x0, y0, x1, y1 = box
    width = (x1 - x0) * scale_of(unit)
    center = apply_affine(unit, np.array([[(x0 + x1) / 2, (y0 + y1) / 2]]))[0]
    offset = float(np.abs(center - BOX_CENTER).max())
    low, high = PLAUSIBLE_WIDTHS
    return low <= width <= high and offset <= PLAUSIBLE_OFFSET


def to_face(frame: Image, box: Box, score: float) -> Face:
    """A detection with its landmarks: the predictor's, or the box's where those do not fit.

    Args:
        frame: RGB or gray, see `landmarks`.
    """
    points = landmarks(frame, box)
    if not plausible(points, box):
        points = landmarks_from_box(box)
    return Face(box, score, points)


def whole_frame(frame: Image) -> Face:
    """`--detector none`: the picture is a face, cut as dlib's chips are (padding 0.25)."""
    height, width = frame.shape[:2]
    side = min(height, width) / 1.5
    box = (0.0, 0.0, float(width), float(height))
    center = np.array([width / 2, height / 2])
    return Face(box, 1.0, (MEAN_FACE_5 - 0.5) * side + center)


class Detector:
    """A detector by its name on the command line, loaded when it is first needed."""

    def __init__(self, name: str, device: str = "cpu") -> None:
        self.name = name
        self._device = device
        self._network: Any = None

    def __call__(self, frame: Image) -> list[Face]:
        """The faces of a (H, W, 3) uint8 RGB frame, best first."""
        if self.name == "none":
            return [whole_frame(frame)]
        found: list[tuple[Box, float]] = []
        if self.name in ("auto", "hog"):
            found = detect_hog(frame)
        if self.name == "auto" and not found:
            found = self._detect_cnn(frame, 1.0, SECOND_LOOK_MEGAPIXELS)
        if self.name == "auto" and not found:
            found = self._detect_cnn(frame, UPSAMPLE, SECOND_LOOK_MEGAPIXELS)
        if self.name == "cnn":
            found = self._detect_cnn(frame, UPSAMPLE, CNN_WORKING_MEGAPIXELS)
        if not found:
            return []
        gray = to_gray(frame)
        return [to_face(gray, box, score) for box, score in found]

    def _detect_cnn(self, frame: Image, most: float, megapixels: float) -> list[tuple[Box, float]]:
        from deidcli.faces.dlib_nets import detect_cnn, load_detector  # imports torch

        if self._network is None:
            self._network = load_detector(resolve_device(self._device))
        height, width = frame.shape[:2]
        scale = min(most, working_scale(height, width, megapixels))
        found = detect_cnn(self._network, frame, scale=scale)
        return [((b[0], b[1], b[2] + 1.0, b[3] + 1.0), score) for b, score in found]

    def describe(self) -> dict[str, Any]:
        """What the manifest says about it."""
        return {
            "name": self.name,
            "upsample": UPSAMPLE,
            "upsample_to_250px": SMALL_UPSAMPLE,
            "smallest_face_px": 80 / UPSAMPLE,
            "working_megapixels": WORKING_MEGAPIXELS,
            "cnn_working_megapixels": CNN_WORKING_MEGAPIXELS,
        }
