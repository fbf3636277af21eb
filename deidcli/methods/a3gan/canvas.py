"""The canvas of `a3gan`: what the numbers of a latent mean, and the face that they draw. Ours.

A chip is (N, 3, 128, 128) float RGB in [0, 1]; a latent is (N, 512).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.methods.blend import CELL, LUMA, SIDE

LATENT = 512
"""Numbers of f_z (table 4)."""
WARP = 4
"""Points a side of the grid by which a latent moves its face's features."""
COMPONENTS = LATENT - len(CELEBA_ATTRIBUTES) - 2 * WARP**2
"""Of these, those that stand for a face. Forty weigh attributes' prototypes and the rest move its
features, see `Canvas`."""
CHROMA = 4
"""The canvas' color planes have a side so many times smaller."""


class Canvas(nn.Module):
    """Ours, `compact` only: the face that a latent stands for, drawn by one linear layer.

    The first 440 numbers of a latent are the whitened principal components of computer-made faces.
    Forty weigh prototypes, what each of CelebA's attributes adds to a face on average (Rowland
    and Perrett 1995, "Manipulating facial appearance through shape and color"). The rest move its
    features a little, see `warped`. Of the faces whose components the weights hold, they hold the
    portraits, too (a3gan_album), which `around` takes in place of their components. The decoder
    paints over the canvas; starting from a face, not from noise, is what makes training on a CPU
    possible.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        values = side * side + 2 * (side // CHROMA) ** 2
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("components", torch.zeros(LATENT, values))

    mean: Tensor
    components: Tensor

    def forward(self, latent: Tensor) -> Tensor:
        """(N, 512) -> the face (N, 3, side, side), not clamped."""
        face = unpack(self.mean + latent @ self.components, self.side)
        return warped(sharpened(face), latent)

    def around(self, portraits: Tensor, latent: Tensor, codes: Tensor) -> Tensor:
        """The same, sharp, for latents (N, 512) near the codes (N, 512) of portraits
        (N, 3, side, side): those with what is beyond their codes added."""
        added = unpack((latent - codes) @ self.components, self.side)
        return warped((portraits + added).clamp(0, 1), latent)


SHARPEN = 0.9
"""Share of what a blur takes away that is added: components leave the finest detail out."""


def sharpened(faces: Tensor) -> Tensor:
    """Unsharp masking of (N, 3, S, S): what a blur of about 1.3 px takes away is added."""
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=faces.dtype, device=faces.device) / 16
    rows = kernel.view(1, 1, 5, 1).expand(3, 1, 5, 1)
    columns = kernel.view(1, 1, 1, 5).expand(3, 1, 1, 5)
    wide = functional.pad(faces, (2, 2, 2, 2), mode="replicate")
    blurred = functional.conv2d(functional.conv2d(wide, rows, groups=3), columns, groups=3)
    return faces + SHARPEN * (faces - blurred)


AMPLITUDE = 0.015
"""Standard deviation of a grid point's move, in half sides of the chip."""


def warped(pictures: Tensor, latent: Tensor) -> Tensor:
    """(N, C, S, S), moved smoothly as the last numbers of (N, 512) latents say.

    A face's proportions are most of what tells two people apart.
    """
    moves = AMPLITUDE * latent[:, LATENT - 2 * WARP**2 :].view(-1, 2, WARP, WARP)
    size = pictures.shape[2:]
    field = functional.interpolate(moves, size, mode="bicubic", align_corners=True)
    still = torch.eye(2, 3, dtype=latent.dtype, device=latent.device).expand(len(latent), 2, 3)
    grid = functional.affine_grid(still, [len(latent), 3, *size], align_corners=False)
    grid = grid + field.permute(0, 2, 3, 1)
    return functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def pack(chips: Tensor) -> Tensor:
    """(N, 3, S, S) RGB -> (N, S^2 + 2 (S/4)^2): luma, then two small planes of chroma."""
    red, green, blue = chips.unbind(1)
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    chroma = torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], 1)
    return torch.cat([luma.flatten(1), functional.avg_pool2d(chroma, CHROMA).flatten(1)], 1)


def unpack(values: Tensor, side: int) -> Tensor:
    """The inverse of `pack`: (N, 3, S, S), not clamped."""
    luma = values[:, : side * side].view(-1, 1, side, side)
    planes = side * side, 2 * (side // CHROMA) ** 2
    small = values[:, planes[0] : sum(planes)].view(-1, 2, side // CHROMA, side // CHROMA)
    chroma = functional.interpolate(small, (side, side), mode="bilinear", align_corners=False)
    blue = luma + 1.772 * chroma[:, :1]
    red = luma + 1.402 * chroma[:, 1:]
    return torch.cat([red, (luma - LUMA[0] * red - LUMA[2] * blue) / LUMA[1], blue], 1)


def laid(chips: Tensor, faces: Tensor, spread: Tensor) -> Tensor:
    """Computer-made faces in the light of a picture, with its colors at the chip's rim.

    Of the picture enter the face's mean color and means of the chip's outermost cells, which stay
    in the picture anyway.

    Args:
        chips, faces: (N, 3, S, S) in [0, 1].
        spread: dae.rim_to_face.
    """
    there, here = at_64(chips), at_64(faces)
    gain = (color_of(there) / color_of(here)).clamp(0.4, 1.7) ** LIGHT
    change = (rim_cells(there) - rim_cells(here * gain)) @ spread
    small = change.view(len(chips), 3, SIDE, SIDE)
    wide = functional.interpolate(small, chips.shape[2:], mode="bilinear", align_corners=False)
    return (faces * gain + wide).clamp(0, 1)


LIGHT = 0.6
"""How much of the way the face's light goes to the picture's: 1 would be all of it."""


def at_64(chips: Tensor) -> Tensor:
    """(N, 3, S, S) -> (N, 3, 64, 64) means."""
    return functional.avg_pool2d(chips, chips.shape[2] // SIDE)


def color_of(small: Tensor) -> Tensor:
    """(N, 3, 64, 64) -> (N, 3, 1, 1): the mean color of the face."""
    return small[:, :, 16:44, 20:44].mean((2, 3), keepdim=True) + 0.02


def rim_cells(small: Tensor) -> Tensor:
    """(N, 3, 64, 64) -> (N, 3, 60): the means of the outermost cells."""
    rim = torch.ones(SIDE // CELL, SIDE // CELL, dtype=torch.bool, device=small.device)
    rim[1:-1, 1:-1] = False
    return functional.avg_pool2d(small, CELL)[:, :, rim]
