"""Whose face a de-identified face becomes: a stranger of the same sex, expression and pose.

An encoder that is fine-tuned on the mean of several neighbors makes all faces look alike, and what
it keeps beyond pose and light is identity (docs/methods/dae.md has the figures of both). So of
K(x), the fine-tuned encoder's code of face x, only its widest directions B are used, and the rest
is a stranger's: with E the autoencoder's encoder and s the stranger, the published code is

    z = E(s) + B B^T (K(x) - K(s)).

The strangers are computer-made faces of people who do not exist; their codes are part of the
weights, beside a small network that says of any face what the stranger must share with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from deidcli.methods.blend import SIDE
from deidcli.methods.dae.networks import CHROMA_SIDE

ATTRIBUTES = ("Male", "Smiling", "Mouth_Slightly_Open", "Eyeglasses", "Young")
"""What a stranger shares, as far as the pool has it; CelebA's names."""
ATTRIBUTE_WEIGHTS = (3.0, 1.5, 1.5, 1.5, 1.0)
"""Of the difference of two probabilities."""
SHAPE_WEIGHT = 0.35
"""Of the landmarks' ten coordinates, in standard deviations: yaw, pitch, the eyes' opening."""
TONE_WEIGHTS = (2.0, 6.0)
"""Of the luma of nine parts of the face, and of its chroma: light and tone of the skin."""
EMBEDDING = 128
KEPT = 16
"""Directions of K that are kept: 99 % of its variance. All of them would give identity away."""
CANDIDATES = 64
"""Strangers that fit best, among whom one is drawn."""
WINDOW = (0.0, 0.15)
"""Which of the candidates may be drawn, by rank of their likeness to the face: 0 is the least
alike. Whoever keeps sex and pose raises the likeness of two people above that of strangers at
large; the window brings it back. Chosen on the validation split."""


class Matcher(nn.Module):
    """What is to be shared with a face: attributes, landmarks, and whom it is like.

    Double precision, so that a batch's size cannot tip the choice of a stranger.
    """

    def __init__(self, inputs: int, hidden: tuple[int, int] = (384, 256)) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden[0]),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(hidden[0], hidden[1]),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(hidden[1], len(ATTRIBUTES) + 10 + EMBEDDING),
        )

    mean: Tensor

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Packed faces (N, P) -> logits (N, 5), landmarks (N, 10), embedding (N, 128)."""
        out = self.layers(values - self.mean)
        logits, landmarks, embedding = out.split([len(ATTRIBUTES), 10, EMBEDDING], 1)
        return logits, landmarks, embedding


def features(values: Tensor, logits: Tensor, landmarks: Tensor) -> Tensor:
    """(N, F): faces between which a small distance means a fitting stranger.

    Args:
        values: (N, P) packed faces, with color. logits, landmarks: of `Matcher`.
    """
    weights = torch.tensor(ATTRIBUTE_WEIGHTS, dtype=values.dtype, device=values.device)
    return torch.cat([logits.sigmoid() * weights, landmarks * SHAPE_WEIGHT, _tone(values)], dim=1)


def _tone(values: Tensor) -> Tensor:
    """(N, 11) weighted means: luma of 3 x 3 parts of the face, chroma of its middle."""
    luma = values[:, : SIDE * SIDE].view(-1, SIDE, SIDE)[:, 12:45, 15:48]
    parts = luma.reshape(-1, 3, 11, 3, 11).mean((2, 4)).flatten(1)
    chroma = values[:, SIDE * SIDE :].view(-1, 2, CHROMA_SIDE, CHROMA_SIDE)[:, :, 3:11, 4:12]
    return torch.cat([TONE_WEIGHTS[0] * parts, TONE_WEIGHTS[1] * chroma.mean((2, 3))], 1)


@dataclass
class Pool:
    """The strangers, as the weights hold them."""

    codes: Tensor
    """(P, D) float32: E(s)."""
    kept: Tensor
    """(P, KEPT) float32: B^T K(s)."""
    basis: Tensor
    """(D, KEPT) float32, orthonormal: B."""
    features: Tensor
    """(P, F) float64."""
    embeddings: Tensor
    """(P, 128) float64, unit length: a recognizer's, less the mean."""

    def draw(self, wanted: Tensor, embeddings: Tensor, seeds: NDArray[np.uint64]) -> Tensor:
        """(N,) the stranger of each face: among those that fit, one less alike, by its seed.

        Args:
            wanted: (N, F) features. embeddings: (N, 128) of `Matcher`. seeds: (N,).
        """
        count = min(CANDIDATES, len(self.features))
        fitting = torch.cdist(wanted, self.features).topk(count, largest=False).indices
        alike = (self.embeddings[fitting] * functional.normalize(embeddings)[:, None]).sum(2)
        order = alike.argsort(1)
        share = torch.from_numpy((seeds >> np.uint64(11)).astype(np.float64) / 2.0**53)
        low, high = WINDOW
        rank = ((low + (high - low) * share.to(wanted.device)) * count).long()
        return fitting.gather(1, order.gather(1, rank[:, None]))[:, 0]

    def codes_of(self, kept: Tensor, rows: Tensor) -> Tensor:
        """(N, D) the published codes.

        Args:
            kept: (N, D) K(x). rows: (N,) each face's stranger.
        """
        return self.codes[rows] + (kept @ self.basis - self.kept[rows]) @ self.basis.T
