"""CelebA's forty attributes and age, read off what dlib's recognizer sees on the way."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

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
