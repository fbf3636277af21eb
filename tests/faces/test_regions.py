"""The masks of the regions that are replaced."""

from __future__ import annotations

import numpy as np

from deidcli.faces.regions import HEAD_PADDING, REGIONS, region_mask


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
