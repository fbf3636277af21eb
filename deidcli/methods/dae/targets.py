"""Target codes of `dae`: where the encoder is to move each training face.

Source: Nousi et al., sec. 3.2. Codes are (N, D) float32 arrays, one row a training face; `persons`
says who row i is (identity is an undesirable attribute: nobody is attracted by a picture of the
same person). Neighbors come from scikit-learn in blocks, so no N x N matrix is ever held.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.neighbors import NearestNeighbors

Codes = NDArray[np.float32]
Index = NDArray[np.int64]
Persons = NDArray[np.object_]
BLOCK = 1024
"""Rows whose neighbors are looked up at once: bounds memory to BLOCK x N distances."""


def neighbors(
    codes: Codes,
    pool: Index,
    rows: Index,
    count: int,
    persons: Persons | None = None,
) -> Index:
    """For each of `rows`, its `count` nearest among `pool`, nearest first.

    Args:
        codes: (N, D). pool, rows: row numbers of `codes`.
        persons: (N,); nobody's neighbor is a picture of the same person, nor the row itself.

    Returns:
        (len(rows), count) row numbers. Where fewer are to be had, the last one is repeated; where
        none is, the row itself stands.
    """
    own = np.arange(len(codes)) if persons is None else _numbers(persons)
    most = int(np.bincount(own[pool]).max(initial=0))
    asked = min(len(pool), count + most)
    out = np.repeat(rows[:, None], count, axis=1)
    if asked == 0:
        return out
    search = NearestNeighbors(n_neighbors=asked, algorithm="brute").fit(codes[pool])
    for start in range(0, len(rows), BLOCK):
        some = rows[start : start + BLOCK]
        found = pool[search.kneighbors(codes[some], return_distance=False)]
        other = own[found] != own[some][:, None]
        # A stable sort brings the allowed ones to the front and keeps them in order.
        order = np.argsort(~other, axis=1, kind="stable")
        found = np.take_along_axis(found, order, axis=1)
        allowed = other.sum(1)
        place = np.minimum(np.arange(count)[None, :], np.maximum(allowed, 1)[:, None] - 1)
        chosen = np.take_along_axis(found, place, axis=1)
        out[start : start + BLOCK] = np.where(allowed[:, None] > 0, chosen, some[:, None])
    return out


def attract(codes: Codes, sets: Index, alpha: float) -> Codes:
    """y_i = (1 - alpha) x_i + alpha P_i X, P_ij = 1 / |D_i| for j in D_i (eq. 7 and 8).

    Args:
        sets: (N, k) row numbers, D_i of each row.
    """
    return _typed((1 - alpha) * codes + alpha * _mean_of(codes, sets))


def repel(targets: Codes, sets: Index, beta: float) -> Codes:
    """z_i = (1 + beta) y_i - beta Q_i Y, Q_ij = 1 / |C_i| for j in C_i (eq. 9 and 10).

    Args:
        sets: (N, k) row numbers, C_i of each row.
    """
    return _typed((1 + beta) * targets - beta * _mean_of(targets, sets))


def supervised(
    codes: Codes,
    labels: Sequence[NDArray[np.int8]],
    persons: Persons,
    k: int,
    alpha: float,
    beta: float,
    together: bool = False,
) -> Codes:
    """Attraction by the k nearest of the same attribute, repulsion by the k nearest of the other.

    Attributes act one after another on the result of the one before (sec. 4.3.1, table 4). Each
    mean then washes out what the shift before had kept; `together`, ours, makes one shift instead:
    the same is who shares all of the attributes, and whoever differs in one of them repels.

    Args:
        labels: for each attribute (N,) 1, -1, or 0 where a row has no label (it is left alone).
        together: one shift for all attributes.
    """
    targets = codes
    if together:
        labels = [_kinds(labels)]
    for label in labels:
        same = np.repeat(np.arange(len(codes))[:, None], k, axis=1)
        clashing = same.copy()
        for value in np.unique(label[label != 0]):
            rows = np.flatnonzero(label == value)
            others = np.flatnonzero((label != 0) & (label != value))
            same[rows] = neighbors(targets, rows, rows, k, persons)
            clashing[rows] = neighbors(targets, others, rows, k, persons)
        targets = repel(attract(targets, same, alpha), clashing, beta)
    return targets


def _kinds(labels: Sequence[NDArray[np.int8]]) -> NDArray[np.int8]:
    """(N,) one number from 1 for each combination of labels; 0 where one of them is missing."""
    every = np.stack(labels, axis=1)
    kinds = (every > 0) @ (1 << np.arange(len(labels))) + 1
    return np.where((every == 0).any(1), 0, kinds).astype(np.int8)


def clusters(codes: Codes, count: int, alpha: float, seed: int = 0) -> Codes:
    """Shift to the center of the own k-means cluster (sec. 4.3.1, table 5).

    Args:
        count: K, clusters. alpha: 1 moves onto the center.
    """
    means = MiniBatchKMeans(
        min(count, len(codes)), random_state=seed, n_init=1, batch_size=4096, max_iter=60
    ).fit(codes)
    return _typed((1 - alpha) * codes + alpha * means.cluster_centers_[means.labels_])


def nearest_to_mean(
    codes: Codes, count: int, alpha: float, persons: Persons | None = None
) -> Codes:
    """z_i = (1 - alpha) x_i + alpha n_i (eq. 11): of the n nearest, the one closest to the mean.

    Args:
        count: n (table 6: 5, 7, 9). alpha: degree of the shift (0.4, 0.8).
    """
    rows = np.arange(len(codes))
    found = neighbors(codes, rows, rows, count, persons)
    far = np.linalg.norm(codes - codes.mean(0), axis=1)
    chosen = found[rows, np.argmin(far[found], axis=1)]
    return attract(codes, chosen[:, None], alpha)


def by_cell(
    codes: Codes, cells: int, count: int, alpha: float, persons: Persons | None = None
) -> Codes:
    """Each cell's vector to its own n-th nearest neighbor at that place (table 7).

    Args:
        codes: (N, C * cells), channels first, as a flattened (C, rows, columns) volume.
        cells: rows x columns of the grid. count: n (1, 5, 10, 20).
    """
    volume = codes.reshape(len(codes), -1, cells)
    rows = np.arange(len(codes))
    out = np.empty_like(volume)
    for cell in range(cells):
        vectors = np.ascontiguousarray(volume[:, :, cell])
        last = neighbors(vectors, rows, rows, count, persons)[:, -1:]
        out[:, :, cell] = attract(vectors, last, alpha)
    return out.reshape(codes.shape)


def _mean_of(codes: Codes, sets: Index) -> Codes:
    total = np.zeros_like(codes)
    for column in sets.T:  # N x k x D at once would be gigabytes
        total += codes[column]
    return _typed(total / sets.shape[1])


def _numbers(persons: Persons) -> Index:
    return np.asarray(np.unique(persons.astype(str), return_inverse=True)[1], dtype=np.int64)


def _typed(values: NDArray[np.floating]) -> Codes:
    return np.asarray(values, dtype=np.float32)
