"""sdn: another face for a password, and with the password the face again.

Pan, Chen, Wu, "Secure Dual Network for Reversible Facial Image Anonymization Through the Latent
Space Manipulation", Electronics 13 (2024).

The erasing network paints a surrogate face, whose person the identity network takes from the
password and the attributes asked for, and hides the original in it; the reveal network gives the
original back under the right password and attributes, and yet another person under others.

Kept: the five networks of sec. 3.1, eq. 5 to 15, algorithm 1, section 4's two terms, sec. 6.2.
What departs, and why (figures: docs/methods/sdn.md):

- **The password holds by construction, not by training.** The original is hidden as a point on a
  sphere that the key turns (sdn_keys). In the paper a network learns to refuse wrong passwords,
  which one that was trained further would not.
- **What is hidden, and where, is linear algebra** (sdn_bottleneck, sdn_fitting): principal
  components, on patterns that survive the way through a picture file. The paper lets the network
  find its own.
- **The surrogate is a person who does not exist** (sdn_identity), not another face of the set: no
  gallery is needed at run time, and nobody is exposed in another's place.
- The face within an ellipse is replaced, hair and ground stay.
- The painters have no bottleneck of their own; they work on what the linear layers render.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import UsageError
from deidcli.faces.align import Mask
from deidcli.methods.base import Chip, Context, Method
from deidcli.methods.sdn.bottleneck import Bottleneck
from deidcli.methods.sdn.identity import Identity
from deidcli.methods.sdn.keys import PASSWORD_BITS, Keys, expand, lock
from deidcli.methods.sdn.networks import (
    OUTSIDE,
    PADDING,
    SIZES,
    FeatureExtractor,
    Painter,
    at_grid,
    at_side,
    edge_mask,
)
from deidcli.methods.sdn.settings import Facts, Settings, canonical, parse_degrees, parse_wanted
from deidcli.weights.own import own_weights

__all__ = ["PASSWORD_BITS", "SecureDualNetwork", "Settings"]

MICRO_BATCH = 16
"""Faces that go through the networks at once, always as many: sums round by a batch's size."""
FACE = -30.0
"""Nats (Bottleneck.likelihood) above which an unlocked point is taken for a face. The likeliest of
48,000 points under wrong keys had -62, most have about -100; the unlikeliest of 48 faces under
their own keys, published as JPEG, 79."""
DEPTH = 0.02
"""The surrogate keeps so far from black and white that the pattern fits in."""


