"""The masks of the regions that are replaced."""

from __future__ import annotations

import numpy as np
import pytest

from deidcli.faces.align import MEAN_FACE_5
from deidcli.faces.regions import FEATHER, HEAD_PADDING, REGIONS, Region, region_mask


def test_mask_is_whole_inside_and_ends_in_the_chip() -> None:
    for region in ("face", "head"):
        mask = region_mask(region, 128, HEAD_PADDING)  # type: ignore[arg-type]
        ellipse = REGIONS[region]
        line = ((np.arange(128) + 0.5) / 128 * (1 + 2 * HEAD_PADDING)) - HEAD_PADDING
        inside = np.hypot(
            (line[None] - ellipse.x) / ellipse.half_width,
            (line[:, None] - ellipse.y) / ellipse.half_height,
        )
        assert (mask[inside <= 1] == 1).all()
        edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert edge.max() == 0


def test_a_mask_falls_to_half_in_the_middle_of_its_feather() -> None:
    """At the known distance from the edge, on an axis of the ellipse."""
    size, head = 2048, REGIONS["head"]
    mask = region_mask("head", size, HEAD_PADDING)
    step = (2 * HEAD_PADDING + 1) / size
    row = round((head.y + HEAD_PADDING) / step - 0.5)
    mean = (head.half_width + head.half_height) / 2
    for share, value in ((-0.1, 1.0), (0.25, 0.84375), (0.5, 0.5), (0.75, 0.15625), (1.05, 0.0)):
        x = head.x + head.half_width * (1 + share * FEATHER / mean)
        assert mask[row, round((x + HEAD_PADDING) / step - 0.5)] == pytest.approx(value, abs=0.02)


def test_the_face_lies_in_the_head_and_holds_all_landmarks() -> None:
    face, head = (region_mask(r, 256, HEAD_PADDING, 1e-6) for r in ("face", "head"))  # type: ignore[arg-type]
    assert (head[face > 0] == 1).all() and head.sum() > 1.5 * face.sum()
    step = (2 * HEAD_PADDING + 1) / 256
    for x, y in MEAN_FACE_5:
        assert face[int((y + HEAD_PADDING) / step), int((x + HEAD_PADDING) / step)] == 1


@pytest.mark.parametrize(
    ("region", "left", "right", "top", "bottom"),
    [("face", -0.26, 1.24, -0.57, 1.33), ("head", -0.51, 1.49, -1.01, 1.47)],
)
def test_regions_reach_as_far_as_was_measured(
    region: Region, left: float, right: float, top: float, bottom: float
) -> None:
    """In sides of the mean face; the figures of docs/methods/filters.md hold for these."""
    size = 1024
    step = (2 * HEAD_PADDING + 1) / size
    whole = region_mask(region, size, HEAD_PADDING) == 1
    for axis, low, high in ((0, left, right), (1, top, bottom)):
        reached = (np.flatnonzero(whole.any(axis=axis)) + 0.5) * step - HEAD_PADDING
        assert (reached[0], reached[-1]) == pytest.approx((low, high), abs=2 * step)
