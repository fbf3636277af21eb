"""MobileStyleGAN: from noise to w, and from w to a picture of a face.

Belousov 2021, "MobileStyleGAN: A Lightweight Convolutional Neural Network for High-Fidelity Image
Synthesis" (arXiv:2104.04767): a student of StyleGAN2 (Karras et al. 2020, arXiv:1912.04958) on
Flickr-Faces-HQ. The tensors are those of the PyPI package random-face, whose demodulation is folded
into the weights; tests hold these networks against the package's own graph, node by node.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 512
"""Numbers in z and in w."""
PLACES = 23
"""Places of the synthesis network that take a w of their own, counted in the order of computation:
0 the first convolution; 1 + 3 i, 2 + 3 i and 3 + 3 i the *up*, *conv1* and *conv2* of layer i, 0 to
6; 22 the picture's own convolution."""
LAYERS = 7
SLOPE = 0.2
"""Of every leaky ReLU."""

Corner = tuple[int, int] | None
"""Row and column of a window in what it was cut out of; None: the whole."""


def inverse_haar(low: Tensor, details: Tensor) -> Tensor:
    """The inverse Haar transform.

    Args:
        low: (N, C, H, W). details: (N, 3 C, H, W); of channel c those at 3 c to 3 c + 2:
            what the rows, the columns and the diagonals differ by.

    Returns:
        (N, C, 2 H, 2 W), in the memory format of `low`. Source: Belousov 2021, sec. 3.2; Haar with
        factors 1/2.
    """
    return butterflies(low * 0.5, details * 0.5)


def butterflies(low: Tensor, details: Tensor) -> Tensor:
    """Twice the inverse Haar transform, as sums and strided stores; arguments as `inverse_haar`."""
    count, channels, height, width = low.shape
    rows, columns, diagonal = details[:, 0::3], details[:, 1::3], details[:, 2::3]
    top, bottom = low + rows, low - rows
    left, right = columns + diagonal, columns - diagonal
    last = low.stride(1) == 1 and channels > 1  # a slice of channels is not `contiguous`
    out = torch.empty(
        (count, channels, 2 * height, 2 * width),
        dtype=low.dtype,
        device=low.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )
    if torch.is_grad_enabled():  # `out=` has no gradient
        out[:, :, 0::2, 0::2], out[:, :, 0::2, 1::2] = top + left, top - left
        out[:, :, 1::2, 0::2], out[:, :, 1::2, 1::2] = bottom + right, bottom - right
        return out
    torch.add(top, left, out=out[:, :, 0::2, 0::2])
    torch.sub(top, left, out=out[:, :, 0::2, 1::2])
    torch.add(bottom, right, out=out[:, :, 1::2, 0::2])
    torch.sub(bottom, right, out=out[:, :, 1::2, 1::2])
    return out


def haar(picture: Tensor) -> Tensor:
    """The Haar transform that `inverse_haar` inverts.

    Args:
        picture: (N, C, 2 H, 2 W).

    Returns:
        (N, 4 C, H, W): C low-pass channels, then 3 details for each of them.
    """
    a, b = picture[..., 0::2, 0::2], picture[..., 0::2, 1::2]
    c, d = picture[..., 1::2, 0::2], picture[..., 1::2, 1::2]
    low, rows = (a + b + c + d) / 2, (a + b - c - d) / 2
    columns, diagonal = (a - b + c - d) / 2, (a - b - c + d) / 2
    details = torch.stack([rows, columns, diagonal], 2)
    return torch.cat([low, details.flatten(1, 2)], 1)


