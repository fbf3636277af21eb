"""Enhanced embedded autoencoders: a face goes in, a picture without a face comes out.

Liu, Zhao, Li, Min, Li, "Enhanced Embedded AutoEncoders: An Attribute-Preserving Face
De-identification Framework", IEEE Internet of Things Journal 2023. From the published picture the
asked attributes, and nothing else, can be predicted. An external autoencoder turns the face into
a code r, an internal autoencoder replaces r by y, near the map d of the Feature Selection Network
(FSN), and the external decoder turns y into the picture. The Privacy Evaluation Network (PEN)
must see no likeness. The external autoencoder alone is the ablation SPRN, `network=sprn`.

The internal code is one number per attribute, rounded to +1 or -1, so a set of m attributes has at
most 2^m pictures and nobody can read more than m bits of a face. docs/notes/eae.md lists what
else departs from the paper, and why.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from deidcli.celeba import parse_attributes
from deidcli.faces.align import Mask
from deidcli.methods.base import Chip, Context, Method
from deidcli.methods.eae.networks import (
    PADDING,
    SIDE,
    SIZES,
    ExternalAutoencoder,
    InternalAutoencoder,
    bits_of,
    code_of,
)
from deidcli.methods.eae.settings import EaeFacts, EaeSettings, card_name, card_of
from deidcli.methods.loading import filled, load_part, ready
from deidcli.methods.masks import soft_square
from deidcli.weights.own import own_weights

SOFT_EDGE = 0.1
"""Width of the mask's soft edge within the chip, in sides of the mean face."""
MICRO_BATCH = 8
"""Faces that go through the encoder at once, always exactly so many: see methods.loading."""


class EmbeddedAutoencoders(EaeFacts, Method):
    """A picture without a face, from which only the asked attributes can be read."""

    def __init__(self, settings: EaeSettings, device: str) -> None:
        self.settings = settings
        self.device = device
        self.size = SIZES[settings.size]
        self.chip = Chip(SIDE, PADDING)
        self.mask = _mask()
        name = card_of(settings)
        sprn = settings.network == "sprn"
        self.external = ExternalAutoencoder(self.size)
        external = name if sprn else card_name(settings.size, "external")
        load_part(self.external, "", own_weights(external)[0])
        ready(self.external, device)
        self.internal: InternalAutoencoder | None = None
        if not sprn:
            self.internal = InternalAutoencoder(self.size, len(parse_attributes(settings.attrs)))
            load_part(self.internal, "", own_weights(name)[0])
            ready(self.internal, device)
        self._pictures: dict[tuple[float, ...], Tensor] = {}

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        """Return the published pictures: (N, 3, 224, 224) float32 RGB in [0, 1] -> the same."""
        factor = SIDE // self.size.side
        small = functional.avg_pool2d(chips, factor) if factor > 1 else chips
        parts = [self._published(few) for few in torch.split(small, MICRO_BATCH)]
        # Doubled pixels: averaging them gives back exactly what the network made.
        return functional.interpolate(torch.cat(parts), scale_factor=factor)

    def _published(self, chips: Tensor) -> Tensor:
        """Return the pictures of at most MICRO_BATCH chips: (N, 3, S, S) -> the same."""
        full = filled(chips, MICRO_BATCH).contiguous(memory_format=torch.channels_last)
        if self.internal is None:
            out: Tensor = self.external(full)[: len(chips)]
            return out
        bits = bits_of(code_of(self.external, self.internal, full))[: len(chips)]
        return torch.cat([self.picture_of(tuple(row.tolist())) for row in bits])

    def picture_of(self, bits: tuple[float, ...]) -> Tensor:
        """Return the picture of one code, which is computed once a process.

        Args:
            bits: m numbers, -1 or 1, in the order of `settings.names_of`.

        Returns:
            (1, 3, S, S) float32 RGB in [0, 1].
        """
        if bits not in self._pictures:
            assert self.internal is not None, "the ablation has no internal autoencoder"
            y = self.internal.decode(torch.tensor([bits], device=self.device))
            self._pictures[bits] = self.external.decode(y)
        return self._pictures[bits]


def _mask() -> Mask:
    """Return the mask (SIDE, SIDE) float32: 1 inside, falling to 0 over SOFT_EDGE at the edge."""
    return soft_square(SIDE, PADDING, SOFT_EDGE)
