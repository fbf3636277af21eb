"""How a new face is laid into a picture: the tone at the rim, and the mask."""

from __future__ import annotations

import torch

from deidcli.methods.blend import blended, edge_mask, rim_to_face


def test_the_rim_takes_the_pictures_tone_and_the_middle_does_not() -> None:
    faces = torch.full((1, 3, 64, 64), 0.5)
    chips = torch.full((1, 3, 64, 64), 0.8)
    made = blended(chips, faces, rim_to_face())
    assert float((made[0, :, :2] - 0.8).abs().max()) < 0.03
    assert float((made[0, :, 32, 32] - 0.5).abs().max()) < 0.02
    same = blended(faces, faces, rim_to_face())
    torch.testing.assert_close(same, faces)


def test_the_mask_is_whole_inside_and_nothing_at_the_edge() -> None:
    mask = edge_mask()
    assert mask[14:48, 20:44].min() == 1 and mask[20:40, 16:48].min() == 1
    assert max(mask[0].max(), mask[:, 0].max(), mask[-1].max()) < 0.05
