"""Pictures with one known face each: held-out ones, and others turned, darkened, covered, small.

Here a face is found where a detection holds its middle and has between half and twice its size.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.detector_candidates import cnn, half_first, hog, one_pass, ours
from benchmarks.detector_rule import Boxes, Seen, header, row, share, sizes
from deidcli.data.images import decode
from deidcli.faces.align import Image
from deidcli.faces.detect import THRESHOLD

PICTURES = 200
HELD_OUT_LFW = 1500
A_GROUP = 250
CANVAS = 416
"""px of the picture into which small ones are put."""
SMALL = 24.0
"""Size in px of the face in a small picture, as dlib's network draws its box."""
DARK = 2.5
"""Exponent that darkens: mid-gray, 128, becomes 46."""
ALONE = (12.0, 16.0, 24.0, 40.0)
"""The same where only size is asked about."""
DETECTORS: dict[str, tuple[Callable[[Image], Seen], float]] = {
    "ours": (ours, THRESHOLD),
    "CenterFace, one pass": (one_pass(1.0), 0.2),
    "CenterFace, twice the size": (one_pass(2.0), 0.2),
    "ours, first look at half size": (half_first, THRESHOLD),
    "dlib hog": (hog, 0.0),
    "dlib cnn": (cnn, 0.0),
}


@dataclass(frozen=True)
class OneFace:
    """A picture and the face in it."""

    pixels: Image
    middle: NDArray[np.float64]
    """(2,) x, y."""
    size: float
    """px."""


def rows(path: Path, column: str | None = None) -> Iterator[tuple[Image, object]]:
    """Pictures of a parquet file, each with a label."""
    columns = ["image", *([column] if column else [])]
    for batch in pq.ParquetFile(path).iter_batches(64, columns=columns):
        for record in batch.to_pylist():
            pixels = decode(record["image"]["bytes"]).pixels
            yield pixels, record[column] if column else None


def celeba(data: Path, count: int | None = None, split: str = "test") -> Iterator[Image]:
    """The first pictures of a split of celeba."""
    files = sorted((data / "celeba").glob(f"{split}-*.parquet"))
    pictures = itertools.chain.from_iterable(rows(path) for path in files)
    return (pixels for pixels, _ in itertools.islice(pictures, count))


def finds(seen: Seen, threshold: float, face: OneFace) -> bool:
    """Whether one of the detections is the face."""
    boxes = seen.boxes[seen.scores >= threshold]
    inside = (boxes[:, :2] < face.middle) & (face.middle < boxes[:, 2:])
    size = sizes(boxes) / face.size
    return bool((inside.all(1) & (size > 0.5) & (size < 2)).any())


