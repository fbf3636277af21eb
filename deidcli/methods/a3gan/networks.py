"""The networks of `a3gan`: generator, discriminator, AINet, and what the ablations put in place.

Source: Zhai et al., "A3GAN: Attribute-Aware Anonymization Networks for Face De-identification",
sec. 4 and tables 2 to 4. Throughout, a chip is (N, 3, S, S) float32 RGB in [0, 1] with S = 128 px,
a latent is (N, 512), and a mask is (N, 10), 1 where the attribute may change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from deidcli.methods.a3gan.canvas import LATENT, Canvas, match_light
from deidcli.methods.a3gan.settings import ATTRIBUTES, EXTRA_ATTRIBUTES, VariantName
from deidcli.methods.blend import rim_to_face

SLOPE = 0.2
"""Slope of Leaky ReLU below 0; the paper gives none, STGAN's is 0.2."""
DESCRIPTION = len(EXTRA_ATTRIBUTES) + 10 + 128
"""Outputs of the attribute head beside the ten: two attributes, five landmarks, an embedding."""

Skip = Literal["scu", "stu", "none"]
Inject = Literal["adain", "concat"]


@dataclass(frozen=True)
class Size:
    """The widths of the networks."""

    widths: tuple[int, int, int, int, int]
    """Channels of the encoder's five layers."""
    critic: tuple[int, int, int, int, int]
    """Channels of the discriminator's five layers."""
    connected: tuple[int, int, int, int, int, int]
    """Units of AINet's six layers."""
    hidden: int
    """Units of the discriminator's first fully connected layers."""
    canvas: bool
    """Ours, see `Canvas`; the affine transform then gives the bias for each place, too."""
    side: int = 128
    """Side of a chip, px; table 3's FC(16384, .) takes 1024 x 4 x 4 features."""

    @property
    def code_side(self) -> int:
        """The side of the bottleneck."""
        return self.side >> 5


_WIDTHS = (64, 128, 256, 512, 1024)
SIZES: dict[str, Size] = {
    "paper": Size(_WIDTHS, _WIDTHS, (512, 512, 512, 1024, 1024, 1024), 1024, False),
    "compact": Size(
        (8, 16, 48, 96, 192), (16, 32, 64, 128, 256), (256, 256, 256, 512, 512, 512), 256, True
    ),
    # For tests alone: no setting offers it.
    "tiny": Size((4, 4, 8, 8, 8), (4, 4, 8, 8, 8), (8, 8, 8, 8, 8, 8), 16, True),
}


@dataclass(frozen=True)
class Variant:
    """The model, or one of the ablations of table 1."""

    skip: Skip = "scu"
    """scu; stu: STGAN's unit in its place; none: encoder features go to the decoder as they are."""
    masked: bool = True
    """Whether AINet is given the mask."""
    inject: Inject = "adain"
    """adain: eq. 8. concat: the attribute feature stands beside the bottleneck's feature."""


VARIANTS: dict[VariantName, Variant] = {
    "full": Variant(),
    "stu": Variant(skip="stu"),
    "no-scu": Variant(skip="none"),
    "no-mask": Variant(masked=False),
    "no-adain": Variant(inject="concat"),
}
"""The model, and the ablations of table 1."""


