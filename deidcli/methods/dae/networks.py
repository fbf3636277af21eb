"""The networks of `dae`: fully connected and convolutional autoencoder, deblurrer, smoother.

Source: Nousi et al., "Deep Autoencoders for Attribute Preserving Face De-identification",
sec. 3.1 and 4.3. A chip is (N, 3, 64, 64) float RGB in [0, 1]; a code is (N, D) float.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from deidcli.methods.blend import LUMA, SIDE

CHROMA_SIDE = 16
"""Side of the two color planes of a fully connected network: eyes and cameras resolve color less
than light, and 2 x 16 x 16 more inputs cost an eighth, not twice, of the gray network's."""
WIDTHS = (1024, 768, 512)
"""Of the fully connected encoder after its input (table 1: the best baseline)."""
CHANNELS = (16, 32, 64, 128, 256)
"""Of the convolutional encoder; five poolings take 64 x 64 to 2 x 2 x 256 (sec. 4.3.2)."""


def pack(chips: Tensor, color: bool) -> Tensor:
    """(N, 3, 64, 64) RGB -> (N, 4096) luma, and with `color` 2 x 256 values of chroma behind it."""
    red, green, blue = chips.unbind(1)
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    if not color:
        return luma.flatten(1)
    chroma = torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], 1)
    small = functional.avg_pool2d(chroma, SIDE // CHROMA_SIDE)
    return torch.cat([luma.flatten(1), small.flatten(1)], 1)


def unpack(values: Tensor, color: bool) -> Tensor:
    """The inverse of `pack`: (N, 3, 64, 64) RGB, not clamped; gray without color."""
    luma = values[:, : SIDE * SIDE].view(-1, 1, SIDE, SIDE)
    if not color:
        return luma.expand(-1, 3, -1, -1)
    small = values[:, SIDE * SIDE :].view(-1, 2, CHROMA_SIDE, CHROMA_SIDE)
    chroma = functional.interpolate(small, (SIDE, SIDE), mode="bilinear", align_corners=False)
    blue = luma + 1.772 * chroma[:, :1]
    red = luma + 1.402 * chroma[:, 1:]
    green = (luma - LUMA[0] * red - LUMA[2] * blue) / LUMA[1]
    return torch.cat([red, green, blue], 1)


class FullyConnected(nn.Module):
    """Sec. 4.3.1: 4096-1024-768-512 and back, or another row of table 1.

    Input centered on the mean face, linear output. The activations are PReLU (a slope a unit,
    learned, 1 at the start), so that the network can start as principal components and learn from
    there; `start_from` does so.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS, color: bool = True) -> None:
        super().__init__()
        self.color = color
        inputs = SIDE * SIDE + (2 * CHROMA_SIDE**2 if color else 0)
        sizes = (inputs, *widths)
        self.register_buffer("mean", torch.zeros(inputs))
        self.encoder = _stack(sizes)
        self.decoder = _stack(sizes[::-1])
        self.code = sizes[-1]

    mean: Tensor

    def encode(self, chips: Tensor) -> Tensor:
        """(N, 3, 64, 64) -> (N, D)."""
        return self.encode_packed(pack(chips, self.color))

    def encode_packed(self, values: Tensor) -> Tensor:
        """What `pack` gives -> (N, D)."""
        out: Tensor = self.encoder(values - self.mean)
        return out

    def decode(self, codes: Tensor) -> Tensor:
        """(N, D) -> (N, 3, 64, 64), not clamped."""
        return unpack(self.decoder(codes) + self.mean, self.color)

    @torch.no_grad()
    def start_from(self, mean: Tensor, components: Tensor) -> None:
        """Make the network the projection on principal components.

        Args:
            mean: (P,) mean face. components: (P, C) orthonormal, C >= the widest layer.
        """
        self.mean.copy_(mean)
        for index, layer in enumerate(_linears(self.encoder)):
            wide, narrow = layer.in_features, layer.out_features
            matrix = components[:, :narrow].T if index == 0 else torch.eye(narrow, wide)
            layer.weight.copy_(matrix)
            layer.bias.zero_()
        for mine, mirrored in zip(
            _linears(self.decoder), _linears(self.encoder)[::-1], strict=True
        ):
            mine.weight.copy_(mirrored.weight.T)
            mine.bias.zero_()


def _stack(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with a PReLU between each two."""
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.PReLU(narrow, init=1.0)]
    return nn.Sequential(*layers[:-1])