class Style(nn.Module):
    """A place's factors for its input channels: a linear map of w."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, WIDTH))
        self.bias = nn.Parameter(torch.ones(channels))

    def forward(self, w: Tensor) -> Tensor:
        """(N, 512) -> (N, C, 1, 1)."""
        return functional.linear(w, self.weight, self.bias)[:, :, None, None]


class Convolution(nn.Module):
    """Style, convolution, fixed noise, bias, leaky ReLU.

    The convolution is depthwise 3x3 and then 1x1, or dense 3x3 without `depthwise`.
    """

    def __init__(self, inputs: int, outputs: int, side: int, depthwise: bool = True) -> None:
        super().__init__()
        self.style = Style(inputs)
        self.depthwise = nn.Parameter(torch.zeros(inputs, 1, 3, 3)) if depthwise else None
        size = 1 if depthwise else 3
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("noise", torch.zeros(1, 1, side, side))
        self.noise: Tensor

    def forward(self, x: Tensor, w: Tensor, corner: Corner = None) -> Tensor:
        """(N, C, S, S), (N, 512) -> (N, outputs, S, S); a window of them with its corner."""
        style = self.style(w)
        if self.depthwise is None:
            x = x * style
        elif len(w) == 1:  # one style for all: a factor of the weights, which are few
            weight = self.depthwise * style.transpose(0, 1)
            x = functional.conv2d(x, weight, padding=1, groups=x.shape[1])
        else:
            x = functional.conv2d(x * style, self.depthwise, padding=1, groups=x.shape[1])
        x = functional.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)
        noise = self.noise
        if corner is not None:
            top, left = corner
            noise = noise[:, :, top : top + x.shape[2], left : left + x.shape[3]]
        if torch.is_grad_enabled():
            return functional.leaky_relu(x + noise, SLOPE)
        return functional.leaky_relu_(x.add_(noise), SLOPE)


class Layer(nn.Module):
    """From a side to its double: *up*, *conv1*, *conv2*."""

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__()
        self.up = Style(inputs)
        self.conv1 = Convolution(inputs // 4, outputs, side)
        self.conv2 = Convolution(outputs, outputs, side)

    def forward(self, x: Tensor, w: Tensor, corner: Corner = None) -> Tensor:
        """(N, C, S / 2, S / 2), w of the three places (N, 3, 512) -> (N, outputs, S, S).

        Args:
            corner: where x is a window, its place in the whole.
        """
        x = x * (0.5 * self.up(w[:, 0]))
        low = x.shape[1] // 4
        x = butterflies(x[:, :low], x[:, low:])
        doubled = None if corner is None else (2 * corner[0], 2 * corner[1])
        out: Tensor = self.conv2(self.conv1(x, w[:, 1], doubled), w[:, 2], doubled)
        return out


class Mapping(nn.Module):
    """Eight linear layers: Gaussian noise z to w, the description that places take."""

    def __init__(self) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(8))

    def forward(self, z: Tensor) -> Tensor:
        """(N, 512) -> (N, 512)."""
        x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for linear in self.linears:
            x = functional.leaky_relu(linear(x), SLOPE)
        return x


class Synthesis(nn.Module):
    """w to a picture, or to the features on the way."""

    def __init__(self, widths: Sequence[int]) -> None:
        """Args: widths: channels after the first convolution and after each layer."""
        super().__init__()
        first = widths[0]
        self.start = nn.Parameter(torch.zeros(1, first, 4, 4))
        self.first = Convolution(first, first, 4, depthwise=False)
        self.layers = nn.ModuleList(
            Layer(widths[i], widths[i + 1], 8 << i) for i in range(len(widths) - 1)
        )
        self.to_picture = nn.Conv2d(widths[-1], 12, 1)
        self.last_style = Style(widths[-1])

    def features(self, w: Tensor, layers: int) -> Tensor:
        """What comes out of the first layers: side 4 << layers.

        Args:
            w: (N, 23, 512), see PLACES; the first 1 + 3 * layers are used.
            layers: 0 to 7. 4 gives (N, 512, 64, 64), 5 gives (N, 256, 128, 128).
        """
        x = self.first(self.start.expand(len(w), -1, -1, -1), w[:, 0])
        return self.through(x, w, 0, layers)

    def through(
        self, x: Tensor, w: Tensor, first: int, layers: int, corner: Corner = None
    ) -> Tensor:
        """Features after `layers` layers, from those after `first` of them.

        Args:
            w: as in `features`.
            corner: row and column of the window that x is of the features, which saves the rest
                where only a part of the picture is wanted. At a side where the window is cut, two
                rows of cells are not those of the whole.
        """
        for number in range(first, layers):
            x = self.layers[number](x, w[:, 1 + 3 * number : 4 + 3 * number], corner)
            corner = None if corner is None else (2 * corner[0], 2 * corner[1])
        return x

    def forward(self, w: Tensor) -> Tensor:
        """(N, 23, 512) -> (N, 3, 1024, 1024) RGB, about [-1, 1], not clipped."""
        return self.picture(self.features(w, len(self.layers)), w)

    def picture(self, x: Tensor, w: Tensor) -> Tensor:
        """Features after the last layer, (N, 64, 512, 512), to (N, 3, 1024, 1024)."""
        bands = self.bands(x, w)
        return inverse_haar(bands[:, :3], bands[:, 3:])

    def bands(self, x: Tensor, w: Tensor) -> Tensor:
        """The Haar bands of the picture: (N, 12, 512, 512), 3 of low pass, then 9 of details.

        Half the low pass is the picture averaged down to 512 px.
        """
        style = self.last_style(w[:, -1])
        if len(w) == 1:
            weight = self.to_picture.weight * style
            return functional.conv2d(x, weight, self.to_picture.bias)
        bands: Tensor = self.to_picture(x * style)
        return bands
