"""Latent space manipulation (sec. 6.2): an attribute's direction in the bottleneck.

    f_c = PCA(En(x)),  v = SVM(f_c, label),  v' = PCA_inv(v),  i' = De(f + v')

The bottleneck is already made of principal components, so PCA keeps its leading ones and PCA_inv
fills up with zeros. The paper leaves the unit of a degree open; here a degree moves a face by
one standard deviation of all faces along the normal of the attribute's separating plane.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deidcli.celeba import CELEBA_ATTRIBUTES

COMPRESSED = 128
"""Components that the SVM sees."""
SAMPLES = 8000
"""Faces that it learns from, at most."""
FEWEST = 50
"""Faces with an attribute, and without it, that a direction needs at least."""
TELLING = 256
"""Leading components in which TRAITS directions are looked for."""
TRAITS = 64
"""Directions in which people are told apart."""


@dataclass
class Directions:
    """CelebA's attributes in the bottleneck; zeros for one with too few faces."""

    steps: Tensor
    """(40, LATENT) v': one degree."""
    normals: Tensor
    """(40, LATENT): a code's product with one, plus its offset, says by how many degrees the code
    lies beyond the attribute's boundary."""
    offsets: Tensor
    """(40,)."""


def directions(codes: Tensor, labels: Tensor) -> Directions:
    """Fit a linear SVM for each attribute.

    Args:
        codes: (N, LATENT) components. labels: (N, 40): 1, 0, or negative where not labeled.
    """
    from sklearn.svm import LinearSVC

    count = len(CELEBA_ATTRIBUTES)
    found = Directions(
        torch.zeros(count, codes.shape[1]), torch.zeros(count, codes.shape[1]), torch.zeros(count)
    )
    compressed = codes[:, :COMPRESSED].double().numpy()
    scale = compressed.std(0)
    whitened = compressed / scale
    for column in range(count):
        rows = np.flatnonzero(labels[:, column].numpy() >= 0)
        if len(rows) > SAMPLES:
            rows = rows[np.linspace(0, len(rows) - 1, SAMPLES).astype(int)]
        label = labels[rows, column].numpy() > 0.5
        if min(label.sum(), (~label).sum()) < FEWEST:
            continue
        svm = LinearSVC(C=0.01, class_weight="balanced", dual=False, random_state=0)
        svm.fit(whitened[rows], label)
        normal = svm.coef_[0]
        degree = float((whitened @ normal).std())
        # Straight across the boundary where all components have the same spread: a face moved
        # so stays a face.
        step = normal * degree / float(normal @ normal) * scale
        found.steps[column, : len(step)] = torch.from_numpy(step).float()
        found.normals[column, : len(step)] = torch.from_numpy(normal / scale / degree).float()
        found.offsets[column] = float(svm.intercept_[0]) / degree
    return found


def traits(codes: Tensor, persons: Tensor) -> tuple[Tensor, Tensor]:
    """Find by what people differ from each other more than from themselves (Fisher's
    discriminants).

    Args:
        codes: (N, LATENT), less what edge and tone say of them. persons: (N,), -1 for unknown.

    Returns:
        (LATENT, TRAITS) and (TRAITS, LATENT): codes times both is the part of a code that tells
        people apart. Zeros where too few people are known.
    """
    into, back = torch.zeros(codes.shape[1], TRAITS), torch.zeros(TRAITS, codes.shape[1])
    known = persons >= 0
    codes, persons = codes[known][:, :TELLING].double(), persons[known]
    counts = persons.bincount().double()[:, None]
    if int((counts > 0).sum()) <= TRAITS:
        return into, back
    scale = codes.std(0)
    whitened = (codes - codes.mean(0)) / scale
    sums = torch.zeros(len(counts), codes.shape[1], dtype=torch.float64)
    means = sums.index_add(0, persons, whitened) / counts.clamp(min=1)
    rest = whitened - means[persons]
    within = rest.T @ rest / len(rest)
    between = whitened.T @ whitened / len(rest) - within
    eye = torch.eye(len(within), dtype=torch.float64)
    factor = torch.linalg.cholesky(within + 0.01 * eye)
    inverse = torch.linalg.inv(factor)
    axes = torch.linalg.eigh(inverse @ between @ inverse.T).eigenvectors.flip(1)[:, :TRAITS]
    into[: len(within)] = ((axes.T @ inverse) / scale).T.float()
    back[:, : len(within)] = ((factor @ axes) * scale[:, None]).T.float()
    return into, back
