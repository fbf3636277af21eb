"""a3gan: somebody else's face in the same picture, with a mask that says which attributes change.

Zhai, Guo, Xie, Ma, Wang, Liu, "A3GAN: Attribute-Aware Anonymization Networks for Face
De-identification", ACM Multimedia 2022. Suppressive convolution units (SCU) gate identity out of
the encoder's features on their way to the decoder; an attribute-aware injective network (AINet)
turns a latent and the mask into attribute features, which AdaIN injects at the bottleneck. What
is published is what the decoder makes of that.

From the paper: the networks of tables 2 to 4 at `size=paper`, SCU (eq. 6, 7), AdaIN (eq. 8), the
losses (eq. 9 to 15), the ten attributes and the presets, the ablations, a latent from N(0, I). What
departs, and why:

- **Pairs first.** Before eq. 13 the networks learn on pictures of a face generator, of which each
  exists with several people (pairs.py): a GAN from noise needs days of a GPU. The pairs stay as an
  anchor under eq. 13.
- **The shipped size is `compact`**: half of the generator's widths or less, a quarter of the
  discriminator's, at 128 px, a latent of 128 numbers, and no batch norm and ReLU after D5.
- **The encoder sees a veiled head** (`veil=true`): averaged over cells of 8 px. The shipped
  networks are at the beginning of their training; whole heads they let through
  (docs/methods/a3gan.md).
- A mask of 1 asks for the attribute's opposite on pairs; under eq. 11 it lets it change.
- L_deid counts no negative cosine.
- Only the inside of a soft mask is replaced; the rest of the picture stays.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deidcli.faces.align import Mask
from deidcli.methods.a3gan.geometry import PADDING, veiled, window
from deidcli.methods.a3gan.networks import SIZES, VARIANTS, Generator
from deidcli.methods.a3gan.settings import ATTRIBUTES, A3ganFacts, A3ganSettings
from deidcli.methods.base import Chip, Context, Method
from deidcli.methods.loading import filled, load_part, ready
from deidcli.weights.own import own_weights

MICRO_BATCH = 16
"""Faces that go through the networks at once, always as many: sums round by a batch's size."""


class A3gan(A3ganFacts, Method):
    """Somebody else in the same picture; a mask says which attributes change."""

    def __init__(self, settings: A3ganSettings, device: str) -> None:
        self.settings = settings
        self.device = device
        size = SIZES[settings.size]
        self.chip = Chip(size.side, PADDING)
        self.mask: Mask = window()
        self.share = torch.from_numpy(self.mask).to(device)
        generator = Generator(size, VARIANTS[settings.variant])
        load_part(generator, "generator", own_weights(self.weights(settings)[0])[0])
        self.generator = ready(generator, device)
        free = settings.changing()
        self.change = torch.tensor([[float(name in free) for name in ATTRIBUTES]], device=device)

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        """Return chips (N, 3, 128, 128) float32 RGB in [0, 1], de-identified.

        A face depends on its chip and its seed alone, not on the other faces of the batch.
        """
        out = torch.empty_like(chips)
        latent = normal_latents(context.seeds, self.generator.size.latent).to(chips.device)
        mask = self.change.expand(MICRO_BATCH, -1)
        for start in range(0, len(chips), MICRO_BATCH):
            rows = slice(start, start + MICRO_BATCH)
            full = filled(chips[rows], MICRO_BATCH).contiguous(memory_format=torch.channels_last)
            if self.settings.veil:
                full = veiled(full, self.share)
            made = self.generator(full, filled(latent[rows], MICRO_BATCH), mask)
            out[rows] = made[: len(chips[rows])].clamp(0, 1)
        return out


def normal_latents(seeds: NDArray[np.uint64], count: int) -> Tensor:
    """Return (N, count) float32 from N(0, I), each row made from its own seed (N,) alone."""
    rows = [np.random.default_rng(int(seed)).standard_normal(count) for seed in seeds]
    stacked = np.stack(rows) if rows else np.zeros((0, count))
    return torch.from_numpy(stacked.astype(np.float32))
