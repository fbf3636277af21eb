"""Views: what the method looks at and paints on, a square around a face.

A view is upright and centered as Flickr-Faces-HQ centers faces; the generator's picture is its
middle, and around that lies a rim in which the old head may reach further than the new one.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from deidcli.faces.align import Affine, Image, Mask, crop
from deidcli.faces.mesh import Mesh, ffhq_affine

WIDTH = 1.5
"""Side of a view in sides of the drawn picture."""


def view_side(drawn: int) -> int:
    """Side of a view, px, for a drawn picture of `drawn` px."""
    return round(drawn * WIDTH)


def rim(drawn: int) -> int:
    """Width of the rim around the drawn picture, px."""
    return (view_side(drawn) - drawn) // 2


def view_affine(mesh: Mesh, drawn: int) -> Affine:
    """From frame pixels to a view whose middle is `drawn` px: (2, 3)."""
    affine = ffhq_affine(mesh, drawn)
    affine[:, 2] += rim(drawn)
    return affine


def cut_view(frame: Image, mesh: Mesh, drawn: int) -> Image:
    """(S, S, 3) uint8; outside the frame its edge is repeated."""
    return crop(frame, view_affine(mesh, drawn), view_side(drawn), extend=True)


def placed(drawn: Image) -> Image:
    """A drawn picture in its place in a view, mirrored in the rim."""
    width = rim(len(drawn))
    return np.asarray(
        np.pad(drawn, ((width, width), (width, width), (0, 0)), mode="reflect"), np.uint8
    )


@cache
def inside(drawn: int, fade: float) -> Mask:
    """(S, S) 1 within the drawn picture, falling to 0 at its edge over `fade` of a side."""
    line = (np.arange(drawn) + 0.5) / drawn
    ramp = np.clip(np.minimum(line, 1 - line) / fade, 0, 1)
    ramp = ramp * ramp * (3 - 2 * ramp)
    share = np.minimum(ramp[:, None], ramp[None])
    mask = np.zeros((view_side(drawn),) * 2, np.float32)
    width = rim(drawn)
    mask[width : width + drawn, width : width + drawn] = share
    return mask
