"""sdn: keys turn the hidden point, and a wrong one turns it elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deidcli.methods.sdn import keyed_map
from tests.methods.sdn.faces import bits_of


def test_a_key_turns_the_sphere_and_turns_it_back() -> None:
    expanded = keyed_map.expand(bits_of(3))
    points = torch.randn(3, keyed_map.CODE, dtype=torch.float64)
    locked = keyed_map.lock(points, expanded)
    assert torch.allclose(locked.norm(dim=1), points.norm(dim=1))
    assert torch.allclose(keyed_map.unlock(locked, expanded), points)
    assert not torch.allclose(locked, points, atol=0.5)


def test_every_flipped_bit_is_another_key() -> None:
    bits = bits_of(1).repeat(keyed_map.PASSWORD_BITS, 0)
    others = bits ^ np.eye(keyed_map.PASSWORD_BITS, dtype=np.uint8)
    points = torch.randn(1, keyed_map.CODE, generator=torch.Generator().manual_seed(0))
    points = points.expand(len(bits), -1)
    locked = keyed_map.lock(points, keyed_map.expand(bits))
    back = keyed_map.unlock(locked, keyed_map.expand(others))
    # Unrelated points of 1,024 dimensions have a cosine of 0 with a deviation of 1/32.
    assert float(torch.cosine_similarity(back, points).abs().max()) < 5 / 32
    assert len(keyed_map.expand(others).draws[:, 0].unique()) == keyed_map.PASSWORD_BITS


def test_a_key_is_bound_to_what_was_asked_for() -> None:
    plain, bound = (keyed_map.expand(bits_of(1), text) for text in ("", "Male:1"))
    assert not torch.equal(plain.order, bound.order)
    assert float(plain.draws[0, 0]) != float(bound.draws[0, 0])


def test_keys_stay_what_they_are() -> None:
    """Pictures that were published once must open with every later version."""
    expanded = keyed_map.expand(np.arange(128, dtype=np.uint8)[None] % 2)
    assert expanded.order[0, :4].tolist() == [837, 631, 309, 707]
    assert float(expanded.draws[0, 0]) == pytest.approx(0.9093429909917493, abs=1e-12)
