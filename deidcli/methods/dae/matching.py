"""What `target=strangers` is trained on, and the pool that goes into its weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.faces import align, recognizers
from deidcli.methods.blend import PADDING, SIDE
from deidcli.methods.dae.networks import (
    ATTRIBUTES,
    FullyConnected,
    Matcher,
    pack,
    principal_components,
)
from deidcli.methods.dae.strangers import KEPT, features
from deidcli.methods.dae.training_faces import BLOCK, in_blocks
from deidcli.training.chips import Chips
from deidcli.training.loop import log

MATCHER_COMPONENT_FACES = 20_000
"""About so many faces (all, where there are fewer) give the components that the matcher starts
from, which bounds memory."""


@dataclass(frozen=True)
class MatcherTargets:
    """What the matcher is to say of each of N training faces."""

    labels: Tensor
    """(N, 5) float32 1, -1, or 0 where a face has no label."""
    landmarks: Tensor
    """(N, 10) float32 less the mean face, in standard deviations."""
    embeddings: Tensor
    """(N, 128) float32 of unit length: dlib's descriptors less `center`."""
    center: Tensor
    """(128,) float32: the mean descriptor."""


def matcher_targets(faces: Chips, landmarks: NDArray[np.float32], cache: Path) -> MatcherTargets:
    """Return what the matcher learns.

    Args:
        landmarks: (N, 5, 2) in the unit square of the mean face.
        cache: folder of the cut chips, where descriptors are kept too, for they take minutes.
    """
    shapes = torch.from_numpy(landmarks - align.MEAN_FACE_5.astype(np.float32)).flatten(1)
    embeddings = torch.from_numpy(descriptors(faces.chips, cache))
    center = embeddings.mean(0)
    columns = [CELEBA_ATTRIBUTES.index(name) for name in ATTRIBUTES]
    return MatcherTargets(
        torch.from_numpy(faces.labels[:, columns]).float(),
        shapes / shapes.std(0).clamp(min=1e-4),
        functional.normalize(embeddings - center),
        center,
    )


@torch.no_grad()
def start_matcher(chips: Tensor) -> Matcher:
    """Return a matcher whose first layer is whitened principal components, mixed by a rotation so
    that units of both signs are there from the start.

    Args:
        chips: (N, S, S, 3) uint8.
    """
    some = chips[:: max(1, len(chips) // MATCHER_COMPONENT_FACES)]
    packed = in_blocks(lambda x: pack(x, True), some, "cpu")
    matcher = Matcher(packed.shape[1])
    first = matcher.layers[0]
    assert isinstance(first, nn.Linear)
    mean, components = principal_components(packed, first.out_features)
    spread = ((packed - mean) @ components).std(0).clamp(min=1e-3)
    matcher.mean.copy_(mean)
    rotation = torch.linalg.qr(torch.randn(len(spread), len(spread)))[0]
    first.weight.copy_(rotation @ (components / spread).T)
    return matcher


@torch.no_grad()
def pool_tensors(
    autoencoder: FullyConnected,
    encoder: FullyConnected,
    matcher: Matcher,
    center: Tensor,
    faces: Tensor,
    pool: Tensor,
    device: str,
    cache: Path,
) -> dict[str, Tensor]:
    """Return the tensors of `strangers.Strangers`: the matcher and the pool.

    Args:
        autoencoder, encoder: E and K, the latter fine-tuned. center: of `MatcherTargets`.
        faces: (N, S, S, 3) uint8, the training faces, whose codes give the kept directions.
        pool: (P, S, S, 3) uint8, the strangers; each serves flipped, too.
        cache: folder where descriptors are kept.
    """
    pool = torch.cat([pool, pool.flip(2)])
    codes = in_blocks(autoencoder.encode, pool, device)
    basis = kept_directions(in_blocks(encoder.encode, faces, device))
    kept = in_blocks(encoder.encode, pool, device) @ basis
    packed = in_blocks(lambda x: pack(x, True), pool, device).double()
    logits, landmarks, _ = matcher.cpu().double()(packed)
    likeness = torch.from_numpy(descriptors(pool.numpy(), cache)) - center
    return {
        **{f"matcher.{key}": value for key, value in matcher.state_dict().items()},
        "pool.codes": codes,
        "pool.kept": kept,
        "pool.basis": basis,
        "pool.features": features(packed, logits, landmarks),
        "pool.embeddings": functional.normalize(likeness),
    }


def kept_directions(codes: Tensor) -> Tensor:
    """Return (D, KEPT) orthonormal: the widest directions of the tuned encoder's (N, D) codes."""
    _, components = principal_components(codes, min(KEPT, codes.shape[1]))
    return components


def evenly_spread(chips: Tensor, count: int) -> Tensor:
    """Return at most `count` of the chips, evenly spread."""
    return chips[torch.linspace(0, len(chips) - 1, min(count, len(chips))).round().long()]


def descriptors(chips: NDArray[np.uint8], cache: Path) -> NDArray[np.float32]:
    """Return dlib's (N, 128) descriptors of (N, 64, 64, 3) chips, kept in `cache` by their content.

    They tell who somebody is as well as the chips do, so they lie and go with them. The landmarks
    are those of the mean face, to which chips are aligned.
    """
    digest = hashlib.sha256(np.ascontiguousarray(chips).data).hexdigest()[:16]
    path = cache / f"descriptors-{digest}.npy"
    if path.is_file():
        return np.asarray(np.load(path), np.float32)
    log(f"descriptors of {len(chips)} faces")
    unit = align.chip_from_unit(np.eye(2, 3), SIDE, PADDING)
    points = align.apply_affine(unit, align.MEAN_FACE_5)
    parts = [
        recognizers.embed("dlib", [recognizers.cut("dlib", chip, points) for chip in block])
        for block in np.array_split(chips, max(1, len(chips) // BLOCK))
    ]
    found = np.concatenate(parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name("partial.npy")
    np.save(partial, found)
    partial.replace(path)
    return found
