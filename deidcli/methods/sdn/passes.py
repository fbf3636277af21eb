"""One pass over a batch in training: a face becomes a surrogate, is published, comes back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.methods.sdn.bottleneck import LATENT, Bottleneck
from deidcli.methods.sdn.channel import passed, random_passage
from deidcli.methods.sdn.identity import KEPT, Identity
from deidcli.methods.sdn.keyed_map import KeyedMap, lock, random_keys
from deidcli.methods.sdn.networks import (
    DEPTH,
    GRID,
    OUTSIDE,
    FeatureExtractor,
    RefinementNetwork,
    Size,
    at_grid,
    at_side,
    edge_mask,
)

TONE_CONTRAST, TONE_SHIFT = 0.08, 0.03
"""Standard deviations by which the tone of eq. 6's inputs is off."""


class Description(NamedTuple):
    """What the identity network chooses by, of N faces."""

    logits: Tensor
    """(N, 40) of the attributes."""
    landmarks: Tensor
    """(N, 10) in standard deviations."""
    rims: Tensor
    """(N, 3 * SECTORS), see `Bottleneck.rim`."""
    edges: Tensor
    """(N, EDGE), see `Bottleneck.edge`."""


class Pass(NamedTuple):
    """What one pass over N faces gives; pictures are (N, 3, S, S)."""

    same: Tensor
    """The faces, refined from their own latents (eq. 6)."""
    surrogate: Tensor
    """Another person's face; without the hidden pattern."""
    right: Tensor
    """Restored with the right key."""
    wrong: Tensor
    """Restored with another key."""
    seen: Tensor
    """What was published, as `restore` gets to see it."""
    wanted: Tensor
    """(N, 40) attributes asked for, -1 where none is."""
    sources: Tensor
    """(N,) persons whose latents the surrogates have, -1 for the pool's."""
    strangers: Tensor
    """(N,) those of the wrong restorations."""


