"""The losses of `sdn`: eq. 5 to 15 of Pan, Chen, Wu 2024, and section 4's two bounds.

Notation of the paper: I_x gives the identity, I_y is the face that is de-identified, Q_y its
surrogate, R_y and R_z the restorations under the right and a wrong password. Means over a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

GAIN_ENCODER = GAIN_DECODER = 10.0
"""lambda_En and lambda_De (eq. 15)."""


def cross_entropy(logits: Tensor, persons: Tensor) -> Tensor:
    """Return L^bce of a face's identity: (N, P) logits, (N,) int64 persons, -1 where not known."""
    if not bool((persons >= 0).any()):
        return logits.sum() * 0
    return functional.cross_entropy(logits, persons, ignore_index=-1)


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return L^bce of attributes: (N, A) logits, (N, A) labels in [0, 1], negative: not known."""
    known = (labels >= 0).float()
    each = functional.binary_cross_entropy_with_logits(
        logits, labels.clamp(min=0), reduction="none"
    )
    return (each * known).sum() / known.sum().clamp(min=1)


def extractor_loss(source: Tensor, surrogate: Tensor, persons: Tensor, sources: Tensor) -> Tensor:
    """Return eq. 5: F_cls names the person of a picture, and on a surrogate the one whose features
    it was made from.

    Args:
        source, surrogate: (N, P) logits.
        persons, sources: (N,) who is in the pictures, who the surrogates' features are of.
    """
    return cross_entropy(source, persons) + cross_entropy(surrogate, sources)


def reconstruction_loss(face: Tensor, same: Tensor, back: Tensor) -> Tensor:
    """Return eq. 6: |I_y - En(I_y, P, F_ext(I_y))| + |I_y - En(Q_y, F_ext(I_y))|.

    Args:
        face: I_y. same: rendered from its own features. back: its own features laid over Q_y.
    """
    return functional.l1_loss(same, face) + functional.l1_loss(back, face)


def attribute_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return eq. 7: the attributes read off the surrogate are those that were asked for."""
    return binary_cross_entropy(logits, wanted)


def encoder_loss(reconstruction: Tensor, attributes: Tensor) -> Tensor:
    """Return eq. 8, the loss of the erasing network (encoder)."""
    return reconstruction + attributes


def discriminator_identity_loss(said: Tensor, classified: Tensor) -> Tensor:
    """Return eq. 9: L1 between D_cls:id(I_x) and F_cls(I_x), both (N, P) logits, as
    probabilities."""
    return (said.softmax(1) - classified.softmax(1)).abs().sum(1).mean()


def discriminator_attribute_loss(
    source: Tensor, labels: Tensor, surrogate: Tensor, wanted: Tensor
) -> Tensor:
    """Return eq. 10: D_cls:attr names A_x on I_x and A_y on the surrogate."""
    return binary_cross_entropy(source, labels) + binary_cross_entropy(surrogate, wanted)


def discriminator_loss(identity: Tensor, attributes: Tensor) -> Tensor:
    """Return eq. 11, the loss of the discriminator's classifying heads."""
    return identity + attributes


def reidentification_loss(face: Tensor, restored: Tensor) -> Tensor:
    """Return eq. 12: L2 plus L1 distance of I_y and R_y, here means over the pixels."""
    difference = face - restored
    return difference.square().mean((1, 2, 3)).add(1e-8).sqrt().mean() + difference.abs().mean()


def wrong_password_loss(logits: Tensor, persons: Tensor) -> Tensor:
    """Return eq. 13: F_cls sees in R_z the person FaceID_z, not I_y's.

    Args:
        logits: (N, P) of R_z. persons: (N,) of I_z.
    """
    return cross_entropy(logits, persons)


def decoder_loss(reidentification: Tensor, wrong: Tensor) -> Tensor:
    """Return eq. 14, the loss of the reveal network (decoder)."""
    return reidentification + wrong


def total_loss(encoder: Tensor, decoder: Tensor) -> Tensor:
    """Return eq. 15."""
    return GAIN_ENCODER * encoder + GAIN_DECODER * decoder


def adversarial_loss(patches: Tensor) -> Tensor:
    """Return what a network loses by patches (N, 1, h, w) that the discriminator takes for fake.

    V of eq. 16 and 19 in the least-squares form (Mao et al. 2017, "Least Squares Generative
    Adversarial Networks", eq. 9 with b = c = 1, a = 0): 0.5 (D - 1)^2.
    """
    return 0.5 * (patches - 1.0).square().mean()


def real_or_fake_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's loss on patches (N, 1, h, w) of real pictures, which are to be 1,
    and of made ones, which are to be 0 (Mao et al. 2017, eq. 9)."""
    return adversarial_loss(real) + 0.5 * fake.square().mean()


def information_lower_bound(code: Tensor, guess: Tensor, log_variance: Tensor) -> Tensor:
    """Return eq. 21 less the constant H(c): the mean of log q(c | MP(Z)), q a diagonal Gaussian.

    Args:
        code: (N, D) c_id. guess: (N, D) q's mean, from the picture. log_variance: (D,).

    Returns:
        Nats a dimension, at most I(c; MP(Z)) - H(c). Greater is more information.
    """
    squared = (code - guess).square()
    return -0.5 * (squared * (-log_variance).exp() + log_variance).mean()


def information_upper_bound(points: Tensor) -> Tensor:
    """Return eq. 20: KL(p(MP | c) || r), r a standard normal, p of the same small width everywhere.

    Of the KL of two Gaussians only the part that depends on the mean is left: |mean|^2 / 2.

    Args:
        points: (N, D) means of p.

    Returns:
        Nats a dimension.
    """
    return 0.5 * points.square().mean()


def gradient_loss(face: Tensor, made: Tensor) -> Tensor:
    """Return the L1 distance of the differences of neighboring pixels: edges where the face has
    them."""
    losses = [functional.l1_loss(made.diff(dim=dim), face.diff(dim=dim)) for dim in (2, 3)]
    return torch.stack(losses).sum()
