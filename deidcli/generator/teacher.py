"""What the whole generator draws for a head to learn from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from deidcli.generator.heads import LAYERS, late
from deidcli.generator.model import Generator, everywhere, mix
from deidcli.generator.networks import LAYERS as ALL_LAYERS
from deidcli.generator.networks import WIDTH

MARGIN = 2
"""Cells at a cut side of a window that are not those of the whole picture."""
TRUNCATION = (0.6, 1.0)
"""Truncations of the faces that are drawn, uniform between."""
SHARE_MIXED = 0.25
"""Of the faces, how many have another person's w at the places of identity."""


@dataclass(frozen=True)
class Example:
    """What a head sees and what it is to draw."""

    features: Tensor
    """(K, C, V, V)."""
    w: Tensor
    """(K, 512)."""
    picture: Tensor
    """(K, 3, 2 V, 2 V) in [-1, 1]: 1,024 px, clipped, averaged down."""
    weight: Tensor
    """(1, 1, V, V): 1 where the features are those of the whole picture, 0 in the margin."""


class Teacher:
    """The generator with random faces, numbered."""

    def __init__(self, generator: Generator, side: int, seed: int) -> None:
        """Args: side: of the pictures, 256 or 128 px."""
        self.generator = generator
        self.side = side
        self.layers = LAYERS[side]
        self.seed = seed

    def whole(self, number: int) -> Example:
        """One face, the whole picture."""
        w = self._face(number)
        with torch.no_grad():
            x = self.generator.synthesis.features(w, self.layers)
        return self._example(x, w, None, torch.ones_like(x[:1, :1]))

    def window(self, number: int, cells: int, styles: int, source: torch.Generator) -> Example:
        """A window of one face in several styles: its own, and those of others.

        Args:
            cells: side of the window, in cells of the features.
            source: of where the window lies and of whose the styles are.
        """
        w = self._face(number).repeat(styles, 1, 1)
        w[1:, 1 + 3 * self.layers :] = self._random(styles, source)[1:, None]
        side = self.side // 2
        room = max(0, side - cells)
        # Drawn from a wider range and clipped, so that the picture's edges come up as often.
        drawn = torch.randint(-2 * MARGIN, room + 2 * MARGIN + 1, (2,), generator=source)
        top, left = drawn.clamp(0, room).tolist()
        held = torch.zeros(side, side)
        low_y, high_y = _inside(top, cells, side)
        low_x, high_x = _inside(left, cells, side)
        held[low_y:high_y, low_x:high_x] = 1
        cut = (slice(top, top + cells), slice(left, left + cells))
        with torch.no_grad():
            x = self.generator.synthesis.features(w[:1], self.layers)[:, :, cut[0], cut[1]]
        weight = held[cut][None, None].to(x.device)
        return self._example(x.repeat(styles, 1, 1, 1), w, (top, left), weight)

    def _example(
        self, x: Tensor, w: Tensor, corner: tuple[int, int] | None, weight: Tensor
    ) -> Example:
        network = self.generator.synthesis
        with torch.no_grad():
            last = network.through(x, w, self.layers, ALL_LAYERS, corner)
            picture = network.picture(last, w).clamp(-1, 1)
            small = functional.avg_pool2d(picture, 1024 // self.side)
        return Example(x, late(w, self.side), small, weight)

    def _face(self, number: int) -> Tensor:
        """(1, 23, 512): the w of a numbered face."""
        source = torch.Generator().manual_seed((self.seed * 1_000_003 + number) % (1 << 62))
        w = self._random(2, source)
        mixed = float(torch.rand(1, generator=source)) < SHARE_MIXED
        return mix(w[:1], w[1:]) if mixed else everywhere(w[:1]).clone()

    def _random(self, count: int, source: torch.Generator) -> Tensor:
        """(count, 512)."""
        z = torch.randn(count, WIDTH, generator=source)
        low, high = TRUNCATION
        kept = low + (high - low) * torch.rand(count, 1, generator=source)
        return self.generator.w_of(z, kept.to(self.generator.device))


def _inside(start: int, cells: int, side: int) -> tuple[int, int]:
    """The part of a window without its margins; the picture's own edge needs none."""
    end = min(start + cells, side)
    return start + (MARGIN if start > 0 else 0), end - (MARGIN if end < side else 0)
