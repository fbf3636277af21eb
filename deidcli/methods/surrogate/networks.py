"""The network: what a w would show."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from deidcli.generator.networks import WIDTH
from deidcli.methods.surrogate.description import NAMES

DESCRIPTOR = 128
"""Numbers of dlib's descriptor."""


class Predictor(nn.Module):
    """What the picture of a w would be described as: normal w (N, 512) -> (N, D + 128) normal
    numbers, those of NAMES and then dlib's descriptor.

    *Normal*: less the mean and divided by the deviation over the generator's own draws.
    """

    w_mean: Tensor
    w_deviation: Tensor
    covariance: Tensor
    precision: Tensor
    usual: Tensor
    center: Tensor
    deviation: Tensor
    doubt: Tensor

    def __init__(self, hidden: int = 768) -> None:
        super().__init__()
        count = len(NAMES) + DESCRIPTOR
        self.linear = nn.Linear(WIDTH, count)
        self.first, self.second = nn.Linear(WIDTH, hidden), nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, count)
        nn.init.zeros_(self.last.weight)
        for name, shape in (
            ("w_mean", (WIDTH,)), ("w_deviation", (WIDTH,)), ("covariance", (WIDTH, WIDTH)),
            ("center", (count,)), ("deviation", (count,)), ("doubt", (count,)),
        ):  # fmt: skip
            self.register_buffer(name, torch.ones(shape))
        self.register_buffer("precision", torch.eye(WIDTH))
        self.register_buffer("usual", torch.tensor(1.0))

    def forward(self, w: Tensor, drop: float = 0.0) -> Tensor:
        h = functional.dropout(functional.silu(self.first(w)), drop, self.training)
        h = functional.dropout(h + functional.silu(self.second(h)), drop, self.training)
        return cast(Tensor, self.linear(w) + self.last(h))

    def jacobian(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The slopes (D + 128, 512) and values (D + 128,) at a normal w (512,)."""
        a = self.first(w)
        h = functional.silu(a)
        b = self.second(h)
        values = self.linear(w) + self.last(h + functional.silu(b))
        inner = (self.last.weight * _silu_slope(b)) @ self.second.weight + self.last.weight
        slope = (inner * _silu_slope(a)) @ self.first.weight
        return slope + self.linear.weight, values

    def normal(self, w: Tensor) -> Tensor:
        return (w - self.w_mean) / self.w_deviation

    def plain(self, w: Tensor) -> Tensor:
        return w * self.w_deviation + self.w_mean

    def distance(self, w: Tensor) -> Tensor:
        """(...,) the Mahalanobis distance of normal w (..., 512) from the mean."""
        return ((w @ self.precision) * w).sum(-1).clamp(min=1e-6).sqrt()

    def prepare(self) -> None:
        """Derive `precision` and `usual` from `covariance`; call after loading."""
        identity = torch.eye(WIDTH)
        # Directions in which draws hardly differ would otherwise decide the distance.
        ridge = 0.05 * self.covariance.diagonal().mean() * identity
        self.precision.copy_(torch.linalg.inv(self.covariance + ridge))
        self.usual.fill_(float((self.precision @ self.covariance).trace()) ** 0.5)


def _silu_slope(x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return gate * (1 + x * (1 - gate))
