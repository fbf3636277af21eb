"""The losses of `deid train dae` as functions of tensors alone.

Source: Nousi et al., eq. 4 to 6; the losses of the deblurrer and the smoother are those of sec. 4.3
in words; the matcher is ours. Faces are (N, 3, 64, 64) float32 RGB in [0, 1]; each loss is a
scalar.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

LANDMARK_LOSS_WEIGHT = 0.3
"""Weight of the landmarks beside the attributes: 10 easy numbers must not drown 5 hard ones."""
LIKENESS_LOSS_WEIGHT = 0.5
"""Weight of the recognizer's embedding beside the attributes."""
EMBEDDING_SCALE = 10.0
"""Unit vectors of 128 numbers are small; times this, each number's spread is near 1."""


def reconstruction_loss(reconstructed: Tensor, faces: Tensor) -> Tensor:
    """Return the mean squared reconstruction error (eq. 4 and 5)."""
    return functional.mse_loss(reconstructed, faces)


def target_loss(codes: Tensor, targets: Tensor, variance: float) -> Tensor:
    """Return the squared distance of the encoder's codes from their targets (eq. 6).

    Args:
        codes, targets: (N, D) float32.
        variance: of the autoencoder's codes, mean over dimensions; 1 means "as bad as the mean".
    """
    return functional.mse_loss(codes, targets) / variance


def deblurring_loss(deblurred: Tensor, sharp: Tensor) -> Tensor:
    """Return the mean absolute error: squares would prefer a soft edge to a misplaced one."""
    return functional.l1_loss(deblurred, sharp)


def smoothing_loss(smoothed: Tensor, faces: Tensor) -> Tensor:
    """Return the mean squared error of the smoother as an autoencoder."""
    return functional.mse_loss(smoothed, faces)


class MatcherLoss(NamedTuple):
    """The three terms of the matcher's loss, unweighted."""

    attributes: Tensor
    landmarks: Tensor
    likeness: Tensor

    def total(self) -> Tensor:
        """Return the weighted sum."""
        landmarks = LANDMARK_LOSS_WEIGHT * self.landmarks
        return self.attributes + landmarks + LIKENESS_LOSS_WEIGHT * self.likeness


def matcher_loss(
    outputs: tuple[Tensor, Tensor, Tensor], labels: Tensor, landmarks: Tensor, embeddings: Tensor
) -> MatcherLoss:
    """Return cross-entropy of the attributes, squared error of landmarks and embedding.

    Args:
        outputs: of `Matcher`.
        labels: (N, 5) float 1, -1, or 0 where a face has no label (it does not count).
        landmarks: (N, 10) less the mean face, in standard deviations.
        embeddings: (N, 128) of unit length.
    """
    logits, found_landmarks, found_embeddings = outputs
    each = functional.binary_cross_entropy_with_logits(logits, (labels + 1) / 2, reduction="none")
    labeled = labels != 0
    return MatcherLoss(
        (each * labeled).sum() / labeled.sum().clamp(min=1),
        functional.mse_loss(found_landmarks, landmarks),
        functional.mse_loss(found_embeddings, embeddings * EMBEDDING_SCALE),
    )
