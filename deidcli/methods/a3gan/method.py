"""a3gan: somebody else's face in the same picture, with a mask that says which attributes change.

Zhai, Guo, Xie, Ma, Wang, Liu, "A3GAN: Attribute-Aware Anonymization Networks for Face
De-identification", ACM Multimedia 2022. Suppressive convolution units (SCU) gate identity out of
the encoder's features on their way to the decoder; an attribute-aware injective network (AINet)
turns a latent and the mask into attribute features, which AdaIN injects at the bottleneck.

**The shipped face does not come from these networks.** It is a computer-made portrait, chosen by
what the attribute head reads and brought into the picture's light (the canvas); encoder, SCU,
AINet, AdaIN and decoder change it by 0.03 of 255 (docs/methods/a3gan.md): their training
was too short, and its target is the canvas itself.

From the paper: the networks of tables 2 to 4 at `size=paper`, SCU (eq. 6, 7), AdaIN (eq. 8), the
losses (eq. 9 to 15), the ten attributes and the presets, the ablations. What departs, and why:

- **The shipped size is `compact`**: an eighth to a fifth of the generator's widths, a quarter of
  the discriminator's, at 128 px. An hour of one CPU core trains it.
- **A latent is the whitened principal components of a computer-made face** and is drawn as a
  canvas, to which the decoder adds: that face's portrait, which the weights hold (portraits.py),
  or, for a latent of no portrait, what a fixed linear layer draws (canvas.py). The affine
  transform gives eq. 8's bias for each of the 4 x 4 places.
- **The latent is drawn among those that fit** (latents.py), where the paper draws from N(0, I);
  `latent=normal` does that, and so does `variant=no-mask`, for there nothing may use the mask.
- Before the paper's losses a teacher: the face that the latent stands for, laid into the picture.
- L_deid counts no negative cosine; a diversity term of ours keeps two people two.
- Only the inside of a soft mask is replaced; the rest of the picture stays.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from deidcli.faces.align import Mask
from deidcli.methods.a3gan.latents import (
    Description,
    Pool,
    as_mask,
    describe,
    normal_latents,
    truncated,
)
from deidcli.methods.a3gan.networks import SIZES, VARIANTS, Discriminator, Generator
from deidcli.methods.a3gan.portraits import PortraitBank
from deidcli.methods.a3gan.settings import A3ganFacts, A3ganSettings
from deidcli.methods.base import Chip, Context, Method
from deidcli.methods.blend import PADDING, wide_edge_mask
from deidcli.methods.loading import filled, load_part, ready
from deidcli.weights.own import own_weights

MICRO_BATCH = 16
"""Faces that go through the networks at once, always as many: sums round by a batch's size."""
POOL = ("codes", "attributes", "shape", "tone", "embedding", "rim")
"""What the weights hold of the pool: `Pool.codes`, and the fields of `Description`."""
RENAMED = {
    "reader.reading.": "attribute_head.hidden.",
    "reader.described.": "attribute_head.description.",
    "reader.": "attribute_head.",
    "album.": "portraits.",
}
"""Prefixes of tensors' names in older weight files, the shipped one's among them -> today's."""


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a weight file under the names that today's training writes."""
    found = {}
    for name, value in tensors.items():
        old = next((prefix for prefix in RENAMED if name.startswith(prefix)), "")
        found[RENAMED.get(old, "") + name.removeprefix(old)] = value
    return found


class A3gan(A3ganFacts, Method):
    """A photo-like face of somebody else; a mask says which attributes may change."""

    def __init__(self, settings: A3ganSettings, device: str) -> None:
        self.settings = settings
        self.device = device
        size = SIZES[settings.size]
        self.chip = Chip(size.side, PADDING)
        self.mask: Mask = wide_edge_mask(size.side).numpy()
        tensors = renamed(own_weights(self.weights(settings)[0])[0])
        generator = Generator(size, VARIANTS[settings.variant])
        attribute_head = Discriminator(size)
        load_part(generator, "generator", tensors)
        load_part(attribute_head, "attribute_head", tensors, unused=("critic.",))
        self.generator = ready(generator, device)
        self.attribute_head = ready(attribute_head, device)
        pool = {key: tensors[f"pool.{key}"].float().to(device) for key in POOL}
        self.pool = Pool(pool.pop("codes"), Description(**pool))
        self.portraits = PortraitBank(tensors["portraits.files"], tensors["portraits.ends"])
        self.change = as_mask(settings.changing()).to(device)

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        """Return chips (N, 3, 128, 128) float32 RGB in [0, 1], de-identified.

        A face depends on its chip and its seed alone, not on the other faces of the batch.
        """
        out = torch.empty_like(chips)
        noise = normal_latents(context.seeds).to(chips.device)
        for start in range(0, len(chips), MICRO_BATCH):
            rows = slice(start, start + MICRO_BATCH)
            count = len(chips[rows])
            full = filled(chips[rows], MICRO_BATCH).contiguous(memory_format=torch.channels_last)
            mask = self.change.expand(MICRO_BATCH, -1)
            latent, faces = filled(truncated(noise[rows]), MICRO_BATCH), None
            if self.settings.latent == "drawn" and self.generator.variant.masked:
                own = describe(self.attribute_head, full).rows(torch.arange(count))
                chosen = self.pool.draw(own, mask[:count], context.seeds[rows])
                fitting = self.pool.latents(own, mask[:count], chosen, noise[rows])
                latent = filled(fitting, MICRO_BATCH)
                faces = self._faces(latent, chosen)
            made = self.generator(full, latent, mask, faces)
            out[rows] = made[:count].clamp(max=1)
        return out

    def _faces(self, latent: Tensor, chosen: Tensor) -> Tensor | None:
        """Return the faces of latents (MICRO_BATCH, 512) near rows (N,) of the pool, if drawn."""
        canvas = self.generator.canvas
        if canvas is None:
            return None
        portraits = filled(self.portraits.faces(chosen), MICRO_BATCH)
        return canvas.from_portraits(
            portraits, latent, filled(self.pool.codes[chosen], MICRO_BATCH)
        )
