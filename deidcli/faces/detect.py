"""Find the faces of a frame: boxes, scores and five landmarks.

Detectors: `auto`, the default (CenterFace in a first pass and close passes, `faces/search.py`),
`hog` (dlib's frontal HOG detector), `cnn` (dlib's mmod network), and `none` (the whole picture is a
face). docs/detectors.md has the measurements behind the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deidcli.faces import search
from deidcli.faces.align import MEAN_FACE_5, Box, Image, Points
from deidcli.faces.centerface import Cells
from deidcli.faces.dlib_hog import (
    SMALL_UPSAMPLE,
    UPSAMPLE,
    WORKING_MEGAPIXELS,
    detect_hog,
    to_gray,
    working_scale,
)
from deidcli.faces.landmarks import (
    CENTERFACE_BOX,
    DLIB_BOX,
    BoxShape,
    find_landmarks,
    landmarks_from_box,
)
from deidcli.processes import resolve_device

CNN_WORKING_MEGAPIXELS = 3.0
"""The largest picture for dlib's network; its memory grows by about 0.1 GB per megapixel."""
THRESHOLD = 0.2
"""Least score at which `auto` reports a face."""
DOUBT = 0.1
"""Least score at which a place is listed for review by a person."""


@dataclass(frozen=True)
class Face:
    """A detected face, in frame pixels."""

    box: Box
    score: float
    """The detector's own confidence; comparable within one detector only."""
    landmarks: Points
    """(5, 2) float64, in the order of `align.MEAN_FACE_5`."""
    fitted: bool = True
    """Whether the landmarks were found; if not, they are those of an upright face in the box."""


@dataclass(frozen=True)
class Detection:
    """A detector's result for a frame."""

    faces: list[Face]
    """Best first."""
    doubts: list[tuple[Box, float]]
    """Places that may be faces but were not reported as such; box and score."""


def to_face(
    gray: Image, box: Box, score: float, shape: BoxShape, points: Points | None = None
) -> Face:
    """Return a detection with its landmarks.

    Args:
        gray: (H, W) uint8.
        shape: how its detector draws boxes.
        points: CenterFace's five points, if it is the detector.
    """
    found = find_landmarks(gray, box, shape, points)
    if found is None:
        return Face(box, score, landmarks_from_box(box, shape), fitted=False)
    return Face(box, score, found)


WINDOW = 160
"""Size in px to which a user's face is scaled when CenterFace looks for its points."""
SAME_BOX = 0.4
"""Least intersection over union of two boxes of one face."""


def faces_at(frame: Image, boxes: Sequence[Box]) -> list[Face]:
    """Return the faces in boxes from the user, with landmarks if they can be found.

    Args:
        frame: (H, W, 3) uint8 RGB.
        boxes: roughly from the hairline to the chin.
    """
    gray = to_gray(frame) if boxes else frame
    faces = []
    for box in boxes:
        points = points_in(frame, box)
        if points is None:  # dlib's predictor finds a face in any wall
            guessed = landmarks_from_box(box, CENTERFACE_BOX)
            faces.append(Face(box, 1.0, guessed, fitted=False))
        else:
            faces.append(to_face(gray, box, 1.0, CENTERFACE_BOX, points))
    return faces


def points_in(frame: Image, box: Box) -> Points | None:
    """Return CenterFace's points of the face in a box; None if it finds none there."""
    height, width = frame.shape[:2]
    reach = max(box[2] - box[0], box[3] - box[1]) / 2
    x0, y0 = max(0, int(box[0] - reach)), max(0, int(box[1] - reach))
    x1, y1 = min(width, int(box[2] + reach) + 1), min(height, int(box[3] + reach) + 1)
    scale = WINDOW / max(2 * reach, 1)
    seen = search.best(search.look_at(frame[y0:y1, x0:x1], scale, search.WEAK)).moved(
        (1, 1), (x0, y0)
    )
    for (other, _), points in zip(_boxes(seen), seen.landmarks, strict=True):
        if overlap(box, other) >= SAME_BOX:
            return np.asarray(points, np.float64)
    return None


