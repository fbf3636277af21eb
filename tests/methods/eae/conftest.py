"""A made-up training set of noise, and networks a few channels wide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.methods.eae import networks, objectives
from deidcli.methods.eae import run as eae_run
from deidcli.training.chips import Chips

SIDE = 32


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Chips:
    """24 chips of noise with labels, in place of a data set; `compact` a few channels wide."""
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([-1, 1], np.int8), (24, len(CELEBA_ATTRIBUTES)))
    chips = Chips(
        rng.integers(0, 256, (24, SIDE, SIDE, 3), dtype=np.uint8),
        np.ones(24, bool),
        labels,
        np.array([f"p{n // 2}" for n in range(24)], dtype=object),
    )
    monkeypatch.setattr(eae_run, "load_all", lambda *_, **__: chips)
    size = replace(
        networks.SIZES["compact"], side=SIDE, widths=(8,) * 6, inner=(8,) * 5, back=(32,) * 5,
        hidden=(8, 8),
    )  # fmt: skip
    monkeypatch.setitem(networks.SIZES, "compact", size)
    monkeypatch.setattr(objectives, "CENTERED", 8)
    return chips
