"""What the identity network stores: portraits, directions of attributes, traits of people."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from deidcli.faces import align, recognizers
from deidcli.faces import attributes as attribute_net
from deidcli.faces.align import MEAN_FACE_5
from deidcli.methods.sdn.bottleneck import EDGE, LATENT, Bottleneck
from deidcli.methods.sdn.fitting import batch_of
from deidcli.methods.sdn.identity import Identity
from deidcli.methods.sdn.networks import PADDING, FeatureExtractor, at_grid
from deidcli.methods.sdn.shift import Directions, directions, traits
from deidcli.methods.sdn.training_faces import Faces, evenly
from deidcli.training.loop import log

FITTED = 8000
"""Faces that the linear layers are found from, at most."""


def portraits_of(pool: Faces, size: int) -> Tensor:
    """Return the portraits that the published identity network stores: `size` of the pool, then the
    same flipped, (P, S, S, 3) uint8."""
    chips = evenly(pool.chips, size)
    return torch.cat([chips, chips.flip(2)])


def published_identity(
    portraits: Tensor, faces: Faces, extractor: FeatureExtractor, bottleneck: Bottleneck
) -> Identity:
    """Fill the identity network that is published: `portraits_of` the pool."""
    net = stored(portraits, extractor, bottleneck, flipped=True)
    net.labels.copy_(classified_attributes(portraits[: len(portraits) // 2]).repeat(2, 1))
    log("directions of the attributes")
    for name, value in asdict(attribute_directions(faces, bottleneck)).items():
        net.get_buffer(name).copy_(value)
    return net


@torch.no_grad()
def stored(
    chips: Tensor, extractor: FeatureExtractor, bottleneck: Bottleneck, flipped: bool
) -> Identity:
    """Make an identity network of these faces, (N, S, S, 3) uint8.

    Args:
        flipped: the second half are the first ones flipped; they get the same descriptor, so that
            the key never chooses between a person and the same one flipped.
    """
    net = Identity(len(chips))
    for rows in torch.split(torch.arange(len(chips)), 256):
        faces = at_grid(batch_of(chips[rows]))
        net.codes[rows] = bottleneck.components(faces)[:, :LATENT]
        net.rims[rows] = bottleneck.rim(faces, within=True)
        net.edges[rows] = bottleneck.edge(faces).to(net.edges)
    own = len(chips) // 2 if flipped else len(chips)
    found = torch.cat([descriptors(some) for some in torch.split(chips[:own], 256)])
    net.embeddings.copy_(found.repeat(len(chips) // own, 1))
    describe(net, chips, extractor)
    return net


@torch.no_grad()
def describe(net: Identity, chips: Tensor, extractor: FeatureExtractor) -> None:
    """Store what the extractor predicts for the faces of an identity network."""
    extractor.eval()
    device = next(extractor.parameters()).device
    for rows in torch.split(torch.arange(len(chips)), 256):
        logits, landmarks, _ = extractor(batch_of(chips[rows]).to(device))
        net.probabilities[rows] = logits.sigmoid().to(net.probabilities)
        net.landmarks[rows] = landmarks.to(net.landmarks)


def descriptors(chips: Tensor) -> Tensor:
    """Return dlib's descriptors (N, 128) of chips (N, S, S, 3) uint8."""
    side = chips.shape[1]
    points = align.apply_affine(align.chip_from_unit(np.eye(2, 3), side, PADDING), MEAN_FACE_5)
    cut = [recognizers.cut("dlib", chip, points) for chip in chips.numpy()]
    return torch.from_numpy(recognizers.embed("dlib", cut))


def classified_attributes(chips: Tensor) -> Tensor:
    """Return what the classifier of `deid score` predicts for chips (N, S, S, 3) uint8: (N, 40)
    probabilities."""
    net, side = attribute_net.load(), chips.shape[1]
    points = align.apply_affine(align.chip_from_unit(np.eye(2, 3), side, PADDING), MEAN_FACE_5)
    found = []
    for some in torch.split(chips, 256):
        cut = np.stack([attribute_net.cut(net, chip, points) for chip in some.numpy()])
        found.append(torch.from_numpy(attribute_net.predict(net, cut)))
    return torch.cat(found)


def attribute_directions(faces: Faces, bottleneck: Bottleneck) -> Directions:
    """Find the directions of sec. 6.2 in the training faces, as the bottleneck renders them."""
    known = faces.labels.max(1).values >= 0
    rows = evenly(known.nonzero()[:, 0], 2 * FITTED)
    return directions(_codes(faces, rows, bottleneck)[0], faces.labels[rows])


def people_traits(faces: Faces, bottleneck: Bottleneck) -> tuple[Tensor, Tensor]:
    """Find what tells the training faces' people apart; see shift.traits."""
    rows = evenly((faces.persons >= 0).nonzero()[:, 0], 2 * FITTED)
    codes, edges = _codes(faces, rows, bottleneck)
    return traits(codes - edges @ bottleneck.edge_fit, faces.persons[rows])


def _codes(faces: Faces, rows: Tensor, bottleneck: Bottleneck) -> tuple[Tensor, Tensor]:
    """Return (N, LATENT) components and (N, EDGE) edges of some faces."""
    codes, edges = [torch.zeros(0, LATENT)], [torch.zeros(0, EDGE)]
    for some in torch.split(rows, 512):
        chips = at_grid(batch_of(faces.chips[some]))
        codes.append(bottleneck.components(chips)[:, :LATENT])
        edges.append(bottleneck.edge(chips).to(chips))
    return torch.cat(codes), torch.cat(edges)
