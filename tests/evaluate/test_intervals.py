"""Wilson's interval and the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from deidcli.evaluate.intervals import bootstrap, wilson

RNG = np.random.default_rng(0)


def test_wilson_and_bootstrap() -> None:
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)
    values = RNG.normal(3, 1, 2000)
    low, high = bootstrap(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(2000), rel=0.15)
