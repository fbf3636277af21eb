"""Whose face a de-identified face becomes: a stranger of the same sex, expression and pose.

An encoder that is fine-tuned on the mean of several neighbors makes all faces look alike, and what
it keeps beyond pose and light is identity (docs/notes/dae.md has the figures of both). So of K(x),
the fine-tuned encoder's code of face x, only the widest directions B are used, and the rest is a
stranger's: with E the autoencoder's encoder and s the stranger, the published code is

    z = E(s) + B B^T (K(x) - K(s)).

The strangers are computer-made faces of people who do not exist; their codes are part of the
weights, beside the matcher, which says of any face what the stranger must share with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deidcli.methods.blend import SIDE
from deidcli.methods.dae.networks import CHROMA_SIDE, Matcher, pack
from deidcli.methods.loading import load_part, ready

ATTRIBUTE_WEIGHTS = (3.0, 1.5, 1.5, 1.5, 1.0)
"""Weights of the matcher's ATTRIBUTES, applied to probabilities: a change of sex shows most."""
LANDMARK_WEIGHT = 0.35
"""Weight of the landmarks' ten coordinates, in standard deviations: yaw, pitch, open eyes."""
TONE_WEIGHTS = (2.0, 6.0)
"""Weights of the luma of nine parts of the face and of its chroma: light, and tone of the skin."""
KEPT = 16
"""Directions of K that are kept: 99 % of its variance. All of them would give identity away."""
CANDIDATES = 64
"""Strangers that fit best, among whom one is drawn."""
WINDOW = (0.0, 0.15)
"""Which of the candidates may be drawn, by rank of their likeness to the face: 0 is the least
alike. Keeping sex and pose raises the likeness of two people above that of strangers at large; the
window brings it back. Chosen on the validation split."""


def features(values: Tensor, logits: Tensor, landmarks: Tensor) -> Tensor:
    """Return (N, 26): faces between which a small distance means a fitting stranger.

    Args:
        values: (N, 4608) packed faces, with color.
        logits, landmarks: (N, 5) and (N, 10), of `Matcher`.
    """
    weights = torch.tensor(ATTRIBUTE_WEIGHTS, dtype=values.dtype, device=values.device)
    return torch.cat([logits.sigmoid() * weights, landmarks * LANDMARK_WEIGHT, _tone(values)], 1)


def _tone(values: Tensor) -> Tensor:
    """Return (N, 11) weighted means: luma of 3 x 3 parts of the face, chroma of its middle."""
    luma = values[:, : SIDE * SIDE].view(-1, SIDE, SIDE)[:, 12:45, 15:48]
    parts = luma.reshape(-1, 3, 11, 3, 11).mean((2, 4)).flatten(1)
    chroma = values[:, SIDE * SIDE :].view(-1, 2, CHROMA_SIDE, CHROMA_SIDE)[:, :, 3:11, 4:12]
    return torch.cat([TONE_WEIGHTS[0] * parts, TONE_WEIGHTS[1] * chroma.mean((2, 3))], 1)


@dataclass
class Pool:
    """The P strangers, as the weights hold them."""

    codes: Tensor
    """(P, D) float32: E(s)."""
    kept: Tensor
    """(P, KEPT) float32: B^T K(s)."""
    basis: Tensor
    """(D, KEPT) float32, orthonormal: B."""
    features: Tensor
    """(P, 26) float64; see `features`."""
    embeddings: Tensor
    """(P, 128) float64, unit length: a recognizer's, less the mean."""

    def draw(self, wanted: Tensor, embeddings: Tensor, seeds: NDArray[np.uint64]) -> Tensor:
        """Draw a stranger for each face by its seed: one that fits and is not alike.

        Args:
            wanted: (N, 26) float64 features. embeddings: (N, 128) float64 of `Matcher`.
            seeds: (N,) each face's own number.

        Returns:
            (N,) int64 rows of the pool.
        """
        count = min(CANDIDATES, len(self.features))
        fitting = torch.cdist(wanted, self.features).topk(count, largest=False).indices
        alike = (self.embeddings[fitting] * functional.normalize(embeddings)[:, None]).sum(2)
        order = alike.argsort(1)
        share = torch.from_numpy((seeds >> np.uint64(11)).astype(np.float64) / 2.0**53)
        low, high = WINDOW
        rank = ((low + (high - low) * share.to(wanted.device)) * count).long()
        return fitting.gather(1, order.gather(1, rank[:, None]))[:, 0]

    def codes_of(self, tuned: Tensor, rows: Tensor) -> Tensor:
        """Return the published codes z, (N, D) float32.

        Args:
            tuned: (N, D) float32 K(x), the fine-tuned encoder's codes.
            rows: (N,) int64 each face's stranger.
        """
        return self.codes[rows] + (tuned @ self.basis - self.kept[rows]) @ self.basis.T


class Strangers:
    """The matcher and the pool of a weight file."""

    def __init__(self, tensors: Mapping[str, Tensor], device: str) -> None:
        """Load both.

        Args:
            tensors: of `dae-strangers`: `matcher.*` and `pool.*`.
        """
        hidden = tuple(len(tensors[f"matcher.layers.{layer}.bias"]) for layer in (0, 3))
        matcher = Matcher(len(tensors["matcher.mean"]), (hidden[0], hidden[1]))
        load_part(matcher, "matcher", tensors)
        self.matcher = ready(matcher.double(), device)
        self.pool = Pool(
            tensors["pool.codes"].float().to(device),
            tensors["pool.kept"].float().to(device),
            tensors["pool.basis"].float().to(device),
            tensors["pool.features"].double().to(device),
            tensors["pool.embeddings"].double().to(device),
        )

    def draw(self, chips: Tensor, seeds: NDArray[np.uint64]) -> Tensor:
        """Return (N,) int64: each face's stranger, a row of the pool.

        Args:
            chips: (N, 3, 64, 64) float32 RGB in [0, 1]. seeds: (N,) each face's own number.
        """
        values = pack(chips.double(), True)
        logits, landmarks, embeddings = self.matcher(values)
        return self.pool.draw(features(values, logits, landmarks), embeddings, seeds)