class BothDirections(nn.Module):
    """The networks, in both directions, as they are trained."""

    def __init__(
        self,
        size: Size,
        extractor: FeatureExtractor,
        bottleneck: Bottleneck,
        pool: Identity,
        people: Identity,
        persons: Tensor,
        strength: float,
    ) -> None:
        """
        Args:
            pool: the persons that are published. people: training faces of known `persons` (P,).
            strength: of the hidden pattern, gray levels of 255.
        """
        super().__init__()
        self.extractor, self.bottleneck = extractor, bottleneck
        self.pool, self.people, self.persons = pool, people, persons
        self.strength = strength
        self.erasing, self.reveal = RefinementNetwork(size), RefinementNetwork(size)
        self.register_buffer("mask", torch.from_numpy(edge_mask(size.side)), persistent=False)

    mask: Tensor

    def forward(self, chips: Tensor, generator: torch.Generator) -> Pass:
        """Take faces I_y, (N, 3, S, S) float RGB in [0, 1], through both directions."""
        small = at_grid(chips)
        components = self.bottleneck.components(small)
        keys, others = (random_keys(len(chips), generator) for _ in range(2))
        described = self.describe(chips)
        latents, sources = self._latents(described, keys.draws[:, 0])
        rough = self.bottleneck.render(latents, small)
        surrogate = self._blended(self.refine(self.erasing, rough, chips), chips)
        with torch.no_grad():
            published = self._published(surrogate, components, keys)
            seen = self._seen(published, generator)
            restored, other, strangers = self._read(seen, keys, others)
            own = self._own(components, small, at_grid(surrogate), generator)
        return Pass(
            self._laid(self.refine(self.erasing, own, chips), chips),
            surrogate,
            self._laid(self.refine(self.reveal, restored, seen), seen),
            self._laid(self.refine(self.reveal, other, seen), seen),
            seen,
            _kept(described.logits),
            sources,
            strangers,
        )

    def refine(self, network: nn.Module, rough: Tensor, chips: Tensor) -> Tensor:
        """Refine rough faces (N, 3, 64, 64) in the surroundings of chips (N, 3, S, S)."""
        inside = self.mask > OUTSIDE
        laid = torch.where(inside, at_side(rough, chips.shape[-1]), chips).clamp(0, 1)
        out: Tensor = network(laid, self.mask)
        return out

    def _laid(self, face: Tensor, chips: Tensor) -> Tensor:
        return torch.where(self.mask > OUTSIDE, face, chips)

    def _blended(self, face: Tensor, chips: Tensor) -> Tensor:
        face = DEPTH + (1 - 2 * DEPTH) * face
        return self.mask * face + (1 - self.mask) * chips

    def _published(self, surrogate: Tensor, components: Tensor, keys: KeyedMap) -> Tensor:
        """Hide the originals' components in their surrogates."""
        points = lock(self.bottleneck.point(components), keys)
        plain = at_grid(surrogate)
        pattern = self.bottleneck.hide(plain, points, self.strength) - plain
        return (surrogate + at_side(pattern, surrogate.shape[-1])).clamp(0, 1)

    def _seen(self, published: Tensor, generator: torch.Generator) -> Tensor:
        """Return published chips as `restore` gets to see them."""
        passage = random_passage(generator)
        if published.shape[-1] == GRID:
            return passed(published.cpu(), passage, generator).to(published)
        # The way is modeled at 64 px; what is finer stays as it was.
        small = at_grid(published)
        change = passed(small.cpu(), passage, generator).to(published) - small
        return published + at_side(change, published.shape[-1])

    def _read(
        self, seen: Tensor, keys: KeyedMap, others: KeyedMap
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rough faces (N, 3, 64, 64) under the right keys and under others, and the
        persons (N,) of the latter."""
        small = at_grid(seen)
        read = self.bottleneck.read(small)
        point, noise, _ = self.bottleneck.unlocked(read, keys)
        restored = self.bottleneck.render(self.bottleneck.from_point(point, noise), small)
        latents, strangers = self._latents(self.describe(seen), others.draws[:, 1])
        astray, _, _ = self.bottleneck.unlocked(read, others)
        other = self.bottleneck.render(self.bottleneck.as_read(latents, astray), small)
        return restored, other, strangers

    @torch.no_grad()
    def describe(self, chips: Tensor) -> Description:
        """Describe faces (N, 3, S, S) for the identity network."""
        logits, landmarks, _ = self.extractor(chips)
        small = at_grid(chips)
        rims = self.bottleneck.rim(small, within=False)
        return Description(logits, landmarks, rims, self.bottleneck.edge(small))

    @torch.no_grad()
    def _latents(self, described: Description, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Draw latents of the pool for the first half, of known people for the second; return them
        and their persons, -1 for the pool's."""
        half = len(draws) // 2
        latents, rows = [], []
        for net, some in ((self.pool, slice(half)), (self.people, slice(half, None))):
            logits, landmarks, rims, edges = (part[some] for part in described)
            drawn = net.draw(logits, landmarks, rims, draws[some], {})
            latents.append(net.latents(*drawn, edges, self.bottleneck.edge_fit, {}, {}))
            rows.append(drawn[0])
        known = self.persons.to(rows[1].device)[rows[1]]
        return torch.cat(latents), torch.cat([torch.full_like(rows[0], -1), known])

    def _own(
        self, components: Tensor, small: Tensor, surrogate: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return eq. 6's inputs, (N, 3, 64, 64): a face's own latent, for half of them over the
        surrogate; its tone a little off, for a stranger's tone never fits wholly.

        The surrogate does not reach the loss: `refine` takes its surroundings from the original, so
        eq. 6's two terms are one (docs/notes/sdn.md). It stays, so that the weights that are
        trained stay the same.
        """
        half = len(small) // 2
        around = torch.cat([small[:half], surrogate[half:]])
        rough = self.bottleneck.render(components[:, :LATENT], around)
        noise = torch.randn(2, len(small), 3, 1, 1, generator=generator).to(small)
        return (rough - 0.5) * (1 + TONE_CONTRAST * noise[0]) + 0.5 + TONE_SHIFT * noise[1]


def _kept(logits: Tensor) -> Tensor:
    """Return what is asked of a surrogate where nothing is, (N, 40): the kept attributes as they
    are, -1 for the others."""
    wanted = torch.full_like(logits, -1.0)
    for name in KEPT:
        column = CELEBA_ATTRIBUTES.index(name)
        wanted[:, column] = (logits[:, column] > 0).float()
    return wanted
