"""The networks: what a view shows where, who is in it, and what a w would show."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from deidcli.generator.networks import WIDTH
from deidcli.methods.surrogate.description import NAMES
from deidcli.methods.surrogate.segmentation import CLASSES

WIDTHS = (16, 32, 64, 96, 128)
"""Channels of the segmenter from the view's full side to a sixteenth."""


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Segmenter(nn.Module):
    """A small U-Net (Ronneberger et al. 2015, arXiv:1505.04597, fig. 1).

    (N, 3, S, S) -> (N, 6, S, S) logits of the classes in `segmentation`; S a multiple of 16.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS, last: int = 24) -> None:
        super().__init__()
        a, b, c, d, e = widths
        self.d0 = _convolution(3, a)
        self.d1 = nn.Sequential(_convolution(a, b, 2), _convolution(b, b))
        self.d2 = nn.Sequential(_convolution(b, c, 2), _convolution(c, c))
        self.d3 = nn.Sequential(_convolution(c, d, 2), _convolution(d, d))
        self.d4 = nn.Sequential(_convolution(d, e, 2), _convolution(e, e), _convolution(e, e))
        self.u3, self.u2 = _convolution(e + d, d), _convolution(d + c, c)
        self.u1, self.u0 = _convolution(c + b, b), _convolution(b + a, last)
        self.out = nn.Conv2d(last, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.d0(x)
        b = self.d1(a)
        c = self.d2(b)
        d = self.d3(c)
        y = self.u3(torch.cat([_doubled(self.d4(d)), d], 1))
        y = self.u2(torch.cat([_doubled(y), c], 1))
        y = self.u1(torch.cat([_doubled(y), b], 1))
        y = self.u0(torch.cat([_doubled(y), a], 1))
        return cast(Tensor, self.out(y))


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


FEATURES = 5760
"""Numbers that `Reader` takes, see `pooled`."""
ANSWERS = 41
"""CelebA's forty attributes, then age."""
AGE_CENTER, AGE_SCALE = 35.0, 15.0
"""Years of the answer 0, and of one step of it."""


def pooled(maps: list[Tensor]) -> Tensor:
    """What `Reader` takes of the maps of dlib's recognizer: (N, 5760).

    Its layers of 8x8, 4x4 and 2x2 cells, averaged to 5x5, 3x3 and 1 of them: the last one, of
    which identity is made, counts least.
    """
    last = {found.shape[-1]: found for found in maps}
    third, fourth, *_, final = (last[side] for side in sorted(last, reverse=True)[2:])
    parts = [functional.adaptive_avg_pool2d(third, 5), functional.adaptive_avg_pool2d(fourth, 3)]
    return torch.cat([*(part.flatten(1) for part in parts), final.mean((2, 3))], 1)


class Reader(nn.Module):
    """Attributes and age from what dlib's recognizer sees on the way: (N, 5760) -> (N, 41)."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, hidden: int = 256) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("deviation", torch.ones(FEATURES))
        self.first, self.second = nn.Linear(FEATURES, hidden), nn.Linear(hidden, ANSWERS)

    def forward(self, x: Tensor, drop: float = 0.0) -> Tensor:
        """Log-odds of the attributes, and age as (years - 35) / 15."""
        x = ((x - self.mean) / self.deviation).clamp(-4, 4)
        x = functional.dropout(x, drop, self.training)
        x = functional.dropout(functional.leaky_relu(self.first(x), 0.2), drop, self.training)
        return cast(Tensor, self.second(x))


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
