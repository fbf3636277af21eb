"""The losses of `eae`: eq. 4 to 8."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# --- Losses


def attribute_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Eq. 4, one term an attribute: cross-entropy of the softmax over absent and present.

    Args:
        logits: (N, m, 2).
        targets: (N, m) in [0, 1]: the share of "present"; negative: not labeled.

    Returns:
        (m,) means over the labeled rows; 0 where no row is.
    """
    logs = torch.log_softmax(logits, 2)
    losses = -(targets * logs[:, :, 1] + (1 - targets) * logs[:, :, 0])
    labeled = (targets >= 0).float()
    return (losses * labeled).sum(0) / labeled.sum(0).clamp(min=1)


def identity_loss(original: Tensor, published: Tensor) -> Tensor:
    """Eq. 5: the cosine of (N, D) embeddings, below 0 counted as 0; mean over N."""
    return functional.cosine_similarity(original, published).clamp(min=0).mean()


def reconstruction_loss(original: Tensor, published: Tensor) -> Tensor:
    """Eq. 6 and L_i of eq. 7: squared error, here the mean over a picture's or map's values."""
    return functional.mse_loss(published, original)


def multiple_loss(
    closeness: Tensor, attributes: Tensor, identity: Tensor, a1: float, a2: float
) -> Tensor:
    """Eq. 7 and 8: closeness + a1 * sum of the attributes' terms + a2 * identity.

    Args:
        closeness: L_i(d, y) for the PRN, L_e(x, x') for the SPRN.
        attributes: (m,) from `attribute_loss`.
    """
    return closeness + a1 * attributes.sum() + a2 * identity
