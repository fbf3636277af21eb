"""Batches of pairs: source, target, latent and mask, varied as photographs vary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.methods.a3gan.geometry import MARGIN_SIDE, SIDE, VEIL, veiled
from deidcli.methods.a3gan.pairs import GROUP, TRUNCATION, Components, block_path
from deidcli.methods.a3gan.settings import ATTRIBUTES

DIFFERENT = 1.0
"""Two answers differ if their signs do and they are at least so far apart, in log-odds."""
HEAD = (0.3, 0.5)
"""Where the outline of a head begins, and how far it reaches, in shares of head."""
TURN, ZOOM, SHIFT = 0.1, 0.08, 0.03
"""Highest turn (radians), change of scale and shift (sides of the chip) of a pair."""
PER_GROUP = GROUP * (GROUP - 1)


@dataclass(frozen=True)
class Batch:
    """B pairs."""

    source: Tensor
    """(B, 3, S, S) in [0, 1]: the picture as it is."""
    target: Tensor
    """(B, 3, S, S): the same with another person."""
    head: Tensor
    """(B, 1, S, S) in [0, 1]: the heads of both."""
    latent: Tensor
    """(B, L): who the other is."""
    mask: Tensor
    """(B, 10): which attributes differ."""
    present: Tensor
    """(B, 10): those of the source."""


class Pairs:
    """All pairs of the blocks in a folder, in memory."""

    def __init__(self, folder: Path, blocks: int, components: Components) -> None:
        parts = []
        for index in range(blocks):
            with np.load(block_path(folder, index)) as block:
                parts.append({name: block[name] for name in block.files})
        names = ("pictures", "heads", "codes", "answers")
        joined = [np.concatenate([part[name] for part in parts]) for name in names]
        self.pictures, self.heads, self.codes, answers = map(torch.from_numpy, joined)
        columns = [CELEBA_ATTRIBUTES.index(name) for name in ATTRIBUTES]
        self.answers = answers[..., columns]
        self.telling = components.telling()

    def __len__(self) -> int:
        return len(self.pictures) * PER_GROUP

    def batch(
        self,
        rows: Tensor,
        random: torch.Generator,
        device: str,
        vary: bool = True,
        veil: float = 0.0,
        coarse: float = 0.0,
    ) -> Batch:
        """The pairs `rows` (B,), each in [0, len(self)).

        Args:
            veil: share of sources whose head is averaged over cells, so that the person has to
                come from the latent: networks that only see whole sources learn to copy them.
            coarse: share of the veiled sources with cells twice as wide, of which latent and mask
                tell what cannot be seen.
        """
        group, order = rows // PER_GROUP, rows % PER_GROUP
        first = order // (GROUP - 1)
        second = (first + 1 + order % (GROUP - 1)) % GROUP
        before, after = self.answers[group, first], self.answers[group, second]
        mask = ((before < 0) != (after < 0)) & ((before - after).abs() >= DIFFERENT)
        latent = self._latent(self.codes[group, second], random)
        pictures = torch.stack([self.pictures[group, first], self.pictures[group, second]], 1)
        heads = torch.stack([self.heads[group, first], self.heads[group, second]], 1).amax(1)
        pictures = pictures.to(device).permute(0, 1, 4, 2, 3).float() / 255
        heads = ((heads.to(device).float()[:, None] / 255 - HEAD[0]) / HEAD[1]).clamp(0, 1)
        stacked = torch.cat([pictures.flatten(1, 2), heads], 1)
        source, target, head = torch.split(_moved(stacked, random, vary), [3, 3, 1], 1)
        # The style mix tints ground and clothes, too; those are to stay.
        target = target * head + source * (1 - head)
        if vary:
            source, target = _as_photographed(source, target, random)
        some, wide = torch.rand(2, len(source), 1, 1, 1, generator=random)
        fine = (some < veil) & (wide >= coarse)
        source = veiled(source, fine.to(source) * head)
        source = veiled(source, ((some < veil) & (wide < coarse)).to(source) * head, 2 * VEIL)
        last = torch.channels_last
        return Batch(
            source.contiguous(memory_format=last),
            target.contiguous(memory_format=last),
            head,
            latent.to(device),
            mask.float().to(device),
            (before > 0).float().to(device),
        )

    def _latent(self, codes: Tensor, random: torch.Generator) -> Tensor:
        """(B, K) codes -> latents: in units of their deviation, noise in place of what tells
        attributes."""
        unit = codes / TRUNCATION
        noise = torch.randn(len(unit), self.telling.shape[1], generator=random)
        return unit + (noise - unit @ self.telling) @ self.telling.T


def _moved(stacked: Tensor, random: torch.Generator, vary: bool) -> Tensor:
    """Cut chips out of chips with a margin, (B, C, M, M) -> (B, C, S, S): turned, scaled and
    shifted a little, half of them mirrored; or from the middle."""
    if not vary:
        edge = (MARGIN_SIDE - SIDE) // 2
        return stacked[:, :, edge : edge + SIDE, edge : edge + SIDE]
    count, device = len(stacked), stacked.device
    turn, zoom, x, y, flip = (2 * torch.rand(5, count, generator=random) - 1).to(device)
    scale = SIDE / MARGIN_SIDE * (1 + ZOOM * zoom)
    cosine, sine = scale * torch.cos(TURN * turn), scale * torch.sin(TURN * turn)
    sign = torch.where(flip < 0, -1.0, 1.0)
    rows = [
        torch.stack([sign * cosine, -sine, SHIFT * x], 1),
        torch.stack([sign * sine, cosine, SHIFT * y], 1),
    ]
    grid = functional.affine_grid(
        torch.stack(rows, 1), [count, stacked.shape[1], SIDE, SIDE], align_corners=False
    )
    return functional.grid_sample(stacked, grid, padding_mode="reflection", align_corners=False)


def _as_photographed(
    source: Tensor, target: Tensor, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Light, color and softness vary, alike in both; noise is in the source alone."""
    count, device = len(source), source.device
    gain = (0.75 + 0.5 * torch.rand(count, 1, 1, 1, generator=random)).to(device)
    tint = (1 + 0.16 * (torch.rand(count, 3, 1, 1, generator=random) - 0.5)).to(device)
    shift = (0.16 * (torch.rand(count, 1, 1, 1, generator=random) - 0.5)).to(device)
    gray = (torch.rand(count, 1, 1, 1, generator=random) * 0.5).to(device)
    soft = ((torch.rand(count, 1, 1, 1, generator=random) - 0.6).clamp(min=0) * 2).to(device)
    found = []
    for given in (source, target):
        chips = torch.lerp(given, given.mean(1, keepdim=True), gray)
        chips = ((chips - 0.45) * gain + 0.45) * tint + shift
        small = functional.interpolate(
            functional.avg_pool2d(chips, 2), scale_factor=2.0, mode="bilinear"
        )
        found.append(torch.lerp(chips, small, soft).clamp(0, 1))
    strength = 0.04 * (torch.rand(count, 1, 1, 1, generator=random) - 0.4).clamp(min=0)
    noise = torch.randn(found[0].shape, generator=random) * strength
    return (found[0] + noise.to(device)).clamp(0, 1), found[1]
