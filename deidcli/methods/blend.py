"""How `dae` lays a new face into a picture: the mask around a head, the tone at a chip's rim."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from deidcli.faces.align import Mask
from deidcli.methods.masks import rounded_ellipse

SIDE = 64
"""Side of the chip that the mask and the rim are made for, px."""
PADDING = 0.6
"""Padding of a chip: the head with most of its hair. With 0.35 a gray square in place of the chip
leaves 8 % of faces to be found by their hair and ground, with 0.6 as many as chance."""
LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601."""
EDGE = 7.0
"""Width of the mask's soft edge, px."""
CENTER = (0.5, 0.44)
"""Center of the mask, x and y in sides of the mean face."""
HALF_WIDTH, HALF_HEIGHT, POWER = 0.95, 1.04, 2.4
"""The mask: a rounded ellipse, in sides of the mean face. A narrower one (half width 0.85, power
2.2) leaves four times as many faces to be found by their hair; a square with round corners leaves
as few as this and shows the stranger's ground."""
CELL = 4
"""Side of the cells in which the tone is matched, px; the outermost ones are the rim, which the
mask leaves to the picture."""
REACH = 10.0
"""How far into the face the rim's tone reaches, px."""


def edge_mask() -> Mask:
    """(64, 64): 1 inside a rounded ellipse around the head, falling to 0 across EDGE."""
    return rounded_ellipse(SIDE, PADDING, CENTER, (HALF_WIDTH, HALF_HEIGHT), POWER, EDGE)


def rim_to_face() -> Tensor:
    """(R, 4096): how the difference in each cell of the rim spreads over the chip.

    Inside, a place takes the mean of the rim's differences weighted by nearness, fading with the
    distance from the rim; at the rim it takes them whole.
    """
    line = torch.arange(SIDE) + 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    inset = torch.stack([x, y, SIDE - x, SIDE - y]).amin(0).view(-1, 1)
    points = torch.stack([x, y], -1)
    cells = functional.avg_pool2d(points.permute(2, 0, 1), CELL)[:, _rim(torch.device("cpu"))].T
    distance = torch.cdist(points.view(-1, 2), cells)
    near = torch.exp(-(distance**2) / (2 * (CELL + 0.6 * inset) ** 2)) + 1e-12
    fade = torch.exp(-(inset - CELL / 2).clamp(min=0) / REACH)
    return (fade * near / near.sum(1, keepdim=True)).T.contiguous()


def _rim(device: torch.device) -> Tensor:
    """(16, 16) bool: the outermost cells."""
    rim = torch.ones(SIDE // CELL, SIDE // CELL, dtype=torch.bool, device=device)
    rim[1:-1, 1:-1] = False
    return rim


def blended(chips: Tensor, faces: Tensor, spread: Tensor) -> Tensor:
    """`faces` with the tone of `chips` at their rim: both (N, 3, 64, 64) -> the same, in [0, 1].

    Of the chips only means of the rim's cells enter, which stay in the picture anyway.
    """
    difference = functional.avg_pool2d(chips - faces, CELL)[:, :, _rim(chips.device)]
    return (faces + (difference @ spread).view_as(faces)).clamp(0, 1)
