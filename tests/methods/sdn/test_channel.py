"""sdn: the model of what happens to a published chip."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deidcli.data.images import decode, encode
from deidcli.faces.align import crop, paste
from deidcli.methods.sdn import channel


def test_the_channel_does_what_files_do(chips: torch.Tensor) -> None:
    """Against align.paste, the tool's own JPEG and align.crop, for CelebA's scale."""
    side, scale = 176, 0.43
    chip = (chips[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    offset = 31.5 - scale * (side - 1) / 2
    affine = np.array([[scale, 0, offset], [0, scale, offset]])
    frame = np.full((side, side, 3), 128, np.uint8)
    paste(frame, chip, affine, np.ones((64, 64), np.float32))
    real = crop(decode(encode(frame, "JPEG")).pixels, affine, 64, True)
    passage = channel.Passage(scale, 95)
    generator = torch.Generator().manual_seed(0)
    seen = channel.passed(chips[:1], passage, generator)[0].permute(1, 2, 0).numpy() * 255
    middle = slice(8, 56)
    moved = np.abs(seen - chip)[middle, middle].mean()
    assert np.abs(seen - real)[middle, middle].mean() < 0.6 * moved


def test_gradients_pass_the_channel(chips: torch.Tensor) -> None:
    given = chips[:2].clone().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    channel.passed(given, channel.Passage(0.43, 90), generator).sum().backward()
    assert given.grad is not None
    assert float(given.grad[:, :, 20:44, 20:44].mean()) == pytest.approx(1, abs=0.1)
