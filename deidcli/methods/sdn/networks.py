"""The networks of `sdn` (sec. 3.1 of Pan, Chen, Wu 2024) and the face that they work on.

A chip is (N, 3, S, S) float RGB in [0, 1], S = 64 or 128. What is replaced is the ellipse of
`edge_mask`. The erasing and the reveal network each are a refinement network, whose residual blocks
are DosGAN's, on top of what the bottleneck that both share renders (bottleneck.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.faces.align import Mask
from deidcli.methods.masks import rounded_ellipse

GRID = 64
"""Side at which components and carriers live, px; `paper` refines them at 128."""
PADDING = 0.6
"""Padding of a chip, see `align.chip_affine`."""
CENTER = (0.49, 0.42)
"""Center of the replaced ellipse, x and y in sides of the mean face."""
HALF_WIDTH, HALF_HEIGHT, POWER = 0.80, 0.98, 2.2
"""The ellipse, in sides of the mean face: brow to chin and cheek to cheek."""
EDGE = 5.0
"""Width of its soft edge, px of GRID."""
OUTSIDE, CORE = 0.02, 0.98
"""Below this share of the mask the original stays; above it the carriers lie."""
DEPTH = 0.02
"""The surrogate keeps so far from black and white that the pattern fits in."""


def edge_mask(side: int = GRID) -> Mask:
    """Return the mask (side, side), float32: 1 inside the ellipse, falling to 0 across EDGE within
    it."""
    half = (HALF_WIDTH, HALF_HEIGHT)
    return rounded_ellipse(side, PADDING, CENTER, half, POWER, EDGE * side / GRID)


def at_grid(chips: Tensor) -> Tensor:
    """Average (N, 3, S, S) to (N, 3, 64, 64)."""
    factor = chips.shape[-1] // GRID
    return chips if factor == 1 else functional.avg_pool2d(chips, factor)


def at_side(chips: Tensor, side: int) -> Tensor:
    """Interpolate (N, 3, 64, 64) to (N, 3, side, side)."""
    if chips.shape[-1] == side:
        return chips
    return functional.interpolate(chips, (side, side), mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Size:
    """The widths of the networks."""

    side: int
    """Side of the chips, px."""
    unshuffle: int
    """A square of so many pixels becomes the channels of one, before the first convolution."""
    width: int
    """Channels after the first convolution; the residual blocks have `deep`."""
    deep: int
    blocks: int
    """Residual blocks of a refinement network."""
    extractor: tuple[int, int, int, int]
    """Channels of the feature extractor's four levels."""


SIZES: dict[str, Size] = {
    "compact": Size(64, 2, 32, 64, 3, (24, 48, 96, 160)),
    "paper": Size(128, 1, 64, 224, 3, (64, 128, 256, 512)),
}


class ResidualBlock(nn.Module):
    """Conv - InstanceNorm - ReLU - Conv - InstanceNorm, added to its input (DosGAN)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.InstanceNorm2d(width, affine=True),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.InstanceNorm2d(width, affine=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


class RefinementNetwork(nn.Module):
    """The erasing and the reveal network: what is to be added, inside the mask, to the rough face
    that the bottleneck renders.

    Two halvings, residual blocks, two doublings with a skip, as in DosGAN's generator.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.fold = size.unshuffle
        inputs, halved = 4 * size.unshuffle**2, 3 * size.unshuffle**2
        self.first = nn.Conv2d(inputs, size.width, 3, 1, 1)
        down: list[nn.Module] = []
        widths = [size.width, size.deep] if self.fold > 1 else [size.width, 128, size.deep]
        for given, made in zip(widths[:-1], widths[1:], strict=True):
            down += [
                nn.Conv2d(given, made, 4, 2, 1, bias=False),
                nn.InstanceNorm2d(made, affine=True),
                nn.ReLU(inplace=True),
            ]
        self.down = nn.Sequential(*down)
        self.blocks = nn.Sequential(*(ResidualBlock(size.deep) for _ in range(size.blocks)))
        up: list[nn.Module] = []
        for given, made in zip(widths[:0:-1], widths[-2::-1], strict=True):
            up += [nn.Conv2d(given, 4 * made, 3, 1, 1), nn.PixelShuffle(2), nn.ReLU(inplace=True)]
        self.up = nn.Sequential(*up)
        self.last = nn.Conv2d(2 * size.width, halved, 3, 1, 1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, rough: Tensor, mask: Tensor) -> Tensor:
        """Refine rough faces in their surroundings.

        Args:
            rough: (N, 3, S, S) float RGB in [0, 1]. mask: (S, S) in [0, 1].

        Returns:
            (N, 3, S, S), not clamped; outside the mask as given.
        """
        plane = mask.expand(len(rough), 1, -1, -1)
        given = torch.cat([rough * 2 - 1, plane], 1).contiguous(memory_format=torch.channels_last)
        first = functional.relu(self.first(functional.pixel_unshuffle(given, self.fold)))
        deep = self.up(self.blocks(self.down(first)))
        added = functional.pixel_shuffle(self.last(torch.cat([first, deep], 1)), self.fold)
        out: Tensor = rough + added * (mask > OUTSIDE)
        return out


