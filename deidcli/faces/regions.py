"""The part of a chip that a method replaces: the face, or the whole visible head.

Regions are ellipses in the unit square of the mean face (align.MEAN_FACE_5), so they follow a
face's size and roll. One unit is 1.9 times the distance between the eyes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from deidcli.faces.align import Mask

Region = Literal["face", "head"]


@dataclass(frozen=True)
class Ellipse:
    """Center and half axes, in sides of the mean face."""

    x: float
    y: float
    half_width: float
    half_height: float


REGIONS: dict[str, Ellipse] = {
    "face": Ellipse(0.49, 0.38, 0.75, 0.95),
    "head": Ellipse(0.49, 0.23, 1.0, 1.24),
}
"""`face`: brow to chin and cheek to cheek. `head`: with hair, ears and jaw; it contains the whole
square that recognizers with the ArcFace template see. The sizes were chosen by measurements on
training pictures, see docs/methods/filters.md."""

FEATHER = 0.10
"""Width of the soft edge outside the region, in sides of the mean face. Inside the region, nothing
of the original remains."""

HEAD_PADDING = 1.15
"""Padding at which a chip contains the head region and its soft edge."""


def region_mask(region: Region, size: int, padding: float, feather: float = FEATHER) -> Mask:
    """Return a (size, size) float32 mask: 1 inside the region, falling to 0 across the feather."""
    ellipse = REGIONS[region]
    step = (2 * padding + 1) / size
    line = (np.arange(size) + 0.5) * step - padding
    x = (line[None, :] - ellipse.x) / ellipse.half_width
    y = (line[:, None] - ellipse.y) / ellipse.half_height
    # Distance from the edge along the ray from the center, in units; exact on the axes.
    radius = np.maximum(np.hypot(x, y), 1e-9)
    mean_axis = (ellipse.half_width + ellipse.half_height) / 2
    outside = (radius - 1) * mean_axis
    ramp = np.clip(1 - outside / max(feather, 1e-6), 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), dtype=np.float32)
