"""95 % intervals: Wilson's for shares, the bootstrap's for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
RESAMPLES = 1000


def wilson(hits: float, n: int, z: float = 1.96) -> Interval:
    """Return the 95 % interval of a share.

    Args:
        hits: number of successes; may be fractional if ties count as random draws.
        n: number of trials; 0 gives (0, 1).

    Source: Wilson, "Probable inference", JASA 1927.
    """
    if n == 0:
        return 0.0, 1.0
    share = hits / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, center - half), min(1.0, center + half)


def bootstrap(
    values: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], float] | None = None,
    seed: int = 0,
) -> Interval:
    """Return the 95 % percentile interval of a statistic of (N,) values, by default the mean.

    Source: Efron, "Bootstrap methods", Annals of Statistics 1979. 1,000 resamples, seeded.
    """
    if len(values) == 0:
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    results = []
    for _ in range(RESAMPLES):
        sample = values[generator.integers(0, len(values), len(values))]
        results.append(float(sample.mean()) if statistic is None else statistic(sample))
    low, high = np.quantile(results, [0.025, 0.975])
    return float(low), float(high)
