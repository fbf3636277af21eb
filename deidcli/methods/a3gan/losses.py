"""The losses of `a3gan`: Zhai et al., sec. 4.4 and appendix B, eq. 9 to 15, and those of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from deidcli.faces.recognizers import Recognizer
from deidcli.methods.a3gan.geometry import PADDING

EPSILON = 0.1
"""The constant of eq. 11; the paper says "minimal" and gives no number. At 0.001, a generated face
whose attributes are all a_m's has a gradient a million times that of a face that is right."""
PENALTY = 10.0
"""Lambda of eq. 14, the paper's default."""


def attribute_loss(logits: Tensor, present: Tensor) -> Tensor:
    """Return L_att1, eq. 9: the binary cross-entropy summed over attributes, mean over faces.

    Args:
        logits: (B, N) D_att before its sigmoid.
        present: (B, N) a_s: 0 or 1; negative where there is no label, which then counts nothing.
    """
    losses = functional.binary_cross_entropy_with_logits(
        logits, present.clamp(min=0), reduction="none"
    )
    return (losses * (present >= 0)).sum(1).mean()


def xnor(source: Tensor, mask: Tensor) -> Tensor:
    """Return a_m, eq. 10: what a generated face shall not have. 1 - a_s where m is 0, else a_s.

    Args:
        source: (B, N) a_s in [0, 1]; between 0 and 1 it is a probability.
        mask: (B, N) m, 0 or 1.
    """
    return source * mask + (1 - source) * (1 - mask)


def anonymization_loss(logits: Tensor, avoided: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Return L_att2, eq. 11: 1 / (cross-entropy with a_m + epsilon), mean over faces.

    It is small where the attributes are far from a_m. It rewards whichever of them changes most
    easily, and asks for none in particular.

    Args:
        logits: (B, N) D_att of generated faces before its sigmoid.
        avoided: (B, N) a_m, see `xnor`.
    """
    entropy = functional.binary_cross_entropy_with_logits(logits, avoided, reduction="none").sum(1)
    return (1 / (entropy + epsilon)).mean()


def identity_loss(original: Tensor, published: Tensor) -> Tensor:
    """Return L_deid, eq. 12: the cosine of embeddings (B, D), where above 0 (ours), mean over B.

    Below 0 it would teach an "anti-identity", from which the person can be computed. Embeddings are
    taken from the originals' mean on: those of a recognizer that was not taught by angles, such as
    dlib's, all point one way.
    """
    center = original.mean(0, keepdim=True)
    cosines = functional.cosine_similarity(original - center, published - center)
    return cosines.clamp(min=0).mean()


def critic_loss(real: Tensor, fake: Tensor, penalty: Tensor, weight: float = PENALTY) -> Tensor:
    """Return L_cls, eq. 14: -E D_cls(I) + E D_cls(I^) + lambda * penalty.

    Args:
        real, fake: (B,) D_cls of originals and of generated faces.
        penalty: scalar, see `gradient_penalty`. weight: lambda.
    """
    return fake.mean() - real.mean() + weight * penalty


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor
) -> Tensor:
    """Return the last term of eq. 14: (|gradient of D_cls| - 1)^2 between I and I^, mean over B.

    Args:
        critic: (B, 3, S, S) -> (B,). real, fake: (B, 3, S, S).
        share: (B,) in [0, 1], where between the two: 0 is `fake`, 1 is `real`.
    """
    between = torch.lerp(fake.detach(), real, share[:, None, None, None]).requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    lengths: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return ((lengths - 1) ** 2).mean()


def adversarial_loss(fake: Tensor) -> Tensor:
    """Return L_adv, eq. 15: -E D_cls(I^), from D_cls (B,) of generated faces."""
    return -fake.mean()


def picture_loss(made: Tensor, target: Tensor, head: Tensor) -> Tensor:
    """Return the L1 distance, and that of the differences between neighboring pixels. Ours.

    Args:
        made, target: (B, 3, S, S).
        head: (B, 1, S, S) in [0, 1]; there it counts three times.
    """
    wrong = (made - target) * (1 + 2 * head)
    across = (wrong[..., 1:] - wrong[..., :-1]).abs().mean()
    down = (wrong[..., 1:, :] - wrong[..., :-1, :]).abs().mean()
    return wrong.abs().mean() + across + down


def perceptual_loss(made: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Return the mean L1 distance of a frozen network's maps, each in units of the target's own
    deviation. Source: Johnson et al. 2016 (arXiv:1603.08155), eq. 2.

    Args:
        made, target: maps (B, C, s, s), each pair of one shape.
    """
    parts = [(a - b).abs().mean() / (b.std() + 1e-3) for a, b in zip(made, target, strict=True)]
    return torch.stack(parts).mean()


def person_loss(made: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared distance of embeddings (B, D), those of the wanted person. Ours."""
    return (made - target).square().sum(1).mean()


def answers_loss(made: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy of a frozen reader's answers with those to the target. Ours.

    Args:
        made, target: (B, N) log-odds.
    """
    return functional.binary_cross_entropy_with_logits(made, torch.sigmoid(target))


def patch_critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the patch critic's hinge loss on its answers (B, 1, s, s)."""
    return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()


def generator_loss(terms: dict[str, Tensor], lambdas: dict[str, float]) -> Tensor:
    """Return the sum of eq. 13's terms as the generator sees it, and of ours, each by its lambda.

    Raises:
        KeyError: a term has no lambda.
    """
    return torch.stack([lambdas[name] * value for name, value in terms.items()]).sum()


def recognizer_view(chips: Tensor, recognizer: Recognizer) -> Tensor:
    """Return what a recognizer would cut from chips (N, 3, S, S) in [0, 1]; differentiable.

    Returns:
        (N, 3, R, R) in [0, 1], R being the recognizer's input side.
    """
    share = 1 / (1 + 2 * PADDING)  # side of the mean face, in sides of the chip
    pixels = torch.arange(recognizer.size, device=chips.device, dtype=torch.float32)
    axes = [
        ((pixels - origin) / recognizer.scale + PADDING) * share * 2 - 1
        for origin in recognizer.origin
    ]
    rows, columns = torch.meshgrid(axes[1], axes[0], indexing="ij")
    grid = torch.stack([columns, rows], 2).expand(len(chips), -1, -1, -1)
    return functional.grid_sample(chips, grid, align_corners=False)