class SecureDualNetwork(Facts, Method):
    """Another face for a password; `deid restore` gives the face again to who has it."""

    def __init__(self, settings: Settings, device: str) -> None:
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
        self.bottleneck: Bottleneck = _ready(Bottleneck(), "bottleneck", tensors, device)
        self.identity: Identity = _ready(Identity(people), "identity", tensors, device)
        self.extractor: FeatureExtractor = _ready(
            FeatureExtractor(self.size, classes), "extractor", tensors, device
        )
        self.erasing: Painter = _ready(Painter(self.size), "erasing", tensors, device)
        self.reveal: Painter = _ready(Painter(self.size), "reveal", tensors, device)
        self._mask = torch.from_numpy(self.mask).to(device)
        self._check_directions()

    def _check_directions(self) -> None:
        for name in (*self.wanted, *self.shift):
            if not bool(self.identity.steps[CELEBA_ATTRIBUTES.index(name)].any()):
                raise UsageError(
                    f"these weights have no direction for {name}",
                    "its training data had too few faces with or without it",
                )

    @property
    def restore_mask(self) -> Mask:
        """(S, S): all that the surrogate covered, also where it only fades in."""
        return self._inside

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        assert context.bits is not None, "sdn needs each face's bits"
        return self._in_batches(chips, context.bits, self._erase)

    def restore(self, chips: Tensor, bits: NDArray[Any]) -> Tensor:
        """Chips cut from published pictures -> the originals under the right bits and settings,
        other people under wrong ones; outside `restore_mask` as given.

        Args:
            chips: (N, 3, S, S) float32 RGB in [0, 1]. bits: (N, 128) of 0 and 1.
        """
        return self._in_batches(chips, bits, self._reveal)

    def _in_batches(self, chips: Tensor, bits: NDArray[Any], work: Any) -> Tensor:
        keys = expand(bits, self._bound)
        out = torch.empty_like(chips)
        for start in range(0, len(chips), MICRO_BATCH):
            rows = slice(start, start + MICRO_BATCH)
            count = len(chips[rows])
            full = chips.new_zeros(MICRO_BATCH, *chips.shape[1:])
            full[:count] = chips[rows]
            out[rows] = work(full, _filled(keys[rows]))[:count]
        return out

    def _erase(self, chips: Tensor, keys: Keys) -> Tensor:
        """One batch of faces -> surrogates with the faces in them."""
        small = at_grid(chips)
        person = self._stranger(chips, small, keys.draws[:, 0], self.wanted, self.shift)
        rough = self.bottleneck.render(person, small)
        painted = self._painted(self.erasing, rough, chips)
        painted = DEPTH + (1 - 2 * DEPTH) * painted
        surrogate = self._mask * painted + (1 - self._mask) * chips
        points = lock(self.bottleneck.point(self.bottleneck.components(small)), keys)
        plain = at_grid(surrogate)
        pattern = self.bottleneck.hide(plain, points, self.settings.strength) - plain
        return (painted + at_side(pattern, self.size.side)).clamp(0, 1)

    def _reveal(self, chips: Tensor, keys: Keys) -> Tensor:
        """One batch of published faces -> originals, or other people."""
        small = at_grid(chips)
        points, noise, nats = self.bottleneck.unlocked(self.bottleneck.read(small), keys)
        restored = self.bottleneck.from_point(points, noise)
        # Nothing is asked of the stranger: if all of them smiled, one saw that the guess was wrong.
        other = self._stranger(chips, small, keys.draws[:, 1], {}, {})
        # What another key unlocks is noise; the stranger is to have as much as a right face has.
        other = self.bottleneck.as_read(other, points)
        components = torch.where((nats > FACE)[:, None], restored, other)
        return self._painted(self.reveal, self.bottleneck.render(components, small), chips)

    def _stranger(
        self,
        chips: Tensor,
        small: Tensor,
        draws: Tensor,
        wanted: Mapping[str, bool],
        shift: Mapping[str, float],
    ) -> Tensor:
        """The key's person, fitted to each face's edge: (N, LATENT)."""
        logits, landmarks, _ = self.extractor(chips)
        rims, edges = self.bottleneck.rim(small, within=False), self.bottleneck.edge(small)
        drawn = self.identity.draw(logits, landmarks, rims, draws, wanted)
        return self.identity.latents(*drawn, edges, self.bottleneck.edge_fit, wanted, shift)

    def _painted(self, painter: Painter, rough: Tensor, chips: Tensor) -> Tensor:
        """A rough face at GRID, painted into chips: as they are outside, in [0, 1] inside."""
        inside = self._mask > OUTSIDE
        laid = torch.where(inside, at_side(rough, self.size.side), chips)
        return torch.where(inside, painter(laid.clamp(0, 1), self._mask).clamp(0, 1), chips)


def _filled(keys: Keys) -> Keys:
    """Keys of MICRO_BATCH faces; the missing ones are those of the first."""
    rows = torch.arange(MICRO_BATCH)
    rows = torch.where(rows < len(keys.order), rows, 0)
    return Keys(keys.order[rows], keys.before[rows], keys.after[rows], keys.draws[rows])


def _ready(module: Any, part: str, tensors: dict[str, Tensor], device: str) -> Any:
    """Give a network what a file holds under `part.`; fp16 becomes float32."""
    found = {
        key.removeprefix(f"{part}."): value.float()
        for key, value in tensors.items()
        if key.startswith(f"{part}.")
    }
    counters = {k: v for k, v in module.state_dict().items() if k.endswith("num_batches_tracked")}
    module.load_state_dict(counters | found)
    return module.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
