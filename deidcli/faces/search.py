"""Find faces from 8 px up in pictures of any size: one first pass, then close passes at hints.

A face too small for the network still leaves a faint trace in the heat map. The picture is
therefore searched once at its own size. Where this pass leaves a weak detection ("hint") that no
certain face explains, it is searched twice more at double size: once as it is, and once mirrored
and widened. Faces score both times, most false positives only once. docs/detectors.md has the
measurements behind the constants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from deidcli.faces.align import Image
from deidcli.faces.centerface import Cells, look

COARSE = 1.0
"""Scale of the first pass. At 0.5 the hints of small isolated faces are lost, more often for dark
skin (docs/detectors.md)."""
SMALLEST_SIDE = 96
"""Least length in px of the longer side in the first pass; tiny pictures are enlarged to it."""
THUMBNAIL = 320
"""Longer side in px of an extra first pass, which finds faces too large for the network."""
HINT = 0.06
"""Least heat at which a place is searched again."""
SURE = 0.5
"""Least score of a face that is certain enough to need no close pass."""
SURE_SIZE = 24
"""Faces smaller than this, in px, are searched again anyway."""
BANDS = ((0.0, 40.0, 2.0), (40.0, 128.0, 1.0), (128.0, math.inf, 0.5))
"""Size range of hints in px (from, below), and the scale of their close passes."""
CROWD, CROWD_MEGAPIXELS = 8, 2.0
"""This many small hints make a crowd, which is searched closely from edge to edge, except in larger
pictures, where this would take seconds."""
WIDEN, FLATTEN = 1.2, 0.8
"""How the second close pass stretches the picture in addition to its scale: across and down."""
WEAK = 0.05
"""Least heat in a close pass; faces are decided from both passes together."""
BLOCK = 8
"""Grid size in px on which hints are grouped into windows."""
MARGIN = 1.0
"""Margin of a window around the center of a hint, in sizes of the hint."""
LEAST_MARGIN = 12.0
"""Least margin in px."""
FULL, LEAST_CUT = 0.6, 16
"""A window filled less than this with hints is split in two, down to this many blocks."""
TILE, OVERLAP = 1024, 192
"""Largest side of the network's input and the overlap of tiles, both after scaling. This bounds the
memory for large pictures."""
SAME = 0.3
"""Two boxes with at least this intersection over union are one face."""
WITHIN = 0.75
"""Two boxes are also one face if one lies inside the other by this share."""
AGREE = 0.4
"""Boxes of two passes with at least this intersection over union are the same object."""


@dataclass(frozen=True)
class Found:
    """Faces, best first, and possible faces."""

    faces: Cells
    doubts: Cells
    """Possible faces: below the threshold, and not part of a face."""


def scaled(picture: Image, across: float, down: float) -> Image:
    """Enlarge or reduce a picture; shrinking averages areas."""
    if across == down == 1.0:
        return picture
    height, width = picture.shape[:2]
    size = (max(1, round(width * across)), max(1, round(height * down)))
    how = cv2.INTER_LINEAR if across > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)


def look_at(
    picture: Image, across: float, threshold: float, *, down: float = 0, flip: bool = False
) -> Cells:
    """Run the network on a whole picture at a scale, tile by tile; cells are in picture px.

    Args:
        picture: (H, W, 3) uint8 RGB.
        across: scale of its width, and of its height unless `down` says otherwise.
        threshold: least heat of a cell, in [0, 1].
        flip: run on mirror images; the cells returned are in the picture's coordinates.
    """
    seen = scaled(picture, across, down or across)
    height, width = seen.shape[:2]
    parts = []
    for y0 in _starts(height):
        for x0 in _starts(width):
            tile = seen[y0 : y0 + TILE, x0 : x0 + TILE]
            parts.append(look(tile, threshold, flip).moved((1, 1), (x0, y0)))
    back = (picture.shape[1] / width, picture.shape[0] / height)
    return Cells.join(parts).moved(back, (0, 0))


def _starts(length: int) -> range:
    """Return where tiles begin along a side."""
    return range(0, max(1, length - OVERLAP), TILE - OVERLAP)


def best(cells: Cells) -> Cells:
    """Return one cell per face, best first."""
    left = np.argsort(-cells.scores, kind="stable")
    kept = []
    while len(left):
        first, left = left[0], left[1:]  # a box without area would not overlap even itself
        kept.append(first)
        overlap, within = _overlaps(cells.boxes[first], cells.boxes[left])
        left = left[(overlap < SAME) & (within < WITHIN)]
    return cells.take(np.array(kept, int))


def _overlaps(
    box: NDArray[np.float32], boxes: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return a box's intersections with others, over the union and over the smaller box."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    own = float(np.prod(box[2:] - box[:2]))
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    tiny = 1e-9
    return shared / (own + areas - shared + tiny), shared / (np.minimum(own, areas) + tiny)


def search(picture: Image, threshold: float, doubt: float, *, everywhere: bool = False) -> Found:
    """Search a picture once, then closely at hints.

    Args:
        picture: (H, W, 3) uint8 RGB.
        threshold: least score of a face.
        doubt: least score of a place that a person should review.
        everywhere: search the whole picture closely, regardless of hints; slow.
    """
    first = _first_look(picture)
    sure = best(first.take(first.scores >= SURE))
    hints = first.take(~_explained(first, sure))
    passes = [sure]
    small = picture.shape[0] * picture.shape[1] <= CROWD_MEGAPIXELS * 1e6
    for low, high, scale in BANDS:
        chosen = hints.take((hints.sizes >= low) & (hints.sizes < high))
        crowded = low == 0 and small and len(best(chosen)) >= CROWD
        passes += _close_looks(picture, chosen, high, scale, crowded or everywhere)
    cells = best(Cells.join(passes))
    return Found(
        cells.take(cells.scores >= threshold),
        cells.take((cells.scores >= doubt) & (cells.scores < threshold)),
    )


def _first_look(picture: Image) -> Cells:
    longest = max(picture.shape[:2])
    scale = max(COARSE, min(1.0, SMALLEST_SIDE / longest))
    passes = [look_at(picture, scale, HINT)]
    if THUMBNAIL / longest < 0.6 * scale:
        passes.append(look_at(picture, THUMBNAIL / longest, HINT))
    return Cells.join(passes)


def _explained(cells: Cells, sure: Cells) -> NDArray[np.bool_]:
    """Return whether each place lies in a face that is certain and not small."""
    faces = sure.take(sure.sizes >= SURE_SIZE)
    reach = 0.1 * faces.sizes[:, None]
    low, high = faces.boxes[:, :2] - reach, faces.boxes[:, 2:] + reach
    places = cells.centers[:, None]  # (N, 1, 2) against (F, 2)
    return np.asarray(np.any(np.all((places > low) & (places < high), axis=2), axis=1), np.bool_)


def _close_looks(
    picture: Image, hints: Cells, high: float, scale: float, everywhere: bool
) -> list[Cells]:
    """Search hints again, window by window, twice; scores are the means of both passes.

    Args:
        high: upper limit of the hints' sizes in px.
        everywhere: search the whole picture, regardless of hints.
    """
    height, width = picture.shape[:2]
    reach = math.ceil(min(high, 2 * 128.0) / 2)  # half a face, which a split may have divided
    whole = (0, 0, math.ceil(width / BLOCK), math.ceil(height / BLOCK))
    passes = []
    for x, y, w, h in [whole] if everywhere else _windows(hints, height, width):
        x0, y0 = max(0, x * BLOCK - reach), max(0, y * BLOCK - reach)
        window = picture[y0 : (y + h) * BLOCK + reach, x0 : (x + w) * BLOCK + reach]
        plain = best(look_at(window, scale, WEAK))
        other = look_at(window, scale * WIDEN, WEAK, down=scale * FLATTEN, flip=True)
        passes.append(both(plain, best(other)).moved((1, 1), (x0, y0)))
    return passes


def both(one: Cells, two: Cells) -> Cells:
    """Combine two passes: scores are means, boxes are means weighted by the scores.

    An object that only one pass found gets half of its score.
    """
    pairs = [_partner(box, two) for box in one.boxes]
    alone = np.setdiff1d(np.arange(len(two)), [index for index in pairs if index >= 0])
    parts = [_half(two.take(alone))]
    for index, partner in enumerate(pairs):
        a = one.take(np.array([index]))
        if partner < 0:
            parts.append(_half(a))
            continue
        b = two.take(np.array([partner]))
        share = (a.scores / (a.scores + b.scores)).astype(np.float32)
        boxes = (share * a.boxes + (1 - share) * b.boxes).astype(np.float32)
        points = (share * a.landmarks + (1 - share) * b.landmarks).astype(np.float32)
        parts.append(Cells(boxes, ((a.scores + b.scores) / 2).astype(np.float32), points))
    return Cells.join(parts)


def _half(cells: Cells) -> Cells:
    return Cells(cells.boxes, (cells.scores / 2).astype(np.float32), cells.landmarks)


def _partner(box: NDArray[np.float32], cells: Cells) -> int:
    """Return the index of the cell that is the same object as a box; -1 if there is none."""
    if not len(cells):
        return -1
    overlap, _ = _overlaps(box, cells.boxes)
    index = int(np.argmax(overlap))
    return index if overlap[index] >= AGREE else -1


Window = tuple[int, int, int, int]
"""x, y, width, height in blocks."""


def _windows(hints: Cells, height: int, width: int) -> Iterator[Window]:
    """Yield rectangles that contain all hints with their margins."""
    if not len(hints):
        return
    mask = np.zeros((math.ceil(height / BLOCK), math.ceil(width / BLOCK)), np.uint8)
    reach = np.maximum(LEAST_MARGIN, MARGIN * hints.sizes)[:, None]
    low = np.maximum((hints.centers - reach) // BLOCK, 0).astype(int)
    high = ((hints.centers + reach) // BLOCK + 1).astype(int)
    for (x0, y0), (x1, y1) in zip(low, high, strict=True):
        mask[y0:y1, x0:x1] = 1
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    for x, y, w, h, _ in stats[1:]:
        yield from _cut(mask, (int(x), int(y), int(w), int(h)))


def _cut(mask: NDArray[np.uint8], window: Window) -> Iterator[Window]:
    """Yield a window, or its two parts if much of it is empty, each as small as its hints allow."""
    x, y, w, h = window
    part = mask[y : y + h, x : x + w]
    rows, columns = np.nonzero(part.any(1))[0], np.nonzero(part.any(0))[0]
    if not len(rows):
        return
    x, w = x + int(columns[0]), int(columns[-1] - columns[0]) + 1
    y, h = y + int(rows[0]), int(rows[-1] - rows[0]) + 1
    part = mask[y : y + h, x : x + w]
    if max(w, h) < LEAST_CUT or part.mean() > FULL:
        yield x, y, w, h
    elif w >= h:
        at = _emptiest(part.sum(0))
        yield from _cut(mask, (x, y, at, h))
        yield from _cut(mask, (x + at, y, w - at, h))
    else:
        at = _emptiest(part.sum(1))
        yield from _cut(mask, (x, y, w, at))
        yield from _cut(mask, (x, y + at, w, h - at))


def _emptiest(filled: NDArray[np.integer]) -> int:
    """Return where to split: the line with the fewest hints, in the middle half."""
    quarter = len(filled) // 4
    return quarter + int(np.argmin(filled[quarter : len(filled) - quarter]))
