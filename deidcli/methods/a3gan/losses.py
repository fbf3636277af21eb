"""The losses of `a3gan`: Zhai et al., sec. 4.4 and appendix B, eq. 9 to 15, and two of ours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

EPSILON = 0.1
"""In eq. 11: "a minimal constant". At a thousandth, a generated face whose attributes are all
a_m's has a gradient a million times that of one that is right."""
PENALTY = 10.0
"""Lambda of eq. 14, the paper's default."""


def attribute_loss(logits: Tensor, present: Tensor) -> Tensor:
    """L_att1, eq. 9: the sum over N attributes of the binary cross-entropy; mean over faces.

    Args:
        logits: (B, N) D_att before its sigmoid. present: (B, N) a_s, 0 or 1; negative: not labeled.
    """
    losses = functional.binary_cross_entropy_with_logits(
        logits, present.clamp(min=0), reduction="none"
    )
    return (losses * (present >= 0)).sum(1).mean()


def xnor(source: Tensor, mask: Tensor) -> Tensor:
    """a_m, eq. 10: what a generated face shall not have: 1 - a_s where m is 0, a_s where it is 1.

    Args:
        source: (B, N) in [0, 1]; between the two, the share of belief. mask: (B, N), 0 or 1.
    """
    return source * mask + (1 - source) * (1 - mask)


def anonymization_loss(logits: Tensor, avoided: Tensor, epsilon: float = EPSILON) -> Tensor:
    """L_att2, eq. 11: 1 / (cross-entropy with a_m + epsilon); mean over faces.

    Small where the attributes are far from a_m; it rewards whichever of them can change, and asks
    for none in particular.

    Args:
        logits: (B, N) D_att of generated faces. avoided: (B, N) a_m, see `xnor`.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, avoided, reduction="none").sum(1)
    return (1 / (entropy + epsilon)).mean()


def identity_loss(original: Tensor, published: Tensor) -> Tensor:
    """L_deid, eq. 12: the cosine of (B, D) embeddings; below 0 counted as 0 (ours), mean over B.

    Below 0 it would teach an "anti-identity", which can be turned round.
    """
    return functional.cosine_similarity(original, published).clamp(min=0).mean()


def diversity_loss(published: Tensor) -> Tensor:
    """Ours: the mean cosine, where above 0, of (B, D) embeddings of B generated faces."""
    unit = functional.normalize(published)
    cosines = (unit @ unit.T).clamp(min=0)
    count = len(unit)
    return (cosines.sum() - cosines.diagonal().sum()) / max(1, count * (count - 1))


def critic_loss(real: Tensor, fake: Tensor, penalty: Tensor, weight: float = PENALTY) -> Tensor:
    """L_cls, eq. 14: -E D_cls(I) + E D_cls(I^) + lambda * penalty.

    Args:
        real, fake: (B,) D_cls of originals and of generated faces.
    """
    return fake.mean() - real.mean() + weight * penalty


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor
) -> Tensor:
    """The last expectation of eq. 14: (|gradient of D_cls| - 1)^2 between I and I^; mean over B.

    Args:
        critic: (B, 3, S, S) -> (B,). share: (B,) in [0, 1], where between the two.
    """
    between = torch.lerp(fake.detach(), real, share[:, None, None, None]).requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    lengths: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return ((lengths - 1) ** 2).mean()


def adversarial_loss(fake: Tensor) -> Tensor:
    """L_adv, eq. 15: -E D_cls(I^)."""
    return -fake.mean()


def teacher_loss(made: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Ours: |made - wanted| and that of their differences to the next pixel, where the mask lies.

    Args:
        made, wanted: (B, 3, S, S). mask: (S, S) in [0, 1].
    """
    wrong = (made - wanted) * mask
    across = (wrong[..., 1:] - wrong[..., :-1]).abs().mean()
    down = (wrong[..., 1:, :] - wrong[..., :-1, :]).abs().mean()
    return wrong.abs().mean() + across + down


def generator_loss(terms: dict[str, Tensor], lambdas: dict[str, float]) -> Tensor:
    """Eq. 13 as the generator sees it, and our terms: the weighted sum.

    Raises:
        KeyError: a term without a lambda.
    """
    return torch.stack([lambdas[name] * value for name, value in terms.items()]).sum()