def held_out(data: Path) -> None:
    """Pictures that no constant was chosen on; the face that they are named after is in the middle.

    The darkest tenth by the mean of the middle stands beside them. That mixes skin with light.
    """
    lfw = list(rows(data / "lfw/test-00000-of-00001.parquet"))
    every = len(lfw) // HELD_OUT_LFW
    sets = {
        "LFW": [pixels for pixels, _ in lfw[::every]][:HELD_OUT_LFW],
        "celeba/test": list(celeba(data)),
    }
    for name, pictures in sets.items():
        dark = np.argsort([middle_of(pixels).mean() for pixels in pictures])
        darkest = set(dark[: len(dark) // 10].tolist())
        any_face = middle = hidden = 0
        for index, pixels in enumerate(pictures):
            seen = ours(pixels)
            boxes: Boxes = seen.boxes[seen.scores >= THRESHOLD]
            center = np.array(pixels.shape[1::-1]) / 2
            hit = bool(((boxes[:, :2] < center) & (center < boxes[:, 2:])).all(1).any())
            any_face += len(boxes) > 0
            middle += hit
            hidden += index in darkest and not hit
        n = len(pictures)
        print(f"{name}: a face found {share(any_face, n, interval=True)}")
        print(f"{name}: the one in the middle found {share(middle, n, interval=True)}")
        print(f"{name}: of the darkest tenth {len(darkest) - hidden}/{len(darkest)}", flush=True)


def middle_of(pixels: Image) -> Image:
    """The middle two fifths of a picture."""
    height, width = pixels.shape[:2]
    return pixels[height * 3 // 10 : height * 7 // 10, width * 3 // 10 : width * 7 // 10]


def turn(face: OneFace, degrees: float) -> OneFace:
    """The picture turned about its middle and made as large as it needs; the edge is repeated."""
    height, width = face.pixels.shape[:2]
    affine = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    sides = np.abs(affine[:, :2]) @ np.array([width, height])
    affine[:, 2] += sides / 2 - np.array([width, height]) / 2
    size = (int(np.ceil(sides[0])), int(np.ceil(sides[1])))
    turned = cv2.warpAffine(face.pixels, affine, size, borderMode=cv2.BORDER_REPLICATE)
    return OneFace(np.asarray(turned, np.uint8), affine @ np.append(face.middle, 1), face.size)


def darken(face: OneFace) -> OneFace:
    """The picture as if there were little light."""
    table = (255 * (np.arange(256) / 255) ** DARK).astype(np.uint8)
    return OneFace(table[face.pixels], face.middle, face.size)


def cover(face: OneFace) -> OneFace:
    """The lower half of the face under a light blue mask."""
    pixels = face.pixels.copy()
    x, y = (round(float(value)) for value in face.middle)
    half = round(face.size / 2)
    pixels[y : y + half, max(0, x - half) : x + half] = (170, 195, 215)
    return OneFace(pixels, face.middle, face.size)


def shrink(face: OneFace, size: float) -> OneFace:
    """The picture reduced until its face has a size, in the middle of one of `CANVAS` px."""
    scale = size / face.size
    height, width = (max(1, round(side * scale)) for side in face.pixels.shape[:2])
    small = cv2.resize(face.pixels, (width, height), interpolation=cv2.INTER_AREA)
    down, right = max(0, CANVAS - height), max(0, CANVAS - width)
    top, left = down // 2, right // 2
    sides = (top, down - top, left, right - left)
    canvas = cv2.copyMakeBorder(small, *sides, cv2.BORDER_REPLICATE)
    return OneFace(np.asarray(canvas, np.uint8), face.middle * scale + (left, top), size)


def with_a_face(pictures: Iterator[Image]) -> Iterator[OneFace]:
    """Pictures, each with its best face by dlib's network; those without one are left out."""
    for pixels in pictures:
        seen = cnn(pixels)
        if len(seen.scores) and seen.scores.max() > 0:
            box = seen.boxes[[int(seen.scores.argmax())]]
            yield OneFace(pixels, (box[0, :2] + box[0, 2:]) / 2, float(sizes(box)[0]))


def count_found(faces: list[OneFace], names: tuple[str, ...]) -> list[str]:
    """How many of the faces each of some detectors finds."""
    found = []
    for name in names:
        run, threshold = DETECTORS[name]
        hits = sum(finds(run(face.pixels), threshold, face) for face in faces)
        found.append(share(hits, len(faces)))
    return found


def validation_faces(data: Path) -> list[OneFace]:
    """Faces of other people than those of celeba/test."""
    pictures = itertools.islice(celeba(data, split="validation"), 0, None, 7)
    return list(itertools.islice(with_a_face(pictures), PICTURES))


def alone(data: Path) -> None:
    """One small face in a picture of `CANVAS` px, where nothing tells a detector of a crowd."""
    faces = validation_faces(data)
    names = ("ours", "CenterFace, one pass", "CenterFace, twice the size")
    header("size of the face", *names)
    for size in ALONE:
        row(f"{size:.0f} px", *count_found([shrink(face, size) for face in faces], names))


def turned(data: Path) -> None:
    """Validation pictures of celeba under every change, large and small."""
    faces = validation_faces(data)
    large = ("ours", "CenterFace, one pass", "dlib hog", "dlib cnn")
    small = ("ours", "CenterFace, one pass")
    header("change", *large, *(f"{name}, small" for name in small))
    changes: dict[str, Callable[[OneFace], OneFace]] = {
        "none": lambda face: face,
        **{f"{d} degrees": (lambda face, d=d: turn(face, d)) for d in (30, 60, 90, 180)},
        "darkened": darken,
        "darkened, 90 degrees": lambda face: turn(darken(face), 90),
        "lower half covered": cover,
    }
    for name, change in changes.items():
        made = [change(face) for face in faces]
        cells = count_found(made, large)
        cells += count_found([shrink(face, SMALL) for face in made], small)
        row(name, *cells)


def groups(data: Path) -> None:
    """Computer-made portraits by the ethnicity that they are labeled with, small and darkened."""
    counts: Counter[object] = Counter()
    chosen: dict[object, list[Image]] = {}
    for pixels, label in rows(data / "generated/train-00000-of-00001.parquet", "ethnicity"):
        counts[label] += 1
        if counts[label] <= A_GROUP:
            chosen.setdefault(label, []).append(pixels)
    names = ("ours", "ours, first look at half size", "CenterFace, one pass")
    header("labeled", *(f"{name}, {how}" for how in ("16 px", "dark") for name in names))
    for label, pictures in sorted(chosen.items(), key=lambda item: str(item[0])):
        faces = [shrink(face, 16.0) for face in with_a_face(iter(pictures))]
        cells = count_found(faces, names) + count_found([darken(face) for face in faces], names)
        row(label, *cells)
