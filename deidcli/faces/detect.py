"""Find the faces of a frame: boxes, scores and five landmarks.

Detectors: `auto`, the default (CenterFace, coarse to fine, `faces/search.py`), `hog` (dlib's
frontal HOG detector), `cnn` (dlib's mmod network), and `none` (the picture is a face).
docs/detectors.md has the measurements behind the default.
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

CNN_WORKING_MEGAPIXELS = 3.0
"""The largest picture that dlib's network works on; its memory grows by about 0.1 GB a
megapixel."""
THRESHOLD = 0.2
"""Score from which `auto` calls a place a face."""
DOUBT = 0.1
"""Score from which it is listed for a person to look at."""


@dataclass(frozen=True)
class Face:
    """A detected face, in frame pixels."""

    box: Box
    score: float
    """The detector's own confidence; comparable within one detector only."""
    landmarks: Points
    """(5, 2) float64, in the order of `align.MEAN_FACE_5`."""
    fitted: bool = True
    """Whether the landmarks were found; otherwise they are those of an upright face in the box."""


@dataclass(frozen=True)
class Detection:
    """What a detector says of a frame."""

    faces: list[Face]
    """Best first."""
    doubts: list[tuple[Box, float]]
    """Places that may be faces and were not taken for some; box and score."""


def to_face(
    gray: Image, box: Box, score: float, shape: BoxShape, points: Points | None = None
) -> Face:
    """A detection with its landmarks.

    Args:
        gray: (H, W) uint8.
        shape: how its detector draws boxes.
        points: CenterFace's five points, where it is the detector.
    """
    found = find_landmarks(gray, box, shape, points)
    if found is None:
        return Face(box, score, landmarks_from_box(box, shape), fitted=False)
    return Face(box, score, found)


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
        return self.detect(frame).faces

    def detect(self, frame: Image) -> Detection:
        """The faces of a (H, W, 3) uint8 RGB frame, and what may be one."""
        if self.name == "none":
            return Detection([whole_frame(frame)], [])
        if self.name == "auto":
            found = search.search(frame, THRESHOLD, DOUBT)
            return Detection(_faces(frame, found.faces), _boxes(found.doubts))
        boxes = detect_hog(frame) if self.name == "hog" else self._detect_cnn(frame)
        gray = to_gray(frame) if boxes else frame
        return Detection([to_face(gray, box, score, DLIB_BOX) for box, score in boxes], [])

    def _detect_cnn(self, frame: Image) -> list[tuple[Box, float]]:
        from deidcli.faces.dlib_nets import detect_cnn, load_detector  # imports torch

        if self._network is None:
            self._network = load_detector(self._device)
        height, width = frame.shape[:2]
        scale = min(UPSAMPLE, working_scale(height, width, CNN_WORKING_MEGAPIXELS))
        found = detect_cnn(self._network, frame, scale=scale)
        return [((b[0], b[1], b[2] + 1.0, b[3] + 1.0), score) for b, score in found]

    def describe(self) -> dict[str, Any]:
        """What the manifest says about it."""
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
