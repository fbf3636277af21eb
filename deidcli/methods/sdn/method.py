"""sdn: another face for a password, and with the password the face again.

Pan, Chen, Wu, "Secure Dual Network for Reversible Facial Image Anonymization Through the Latent
Space Manipulation", Electronics 13 (2024).

The erasing network makes a surrogate face, whose person the identity network takes from the
password and the attributes asked for, and hides the original in it; the reveal network gives the
original back under the right password and attributes, and yet another person under others.

Kept: the five networks of sec. 3.1, eq. 5 to 15, algorithm 1, section 4's two terms, sec. 6.2.
What departs, and why (figures: docs/methods/sdn.md, docs/notes/sdn.md):

- **The key is a construction, not a trained network.** The original is hidden as a point on a
  sphere that the key turns (keys.py). In the paper a network learns to refuse wrong passwords,
  which one that was trained further would not. Here, too, whoever has the published picture knows
  of each password that they try whether it is right (`Bottleneck.likelihood`): only the cost of a
  try protects.
- **What is hidden, and where, is linear algebra** (bottleneck.py, fitting.py): principal
  components, on patterns that survive the way through a picture file. The paper lets the network
  find its own.
- **The surrogate is a person who does not exist** (identity.py), not another face of the set: no
  gallery is needed at run time, and nobody is exposed in another's place.
- The face within an ellipse is replaced, hair and ground stay.
- The refinement networks have no bottleneck of their own; they work on what the linear layers
  render, and change little of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import UsageError
from deidcli.faces.align import Mask
from deidcli.methods.base import Chip, Context, Method
from deidcli.methods.loading import Module, filled, load_part, ready
from deidcli.methods.sdn.bottleneck import Bottleneck
from deidcli.methods.sdn.identity import Identity
from deidcli.methods.sdn.keyed_map import PASSWORD_BITS, KeyedMap, expand, lock
from deidcli.methods.sdn.networks import (
    DEPTH,
    OUTSIDE,
    PADDING,
    SIZES,
    FeatureExtractor,
    RefinementNetwork,
    at_grid,
    at_side,
    edge_mask,
)
from deidcli.methods.sdn.settings import (
    SdnFacts,
    SdnSettings,
    canonical,
    parse_degrees,
    parse_wanted,
)
from deidcli.weights.own import own_weights

__all__ = ["PASSWORD_BITS", "SdnSettings", "SecureDualNetwork"]

MICRO_BATCH = 16
"""Faces that go through the networks at once, always as many: sums round by a batch's size."""
FACE = -30.0
"""Nats (Bottleneck.likelihood) above which an unlocked point is taken for a face. The likeliest of
58,800 points under wrong keys had -62, most have about -130; the unlikeliest of 120 faces under
their own keys, published as JPEG, 57."""


