"""The canvas of `a3gan`: the face that a latent stands for, drawn without a network. Ours.

Throughout, a chip is (N, 3, S, S) float32 RGB in [0, 1] with S = 128 px, and a latent is (N, 512)
float32.
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
"""Points on a side of the grid by which a latent moves its face's features."""
WARP_NUMBERS = 2 * WARP**2
"""The last numbers of a latent: the moves of the grid's points, across and down."""
COMPONENTS = LATENT - len(CELEBA_ATTRIBUTES) - WARP_NUMBERS
"""The first numbers of a latent: weights of principal components. Between these and the warp stand
the weights of the 40 attributes' prototypes, see `Canvas`."""
CHROMA_SCALE = 4
"""The canvas' two color planes have a side this many times smaller than its luma."""
SHARPEN = 0.9
"""Share of what a blur takes away that is added: principal components lack the finest detail."""
WARP_STD = 0.015
"""Standard deviation of a grid point's move, in half sides of the chip."""
LIGHT_SHARE = 0.6
"""How far the face's light goes towards the picture's: 0 not at all, 1 all the way."""


class Canvas(nn.Module):
    """Draw the face that a latent stands for with one linear layer. Ours; `compact` only.

    The first 440 numbers of a latent weigh whitened principal components of computer-made faces,
    the next 40 weigh prototypes: what each of CelebA's attributes adds to a face on average
    (Rowland and Perrett 1995, "Manipulating facial appearance through shape and color"). The last
    32 move the features a little, see `warped`. Where the weights hold the portrait that a latent
    is near to (portraits.py), `from_portraits` draws that one in place of its components, sharply.

    The decoder adds to the canvas. To start from a face and not from noise is what makes training
    on a CPU possible; it is also why the shipped generator has learned to add next to nothing.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        values = side * side + 2 * (side // CHROMA_SCALE) ** 2
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("components", torch.zeros(LATENT, values))

    mean: Tensor
    components: Tensor

    def forward(self, latent: Tensor) -> Tensor:
        """Draw latents (N, 512) as faces (N, 3, side, side), not clamped to [0, 1]."""
        face = unpack(self.mean + latent @ self.components, self.side)
        return warped(sharpened(face), latent)

    def from_portraits(self, portraits: Tensor, latent: Tensor, codes: Tensor) -> Tensor:
        """Draw latents that are near the codes of portraits, as sharply as the portraits are.

        Args:
            portraits: (N, 3, side, side) in [0, 1].
            latent: (N, 512). codes: (N, 512), the portraits' own latents; what `latent` has beyond
                them is added.

        Returns:
            (N, 3, side, side) in [0, 1].
        """
        added = unpack((latent - codes) @ self.components, self.side)
        return warped((portraits + added).clamp(0, 1), latent)


def sharpened(faces: Tensor) -> Tensor:
    """Return (N, 3, S, S) after unsharp masking: what a blur of about 1.3 px removes is added."""
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=faces.dtype, device=faces.device) / 16
    rows = kernel.view(1, 1, 5, 1).expand(3, 1, 5, 1)
    columns = kernel.view(1, 1, 1, 5).expand(3, 1, 1, 5)
    wide = functional.pad(faces, (2, 2, 2, 2), mode="replicate")
    blurred = functional.conv2d(functional.conv2d(wide, rows, groups=3), columns, groups=3)
    return faces + SHARPEN * (faces - blurred)


def warped(pictures: Tensor, latent: Tensor) -> Tensor:
    """Return (N, C, S, S) moved smoothly as the last 32 numbers of the latents (N, 512) say.

    A face's proportions are most of what tells two people apart.
    """
    moves = WARP_STD * latent[:, LATENT - WARP_NUMBERS :].view(-1, 2, WARP, WARP)
    size = pictures.shape[2:]
    field = functional.interpolate(moves, size, mode="bicubic", align_corners=True)
    still = torch.eye(2, 3, dtype=latent.dtype, device=latent.device).expand(len(latent), 2, 3)
    grid = functional.affine_grid(still, [len(latent), 3, *size], align_corners=False)
    grid = grid + field.permute(0, 2, 3, 1)
    return functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def pack(chips: Tensor) -> Tensor:
    """Return chips (N, 3, S, S) as rows (N, S^2 + 2 (S/4)^2): luma, then two small chroma planes.

    Luma and chroma are those of ITU-R BT.601.
    """
    red, green, blue = chips.unbind(1)
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    chroma = torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], 1)
    return torch.cat([luma.flatten(1), functional.avg_pool2d(chroma, CHROMA_SCALE).flatten(1)], 1)


def unpack(values: Tensor, side: int) -> Tensor:
    """Return the chips (N, 3, side, side) of rows made by `pack`, not clamped to [0, 1]."""
    luma = values[:, : side * side].view(-1, 1, side, side)
    planes = side * side, 2 * (side // CHROMA_SCALE) ** 2
    small = values[:, planes[0] : sum(planes)].view(
        -1, 2, side // CHROMA_SCALE, side // CHROMA_SCALE
    )
    chroma = functional.interpolate(small, (side, side), mode="bilinear", align_corners=False)
    blue = luma + 1.772 * chroma[:, :1]
    red = luma + 1.402 * chroma[:, 1:]
    return torch.cat([red, (luma - LUMA[0] * red - LUMA[2] * blue) / LUMA[1], blue], 1)


def match_light(chips: Tensor, faces: Tensor, spread: Tensor) -> Tensor:
    """Return computer-made faces in a picture's light, with its colors at the chip's rim.

    Of the picture only the mean color of the face enters, and the means of the chip's outermost
    cells, which stay in the published picture anyway.

    Args:
        chips, faces: (N, 3, S, S) in [0, 1].
        spread: (R, 4096) from `blend.rim_to_face`.

    Returns:
        (N, 3, S, S) in [0, 1].
    """
    there, here = to_64(chips), to_64(faces)
    gain = (face_color(there) / face_color(here)).clamp(0.4, 1.7) ** LIGHT_SHARE
    change = (rim_cells(there) - rim_cells(here * gain)) @ spread
    small = change.view(len(chips), 3, SIDE, SIDE)
    wide = functional.interpolate(small, chips.shape[2:], mode="bilinear", align_corners=False)
    return (faces * gain + wide).clamp(0, 1)


def to_64(chips: Tensor) -> Tensor:
    """Return chips (N, 3, S, S) reduced to (N, 3, 64, 64) by means."""
    return functional.avg_pool2d(chips, chips.shape[2] // SIDE)


def face_color(small: Tensor) -> Tensor:
    """Return the mean color (N, 3, 1, 1) of the face in (N, 3, 64, 64)."""
    return small[:, :, 16:44, 20:44].mean((2, 3), keepdim=True) + 0.02


def rim_cells(small: Tensor) -> Tensor:
    """Return the means (N, 3, 60) of the outermost cells of (N, 3, 64, 64)."""
    rim = torch.ones(SIDE // CELL, SIDE // CELL, dtype=torch.bool, device=small.device)
    rim[1:-1, 1:-1] = False
    return functional.avg_pool2d(small, CELL)[:, :, rim]
