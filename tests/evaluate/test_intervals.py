"""Wilson's interval and the bootstrap."""

from __future__ import annotations

import math

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
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(2000), rel=0.08)


def test_wilson_is_the_root_of_its_quadratic() -> None:
    """The bounds are the shares p at which |share - p| is 1.96 standard errors of p."""
    for hits, n in ((3, 40), (17.5, 20), (0, 7), (7, 7)):
        for p in wilson(hits, n):
            if 0 < p < 1:
                assert abs(hits / n - p) == pytest.approx(1.96 * math.sqrt(p * (1 - p) / n))
    assert wilson(0, 7)[0] == 0 and wilson(7, 7)[1] == 1


def test_bootstrap_of_known_values() -> None:
    assert bootstrap(np.full(9, 4.0)) == (4.0, 4.0)
    assert all(math.isnan(bound) for bound in bootstrap(np.empty(0)))
    values = np.arange(101, dtype=float)
    low, high = bootstrap(values, lambda v: float(np.median(v)))
    assert 30 < low < 45 and 55 < high < 70 and low + high == pytest.approx(100, abs=8)
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1) != bootstrap(values, seed=2)
    means = [v.mean() for v in np.random.default_rng(3).integers(0, 101, (4000, 101))]
    assert bootstrap(values) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.6)
