"""The soft edge of a new face: which share of each pixel of a chip is the new face's."""

from __future__ import annotations

import torch

from deidcli.faces.align import Mask


def rounded_ellipse(
    side: int,
    padding: float,
    center: tuple[float, float],
    half: tuple[float, float],
    power: float,
    edge: float,
) -> Mask:
    """Return the mask (side, side), float32: 1 inside a rounded ellipse, falling smoothly to 0
    across `edge` within it.

    Args:
        side, padding: of the chip, px and sides of the mean face.
        center: x and y, in sides of the mean face.
        half: half width and half height, in sides of the mean face.
        power: 2 is an ellipse, more brings it nearer to a rectangle.
        edge: width of the soft edge, px of the chip.
    """
    unit = side / (1 + 2 * padding)
    line = (torch.arange(side) + 0.5) / unit - padding
    x, y = (line - center[0]).abs() / half[0], (line - center[1]).abs() / half[1]
    radius = (x[None, :] ** power + y[:, None] ** power) ** (1 / power)
    return _smooth((1 - radius) * unit * min(half) / edge)


def soft_square(side: int, padding: float, edge: float) -> Mask:
    """Return the mask (side, side), float32: 1 inside, falling smoothly to 0 over `edge`, in sides
    of the mean face, at the chip's own edge."""
    unit = side / (1 + 2 * padding)
    line = (torch.arange(side) + 0.5) / unit
    ramp = torch.minimum(line, line.flip(0)) / edge
    return _smooth(torch.minimum(ramp[:, None], ramp[None]))


def _smooth(ramp: torch.Tensor) -> Mask:
    """Bend a ramp so that it begins and ends level."""
    ramp = ramp.clamp(0, 1)
    mask: Mask = (ramp * ramp * (3 - 2 * ramp)).float().numpy()
    return mask
