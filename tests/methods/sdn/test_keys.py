"""sdn: keys turn the hidden point, and a wrong one turns it elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deidcli.methods.sdn import keys
from tests.methods.sdn.faces import bits_of


def test_a_key_turns_the_sphere_and_turns_it_back() -> None:
    expanded = keys.expand(bits_of(3))
    points = torch.randn(3, keys.CODE, dtype=torch.float64)
    locked = keys.lock(points, expanded)
    assert torch.allclose(locked.norm(dim=1), points.norm(dim=1))
    assert torch.allclose(keys.unlock(locked, expanded), points)
    assert not torch.allclose(locked, points, atol=0.5)


def test_every_flipped_bit_is_another_key() -> None:
    bits = bits_of(1).repeat(keys.PASSWORD_BITS, 0)
    others = bits ^ np.eye(keys.PASSWORD_BITS, dtype=np.uint8)
    points = torch.randn(1, keys.CODE, generator=torch.Generator().manual_seed(0))
    points = points.expand(len(bits), -1)
    locked = keys.lock(points, keys.expand(bits))
    back = keys.unlock(locked, keys.expand(others))
    # Unrelated points of 1,024 dimensions have a cosine of 0 with a deviation of 1/32.
    assert float(torch.cosine_similarity(back, points).abs().max()) < 5 / 32
    assert len(keys.expand(others).draws[:, 0].unique()) == keys.PASSWORD_BITS


def test_a_key_is_bound_to_what_was_asked_for() -> None:
    plain, bound = (keys.expand(bits_of(1), text) for text in ("", "Male:1"))
    assert not torch.equal(plain.order, bound.order)
    assert float(plain.draws[0, 0]) != float(bound.draws[0, 0])


def test_keys_stay_what_they_are() -> None:
    """Pictures that were published once must open with every later version."""
    expanded = keys.expand(np.arange(128, dtype=np.uint8)[None] % 2)
    assert expanded.order[0, :4].tolist() == [837, 631, 309, 707]
    assert float(expanded.draws[0, 0]) == pytest.approx(0.9093429909917493, abs=1e-12)
