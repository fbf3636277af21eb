"""The networks of `eae` (sec. III, Fig. 3 and 6): feature selection (FSN), external and internal
autoencoder.

In shapes: S is the side of the chips, (C, s, s) that of the codes r, y and d, m the number of
attributes of a set. All tensors are float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 224
"""Side of published chips, px (sec. IV-A). `compact` computes at half of it."""
PADDING = 0.65
"""The chip holds the whole square that recognizers with the ArcFace template see, and an edge."""
SLOPE = 0.1
"""Slope of LeakyReLU on the negative side; the paper gives none."""


@dataclass(frozen=True)
class Size:
    """The shape of the networks."""

    side: int
    """Side of the chips that the networks take, px."""
    widths: tuple[int, int, int, int, int, int]
    """Channels of the FSN's six blocks; the external autoencoder has those of the first five."""
    kernel: int
    """Side of the first convolution's kernel, px."""
    stride: int
    """Stride of the first convolution."""
    pools: tuple[int, int, int, int, int, int]
    """Strides of the six max-poolings: 2 halves the map."""
    hidden: tuple[int, int]
    """Units of the first two fully connected layers of each group."""
    inner: tuple[int, int, int, int, int]
    """Channels of the internal encoder's first five layers; the sixth gives the code."""
    back: tuple[int, int, int, int, int]
    """Channels of the internal decoder's first five layers; the sixth gives y."""
    embedder: str
    """torchvision's network of a PEN that is trained here."""

    @property
    def code_side(self) -> int:
        """Side of r, y and d."""
        side = self.side // self.stride
        for pool in self.pools:
            side //= pool
        return side

    @property
    def channels(self) -> int:
        """Channels of r, y and d."""
        return self.widths[-1]


SIZES: dict[str, Size] = {
    "compact": Size(
        112, (24, 48, 96, 160, 192, 192), 5, 2, (2, 2, 1, 2, 1, 1), (64, 32),
        (192, 192, 256, 256, 256), (64, 64, 64, 96, 128), "resnet18",
    ),
    "paper": Size(
        224, (64, 128, 256, 512, 512, 512), 3, 1, (2, 2, 2, 2, 1, 1), (128, 64),
        (512, 512, 512, 512, 512), (256, 256, 256, 256, 512), "resnet50",
    ),
}  # fmt: skip


def _block(inputs: int, outputs: int, kernel: int, stride: int, pool: int) -> nn.Sequential:
    """Return Conv-BatchNorm-MaxPool-LeakyReLU.

    Fig. 6 pools last; pooling before an increasing function gives the same and costs less.
    """
    pooling = nn.MaxPool2d(2) if pool == 2 else nn.MaxPool2d(3, 1, 1)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        pooling,
        nn.LeakyReLU(SLOPE, inplace=True),
    )


def _blocks(size: Size, count: int) -> nn.Sequential:
    """Return the first `count` shared blocks: (N, 3, S, S) in [-1, 1] -> (N, C, s, s)."""
    blocks, inputs = [], 3
    for index, (width, pool) in enumerate(zip(size.widths[:count], size.pools, strict=False)):
        kernel, stride = (size.kernel, size.stride) if index == 0 else (3, 1)
        blocks.append(_block(inputs, width, kernel, stride, pool))
        inputs = width
    return nn.Sequential(*blocks)


class FeatureSelection(nn.Module):
    """FSN: six shared blocks, whose output is d, and a group of three layers an attribute."""

    def __init__(self, size: Size, groups: int) -> None:
        super().__init__()
        self.shared = _blocks(size, 6)
        first, second = size.hidden
        self.groups = nn.ModuleList(
            nn.Sequential(
                nn.Linear(size.channels * size.code_side**2, first),
                nn.LeakyReLU(SLOPE),
                nn.Dropout(0.5),
                nn.Linear(first, second),
                nn.LeakyReLU(SLOPE),
                nn.Dropout(0.5),
                nn.Linear(second, 2),
            )
            for _ in range(groups)
        )

    def desired(self, chips: Tensor) -> Tensor:
        """Return d, the map that y is drawn to: (N, 3, S, S) in [0, 1] -> (N, C, s, s)."""
        out: Tensor = self.shared(chips * 2 - 1)
        return out

    def heads(self, desired: Tensor) -> Tensor:
        """Return the logits of a map d: (N, C, s, s) -> (N, groups, 2), absent and present."""
        flat = desired.flatten(1)
        return torch.stack([group(flat) for group in self.groups], 1)

    def forward(self, chips: Tensor) -> Tensor:
        """Return the logits of chips: (N, 3, S, S) in [0, 1] -> (N, groups, 2)."""
        return self.heads(self.desired(chips))

    def probabilities(self, chips: Tensor) -> Tensor:
        """Return P(present): (N, 3, S, S) in [0, 1] -> (N, groups).

        The logits are averaged with those of the flipped chip.
        """
        logits: Tensor = (self(chips) + self(chips.flip(3))) / 2
        return logits.softmax(2)[:, :, 1]