def _linears(stack: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in stack if isinstance(layer, nn.Linear)]


class Convolutional(nn.Module):
    """Sec. 4.3.2: 3 x 3 convolutions and 2 x 2 max-pooling down to 2 x 2 x 256, and back.

    Departs from the paper: batch normalization and leaky ReLU; nearest upsampling before each
    convolution of the decoder; input and output centered on the mean face.
    """

    def __init__(self, channels: Sequence[int] = CHANNELS, color: bool = True) -> None:
        super().__init__()
        self.color = color
        planes = 3 if color else 1
        self.register_buffer("mean", torch.zeros(planes, SIDE, SIDE))
        down: list[nn.Module] = []
        for given, made in pairwise((planes, *channels)):
            down += [*_convolution(given, made), nn.MaxPool2d(2)]
        up: list[nn.Module] = []
        for given, made in pairwise(channels[::-1]):
            up += [nn.Upsample(scale_factor=2), *_convolution(given, made)]
        up += [nn.Upsample(scale_factor=2), nn.Conv2d(channels[0], planes, 3, padding=1)]
        self.encoder, self.decoder = nn.Sequential(*down), nn.Sequential(*up)
        self.grid = SIDE >> len(channels)
        self.code = channels[-1] * self.grid**2

    mean: Tensor

    def encode(self, chips: Tensor) -> Tensor:
        """(N, 3, 64, 64) -> (N, D); D is channels x grid rows x grid columns."""
        planes = chips if self.color else _luma(chips)
        out: Tensor = self.encoder(planes - self.mean)
        return out.flatten(1)

    def decode(self, codes: Tensor) -> Tensor:
        """(N, D) -> (N, 3, 64, 64), not clamped."""
        planes: Tensor = self.decoder(codes.view(len(codes), -1, self.grid, self.grid))
        return (planes + self.mean).expand(-1, 3, -1, -1)


def _convolution(given: int, made: int) -> list[nn.Module]:
    return [
        nn.Conv2d(given, made, 3, padding=1, bias=False),
        nn.BatchNorm2d(made),
        nn.LeakyReLU(0.1),
    ]


def _luma(chips: Tensor) -> Tensor:
    weights = torch.tensor(LUMA, dtype=chips.dtype, device=chips.device).view(1, 3, 1, 1)
    return (chips * weights).sum(1, keepdim=True)


Autoencoder = FullyConnected | Convolutional


class Deblurrer(nn.Module):
    """Four convolutions, no downsampling: what a blur took away is added to its input.

    Eight planes fill a vector register: twelve take three times as long on a CPU.
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        sizes = (3, width, width, width, 3)
        layers: list[nn.Module] = []
        for given, made in pairwise(sizes):
            layers += [nn.Conv2d(given, made, 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, chips: Tensor) -> Tensor:
        """(N, 3, 64, 64) -> the same, sharper; not clamped."""
        out: Tensor = chips + self.layers(chips)
        return out


class Smoother(nn.Module):
    """A shallow autoencoder: 8 planes of 32 x 32, two thirds of a chip's numbers."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, width, 4, stride=2, padding=1)
        self.decoder = nn.Sequential(nn.Conv2d(width, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, chips: Tensor) -> Tensor:
        """(N, 3, 64, 64) -> the same without what faces do not have; not clamped."""
        out: Tensor = self.decoder(self.encoder(chips - 0.5)) + 0.5
        return out


def principal_components(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(P,) mean and (P, count) orthonormal components of (N, P) values, the widest spread first.

    Where there are fewer samples than components, the rest are small random directions.
    """
    mean = values.mean(0)
    centered = values - mean
    if len(values) <= values.shape[1]:
        _, _, rows = torch.linalg.svd(centered, full_matrices=False)
        found = rows.T[:, :count]
    else:
        _, vectors = torch.linalg.eigh(centered.T @ centered)
        found = vectors.flip(1)[:, :count]
    missing = count - found.shape[1]
    if missing > 0:
        generator = torch.Generator().manual_seed(count)
        noise = torch.randn(values.shape[1], missing, generator=generator)
        found = torch.cat([found, 0.1 * noise / values.shape[1] ** 0.5], 1)
    return mean, found.contiguous()
