"""a3gan: somebody else's face in the same picture, with a mask that says which attributes change.

Zhai, Guo, Xie, Ma, Wang, Liu, "A3GAN: Attribute-Aware Anonymization Networks for Face
De-identification", ACM Multimedia 2022. Suppressive convolution units (SCU) gate identity out of
the encoder's features on their way to the decoder; an attribute-aware injective network (AINet)
turns a latent and the mask into attribute features, injected by AdaIN at the bottleneck.

Kept: the networks of tables 2 to 4 at `size=paper`, SCU (eq. 6, 7), AdaIN (eq. 8), the losses
(eq. 9 to 15), the ten attributes and the presets, the ablations. What departs, and why (figures:
docs/methods/a3gan.md):

- **The shipped size is `compact`**: an eighth to a fifth of the generator's widths, a quarter of
  the discriminator's, at 128 px. It is what an hour of one CPU core can train.
- **A latent is the whitened principal components of a computer-made face**, and in `compact` it is
  drawn, in the picture's tone, as a canvas that the decoder paints over: that face's portrait,
  which the weights hold (a3gan_album), or, for a latent of no portrait, what a fixed linear layer
  makes of it (a3gan_canvas). The affine transform gives eq. 8's bias for each of the 4 x 4 places.
- **The latent is drawn among those that fit** (a3gan_latents), where the paper draws from N(0, I);
  `latent=normal` does that. The discriminator's attribute head, trained alone at first, reads the
  face, and kept attributes, pose, light and tone decide which latents fit. (`variant=no-mask`
  draws from N(0, I), too: nothing may hear the mask.)
- Before the paper's losses a teacher: the face that the latent stands for, laid into the picture.
- L_deid counts no negative cosine; a diversity term of ours keeps two people two.
- Only the inside of a soft mask is replaced; the rest of the picture stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from deidcli.faces.align import Mask
from deidcli.faces.recognizers import Recognizer
from deidcli.methods.a3gan.latents import Description, Pool, describe, normal_latents, tempered
from deidcli.methods.a3gan.networks import SIZES, Discriminator, Generator, Variant
from deidcli.methods.a3gan.portraits import Album
from deidcli.methods.a3gan.settings import ATTRIBUTES, Facts, Settings, changing, weights_name
from deidcli.methods.base import Chip, Context, Method
from deidcli.methods.blend import PADDING, wide_edge_mask
from deidcli.weights.own import own_weights

MICRO_BATCH = 16
"""Faces that go through the networks at once, always as many: sums round by a batch's size."""
VARIANTS: dict[str, Variant] = {
    "full": Variant(),
    "stu": Variant(skip="stu"),
    "no-scu": Variant(skip="none"),
    "no-mask": Variant(masked=False),
    "no-adain": Variant(inject="concat"),
}
"""The model, and the ablations of table 1."""


def mask_of(change: str) -> Tensor:
    """(10,) float32 from a preset or names; see `changing`."""
    return as_mask(changing(change))


def as_mask(names: Sequence[str]) -> Tensor:
    """(10,) float32: 1 where an attribute is one of the names."""
    return torch.tensor([float(name in names) for name in ATTRIBUTES])


def card_name(size: str, variant: Variant) -> str:
    """`a3gan-compact`, or `a3gan-compact-stu` for an ablation."""
    return weights_name(size, *(name for name, known in VARIANTS.items() if known == variant))


def recognizer_view(chips: Tensor, recognizer: Recognizer) -> Tensor:
    """What a recognizer sees of our chips (N, 3, S, S), differentiable: (N, 3, R, R) in [0, 1]."""
    share = 1 / (1 + 2 * PADDING)  # of the chip's side that the mean face's has
    pixels = torch.arange(recognizer.size, device=chips.device, dtype=torch.float32)
    axes = [
        ((pixels - origin) / recognizer.scale + PADDING) * share * 2 - 1
        for origin in recognizer.origin
    ]
    rows, columns = torch.meshgrid(axes[1], axes[0], indexing="ij")
    grid = torch.stack([columns, rows], 2).expand(len(chips), -1, -1, -1)
    return functional.grid_sample(chips, grid, align_corners=False)


class A3gan(Facts, Method):
    """A photo-like face of somebody else; a mask says which attributes may change."""

    def __init__(self, settings: Settings, device: str) -> None:
        self.settings = settings
        self.device = device
        size = SIZES[settings.size]
        self.chip = Chip(size.side, PADDING)
        self.mask: Mask = wide_edge_mask(size.side).numpy()
        tensors, _ = own_weights(self.weights(settings)[0])
        generator = Generator(size, VARIANTS[settings.variant])
        reader = Discriminator(size)
        self.generator: Generator = _loaded(generator, "generator", tensors, device)
        self.reader: Discriminator = _loaded(reader, "reader", tensors, device)
        pool = {key: tensors[f"pool.{key}"].float().to(device) for key in POOL}
        self.pool = Pool(pool.pop("codes"), Description(**pool))
        self.album = Album(tensors["album.files"], tensors["album.ends"])
        self.change = as_mask(settings.changing()).to(device)

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        out = torch.empty_like(chips)
        noise = normal_latents(context.seeds).to(chips.device)
        for start in range(0, len(chips), MICRO_BATCH):
            rows = slice(start, start + MICRO_BATCH)
            count = len(chips[rows])
            full = _filled(chips[rows]).contiguous(memory_format=torch.channels_last)
            mask = self.change.expand(MICRO_BATCH, -1)
            latent, faces = _filled(tempered(noise[rows])), None
            if self.settings.latent == "drawn" and self.generator.variant.masked:
                own = describe(self.reader, full).rows(torch.arange(count))
                chosen = self.pool.draw(own, mask[:count], context.seeds[rows])
                latent = _filled(self.pool.latents(own, mask[:count], chosen, noise[rows]))
                faces = self._faces(latent, chosen)
            made = self.generator(full, latent, mask, faces)
            out[rows] = made[:count].clamp(max=1)
        return out

    def _faces(self, latent: Tensor, chosen: Tensor) -> Tensor | None:
        """What latents (MICRO_BATCH, 512) near those of some rows of the pool (N,) stand for."""
        canvas = self.generator.canvas
        if canvas is None:
            return None
        portraits, codes = _filled(self.album.faces(chosen)), _filled(self.pool.codes[chosen])
        faces: Tensor = canvas.around(portraits, latent, codes)
        return faces


POOL = ("codes", "attributes", "shape", "tone", "embedding", "rim")
"""What the weights hold of the pool, see a3gan_latents."""


def _filled(rows: Tensor) -> Tensor:
    """Rows followed by zeros, MICRO_BATCH in all."""
    full = rows.new_zeros(MICRO_BATCH, *rows.shape[1:])
    full[: len(rows)] = rows
    return full


def _loaded(module: nn.Module, part: str, tensors: dict[str, Tensor], device: str) -> Any:
    """A network with what a file holds under `part.`, ready for inference.

    Counters of batches and the critic's head are not kept in files: nothing reads them.
    """
    found = {
        key.removeprefix(f"{part}."): value.float()
        for key, value in tensors.items()
        if key.startswith(f"{part}.")
    }
    spare = {
        key: value
        for key, value in module.state_dict().items()
        if "num_batches" in key or key.startswith("critic.")
    }
    module.load_state_dict(spare | found)
    return module.eval().requires_grad_(False).to(memory_format=torch.channels_last).to(device)
