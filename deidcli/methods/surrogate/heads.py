"""Which head in a view is the one in its middle: neighbors and other drawn heads are left out."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deidcli.faces.align import Image

Floats = NDArray[np.float32]
"""(S, S) or (S, S, C) float32."""
OLD = 0.25
"""Share of head in a pixel of the old picture from which on it is replaced."""
NECK_WIDTH = 0.02
"""Half the width, in sides of the view, up to which what joins two parts of the drawn head is a
thin neck."""
ANOTHER = 0.08
"""Share of the face in the middle from which on another patch of skin is somebody else's face, and
what hangs on by a neck more than a lock."""


def disk(radius: float) -> Image:
    """A round structuring element for OpenCV's morphology; at the least one px of radius."""
    reach = max(1, round(radius))
    size = (2 * reach + 1, 2 * reach + 1)
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, size), np.uint8)


def middle(share: Floats) -> Image:
    """(S, S) 0 or 1: the head in the middle of a view, without those of neighbors."""
    found = (share > OLD).astype(np.uint8)
    count, labels = cv2.connectedComponents(found)
    return found if count <= 2 else (labels == _label_in_middle(labels)).astype(np.uint8)


def _label_in_middle(labels: NDArray[Any]) -> int:
    """The component that has the most of the view's middle."""
    side = len(labels)
    middle = labels[side * 3 // 8 : side * 5 // 8, side * 3 // 8 : side * 5 // 8]
    sizes = np.bincount(middle.ravel(), minlength=2)
    sizes[0] = 0
    return int(sizes.argmax())


def drawn_head(share: Floats, face: Floats) -> Image:
    """(S, S) 0 or 1: the drawn head in the middle of a view, without others that touch it.

    Another head is one with a face of its own, or what lies beside the head, not below the middle
    of its face, and hangs together with it by a thin neck alone. Hair that hangs down is the own.

    Args:
        share: (S, S) of head. face: (S, S) of face.
    """
    found = middle(share)
    reach = disk(len(share) * NECK_WIDTH)
    core = cv2.erode(found, reach, borderValue=1)
    skin = cv2.erode(cv2.bitwise_and((face > 0.5).astype(np.uint8), found), reach, borderValue=1)
    faces, areas, _ = _components(skin)
    own = _label_in_middle(faces)
    if not own:
        return found
    least = ANOTHER * areas[own]
    others = np.isin(faces, np.flatnonzero(areas >= least)) & (faces != own) & (faces > 0)
    strange = np.zeros(found.shape, bool)
    if others.any():
        strange = _distance(others) < _distance(faces == own)
    cores, sizes, centers = _components(core)
    head = _label_in_middle(cores)
    columns = np.flatnonzero((cores == head).any(0))
    height = np.flatnonzero((faces == own).any(1)).mean()
    for label, (x, y) in enumerate(centers):
        beside = not columns[0] <= x <= columns[-1]
        if label not in (0, head) and sizes[label] >= least and beside and y < height:
            strange |= cores == label
    if not (strange & (core > 0)).any():
        return found
    kept = np.asarray(core * ~strange, np.uint8)
    # A little more than was taken away, for a corner comes back round.
    grown = cv2.dilate(kept, disk(1.5 * len(share) * NECK_WIDTH))
    return np.asarray(grown * found * ~strange, np.uint8)


def _components(found: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Labels (S, S), areas (N,) and centers (N, 2) x, y; number 0 is what was not found."""
    _, labels, told, centers = cv2.connectedComponentsWithStats(found)
    return labels, told[:, cv2.CC_STAT_AREA], centers


def _distance(found: NDArray[Any]) -> Floats:
    """(S, S) px to the nearest pixel that was found."""
    nothing = (~found).astype(np.uint8)
    return np.asarray(cv2.distanceTransform(nothing, cv2.DIST_L2, 5), np.float32)
