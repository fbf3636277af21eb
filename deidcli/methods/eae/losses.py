"""The losses of `eae`.

Equations 4 to 8 are those of Liu et al. 2023 (docs/methods/eae.md); `arcface_loss` is that of the
Privacy Evaluation Network (PEN); `likeness_loss` is our own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def attribute_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each attribute, absent against present (eq. 4).

    Args:
        logits: (N, m, 2) float: absent, present.
        targets: (N, m) float in [0, 1], the share of "present"; negative: not labeled.

    Returns:
        (m,) means over the labeled rows; 0 where no row is labeled.
    """
    logs = torch.log_softmax(logits, 2)
    losses = -(targets * logs[:, :, 1] + (1 - targets) * logs[:, :, 0])
    labeled = (targets >= 0).float()
    return (losses * labeled).sum(0) / labeled.sum(0).clamp(min=1)


def code_loss(code: Tensor, targets: Tensor) -> Tensor:
    """Return eq. 4 laid on the internal code itself: it is read as the log odds of "present".

    Ours: rounding the code to bits passes no gradient, so this is what the internal encoder learns
    from.

    Args:
        code: (N, m) float. targets: as in `attribute_loss`.

    Returns:
        (m,) as `attribute_loss`.
    """
    return attribute_loss(torch.stack([-code / 2, code / 2], 2), targets)


def identity_loss(original: Tensor, published: Tensor) -> Tensor:
    """Return the mean cosine of (N, D) embeddings, negative ones counted as 0 (eq. 5).

    The paper does not cut negative cosines off. Below 0 they would teach an "anti-identity", which
    can be turned round.
    """
    return functional.cosine_similarity(original, published).clamp(min=0).mean()


def reconstruction_loss(original: Tensor, published: Tensor) -> Tensor:
    """Return the mean squared error over all values of pictures or maps (eq. 6, L_i of eq. 7).

    The paper sums over a picture; a mean brings the terms of eq. 7 to like scales.
    """
    return functional.mse_loss(published, original)


def multiple_loss(
    closeness: Tensor, attributes: Tensor, identity: Tensor, a1: float, a2: float
) -> Tensor:
    """Return closeness + a1 * sum of the attributes' terms + a2 * identity (eq. 7 and 8).

    Args:
        closeness: scalar: L_i(d, y) for the PRN, L_e(x, x') for the SPRN.
        attributes: (m,) from `attribute_loss`.
        identity: scalar from `identity_loss`.
    """
    return closeness + a1 * attributes.sum() + a2 * identity


def likeness_loss(published: Tensor) -> Tensor:
    """Return 1 - the mean cosine of a set's pictures to their common direction.

    Ours: at 0 a recognizer sees no difference between the pictures, so it cannot tell by one
    which faces have its attributes.

    Args:
        published: (C, D) embeddings of the set's distinct pictures.
    """
    directions = functional.normalize(published)
    return 1 - functional.cosine_similarity(directions, directions.mean(0)[None]).mean()


def arcface_loss(
    embeddings: Tensor, centers: Tensor, persons: Tensor, scale: float = 64, margin: float = 0.5
) -> Tensor:
    """Return the softmax loss over angles, the right angle widened by `margin` (ArcFace, eq. 3).

    Deng, Guo, Xue, Zafeiriou, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition",
    CVPR 2019; scale and margin are its values.

    Args:
        embeddings: (N, D). centers: (P, D), one a person. persons: (N,) int64.
        margin: in radians.
    """
    cosines = functional.normalize(embeddings) @ functional.normalize(centers).T
    angles = torch.acos(cosines.clamp(-1 + 1e-6, 1 - 1e-6))
    right = functional.one_hot(persons, len(centers)).bool()
    widened = torch.where(right, torch.cos((angles + margin).clamp(max=torch.pi)), cosines)
    return functional.cross_entropy(scale * widened, persons)
