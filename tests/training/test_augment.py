"""Augmentation of face chips."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from deidcli.training import augment as augmenting
from deidcli.training.augment import augment, resized


def random_chips(count: int, side: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augment_keeps_shape_and_range_and_follows_its_generator() -> None:
    chips = torch.from_numpy(random_chips(6, 40))
    first, again, other = (augment(chips, 32, generator(seed)) for seed in (1, 1, 2))
    assert first.shape == (6, 3, 32, 32) and first.dtype == torch.float32
    assert float(first.min()) >= 0 and float(first.max()) <= 255
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(chips, torch.from_numpy(random_chips(6, 40)))  # the cache is as it was


def test_half_of_the_chips_are_flipped_and_none_is_far_from_its_place() -> None:
    """Chips that are bright on their left: the bright side says which way they show."""
    images = torch.zeros(400, 3, 32, 32)
    images[:, :, :, :16] = 200
    moved = augmenting._move(images, 32, generator(0))
    left, right = moved[..., :16].mean((1, 2, 3)), moved[..., 16:].mean((1, 2, 3))
    flipped = (right > left).float().mean()
    assert 0.4 < float(flipped) < 0.6
    assert float(torch.minimum(left, right).max()) < 60  # none lies on its side
    shift = (moved.mean((1, 2, 3)) - 100).abs()
    assert 0 < float(shift.mean()) < 20


def test_a_third_of_the_chips_lose_detail() -> None:
    images = torch.from_numpy(random_chips(300, 32)).permute(0, 3, 1, 2).float()
    softened = augmenting._blur(images.clone(), generator(0))
    changed = (softened != images).flatten(1).any(1)
    assert 0.23 < float(changed.float().mean()) < 0.43
    assert float(softened[changed].std()) < 0.8 * float(images[changed].std())


def test_colors_vary_and_a_few_become_gray() -> None:
    images = torch.full((600, 3, 8, 8), 100.0)
    images[:, 0] = 160
    images[:, :, :4] += 20
    changed = augmenting._recolor(images, generator(0))
    brightness = changed.mean((1, 2, 3))
    assert float(brightness.min()) < 105 and float(brightness.max()) > 140
    spread = (changed[:, 0] - changed[:, 1]).mean((1, 2)) / brightness
    assert 0.01 < float((spread < 0.2).float().mean()) < 0.12  # about 5 % are gray
    contrast = (changed[:, :, :4] - changed[:, :, 4:]).mean((1, 2, 3)) / brightness
    assert float(contrast.max()) > 1.3 * float(contrast.min())


def test_chips_at_another_side() -> None:
    chips = random_chips(2, 16)
    assert resized(chips, 16) is chips
    smaller = resized(chips, 8)
    assert smaller.shape == (2, 8, 8, 3) and smaller.dtype == np.uint8
    assert abs(float(smaller.mean()) - float(chips.mean())) < 6