def joined(found: Sequence[Face], given: Sequence[Face]) -> list[Face]:
    """Return the detected faces and the user's faces that were not detected."""
    new = [f for f in given if all(overlap(f.box, other.box) < SAME_BOX for other in found)]
    return [*found, *new]


def overlap(one: Box, other: Box) -> float:
    """Return the intersection over union of two boxes."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return width * height / max(sum(areas) - width * height, 1e-9)


def whole_frame(frame: Image) -> Face:
    """Return the whole picture as a face, cropped like dlib's chips with padding 0.25."""
    height, width = frame.shape[:2]
    side = min(height, width) / 1.5
    box = (0.0, 0.0, float(width), float(height))
    center = np.array([width / 2, height / 2])
    return Face(box, 1.0, (MEAN_FACE_5 - 0.5) * side + center)


class Detector:
    """A detector by its command-line name, loaded on first use."""

    def __init__(self, name: str, device: str = "cpu") -> None:
        self.name = name
        self._device = device
        self._network: Any = None

    def __call__(self, frame: Image) -> list[Face]:
        """Return the faces of a (H, W, 3) uint8 RGB frame, best first."""
        return self.detect(frame).faces

    def detect(self, frame: Image) -> Detection:
        """Return the faces and possible faces of a (H, W, 3) uint8 RGB frame."""
        if self.name == "none":
            return Detection([whole_frame(frame)], [])
        if self.name == "auto":
            found = search.search(frame, THRESHOLD, DOUBT)
            return Detection(_faces(frame, found.faces), _boxes(found.doubts))
        boxes = detect_hog(frame) if self.name == "hog" else self._detect_cnn(frame)
        gray = to_gray(frame) if boxes else frame
        return Detection([to_face(gray, box, score, DLIB_BOX) for box, score in boxes], [])

    def _detect_cnn(self, frame: Image) -> list[tuple[Box, float]]:
        from deidcli.faces.dlib_detector import detect_cnn, load_detector

        if self._network is None:
            self._network = load_detector(resolve_device(self._device))
        height, width = frame.shape[:2]
        scale = min(UPSAMPLE, working_scale(height, width, CNN_WORKING_MEGAPIXELS))
        found = detect_cnn(self._network, frame, scale=scale)
        return [((b[0], b[1], b[2] + 1.0, b[3] + 1.0), score) for b, score in found]

    def describe(self) -> dict[str, Any]:
        """Return the detector's entry in the manifest."""
        if self.name == "auto":
            return {
                "name": self.name,
                "network": "CenterFace",
                "threshold": THRESHOLD,
                "doubt": DOUBT,
                "first_look": search.COARSE,
                "close_looks": [[low, scale] for low, _, scale in search.BANDS],
            }
        return {
            "name": self.name,
            "upsample": UPSAMPLE,
            "upsample_to_250px": SMALL_UPSAMPLE,
            "smallest_face_px": 80 / UPSAMPLE,
            "working_megapixels": WORKING_MEGAPIXELS,
            "cnn_working_megapixels": CNN_WORKING_MEGAPIXELS,
        }


def _faces(frame: Image, cells: Cells) -> list[Face]:
    gray = to_gray(frame) if len(cells) else frame
    return [
        to_face(gray, box, score, CENTERFACE_BOX, points.astype(np.float64))
        for (box, score), points in zip(_boxes(cells), cells.landmarks, strict=True)
    ]


def _boxes(cells: Cells) -> list[tuple[Box, float]]:
    def plain(row: Sequence[float]) -> Box:
        return (float(row[0]), float(row[1]), float(row[2]), float(row[3]))

    return [(plain(box), float(s)) for box, s in zip(cells.boxes, cells.scores, strict=True)]
