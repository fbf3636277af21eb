"""When a face counts as found: the rule of `benchmarks/detectors.py`, and what it is held against.

`reference_faces.json` holds the faces of frames/crowd and frames/wild: boxes from the hairline to
the chin, drawn by hand on the enlarged pictures, where several detectors' proposals at low
thresholds were accepted, rejected, corrected and completed. Faces that even a person cannot tell
for sure are `doubtful`: to find one is no false alarm, to miss one is no miss.

A face is found where a detection overlaps its box with an intersection over union of 0.4 or more.
Its size is the square root of its box's area. A detection of 12 px and more is false where it
finds no face and does not lie in one, or in a doubtful place, by half of the smaller box.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from deidcli.data.images import decode
from deidcli.evaluate.intervals import wilson
from deidcli.faces.align import Image

Boxes = NDArray[np.float64]
"""(N, 4) x0, y0, x1, y1 in px of the picture."""
SAME_FACE = 0.4
"""Intersection over union from which a detection has found a face."""
INSIDE = 0.5
"""Share of the smaller box from which a detection lies in a face or a doubtful place."""
JUDGED = 12.0
"""px from which a detection can be a false alarm."""
REFERENCE = Path(__file__).with_name("reference_faces.json")


@dataclass(frozen=True)
class Annotated:
    """A picture whose faces are known."""

    name: str
    """Folder and file name."""
    pixels: Image
    faces: Boxes
    doubtful: Boxes


@dataclass(frozen=True)
class Seen:
    """What a detector says of a picture, down to a threshold far below the one it is used with."""

    boxes: Boxes
    scores: NDArray[np.float64]
    """(N,)"""


def as_boxes(rows: object) -> Boxes:
    """Rows of four numbers, or none, as (N, 4)."""
    return np.asarray(rows, np.float64).reshape(-1, 4)


NO_BOXES = as_boxes([])


def share(hits: int, n: int, *, interval: bool = False) -> str:
    """`hits/n`, or the share in percent with its 95 % interval (Wilson); `-` of none."""
    if not n:
        return "-"
    if not interval:
        return f"{hits}/{n}"
    low, high = wilson(hits, n)
    return f"{hits}/{n}: {100 * hits / n:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def row(*cells: object) -> None:
    """Print a line of a table."""
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def header(*cells: object) -> None:
    """Print the head of a table."""
    row(*cells)
    row(*("---" for _ in cells))


def sizes(boxes: Boxes) -> NDArray[np.float64]:
    """(N,) square roots of the boxes' areas, px."""
    return np.sqrt(np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(1))


def overlaps(a: Boxes, b: Boxes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(A, B) intersections over the unions, and over the smaller of the two boxes."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(2)
    areas_a, areas_b = (sizes(a) ** 2)[:, None], (sizes(b) ** 2)[None]
    tiny = 1e-9
    union = areas_a + areas_b - shared
    return shared / (union + tiny), shared / (np.minimum(areas_a, areas_b) + tiny)


@dataclass
class Outcome:
    """What a detector found in annotated pictures, at every threshold at once."""

    size: list[float] = field(default_factory=list)
    """px of every face."""
    found: list[float] = field(default_factory=list)
    """The highest score of a detection that finds it; -inf: none does."""
    right: list[float] = field(default_factory=list)
    """Scores of the detections of 12 px and more that find a face."""
    wrong: list[float] = field(default_factory=list)
    """Scores of those that are false."""

    def add(self, picture: Annotated, seen: Seen) -> None:
        """Judge the detections in a picture; their boxes end at its edge."""
        height, width = picture.pixels.shape[:2]
        edge = np.array([width, height, width, height])
        boxes = np.clip(seen.boxes, 0, edge)
        same, _ = overlaps(picture.faces, boxes)
        hits = same >= SAME_FACE
        self.size += sizes(picture.faces).tolist()
        best = np.where(hits, seen.scores[None], -np.inf).max(1, initial=-np.inf)
        self.found += best.tolist()
        places = np.concatenate([picture.faces, picture.doubtful])
        finds = hits.any(0)
        explained = (overlaps(places, boxes)[1] >= INSIDE).any(0)
        judged = sizes(boxes) >= JUDGED
        self.right += seen.scores[judged & finds].tolist()
        self.wrong += seen.scores[judged & ~finds & ~explained].tolist()

    def recall(self, threshold: float, low: float, high: float = np.inf) -> tuple[int, int]:
        """Faces found of those from `low` px to below `high` px, and how many there are."""
        size, found = np.array(self.size), np.array(self.found)
        chosen = (size >= low) & (size < high)
        return int((found[chosen] >= threshold).sum()), int(chosen.sum())

    def detections(self, threshold: float) -> tuple[int, int]:
        """Right detections, and false ones."""
        right, wrong = np.array(self.right), np.array(self.wrong)
        return int((right >= threshold).sum()), int((wrong >= threshold).sum())

    def threshold_at(self, precision: float) -> float:
        """The lowest score from which on this share of the detections is right; inf: none."""
        for threshold in sorted({*self.right, *self.wrong}):
            right, wrong = self.detections(threshold)
            if right >= precision * (right + wrong):
                return threshold
        return float("inf")


def reference(data: Path, folder: str) -> list[Annotated]:
    """The annotated pictures of frames/crowd or frames/wild, by name.

    Args:
        data: the folder that holds `frames`.
        folder: `crowd` or `wild`.
    """
    known = json.loads(REFERENCE.read_text())
    return [
        Annotated(
            name,
            decode((data / "frames" / name).read_bytes()).pixels,
            as_boxes(known[name]["faces"]),
            as_boxes(known[name]["doubtful"]),
        )
        for name in sorted(known)
        if name.startswith(folder + "/")
    ]


def dlib_faces(data: Path) -> Iterator[Annotated]:
    """dlib's own example pictures with the boxes that come with them."""
    folder = data / "frames/dlib_faces"
    for name in ("training.xml", "testing.xml"):
        for image in ElementTree.parse(folder / name).iter("image"):
            corners = [
                [float(box.attrib[key]) for key in ("left", "top", "width", "height")]
                for box in image.iter("box")
            ]
            boxes = as_boxes(corners)
            boxes[:, 2:] += boxes[:, :2]
            file = image.attrib["file"]
            yield Annotated(file, decode((folder / file).read_bytes()).pixels, boxes, NO_BOXES)