class SecureDualNetwork(SdnFacts, Method):
    """Another face for a password; with the password, `deid restore` brings the face back."""

    def __init__(self, settings: SdnSettings, device: str) -> None:
        self.settings = settings
        self.device = device
        self.size = SIZES[settings.size]
        self.chip = Chip(self.size.side, PADDING)
        self.mask: Mask = edge_mask(self.size.side)
        self._inside: Mask = (self.mask > OUTSIDE).astype(self.mask.dtype)
        """What `restore` gives back: all that the surrogate touched, its soft edge too."""
        self.wanted, self.shift = parse_wanted(settings.wanted), parse_degrees(settings.shift)
        self._bound = canonical(self.wanted, self.shift)
        tensors, _ = own_weights(self.weights(settings)[0])
        people = int(tensors["identity.codes"].shape[0])
        classes = int(tensors["extractor.persons.weight"].shape[0])
        size = self.size

        def loaded(module: Module, part: str) -> Module:
            load_part(module, part, tensors)
            return ready(module, device)

        self.bottleneck = loaded(Bottleneck(), "bottleneck")
        self.identity = loaded(Identity(people), "identity")
        self.extractor = loaded(FeatureExtractor(size, classes), "extractor")
        self.erasing = loaded(RefinementNetwork(size), "erasing")
        self.reveal = loaded(RefinementNetwork(size), "reveal")
        self._mask = torch.from_numpy(self.mask).to(device)
        self._check_directions()

    def _check_directions(self) -> None:
        """Make sure that the weights know each attribute that is asked for or shifted."""
        for name in (*self.wanted, *self.shift):
            if not bool(self.identity.steps[CELEBA_ATTRIBUTES.index(name)].any()):
                raise UsageError(
                    f"these weights have no direction for {name}",
                    "its training data had too few faces with or without it",
                )

    @property
    def restore_mask(self) -> Mask:
        """The mask of what `restore` brings back, (S, S): all that the surrogate covered, also
        where it only fades in."""
        return self._inside

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        """Replace faces (N, 3, S, S), float32 RGB in [0, 1], and hide the originals in them."""
        assert context.bits is not None, "sdn needs each face's bits"
        return self._in_batches(chips, context.bits, self._erase)

    def restore(self, chips: Tensor, bits: NDArray[np.uint8]) -> Tensor:
        """Return the originals of chips cut from published pictures, under the right bits and
        settings; under wrong ones, other people. Outside `restore_mask` the chips stay as given.

        Args:
            chips: (N, 3, S, S) float32 RGB in [0, 1]. bits: (N, 128) uint8 of 0 and 1.
        """
        return self._in_batches(chips, bits, self._reveal)

    def _in_batches(
        self, chips: Tensor, bits: NDArray[np.uint8], work: Callable[[Tensor, KeyedMap], Tensor]
    ) -> Tensor:
        """Put chips and their keys through a direction, MICRO_BATCH at once."""
        keys = expand(bits, self._bound)
        out = torch.empty_like(chips)
        for start in range(0, len(chips), MICRO_BATCH):
            rows = slice(start, start + MICRO_BATCH)
            full = filled(chips[rows], MICRO_BATCH)
            out[rows] = work(full, keys[rows].filled(MICRO_BATCH))[: len(chips[rows])]
        return out

    def _erase(self, chips: Tensor, keys: KeyedMap) -> Tensor:
        """Turn one batch of faces into surrogates with the faces hidden in them."""
        small = at_grid(chips)
        person = self._stranger(chips, small, keys.draws[:, 0], self.wanted, self.shift)
        rough = self.bottleneck.render(person, small)
        refined = self._refined(self.erasing, rough, chips)
        refined = DEPTH + (1 - 2 * DEPTH) * refined
        surrogate = self._mask * refined + (1 - self._mask) * chips
        points = lock(self.bottleneck.point(self.bottleneck.components(small)), keys)
        plain = at_grid(surrogate)
        pattern = self.bottleneck.hide(plain, points, self.settings.strength) - plain
        return (refined + at_side(pattern, self.size.side)).clamp(0, 1)

    def _reveal(self, chips: Tensor, keys: KeyedMap) -> Tensor:
        """Turn one batch of published faces into the originals, or into other people."""
        small = at_grid(chips)
        points, noise, nats = self.bottleneck.unlocked(self.bottleneck.read(small), keys)
        restored = self.bottleneck.from_point(points, noise)
        # Nothing is asked of the stranger: if all of them smiled, eyes alone saw a wrong key.
        other = self._stranger(chips, small, keys.draws[:, 1], {}, {})
        # What another key unlocks is noise; the stranger is to have as much as a right face has.
        other = self.bottleneck.as_read(other, points)
        components = torch.where((nats > FACE)[:, None], restored, other)
        return self._refined(self.reveal, self.bottleneck.render(components, small), chips)

    def _stranger(
        self,
        chips: Tensor,
        small: Tensor,
        draws: Tensor,
        wanted: Mapping[str, bool],
        shift: Mapping[str, float],
    ) -> Tensor:
        """Return the latents (N, LATENT) of the keys' persons, fitted to each face's edge."""
        logits, landmarks, _ = self.extractor(chips)
        rims, edges = self.bottleneck.rim(small, within=False), self.bottleneck.edge(small)
        drawn = self.identity.draw(logits, landmarks, rims, draws, wanted)
        return self.identity.latents(*drawn, edges, self.bottleneck.edge_fit, wanted, shift)

    def _refined(self, network: RefinementNetwork, rough: Tensor, chips: Tensor) -> Tensor:
        """Refine rough faces at GRID in the surroundings of chips, which stay; in [0, 1] inside."""
        inside = self._mask > OUTSIDE
        laid = torch.where(inside, at_side(rough, self.size.side), chips)
        return torch.where(inside, network(laid.clamp(0, 1), self._mask).clamp(0, 1), chips)
