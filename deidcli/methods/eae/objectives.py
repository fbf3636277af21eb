"""What one training step of each part of `eae` minimises, made of the losses of `losses.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from deidcli.faces import recognizers
from deidcli.methods.eae import losses
from deidcli.methods.eae.networks import (
    ExternalAutoencoder,
    FeatureSelection,
    InternalAutoencoder,
    bits_of,
)
from deidcli.methods.eae.pen import Embedder, PersonClassifier, recognizer_view
from deidcli.methods.eae.run import EaeRun, batches, mixed

CENTERED = 512
"""Pictures of DATA whose mean embedding is subtracted from the PEN's."""
MOST_CODES = 32
"""Codes whose pictures are evaluated in a step; all codes of up to five attributes."""
PEN_VIEW = "mobilefacenet"
"""The recognizer whose chip a PEN of our own takes: the geometry of ArcFace's template."""


@dataclass(frozen=True)
class FrozenNetworks:
    """The networks that training the internal autoencoder and the ablation leaves as they are."""

    fsn: FeatureSelection
    external: ExternalAutoencoder
    pen: Callable[[Tensor], Tensor]
    """(N, 3, S, S) in [0, 1] -> (N, D) embeddings less their mean over DATA, differentiable."""


def frozen_networks(run: EaeRun) -> FrozenNetworks:
    """Return the FSN, the external autoencoder and the PEN of a run, in evaluation mode.

    Raises:
        DeidError: one of them was not trained, or is a recognizer that is not installed.
    """
    fsn = run.trained("fsn", FeatureSelection(run.size, len(run.fsn_attributes)))
    external = run.trained("external", ExternalAutoencoder(run.size))
    pen = frozen_pen(run)
    # dlib's descriptors share most of their length: without subtracting the mean, strangers have
    # a cosine of 0.83. The others' mean is near 0 anyhow.
    some = run.chips.keep(np.arange(len(run.chips)) < CENTERED)
    with torch.no_grad():
        center = torch.cat([pen(b) for b in batches(some, run.settings.device)]).mean(0)
    return FrozenNetworks(fsn, external, lambda chips: pen(chips) - center)


def frozen_pen(run: EaeRun) -> Callable[[Tensor], Tensor]:
    """Return the PEN of a run: (N, 3, S, S) in [0, 1] -> (N, D) embeddings."""
    if run.settings.pen == "arcface":
        entry = recognizers.RECOGNIZERS[PEN_VIEW]
        net: nn.Module = run.trained("pen", Embedder(run.size))
    else:
        loaded = recognizers.load(run.settings.pen, run.settings.device)
        net, entry = loaded, loaded.recognizer
    return lambda chips: net(recognizer_view(chips, entry))


def fsn_objective(model: FeatureSelection, images: Tensor, targets: Tensor) -> Tensor:
    """Return procedure 1's loss: the sum of the attributes' cross-entropies (eq. 4).

    Args:
        images: (N, 3, S, S) in [0, 1]. targets: (N, groups), see `losses.attribute_loss`.
    """
    return losses.attribute_loss(model(images), targets).sum()


def external_objective(run: EaeRun, model: ExternalAutoencoder, images: Tensor) -> Tensor:
    """Return the loss of procedure 3, line 5: the squared error of (N, 3, S, S) images (eq. 6).

    It is multiplied by the area of the code, which brings it to the order of 1.
    """
    return losses.reconstruction_loss(images, model(images)) * run.size.code_side**2


