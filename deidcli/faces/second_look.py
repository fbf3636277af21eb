"""A second, slower search for faces that a run's detector has missed.

It searches the whole picture closely, where `faces/search.py` only searches hints, and also uses
dlib's two detectors, which were trained by others on other pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deidcli.faces.align import Affine, Box, Image, apply_affine, unit_affine
from deidcli.faces.detect import Detector
from deidcli.faces.landmarks import CENTERFACE_BOX, landmarks_from_box
from deidcli.faces.regions import REGIONS
from deidcli.faces.search import search

THRESHOLD = 0.25
"""Least score of CenterFace's close passes; a little above the detector's own, because results here
count against a run."""
LEAST = 10.0
"""Smaller places, in px, are ignored."""
SHARED = 0.3
"""Two boxes with this intersection over the smaller of the two are one place."""


@dataclass(frozen=True)
class Place:
    """A place in a picture that the second search reports as a face."""

    box: Box
    score: float
    """The detector's own confidence; comparable within one detector only."""
    by: str
    """The detector: centerface, hog or cnn."""


class SecondLook:
    """Three detectors, loaded on first use."""

    def __init__(self, device: str = "cpu") -> None:
        self._others = {name: Detector(name, device) for name in ("cnn", "hog")}

    def __call__(self, frame: Image) -> list[Place]:
        """Return all places in a (H, W, 3) uint8 RGB frame that any detector reports as a face."""
        found = search(frame, THRESHOLD, THRESHOLD, everywhere=True).faces
        places = [
            Place((float(b[0]), float(b[1]), float(b[2]), float(b[3])), float(s), "centerface")
            for b, s in zip(found.boxes, found.scores, strict=True)
        ]
        for name, detector in self._others.items():
            for face in detector(frame):
                if all(within(face.box, place.box) < SHARED for place in places):
                    places.append(Place(face.box, face.score, name))
        return [place for place in places if side(place.box) >= LEAST]


def side(box: Box) -> float:
    """Return the side in px of a square with the box's area."""
    return float(np.sqrt(max(box[2] - box[0], 0) * max(box[3] - box[1], 0)))


def within(one: Box, other: Box) -> float:
    """Return the intersection of two boxes over the smaller of the two."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min(side(one), side(other)) ** 2
    return max(width, 0) * max(height, 0) / smaller if smaller else 0.0


def left_over(places: Sequence[Place], replaced: Sequence[Affine]) -> list[Place]:
    """Return the places that are not replaced faces.

    A place belongs to a replaced face if its center lies in that face's head region: the method's
    output there may look like a face, and so may the edge of a covered head.

    Args:
        replaced: for each replaced face, the affine from frame pixels to its unit square.
    """
    return [place for place in places if not any(_in_head(place.box, unit) for unit in replaced)]


def _in_head(box: Box, unit: Affine) -> bool:
    middle = np.array([[(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]])
    x, y = apply_affine(unit, middle)[0]
    head = REGIONS["head"]
    return float(np.hypot((x - head.x) / head.half_width, (y - head.y) / head.half_height)) <= 1


def unit_of_box(box: Box) -> Affine:
    """Return the affine to the unit square for a box, assuming an upright face."""
    return unit_affine(landmarks_from_box(box, CENTERFACE_BOX))
