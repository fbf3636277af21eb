"""Metrics of the identity that is left: pure functions on embeddings.

Embeddings are (N, D) float32, one row per face. Distances are a recognizer's own (Euclidean for
dlib, 1 - cosine for the others); smaller is more alike. `Distances` is a function of two sets of
embeddings, so no N x N matrix is ever in memory: all-pairs metrics work on blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Embeddings = NDArray[np.float32]
Values = NDArray[np.float64]
Flags = NDArray[np.bool_]
Distances = Callable[[Embeddings, Embeddings], Values]
"""(N, D), (M, D) -> (N, M)."""

DLIB_THRESHOLD = 0.6
"""dlib's own threshold, which the deep-autoencoder paper uses (Nousi et al., sec. 4.1)."""
DIV_PAIRS = 10_000
BLOCK = 512


def deid(own: Values, threshold: float = DLIB_THRESHOLD) -> Flags:
    """Return DEID flags: which published faces are beyond the threshold from their original.

    DEID(X) = 1/N sum_i 1 - f_rec(x_i, x~_i), Nousi et al., sec. 4.1, eq. 13. Higher is more
    private. This is also the SPR of Pan et al., eq. 23 and 24, except that their test is `>=`; the
    two differ only at a distance exactly equal to the threshold.

    Args:
        own: (N,) distance of each published face to its own original.
    """
    return own > threshold


def random_pairs(
    count: int, persons: Sequence[str | None], pairs: int = DIV_PAIRS, seed: int = 0
) -> NDArray[np.int64]:
    """Return (P, 2) seeded random pairs of different faces, of different people if known.

    A face of an unknown person counts as a separate person.
    """
    if count < 2:
        return np.empty((0, 2), dtype=np.int64)
    generator = np.random.default_rng(seed)
    names = [person if person is not None else f"\0{row}" for row, person in enumerate(persons)]
    _, codes = np.unique(np.array(names, dtype=object).astype(str), return_inverse=True)
    if codes.max(initial=0) == 0:
        return np.empty((0, 2), dtype=np.int64)
    found: list[NDArray[np.int64]] = []
    have = 0
    while have < pairs:
        drawn = generator.integers(0, count, (2 * pairs, 2))
        drawn = drawn[codes[drawn[:, 0]] != codes[drawn[:, 1]]]
        found.append(drawn)
        have += len(drawn)
    return np.concatenate(found)[:pairs]


def diversity(distances: Values, threshold: float = DLIB_THRESHOLD) -> Flags:
    """Return DIV flags: which of M random published pairs are farther apart than the threshold.

    DIV(X~) = 1/M sum_m 1 - f_rec(x~_m1, x~_m2), Nousi et al., eq. 14. Higher is more diverse.

    Args:
        distances: (M,) distances within the pairs of `random_pairs`.
    """
    return distances > threshold


def anonymity(
    embeddings: Embeddings, distances: Distances, threshold: float = DLIB_THRESHOLD
) -> NDArray[np.int64]:
    """Return ANON: for each published face, from how many it cannot be distinguished.

    A distance above the threshold distinguishes two faces; a face counts itself. The paper's figure
    (Nousi et al., sec. 4.4, table 8, based on k-anonymity) is the minimum. Higher is more private.

    Returns:
        (N,) counts, at least 1.
    """
    counts = np.zeros(len(embeddings), dtype=np.int64)
    for start in range(0, len(embeddings), BLOCK):
        rows = slice(start, start + BLOCK)
        near = distances(embeddings[rows], embeddings) <= threshold
        index = np.arange(start, min(start + BLOCK, len(embeddings)))
        near[np.arange(len(index)), index] = True
        counts[rows] = near.sum(1)
    return counts


@dataclass(frozen=True)
class Identification:
    """Results of each probe against the whole gallery. Arrays are (N,), one value per probe."""

    rank1: Values
    """1 if the probe's own original is the nearest picture; ties count as a random draw."""
    rank1_person: Values
    """1 if the nearest picture shows the same person."""
    farthest: Values
    """1 if the own original is the farthest picture; above chance, it is an anti-identity."""
    own: Values
    """Distance to the probe's own original."""


