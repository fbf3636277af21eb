"""Target codes of `dae`: where the encoder is to move each training face.

Source: Nousi et al., sec. 3.2. Codes are (N, D) float32 arrays, one row a training face; `persons`
says who row i is (identity is an undesirable attribute: no face is attracted by a picture of the
same person). Neighbors come from scikit-learn in blocks, so no N x N matrix is ever held.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.neighbors import NearestNeighbors

from deidcli.celeba import CELEBA_ATTRIBUTES, parse_attributes
from deidcli.methods.dae.recipe import Recipe
from deidcli.training.chips import Chips, require_labels

Codes = NDArray[np.float32]
Index = NDArray[np.int64]
Persons = NDArray[np.object_]
BLOCK = 1024
"""Rows whose neighbors are looked up at once: bounds memory to BLOCK x N distances."""


def target_codes(codes: Codes, faces: Chips, settings: Recipe, cells: int) -> Codes:
    """Return the code that each face is to get, (N, D) float32.

    Args:
        codes: (N, D) float32 of the autoencoder. faces: the N faces with labels and persons.
        cells: places of the code's grid, 1 for the fully connected network.

    Raises:
        DeidError: the target needs labels that the data does not have.
    """
    if settings.target in ("supervised", "strangers"):
        labels = attribute_labels(faces, settings)
        shift = (settings.k, settings.alpha, settings.beta, settings.together)
        return supervised(codes, labels, faces.persons, *shift)
    if settings.target == "clusters":
        return clusters(codes, settings.clusters, settings.alpha, settings.seed)
    if settings.target == "neighbors":
        return nearest_to_mean(codes, settings.n, settings.alpha, faces.persons)
    if settings.target == "cells":
        return by_cell(codes, cells, settings.n, settings.alpha, faces.persons)
    return codes


def attribute_labels(faces: Chips, settings: Recipe) -> list[NDArray[np.int8]]:
    """Return for each attribute of the settings (N,) 1, -1, or 0 where a row has no label.

    Raises:
        DeidError: the data does not have both kinds of one of them.
    """
    names = parse_attributes(settings.attributes)
    require_labels(faces, names)
    return [faces.labels[:, CELEBA_ATTRIBUTES.index(name)] for name in names]


def cluster_centers(codes: Codes, settings: Recipe) -> Codes:
    """Return the distinct targets of `clusters`, whatever its alpha: (K, D) float32."""
    return np.unique(clusters(codes, settings.clusters, 1.0, settings.seed), axis=0)


def neighbors(
    codes: Codes,
    pool: Index,
    rows: Index,
    count: int,
    persons: Persons | None = None,
) -> Index:
    """Find for each of `rows` its `count` nearest among `pool`.

    Args:
        codes: (N, D) float32. pool, rows: row numbers of `codes`, int64.
        persons: (N,) str; a picture of the same person is no neighbor, nor is the row itself.

    Returns:
        (len(rows), count) int64 row numbers, nearest first. Where there are fewer, the last one is
        repeated; where there is none, the row itself stands.
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
    """Return y_i = (1 - alpha) x_i + alpha P_i X, P_ij = 1 / |D_i| for j in D_i (eq. 7 and 8).

    Args:
        codes: X, (N, D) float32. sets: (N, k) row numbers, D_i of each row.
        alpha: degree of the shift, 0 (none) to 1.
    """
    return _typed((1 - alpha) * codes + alpha * _mean_of(codes, sets))


def repel(targets: Codes, sets: Index, beta: float) -> Codes:
    """Return z_i = (1 + beta) y_i - beta Q_i Y, Q_ij = 1 / |C_i| for j in C_i (eq. 9 and 10).

    Args:
        targets: Y, (N, D) float32. sets: (N, k) row numbers, C_i of each row.
        beta: degree of the repulsion, 0 (none) or more.
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
    """Return codes attracted by the k nearest of the same attribute, repelled by the k nearest of
    the other.

    Attributes act one after another on the result of the one before (sec. 4.3.1, table 4). Each
    mean then washes out what the shift before had kept; `together`, ours, makes one shift instead:
    faces that share all of the attributes attract, faces that differ in any of them repel.

    Args:
        labels: for each attribute (N,) 1, -1, or 0 where a row has no label (it is left alone).
        persons: (N,) str. k, alpha, beta: as in `attract` and `repel`.
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
    """Return (N,) one number from 1 for each combination of labels, 0 where a label is missing."""
    every = np.stack(labels, axis=1)
    kinds = (every > 0) @ (1 << np.arange(len(labels))) + 1
    return np.where((every == 0).any(1), 0, kinds).astype(np.int8)


def clusters(codes: Codes, count: int, alpha: float, seed: int = 0) -> Codes:
    """Return codes shifted to the center of their own k-means cluster (sec. 4.3.1, table 5).

    Args:
        count: K, at most N. alpha: degree of the shift; 1 moves onto the center.
        seed: of k-means.
    """
    means = MiniBatchKMeans(
        min(count, len(codes)), random_state=seed, n_init=1, batch_size=4096, max_iter=60
    ).fit(codes)
    return _typed((1 - alpha) * codes + alpha * means.cluster_centers_[means.labels_])


def nearest_to_mean(
    codes: Codes, count: int, alpha: float, persons: Persons | None = None
) -> Codes:
    """Return z_i = (1 - alpha) x_i + alpha n_i, where n_i is, of the n nearest, the one closest to
    the mean of all codes (eq. 11).

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
    """Return codes each cell of which is shifted to its own n-th nearest neighbor at that place
    (table 7).

    Args:
        codes: (N, C * cells), channels first, as a flattened (C, rows, columns) volume.
        cells: rows x columns of the grid. count: n (1, 5, 10, 20). alpha: degree of the shift.
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
    """Return (N, D): for each row the mean of the codes in its set."""
    total = np.zeros_like(codes)
    for column in sets.T:  # N x k x D at once would be gigabytes
        total += codes[column]
    return _typed(total / sets.shape[1])


def _numbers(persons: Persons) -> Index:
    """Return (N,) int64, one number for each person."""
    return np.asarray(np.unique(persons.astype(str), return_inverse=True)[1], dtype=np.int64)


def _typed(values: NDArray[np.floating]) -> Codes:
    return np.asarray(values, dtype=np.float32)
