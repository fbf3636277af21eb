"""The canvas and the portraits of a3gan."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deidcli.errors import DeidError
from deidcli.methods.a3gan import canvas
from deidcli.methods.a3gan.canvas import LATENT
from deidcli.methods.a3gan.latents import rim_of
from deidcli.methods.a3gan.portraits import PortraitBank


def test_a_bank_gives_its_portraits_and_their_mirror_images() -> None:
    small = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3)).astype(np.uint8)
    chips = small.repeat(16, 1).repeat(16, 2)
    bank = PortraitBank.encode(chips)
    assert len(bank) == 3
    faces = bank.faces(torch.tensor([2, 0, 5]))
    given = torch.from_numpy(chips[[2, 0]]).permute(0, 3, 1, 2).float() / 255
    assert float((faces[:2] - given).abs().mean()) < 0.06
    torch.testing.assert_close(faces[2], faces[0].flip(2))
    bank.files[:] = 0
    with pytest.raises(DeidError, match="portrait 1 "):
        bank.faces(torch.tensor([1]))


def test_a_portrait_fits_where_its_surroundings_go_on() -> None:
    dark, light = torch.full((1, 3, 128, 128), 0.5), torch.full((1, 3, 128, 128), 0.5)
    dark[..., :20], light[..., :20] = 0.1, 0.9
    assert rim_of(dark).shape == (1, 180)
    torch.testing.assert_close(rim_of(dark * 0.6), rim_of(dark), atol=0.05, rtol=0)
    far = (rim_of(dark) - rim_of(light)).norm()
    assert float(far) > 5 * float((rim_of(dark) - rim_of(dark * 0.8)).norm())


def test_sharpening_adds_what_a_blur_takes_away() -> None:
    flat = torch.full((1, 3, 128, 128), 0.4)
    torch.testing.assert_close(canvas.sharpened(flat), flat, atol=1e-5, rtol=0)
    edge = flat.clone()
    edge[..., 64:] = 0.6
    made = canvas.sharpened(edge)
    assert float(made[0, 0, 64, 63]) < 0.38 and float(made[0, 0, 64, 64]) > 0.62
    torch.testing.assert_close(made.mean(), edge.mean(), atol=1e-3, rtol=0)


def test_a_latent_moves_features_only_by_its_last_numbers() -> None:
    picture = torch.rand(1, 3, 128, 128)
    latent = torch.randn(1, LATENT)
    latent[:, -2 * canvas.WARP**2 :] = 0
    torch.testing.assert_close(canvas.warped(picture, latent), picture, atol=1e-3, rtol=0)
    latent[:, -2 * canvas.WARP**2 : -(canvas.WARP**2)] = 1 / 64 / canvas.WARP_STD  # a pixel aside
    moved = canvas.warped(picture, latent)
    torch.testing.assert_close(moved[..., :-1], picture[..., 1:], atol=1e-3, rtol=0)


def test_faces_come_into_the_light_of_the_picture() -> None:
    from deidcli.methods.blend import rim_to_face

    chips, faces = torch.full((1, 3, 128, 128), 0.3), torch.full((1, 3, 128, 128), 0.6)
    made = canvas.match_light(chips, faces, rim_to_face())
    assert 0.3 < float(made[0, 0, 64, 64]) < 0.6
    torch.testing.assert_close(made[..., 0, :], chips[..., 0, :], atol=0.03, rtol=0)
    same = canvas.match_light(faces, faces, rim_to_face())
    torch.testing.assert_close(same, faces, atol=1e-3, rtol=0)


def test_packing_keeps_light_and_slow_color() -> None:
    chips = torch.rand(2, 3, 128, 128)
    flat = chips.mean((2, 3), keepdim=True).expand_as(chips)
    torch.testing.assert_close(canvas.unpack(canvas.pack(flat), 128), flat, atol=1e-5, rtol=0)
    again = canvas.pack(canvas.unpack(canvas.pack(chips), 128))
    torch.testing.assert_close(again[:, : 128**2], canvas.pack(chips)[:, : 128**2])