class SuppressiveUnit(nn.Module):
    """SCU: gate an encoder's feature by itself and by the deeper unit's output (eq. 6 and 7).

    Kernels of 4 (transposed) and 3 (gate) give the paper's ratio to `TransferUnit`, 57.8 %.
    """

    def __init__(self, encoded: int, deeper: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(deeper, encoded, 4, 2, 1)
        self.gate = nn.Conv2d(2 * encoded, encoded, 3, 1, 1)

    def forward(self, encoded: Tensor, deeper: Tensor, mask: Tensor) -> Tensor:
        """Return the gated feature.

        Args:
            encoded: (N, C, s, s). deeper: (N, D, s/2, s/2), the deeper unit's output.
            mask: (N, 10), which only `TransferUnit` uses.

        Returns:
            (N, C, s, s).
        """
        gate = torch.sigmoid(self.gate(torch.cat([encoded, self.up(deeper)], 1)))
        return gate * encoded


class TransferUnit(nn.Module):
    """STU of STGAN (Liu et al. 2019, eq. 2 to 7), which the ablation puts in the SCU's place.

    A GRU over layers: its state is the deeper unit's output beside the attribute vector, here m.
    """

    def __init__(self, encoded: int, deeper: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(deeper + len(ATTRIBUTES), encoded, 4, 2, 1)
        self.reset = nn.Conv2d(2 * encoded, encoded, 3, 1, 1)
        self.update = nn.Conv2d(2 * encoded, encoded, 3, 1, 1)
        self.hidden = nn.Conv2d(2 * encoded, encoded, 3, 1, 1)

    def forward(self, encoded: Tensor, deeper: Tensor, mask: Tensor) -> Tensor:
        """Return a feature (N, C, s, s); the arguments are those of `SuppressiveUnit`."""
        places = mask[:, :, None, None].expand(-1, -1, *deeper.shape[2:])
        state = self.up(torch.cat([deeper, places], 1))
        both = torch.cat([encoded, state], 1)
        reset, update = torch.sigmoid(self.reset(both)), torch.sigmoid(self.update(both))
        made = torch.tanh(self.hidden(torch.cat([encoded, reset * state], 1)))
        out: Tensor = (1 - update) * state + update * made
        return out


class _Plain(nn.Module):
    """The ablation without SCU: the encoder's feature passes as it is."""

    def __init__(self, encoded: int, deeper: int) -> None:
        super().__init__()

    def forward(self, encoded: Tensor, deeper: Tensor, mask: Tensor) -> Tensor:
        return encoded


_UNITS: dict[str, type[nn.Module]] = {
    "scu": SuppressiveUnit,
    "stu": TransferUnit,
    "none": _Plain,
}


def adain(feature: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalize each channel of each sample over its places, then scale and shift it (eq. 8).

    Args:
        feature: (N, C, s, s). scale: (N, C, 1, 1). bias: (N, C, 1, 1) or (N, C, s, s).
    """
    std, mean = torch.std_mean(feature, dim=(2, 3), correction=0, keepdim=True)
    return scale * (feature - mean) / (std + 1e-5) + bias


class AttributeInjection(nn.Module):
    """AINet (table 4) and its affine transform: from latent and mask to f_a's scale and bias."""

    def __init__(self, size: Size, variant: Variant) -> None:
        super().__init__()
        self.masked = variant.masked
        inputs = LATENT + (len(ATTRIBUTES) if variant.masked else 0)
        layers: list[nn.Module] = []
        for given, made in pairwise((inputs, *size.connected)):
            layers += [nn.Linear(given, made), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers)
        self.channels = size.widths[-1]
        self.places = size.code_side if size.canvas else 1
        self.affine = nn.Linear(size.connected[-1], self.channels * (1 + self.places**2))

    def forward(self, latent: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scale (N, C, 1, 1), around 1, and the bias (N, C, p, p) for `adain`.

        p is 1 as in the paper, or with a canvas the bottleneck's side (ours).
        """
        inputs = torch.cat([latent, mask], 1) if self.masked else latent
        out = self.affine(self.layers(inputs))
        scale, bias = out[:, : self.channels], out[:, self.channels :]
        shape = (-1, self.channels, self.places, self.places)
        return 1 + scale[:, :, None, None], bias.view(shape)


class Generator(nn.Module):
    """Encoder, SCUs, AINet and decoder (table 2), with a canvas where `Size.canvas` is set."""

    def __init__(self, size: Size, variant: Variant | None = None) -> None:
        super().__init__()
        variant = variant or Variant()
        self.size, self.variant = size, variant
        w = size.widths
        self.encoder = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(given, made, 4, 2, 1, bias=False),
                nn.BatchNorm2d(made),
                nn.LeakyReLU(SLOPE),
            )
            for given, made in pairwise((3, *w))
        )
        self.units = nn.ModuleList(_UNITS[variant.skip](w[i], w[i + 1]) for i in range(4))
        self.ainet = AttributeInjection(size, variant)
        self.canvas = Canvas(size.side) if size.canvas else None
        self.register_buffer("spread", rim_to_face(), persistent=False)
        drawn = 12 if size.canvas else 0  # a canvas at half the side, four pixels a place
        bottom = w[4] * (2 if variant.inject == "concat" else 1)
        shapes = [
            (bottom, w[4]),
            (w[4] + w[3], w[3]),
            (w[3] + w[2], w[2]),
            (w[2] + w[1] + drawn, w[1]),
        ]
        self.decoder = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(given, made, 4, 2, 1, bias=False),
                nn.BatchNorm2d(made),
                nn.ReLU(),
            )
            for given, made in shapes
        )
        self.last = nn.Sequential(nn.ConvTranspose2d(w[1] + w[0] + drawn, 3, 4, 2, 1))
        if size.canvas:  # a new generator shows its canvas as it is
            nn.init.zeros_(self.last[0].weight)  # type: ignore[arg-type]
            nn.init.zeros_(self.last[0].bias)  # type: ignore[arg-type]
        else:  # table 2 has both after D5, too
            self.last.extend([nn.BatchNorm2d(3), nn.ReLU()])

    spread: Tensor

    def forward(
        self, chips: Tensor, latent: Tensor, mask: Tensor, faces: Tensor | None = None
    ) -> Tensor:
        """Return de-identified faces (N, 3, S, S), at least 0 and not clamped at 1.

        Args:
            chips: (N, 3, S, S) in [0, 1]. latent: (N, 512). mask: (N, 10).
            faces: (N, 3, S, S), the faces that the latents stand for; None: as the canvas draws
                them. Not used where there is no canvas.
        """
        features = [chips * 2 - 1]
        for layer in self.encoder:
            features.append(layer(features[-1]))
        passed = self._suppressed(features[1:], mask)
        x = self._injected(passed[4], latent, mask)
        canvas = None
        if self.canvas is not None:
            drawn = self.canvas(latent) if faces is None else faces
            canvas = match_light(chips, drawn, self.spread)
        for index, layer in enumerate(self.decoder):
            if index == 3 and canvas is not None:
                small = functional.pixel_unshuffle(functional.avg_pool2d(canvas, 2), 2)
                x = torch.cat([x, small], 1)
            x = torch.cat([layer(x), passed[3 - index]], 1)
        out: Tensor
        if canvas is None:
            out = self.last(x)
            return out
        out = canvas + self.last(torch.cat([x, functional.pixel_unshuffle(canvas, 2)], 1))
        return out.clamp(min=0)

    def _suppressed(self, features: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
        """Return the five encoder features gated by the units; the deepest passes as it is."""
        passed = [features[4]]
        for index in (3, 2, 1, 0):
            passed.insert(0, self.units[index](features[index], passed[0], mask))
        return passed

    def _injected(self, feature: Tensor, latent: Tensor, mask: Tensor) -> Tensor:
        """Return the bottleneck's feature with AINet's attribute feature injected."""
        scale, bias = self.ainet(latent, mask)
        if self.variant.inject == "adain":
            return adain(feature, scale, bias)
        return torch.cat([feature, bias.expand_as(feature)], 1)


class Discriminator(nn.Module):
    """Table 3: D_cls, the critic, and D_att, the attribute head.

    The attribute head, trained alone at first and then frozen, also describes faces when a latent
    is chosen (latents.py); for that it has outputs beside the paper's ten.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for given, made in pairwise((3, *size.critic)):
            layers += [
                nn.Conv2d(given, made, 4, 2, 1),
                nn.InstanceNorm2d(made),
                nn.LeakyReLU(SLOPE),
            ]
        self.layers = nn.Sequential(*layers)
        flat = size.critic[-1] * size.code_side**2
        self.critic = nn.Sequential(
            nn.Linear(flat, size.hidden), nn.LeakyReLU(SLOPE), nn.Linear(size.hidden, 1)
        )
        self.hidden = nn.Sequential(nn.Linear(flat, size.hidden), nn.LeakyReLU(SLOPE))
        self.attributes = nn.Linear(size.hidden, len(ATTRIBUTES))
        self.description = nn.Linear(size.hidden, DESCRIPTION)

    def forward(self, chips: Tensor) -> tuple[Tensor, Tensor]:
        """Return D_cls (N,) and D_att before its sigmoid (N, 10) of chips."""
        flat = self.layers(chips * 2 - 1).flatten(1)
        return self.critic(flat)[:, 0], self.attributes(self.hidden(flat))

    def attribute_head(self, chips: Tensor) -> tuple[Tensor, Tensor]:
        """Return D_att before its sigmoid (N, 10) of chips, and our outputs (N, DESCRIPTION)."""
        hidden = self.hidden(self.layers(chips * 2 - 1).flatten(1))
        return self.attributes(hidden), self.description(hidden)
