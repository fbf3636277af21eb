"""The networks of `dae`: two autoencoders, deblurrer, smoother and matcher.

Source: Nousi et al., "Deep Autoencoders for Attribute Preserving Face De-identification",
sec. 3.1 and 4.3; the matcher is ours. Chips are (N, 3, 64, 64) float RGB in [0, 1]; codes are
(N, D) float.
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
than light, and 2 x 16 x 16 more inputs cost an eighth of the gray network's, not twice as much."""
WIDTHS = (1024, 768, 512)
"""Widths of the fully connected encoder after its input (table 1: the best baseline)."""
CHANNELS = (16, 32, 64, 128, 256)
"""Channels of the convolutional encoder; five poolings take 64 x 64 to 2 x 2 x 256 (sec. 4.3.2)."""
ATTRIBUTES = ("Male", "Smiling", "Mouth_Slightly_Open", "Eyeglasses", "Young")
"""What the matcher tells of a face, and a stranger shares as far as the pool has it; CelebA's
names."""
EMBEDDING = 128
"""Numbers of dlib's descriptor, which the matcher learns."""


def pack(chips: Tensor, color: bool) -> Tensor:
    """Return the (N, 4096) luma of (N, 3, 64, 64) RGB in [0, 1], followed by 2 x 256 values of
    chroma with `color`."""
    red, green, blue = chips.unbind(1)
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    if not color:
        return luma.flatten(1)
    chroma = torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], 1)
    small = functional.avg_pool2d(chroma, SIDE // CHROMA_SIDE)
    return torch.cat([luma.flatten(1), small.flatten(1)], 1)


def unpack(values: Tensor, color: bool) -> Tensor:
    """Return (N, 3, 64, 64) RGB of what `pack` gave, not clamped; gray without color."""
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
    """The fully connected autoencoder, 4096-1024-768-512 and back (sec. 4.3.1, table 1).

    The input is centered on the mean face and the output linear. The activations are PReLU (one
    learned slope a unit, 1 at the start), so that the network can start as principal components
    (`start_from`) and learn from there.
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
        """Return the (N, D) codes of (N, 3, 64, 64) chips."""
        out: Tensor = self.encoder(pack(chips, self.color) - self.mean)
        return out

    def decode(self, codes: Tensor) -> Tensor:
        """Return the (N, 3, 64, 64) faces of (N, D) codes, not clamped."""
        return unpack(self.decoder(codes) + self.mean, self.color)

    @torch.no_grad()
    def start_from(self, mean: Tensor, components: Tensor) -> None:
        """Turn the network into the projection on principal components.

        Args:
            mean: (P,) mean face, packed.
            components: (P, C) orthonormal, C at least the width of the widest layer.
        """
        self.mean.copy_(mean)
        for index, layer in enumerate(_linears(self.encoder)):
            wide, narrow = layer.in_features, layer.out_features
            matrix = components[:, :narrow].T if index == 0 else torch.eye(narrow, wide)
            layer.weight.copy_(matrix)
            layer.bias.zero_()
        pairs = zip(_linears(self.decoder), _linears(self.encoder)[::-1], strict=True)
        for layer, opposite in pairs:
            layer.weight.copy_(opposite.weight.T)
            layer.bias.zero_()


def _stack(sizes: Sequence[int]) -> nn.Sequential:
    """Return linear layers with a PReLU between each two."""
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.PReLU(narrow, init=1.0)]
    return nn.Sequential(*layers[:-1])


def _linears(stack: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in stack if isinstance(layer, nn.Linear)]


class Convolutional(nn.Module):
    """The convolutional autoencoder: 3 x 3 convolutions and 2 x 2 max-pooling down to 2 x 2 x 256,
    and back (sec. 4.3.2).

    Departures from the paper: batch normalization and leaky ReLU; nearest upsampling before each
    convolution of the decoder; input and output are centered on the mean face.
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
        """Return the (N, D) codes of (N, 3, 64, 64) chips; D is channels x grid rows x columns."""
        planes = chips if self.color else _luma(chips)
        out: Tensor = self.encoder(planes - self.mean)
        return out.flatten(1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the (N, 3, 64, 64) faces of (N, D) codes, not clamped."""
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


def build_autoencoder(network: str, shape: Sequence[int], color: bool) -> Autoencoder:
    """Return an untrained autoencoder.

    Args:
        network: `fc` or `conv`. shape: widths or channels of the encoder's layers.
        color: RGB; false: gray, as in the paper.
    """
    return Convolutional(shape, color) if network == "conv" else FullyConnected(shape, color)


class Deblurrer(nn.Module):
    """The deblurring network: four convolutions without downsampling predict what a blur took away
    (sec. 4.3).

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
        """Return (N, 3, 64, 64) chips sharper, not clamped."""
        out: Tensor = chips + self.layers(chips)
        return out


class Smoother(nn.Module):
    """The smoothing network: a shallow autoencoder whose code has 8 planes of 32 x 32, two thirds
    of a chip's numbers (sec. 4.3)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, width, 4, stride=2, padding=1)
        self.decoder = nn.Sequential(nn.Conv2d(width, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, chips: Tensor) -> Tensor:
        """Return (N, 3, 64, 64) chips without what faces do not have, not clamped."""
        out: Tensor = self.decoder(self.encoder(chips - 0.5)) + 0.5
        return out


class Matcher(nn.Module):
    """The network that says what a stranger must share with a face: attributes, landmarks, and
    whom the face is like (ours, not the paper's).

    Used in double precision, so that a batch's size cannot tip the choice of a stranger.
    """

    def __init__(self, inputs: int, hidden: tuple[int, int] = (384, 256)) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden[0]),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(hidden[0], hidden[1]),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(hidden[1], len(ATTRIBUTES) + 10 + EMBEDDING),
        )

    mean: Tensor

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the (N, 5) logits, (N, 10) landmarks and (N, 128) embedding of (N, P) packed
        faces."""
        out = self.layers(values - self.mean)
        logits, landmarks, embedding = out.split([len(ATTRIBUTES), 10, EMBEDDING], 1)
        return logits, landmarks, embedding


def principal_components(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the (P,) mean of (N, P) values and (P, count) orthonormal components, the widest
    spread first.

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
