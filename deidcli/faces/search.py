"""Find the faces of a picture of any size, from 8 px on: one look, then close looks at hints.

A face too small for the network leaves a faint trace in the heat map all the same. So the picture
is looked at once as it is, and then closely, twice, at double size, only where that look left a
hint that no sure face explains: once as it is, and once mirrored and widened. A face convinces
both times, most false alarms only once. docs/detectors.md has the measurements behind the
constants.
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
"""Scale of the first look. At 0.5 the hints of small faces that stand alone are lost, and those of
dark skin before others (docs/detectors.md)."""
SMALLEST_SIDE = 96
"""px that the longer side has at least in the first look; tiny pictures are enlarged for it."""
THUMBNAIL = 320
"""px of the longer side in a second first look, which finds faces too large for the network."""
HINT = 0.06
"""Heat from which a place is looked at again."""
SURE = 0.5
"""Score from which a face is certain enough that its own place needs no closer look."""
SURE_SIZE = 24
"""px: smaller ones are looked at again all the same."""
BANDS = ((0.0, 40.0, 2.0), (40.0, 128.0, 1.0), (128.0, math.inf, 0.5))
"""Sizes in px of hints, from and below, and the scale at which they are looked at closely."""
CROWD, CROWD_MEGAPIXELS = 8, 2.0
"""So many small hints make a crowd, which is looked at closely from edge to edge; but not in
larger pictures, where this would take seconds."""
WIDEN, FLATTEN = 1.2, 0.8
"""How the second close look stretches the picture, beside its scale: across and down."""
WEAK = 0.05
"""Heat from which a close look counts at all; faces are told by both looks together."""
BLOCK = 8
"""px of the grid on which hints are gathered into windows."""
MARGIN = 1.0
"""Reach of a window beyond the middle of a hint, in sizes of the hint."""
LEAST_MARGIN = 12.0
"""px, the same at least."""
FULL, LEAST_CUT = 0.6, 16
"""A window less full of hints than this is cut in two, down to this many blocks."""
TILE, OVERLAP = 1024, 192
"""Largest side of what the network sees at once, and how much tiles share; both after scaling. It
bounds the memory that a large picture takes."""
SAME = 0.3
"""Two boxes with at least this intersection over union are one face."""
WITHIN = 0.75
"""So are two of which one lies within the other by this share."""
AGREE = 0.4
"""Two looks with at least this intersection over union saw the same thing."""


@dataclass(frozen=True)
class Found:
    """Faces, best first, and places that may be faces."""

    faces: Cells
    doubts: Cells
    """Below the threshold, and not part of a face."""


def scaled(picture: Image, across: float, down: float) -> Image:
    """A picture enlarged or reduced; areas are averaged when it shrinks."""
    if across == down == 1.0:
        return picture
    height, width = picture.shape[:2]
    size = (max(1, round(width * across)), max(1, round(height * down)))
    how = cv2.INTER_LINEAR if across > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)


def look_at(
    picture: Image, across: float, threshold: float, *, down: float = 0, flip: bool = False
) -> Cells:
    """The network's cells over a whole picture at a scale, in px of the picture, tile by tile.

    Args:
        picture: (H, W, 3) uint8 RGB.
        across: scale of its width, and of its height unless `down` says otherwise.
        threshold: heat from which a cell counts, in [0, 1].
        flip: look at mirror images; what is returned lies in the picture.
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
    """Where tiles begin along a side."""
    return range(0, max(1, length - OVERLAP), TILE - OVERLAP)


def best(cells: Cells) -> Cells:
    """One cell a face, best first."""
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
    """Intersection of a box with others over their union, and over the smaller of the two."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    own = float(np.prod(box[2:] - box[:2]))
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    tiny = 1e-9
    return shared / (own + areas - shared + tiny), shared / (np.minimum(own, areas) + tiny)


def search(picture: Image, threshold: float, doubt: float, *, everywhere: bool = False) -> Found:
    """Look once, then closely where there is a hint.

    Args:
        picture: (H, W, 3) uint8 RGB.
        threshold: score from which a place is a face.
        doubt: score from which it is worth a person's look.
        everywhere: look closely at the whole picture, hints or not; slow.
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
    """Return whether a place lies in a face that is sure and not small."""
    faces = sure.take(sure.sizes >= SURE_SIZE)
    reach = 0.1 * faces.sizes[:, None]
    low, high = faces.boxes[:, :2] - reach, faces.boxes[:, 2:] + reach
    places = cells.centers[:, None]  # (N, 1, 2) against (F, 2)
    return np.asarray(np.any(np.all((places > low) & (places < high), axis=2), axis=1), np.bool_)


def _close_looks(
    picture: Image, hints: Cells, high: float, scale: float, everywhere: bool
) -> list[Cells]:
    """Look at hints again, window by window, twice; scores are the means of both looks.

    Args:
        high: size in px below which the hints are.
        everywhere: look at the whole picture, whatever the hints.
    """
    height, width = picture.shape[:2]
    reach = math.ceil(min(high, 2 * 128.0) / 2)  # half a face, which a cut may have parted
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
    """What two looks say together: scores are means, boxes those means weighted by the scores.

    A thing that one look alone has seen gets half of its score.
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
    """The number of the cell that is the same thing as a box; -1: none."""
    if not len(cells):
        return -1
    overlap, _ = _overlaps(box, cells.boxes)
    index = int(np.argmax(overlap))
    return index if overlap[index] >= AGREE else -1


Window = tuple[int, int, int, int]
"""x, y, width, height in blocks."""


def _windows(hints: Cells, height: int, width: int) -> Iterator[Window]:
    """Rectangles that hold all hints with what surrounds them."""
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
    """A window, or where much of it is empty, its two parts, each as small as its hints allow."""
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
    """Where to cut: the line with the fewest hints, in the middle half."""
    quarter = len(filled) // 4
    return quarter + int(np.argmin(filled[quarter : len(filled) - quarter]))