class ExternalAutoencoder(nn.Module):
    """Five layers each way: x (N, 3, S, S) in [0, 1] -> r (N, C, s, s) -> the same as x."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        assert size.widths[4] == size.channels
        self.encoder = _blocks(size, 5)
        layers: list[nn.Module] = []
        inputs, outputs = size.widths[4::-1], (*size.widths[3::-1], 3)
        for index in range(5):
            if index == 0:
                layers.append(nn.Conv2d(inputs[0], outputs[0], 3, 1, 1))
            else:  # doubles the side; a kernel of twice the stride covers evenly
                layers.append(nn.ConvTranspose2d(inputs[index], outputs[index], 4, 2, 1))
            if index < 4:
                layers += [nn.BatchNorm2d(outputs[index]), nn.LeakyReLU(SLOPE, inplace=True)]
        self.decoder = nn.Sequential(*layers, nn.Sigmoid())

    def encode(self, chips: Tensor) -> Tensor:
        """Return the code r of chips x: (N, 3, S, S) in [0, 1] -> (N, C, s, s)."""
        out: Tensor = self.encoder(chips * 2 - 1)
        return out

    def decode(self, code: Tensor) -> Tensor:
        """Return the picture of a code r or y: (N, C, s, s) -> (N, 3, S, S) in [0, 1]."""
        out: Tensor = self.decoder(code)
        return out

    def forward(self, chips: Tensor) -> Tensor:
        """Return chips encoded and decoded again, as the ablation SPRN publishes them."""
        return self.decode(self.encode(chips))


class InternalAutoencoder(nn.Module):
    """Six layers each way: r (N, C, s, s) -> code (N, m) -> bits in {-1, 1} -> y (N, C, s, s)."""

    def __init__(self, size: Size, attributes: int) -> None:
        super().__init__()
        channels, side = size.channels, size.code_side
        assert size.inner[0] == channels
        self.sides = [side, side]
        layers: list[nn.Module] = [_block(channels, channels, 3, 1, 1)]
        inputs = channels
        for width, stride in zip(size.inner[1:], (1, 2, 1, 2), strict=True):
            layers += [
                nn.Conv2d(inputs, width, 3, stride, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.LeakyReLU(SLOPE, inplace=True),
            ]
            self.sides.append((self.sides[-1] - 1) // stride + 1)
            inputs = width
        self.encoder = nn.Sequential(*layers, nn.Dropout(0.3))
        self.code = nn.Conv2d(inputs, attributes, self.sides[-1])
        widths = [attributes, *size.back, channels]
        self.decoder = nn.ModuleList(
            nn.Conv2d(a, b, 3, 1, 1) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in widths[1:-1])

    def encode(self, code: Tensor) -> Tensor:
        """Return the internal code of r: (N, C, s, s) -> (N, m), above 0 where the attribute is
        present."""
        out: Tensor = self.code(self.encoder(code))
        return out.flatten(1)

    def decode(self, bits: Tensor) -> Tensor:
        """Return y: (N, m) in {-1, 1} -> (N, C, s, s)."""
        x = bits[:, :, None, None]
        for index, layer in enumerate(self.decoder):
            side = self.sides[-1 - index] if index < len(self.sides) else self.sides[0]
            x = layer(functional.interpolate(x, (side, side)))
            if index < len(self.norms):
                x = functional.leaky_relu(self.norms[index](x), SLOPE)
        return x


def bits_of(code: Tensor) -> Tensor:
    """Return the (N, m) bits of an internal code: 1 where it is above 0, else -1.

    They are all that leaves the internal encoder.
    """
    return torch.where(code > 0, 1.0, -1.0)


def code_of(external: ExternalAutoencoder, internal: InternalAutoencoder, chips: Tensor) -> Tensor:
    """Return the internal code that is rounded when publishing: the mean over a chip and its flip.

    Args:
        chips: (N, 3, S, S) in [0, 1].

    Returns:
        (N, m).
    """
    codes = [internal.encode(external.encode(x)) for x in (chips, chips.flip(3))]
    return (codes[0] + codes[1]) / 2
