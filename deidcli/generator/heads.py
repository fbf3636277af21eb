"""Small heads that turn features on the way into pictures of 256 or 128 px, at half the cost.

The generator itself draws 1,024 px. Its features of 128x128 cells hold all that a picture of 256 px
shows, those of 64x64 all of one of 128 px; what the later layers would do to colors is told by w.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from deidcli.generator.networks import SLOPE, WIDTH, Layer, Style, Synthesis, haar, inverse_haar
from deidcli.weights.own import own_cards, own_weights

LAYERS = {256: 5, 128: 4}
"""Side of the picture, px -> layers whose features a head takes; a cell is 2x2 px."""
HIDDEN = 48
BANDS = 12
"""Haar bands of three colors."""


class Head(nn.Module):
    """Features and w to a picture: a linear map of each cell, and a small network on top."""

    def __init__(self, channels: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.mean: Tensor
        self.linear_style = Style(channels)
        self.linear = nn.Conv2d(channels, BANDS, 1)
        self.shift = nn.Linear(WIDTH, BANDS, bias=False)
        self.styles = nn.ModuleList(Style(n) for n in (channels, hidden, hidden, hidden))
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.middle = nn.ModuleList(nn.Conv2d(hidden, hidden, 3, padding=1) for _ in range(2))
        self.out = nn.Conv2d(hidden, BANDS, 1)
        nn.init.zeros_(self.shift.weight)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """The picture.

        Args:
            x: (N, C, S, S) features, or a window of them.
            w: (N, 512), see `late`.

        Returns:
            (N, 3, 2 S, 2 S) RGB, about [-1, 1], not clipped.
        """
        bands = self.bands(x, w)
        return inverse_haar(bands[:, :3], bands[:, 3:])

    def bands(self, x: Tensor, w: Tensor) -> Tensor:
        """The Haar bands of the picture: (N, 12, S, S)."""
        w = w - self.mean
        first, *others = self.styles
        hidden = functional.leaky_relu(self.reduce(x * first(w)), SLOPE)
        for convolution, style in zip(self.middle, others[:-1], strict=True):
            hidden = functional.leaky_relu(convolution(hidden * style(w)), SLOPE)
        linear = self.linear(x * self.linear_style(w)) + self.shift(w)[:, :, None, None]
        bands: Tensor = linear + self.out(hidden * others[-1](w))
        return bands


def late(w: Tensor, side: int) -> Tensor:
    """The w that a head takes, the mean over the places that it stands for: (N, 512).

    Args:
        w: (N, 23, 512). side: 256 or 128.
    """
    return w[:, 1 + 3 * LAYERS[side] :].mean(1)


def started_head(synthesis: Synthesis, mean: Tensor, side: int, hidden: int = HIDDEN) -> Head:
    """A head before training; the small network's first styles are the next layer's own.

    Args:
        mean: (512,) the mean w.
    """
    layer = LAYERS[side]
    following = synthesis.layers[layer]
    assert isinstance(following, Layer)
    own = following.up
    head = Head(own.weight.shape[0], hidden)
    head.mean.copy_(mean)
    first = head.styles[0]
    assert isinstance(first, Style)
    with torch.no_grad():
        first.weight.copy_(own.weight)
        first.bias.copy_(own.bias + own.weight @ mean)
    return head


class Drawn(Protocol):
    """Features and the picture that they are to give."""

    @property
    def features(self) -> Tensor:
        """(1, C, S, S)."""

    @property
    def picture(self) -> Tensor:
        """(1, 3, 2 S, 2 S)."""


def fit_linear(head: Head, faces: Sequence[Drawn], ridge: float = 1e-6) -> None:
    """Set the head's linear map to the ridge regression of pictures on features.

    Args:
        ridge: penalty, in mean squares of a feature.
    """
    left = right = None
    for face in faces:
        x = face.features[0].flatten(1).double()
        x = torch.cat([x, torch.ones_like(x[:1])])
        y = haar(face.picture)[0].flatten(1).double()
        left = x @ x.T if left is None else left + x @ x.T
        right = x @ y.T if right is None else right + x @ y.T
    assert left is not None and right is not None
    penalty = ridge * left.diagonal().mean() * torch.eye(len(left), dtype=left.dtype)
    solved = torch.linalg.solve(left + penalty.to(left.device), right).float()
    with torch.no_grad():
        head.linear.weight.copy_(solved[:-1].T[:, :, None, None])
        head.linear.bias.copy_(solved[-1])  # type: ignore[union-attr]


def trained_sides() -> set[int]:
    """Return the sides whose head has weights, ours or those in $DEID_WEIGHTS."""
    cards = own_cards()
    return {side for side in LAYERS if f"generator-head-{side}" in cards}


def load_head(side: int) -> Head:
    """A trained head on the CPU, float32.

    Raises:
        DeidError: its weights are not there, or altered.
    """
    tensors, card = own_weights(f"generator-head-{side}")
    head = Head(tensors["linear.weight"].shape[1], card.input["hidden"])
    head.load_state_dict({name: value.float() for name, value in tensors.items()})
    return head.eval().requires_grad_(False)