class FeatureExtractor(nn.Module):
    """EC: the feature extractor F_ext and its classifiers F_cls (sec. 3.1.1).

    It predicts CelebA's attributes, the five landmarks (pose) and who of the training set a face
    is.
    """

    def __init__(self, size: Size, people: int) -> None:
        super().__init__()
        self.fold = size.side // 32
        layers: list[nn.Module] = []
        inputs = 3 * self.fold**2
        for level, width in enumerate(size.extractor):
            stride = 1 if level == 0 else 2
            layers += [
                nn.Conv2d(inputs, width, 3, stride, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            if level in (1, 2):
                layers.append(_PlainBlock(width))
            inputs = width
        self.trunk = nn.Sequential(*layers)
        self.features = nn.Linear(inputs * 16, 192)
        self.attributes = nn.Linear(192, len(CELEBA_ATTRIBUTES))
        self.landmarks = nn.Linear(192, 10)
        self.persons = nn.Linear(192, people, bias=False)
        self.dropout = nn.Dropout(0.2)

    def extract(self, chips: Tensor) -> Tensor:
        """Return the features of F_ext: (N, 3, S, S) float RGB in [0, 1] -> (N, 192)."""
        folded = functional.pixel_unshuffle(chips * 2 - 1, self.fold)
        trunk = self.trunk(folded.contiguous(memory_format=torch.channels_last))
        return functional.relu(self.features(self.dropout(trunk.flatten(1))))

    def heads(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Classify (N, 192) features: logits of attributes (N, 40), landmarks (N, 10) in standard
        deviations, logits of persons (N, people)."""
        cosines = functional.linear(
            functional.normalize(features), functional.normalize(self.persons.weight)
        )
        return self.attributes(features), self.landmarks(features), 16 * cosines

    def forward(self, chips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return `heads` of `extract`."""
        return self.heads(self.extract(chips))


class _PlainBlock(nn.Module):
    """A residual block with batch norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.layers(x))


class Discriminator(nn.Module):
    """PatchGAN: real or not, patch by patch, and heads for identity and attributes (eq. 9, 10)."""

    def __init__(self, size: Size, people: int, width: int = 32) -> None:
        super().__init__()
        self.fold = size.side // 32
        self.body = nn.Sequential(
            nn.Conv2d(3 * self.fold**2, width, 3, 1, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(2 * width, 4 * width, 4, 2, 1),
            nn.LeakyReLU(0.2, inplace=True),
        )
        self.patches = nn.Conv2d(4 * width, 1, 3, 1, 1)
        self.attributes = nn.Linear(4 * width * 16, len(CELEBA_ATTRIBUTES))
        self.persons = nn.Linear(4 * width * 16, people)

    def forward(self, chips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Classify (N, 3, S, S): patches (N, 1, 8, 8), logits of attributes (N, 40) and of persons
        (N, people)."""
        folded = functional.pixel_unshuffle(chips * 2 - 1, self.fold)
        body = self.body(folded.contiguous(memory_format=torch.channels_last))
        flat = functional.avg_pool2d(body, 2).flatten(1)
        return self.patches(body), self.attributes(flat), self.persons(flat)


def multiply_accumulates(module: nn.Module, *inputs: Tensor) -> int:
    """Count the multiplications with addition of the convolutions and linear layers in one pass, as
    THOP does (table 5)."""
    total = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], out: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            kernel = layer.kernel_size[0] * layer.kernel_size[1]
            total += out[0].numel() * kernel * layer.in_channels // layer.groups
        elif isinstance(layer, nn.Linear):
            total += out[0].numel() * layer.in_features

    handles = [m.register_forward_hook(count) for m in module.modules()]
    with torch.no_grad():
        module(*inputs)
    for handle in handles:
        handle.remove()
    return total
