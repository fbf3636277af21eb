"""Enhanced embedded autoencoders: a face goes in, a picture without a face comes out.

Liu, Zhao, Li, Min, Li, "Enhanced Embedded AutoEncoders: An Attribute-Preserving Face
De-identification Framework", IEEE Internet of Things Journal 2023. From the published picture the
asked attributes, and nothing else, can be predicted. An external autoencoder turns the face into
a code r, an internal autoencoder replaces r by y, near the map d of the Feature Selection Network
(FSN), and the external decoder turns y into the picture. The Privacy Evaluation Network (PEN)
must see no likeness. One external autoencoder alone is the ablation SPRN, `network=sprn`.

Kept: the four networks with their counts of layers, eq. 4 to 8, the three procedures, all but the
internal autoencoder frozen in evaluation mode. What departs, and why:

- **The internal code is one number an attribute, rounded to +1 or -1.** The paper leaves its size
  open and reports that faces with the same attributes get identical pictures; here they do by
  construction, so m attributes give at most 2^m pictures and nobody can read more than m bits of a
  face. Rounding passes no gradient, so the attribute term of eq. 7 is also laid on that code,
  where it trains the internal encoder (with the FSN's probabilities as soft labels).
- Four of the six pooled blocks of the FSN halve the map (224 -> 14), the others pool with stride
  1; six halvings would leave 3 x 3. `compact` (112 px, 192 x 7 x 7) halves once by the stride of
  its first convolution, which costs a third.
- The external encoder is the FSN's first five blocks, and the reconstruction loss trains its
  decoder alone: trained by that loss itself, the encoder lost what tells a smile. The internal
  encoder's first layer starts from the FSN's sixth block.
- The negative part of the cosine (eq. 5) is cut off: below 0 it would teach an "anti-identity",
  which can be turned round.
- One FSN with a group for each of G, S, B, E, Y serves every set; since y depends on the bits of
  the asked attributes alone, the rest of d does not reach the picture.
- A term of ours makes a set's pictures alike to the PEN, see `eae_pen.likeness_loss`.
- AdamW in place of SGD; means in place of sums over a map, so that the terms have like scales.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
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
    frozen,
)
from deidcli.methods.eae.settings import Facts, Settings, card_name, card_of
from deidcli.weights.own import own_weights

SOFT = 0.1
"""Width of the soft edge within the chip, in sides of the mean face."""
MICRO_BATCH = 8
"""Faces that go through the encoder at once, always exactly so many: see faces.recognizers."""


# --- The class that is called


def load_part(module: nn.Module, name: str, device: str | torch.device) -> nn.Module:
    """Give a network the tensors of our weights `name`, ready for inference."""
    tensors = {key: value.float() for key, value in own_weights(name)[0].items()}
    counters = {k: v for k, v in module.state_dict().items() if k.endswith("num_batches_tracked")}
    module.load_state_dict({**counters, **tensors})
    return frozen(module.to(device))


class EmbeddedAutoencoders(Facts, Method):
    """A picture without a face, from which only the asked attributes can be read."""

    def __init__(self, settings: Settings, device: str) -> None:
        self.settings = settings
        self.device = device
        self.size = SIZES[settings.size]
        self.chip = Chip(SIDE, PADDING)
        self.mask = _mask()
        name = card_of(settings)
        sprn = settings.network == "sprn"
        external = name if sprn else card_name(settings.size, "external")
        self.external = ExternalAutoencoder(self.size)
        load_part(self.external, external, device)
        self.internal = None
        if not sprn:
            names = parse_attributes(settings.attrs)
            self.internal = InternalAutoencoder(self.size, len(names))
            load_part(self.internal, name, device)
        self._pictures: dict[tuple[float, ...], Tensor] = {}

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        factor = SIDE // self.size.side
        small = functional.avg_pool2d(chips, factor) if factor > 1 else chips
        parts = [self._few(few) for few in torch.split(small, MICRO_BATCH)]
        # Doubled pixels: whoever averages them back has the network's own picture.
        return functional.interpolate(torch.cat(parts), scale_factor=factor)

    def _few(self, chips: Tensor) -> Tensor:
        """Up to MICRO_BATCH chips, always as many with black ones: sums round by batch size."""
        full = chips.new_zeros(MICRO_BATCH, *chips.shape[1:])
        full[: len(chips)] = chips
        full = full.contiguous(memory_format=torch.channels_last)
        if self.internal is None:
            out: Tensor = self.external(full)[: len(chips)]
            return out
        bits = bits_of(code_of(self.external, self.internal, full))[: len(chips)]
        return torch.cat([self._picture(tuple(row.tolist())) for row in bits])

    def _picture(self, bits: tuple[float, ...]) -> Tensor:
        """The picture of one code, made once: at most 2^m of them."""
        if bits not in self._pictures:
            assert self.internal is not None
            y = self.internal.decode(torch.tensor([bits], device=self.device))
            self._pictures[bits] = self.external.decode(y)
        return self._pictures[bits]


def _mask() -> Mask:
    """(SIDE, SIDE): 1, falling to 0 over SOFT at the edge."""
    unit = SIDE / (1 + 2 * PADDING)
    line = (torch.arange(SIDE) + 0.5) / unit
    ramp = (torch.minimum(line, line.flip(0)) / SOFT).clamp(max=1)
    smooth = ramp * ramp * (3 - 2 * ramp)
    mask: Mask = torch.minimum(smooth[:, None], smooth[None]).numpy()
    return mask