def internal_objective(
    run: EaeRun,
    frozen: FrozenNetworks,
    model: InternalAutoencoder,
    images: Tensor,
    rows: Tensor,
    with_pictures: bool = True,
) -> Tensor:
    """Return the loss of procedure 3, line 7: eq. 7, and its attribute term on the code too.

    The picture terms of eq. 7 see the rounded bits, which pass no gradient, so they never reach
    the internal encoder: it learns from the code's term alone, and the decoder from the others.

    Args:
        images: (N, 3, S, S) in [0, 1], the augmented chips of `rows` (N,).
        with_pictures: whether to add the picture terms.
    """
    recipe = run.settings
    with torch.no_grad():
        r = frozen.external.encode(images)
        desired = frozen.fsn.desired(images)
        probabilities = frozen.fsn.heads(desired)[:, run.groups].softmax(2)[:, :, 1]
    code = model.encode(r)
    targets = mixed(run.labels(rows), probabilities, recipe.soft)
    on_code = losses.code_loss(code, targets).sum() * recipe.a1
    if not with_pictures:
        return on_code
    return on_code + picture_objective(run, frozen, model, images, bits_of(code.detach()), desired)


def picture_objective(
    run: EaeRun,
    frozen: FrozenNetworks,
    model: InternalAutoencoder,
    images: Tensor,
    bits: Tensor,
    desired: Tensor,
) -> Tensor:
    """Return eq. 7 on the pictures of a batch, each distinct picture made and evaluated once.

    Args:
        images: (N, 3, S, S), the originals. bits: (N, m) in {-1, 1}.
        desired: (N, C, s, s), the FSN's d.
    """
    recipe = run.settings
    codes, inverse = distinct_codes(bits)
    y = model.decode(codes)
    pictures = frozen.external.decode(y)
    # The picture carries the code and nothing else, so the code is what the FSN can read off it.
    # Flipped too, for the FSN's answer is the mean over both.
    logits = frozen.fsn(torch.cat([pictures, pictures.flip(3)]))[:, run.groups]
    attributes = losses.attribute_loss(logits, (codes.repeat(2, 1) + 1) / 2)
    closeness = losses.reconstruction_loss(desired, y[inverse])
    with torch.no_grad():
        originals = frozen.pen(images)
    embeddings = frozen.pen(pictures)
    identity = losses.identity_loss(originals, embeddings[inverse])
    loss = losses.multiple_loss(closeness, attributes, identity, recipe.a1, recipe.a2)
    return loss + recipe.alike * losses.likeness_loss(embeddings)


def distinct_codes(bits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the codes whose pictures are evaluated, and the place among them of each face's code.

    Up to MOST_CODES these are all codes, those that no face of the batch has too.

    Args:
        bits: (N, m) in {-1, 1}.

    Returns:
        (C, m) in {-1, 1} and (N,) int64.
    """
    count = bits.shape[1]
    if 2**count > MOST_CODES:
        codes, inverse = torch.unique(bits, dim=0, return_inverse=True)
        return codes, inverse
    places = 2 ** torch.arange(count, device=bits.device)
    codes = ((torch.arange(2**count, device=bits.device)[:, None] & places) > 0) * 2.0 - 1
    return codes, ((bits > 0) * places).sum(1)


def sprn_objective(
    run: EaeRun, frozen: FrozenNetworks, model: ExternalAutoencoder, images: Tensor, rows: Tensor
) -> Tensor:
    """Return the ablation's loss (eq. 8) of (N, 3, S, S) images, the chips of `rows` (N,)."""
    pictures = model(images)
    attributes = losses.attribute_loss(frozen.fsn(pictures)[:, run.groups], run.labels(rows))
    identity = losses.identity_loss(frozen.pen(images), frozen.pen(pictures))
    closeness = losses.reconstruction_loss(images, pictures)
    recipe = run.settings
    return losses.multiple_loss(closeness, attributes, identity, recipe.a1, recipe.a2)


def pen_objective(model: PersonClassifier, images: Tensor, persons: Tensor) -> Tensor:
    """Return procedure 2's loss: ArcFace's, of (N, 3, S, S) images of `persons` (N,) int64."""
    embeddings = model.embedder(recognizer_view(images, recognizers.RECOGNIZERS[PEN_VIEW]))
    return losses.arcface_loss(embeddings, model.centers, persons)