def identify(
    gallery: Embeddings, probes: Embeddings, persons: Sequence[str | None], distances: Distances
) -> Identification:
    """Run rank-1 identification of published probes among originals (Liu et al., sec. IV).

    Args:
        gallery, probes: (N, D); row i of both is the same face.
        persons: the person of row i; None: a separate person.

    Lower is more private; chance is `chance_by_picture` and `chance_by_person`.
    """
    codes = _codes(persons)
    count = len(probes)
    result = [np.zeros(count) for _ in range(4)]
    for start in range(0, count, BLOCK):
        rows = np.arange(start, min(start + BLOCK, count))
        block = distances(probes[rows], gallery)
        own = block[np.arange(len(rows)), rows]
        nearest = block.min(1, keepdims=True)
        farthest = block.max(1, keepdims=True)
        at_nearest, at_farthest = block == nearest, block == farthest
        same = codes[rows][:, None] == codes[None, :]
        result[0][rows] = (own == nearest[:, 0]) / at_nearest.sum(1)
        result[1][rows] = (at_nearest & same).sum(1) / at_nearest.sum(1)
        result[2][rows] = (own == farthest[:, 0]) / at_farthest.sum(1)
        result[3][rows] = own
    return Identification(*result)


def _codes(persons: Sequence[str | None]) -> NDArray[np.int64]:
    names = [person if person is not None else f"\0{row}" for row, person in enumerate(persons)]
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def chance_by_picture(count: int) -> float:
    """Return the rank-1 by picture of a random guess among `count` gallery pictures."""
    return 1 / max(count, 1)


def chance_by_person(persons: Sequence[str | None]) -> float:
    """Return a random guess's rank-1 by person: the mean gallery share of the probe's person."""
    codes = _codes(persons)
    shares = np.bincount(codes)[codes] / max(len(codes), 1)
    return float(shares.mean()) if len(codes) else 0.0


def known_by_attributes(labels: NDArray[np.int8]) -> float:
    """Return the rank-1 by picture of an attacker who knows only the kept attributes.

    Args:
        labels: (N, A) the attributes of each picture. A = 0 gives chance.

    The attacker guesses among the pictures with the same attributes: the mean of 1 / (their
    number). Any rank-1 above this is identity that the method leaves.
    """
    if len(labels) == 0:
        return 0.0
    _, inverse, counts = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
    return float((1 / counts[inverse.ravel()]).mean())


def linkability(
    embeddings: Embeddings,
    persons: Sequence[str | None],
    distances: Distances,
    most: int = 20_000,
    seed: int = 0,
) -> tuple[Values, Values]:
    """Return distances of published pairs of the same person, and of two people.

    Their `auc` measures how well an attacker can decide from published faces alone whether two show
    the same person: 0.5 is perfect. There are at most `most` pairs of each kind, seeded.
    """
    codes = _codes(persons)
    same = np.array(list(_same_pairs(codes)), dtype=np.int64).reshape(-1, 2)
    generator = np.random.default_rng(seed)
    if len(same) > most:
        same = same[np.sort(generator.choice(len(same), most, replace=False))]
    if len(same) == 0:
        return np.empty(0), np.empty(0)
    other = random_pairs(len(codes), [str(code) for code in codes], len(same), seed)
    return pair_values(embeddings, same, distances), pair_values(embeddings, other, distances)


def _same_pairs(codes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    order = np.argsort(codes, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
    for group in groups:
        for left in range(len(group)):
            for right in range(left + 1, len(group)):
                yield int(group[left]), int(group[right])


def pair_values(embeddings: Embeddings, pairs: NDArray[np.int64], distances: Distances) -> Values:
    """Return (P,) distances within pairs of rows."""
    out = np.empty(len(pairs))
    for start in range(0, len(pairs), BLOCK):
        rows = pairs[start : start + BLOCK]
        block = distances(embeddings[rows[:, 0]], embeddings[rows[:, 1]])
        out[start : start + BLOCK] = np.diagonal(block)
    return out


def auc(same: Values, other: Values) -> float:
    """Return the area under the ROC curve: P(a same-person pair is nearer than another).

    Mann and Whitney's U over the number of pairs; ties count half. 0.5 is perfect privacy.
    """
    if len(same) == 0 or len(other) == 0:
        return float("nan")
    sorted_other = np.sort(other)
    nearer = len(other) - np.searchsorted(sorted_other, same, side="right")
    ties = np.searchsorted(sorted_other, same, "right") - np.searchsorted(sorted_other, same)
    return float((nearer + ties / 2).sum() / (len(same) * len(other)))


def threshold_at_far(impostors: Values, rate: float = 1e-3) -> float:
    """Return the largest distance that accepts at most `rate` of the impostor pairs.

    Args:
        impostors: (P,) distances between faces of different people.
    """
    ordered = np.sort(impostors)
    accepted = int(np.floor(rate * len(ordered)))
    return float(np.nextafter(ordered[min(accepted, len(ordered) - 1)], -np.inf))
