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

from deidcli.methods.a3gan.settings import ATTRIBUTES, VariantName

SLOPE = 0.2
"""Slope of Leaky ReLU below 0; the paper gives none, STGAN's is 0.2."""
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
    latent: int
    """Numbers of a latent. Ours has the generator's first principal components alone."""
    plain: bool
    """Whether D5 is a transposed convolution alone (ours). Table 2 has batch norm and ReLU after
    it, which make black of all that is darker than a channel's mean."""
    side: int = 128
    """Side of a chip, px; table 3's FC(16384, .) takes 1024 x 4 x 4 features."""

    @property
    def code_side(self) -> int:
        """The side of the bottleneck."""
        return self.side >> 5


_WIDTHS = (64, 128, 256, 512, 1024)
SIZES: dict[str, Size] = {
    "paper": Size(_WIDTHS, _WIDTHS, (512, 512, 512, 1024, 1024, 1024), 1024, 512, False),
    "compact": Size(
        (32, 64, 128, 256, 384),
        (16, 32, 64, 128, 256),
        (512, 512, 512, 512, 512, 512),
        256,
        128,
        True,
    ),
    # For tests alone: no setting offers it.
    "tiny": Size((8, 8, 16, 16, 24), (4, 4, 8, 8, 8), (16, 16, 16, 16, 16, 16), 16, 8, True),
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
        inputs = size.latent + (len(ATTRIBUTES) if variant.masked else 0)
        layers: list[nn.Module] = []
        for given, made in pairwise((inputs, *size.connected)):
            layers += [nn.Linear(given, made), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*layers)
        self.channels = size.widths[-1]
        self.affine = nn.Linear(size.connected[-1], 2 * self.channels)
        # torch's own start loses a latent's variance over six layers: nothing would hang on it.
        for module in self.layers:
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, SLOPE)
        nn.init.xavier_normal_(self.affine.weight, 0.5)

    def forward(self, latent: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scale, around 1, and the bias for `adain`: (N, C, 1, 1) each."""
        inputs = torch.cat([latent, mask], 1) if self.masked else latent
        scale, bias = self.affine(self.layers(inputs))[:, :, None, None].chunk(2, 1)
        return 1 + scale, bias


class Generator(nn.Module):
    """Encoder, SCUs, AINet and decoder (table 2)."""

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
        bottom = w[4] * (2 if variant.inject == "concat" else 1)
        shapes = [(bottom, w[4]), (w[4] + w[3], w[3]), (w[3] + w[2], w[2]), (w[2] + w[1], w[1])]
        self.decoder = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(given, made, 4, 2, 1, bias=False),
                nn.BatchNorm2d(made),
                nn.ReLU(),
            )
            for given, made in shapes
        )
        self.last = nn.Sequential(nn.ConvTranspose2d(w[1] + w[0], 3, 4, 2, 1))
        if size.plain:
            nn.init.constant_(self.last[0].bias, 0.5)  # type: ignore[arg-type]
        else:
            self.last.extend([nn.BatchNorm2d(3), nn.ReLU()])

    def forward(self, chips: Tensor, latent: Tensor, mask: Tensor) -> Tensor:
        """Return de-identified faces (N, 3, S, S), not clamped to [0, 1].

        Args:
            chips: (N, 3, S, S) in [0, 1]. latent: (N, L). mask: (N, 10).
        """
        features = [chips * 2 - 1]
        for layer in self.encoder:
            features.append(layer(features[-1]))
        passed = self._suppressed(features[1:], mask)
        x = self._injected(passed[4], latent, mask)
        for index, layer in enumerate(self.decoder):
            x = torch.cat([layer(x), passed[3 - index]], 1)
        out: Tensor = self.last(x)
        return out

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
    """Table 3: D_cls, the critic, and D_att, which reads the ten attributes."""

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
        self.attributes = nn.Sequential(
            nn.Linear(flat, size.hidden),
            nn.LeakyReLU(SLOPE),
            nn.Linear(size.hidden, len(ATTRIBUTES)),
        )

    def forward(self, chips: Tensor) -> tuple[Tensor, Tensor]:
        """Return D_cls (N,) and D_att before its sigmoid (N, 10) of chips."""
        flat = self.layers(chips * 2 - 1).flatten(1)
        return self.critic(flat)[:, 0], self.attributes(flat)


class PatchCritic(nn.Module):
    """Which patches of a picture look drawn by the decoder: (N, 3, S, S) -> (N, 1, S/8, S/8). Ours.

    Source: Isola et al. 2017 (pix2pix, arXiv:1611.07004), section 3.2.2, with spectral norm
    (Miyato et al. 2018, arXiv:1802.05957).
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for given, made in pairwise((3, *widths)):
            convolution = nn.Conv2d(given, made, 4, 2, 1)
            layers += [nn.utils.parametrizations.spectral_norm(convolution), nn.LeakyReLU(SLOPE)]
        last = nn.Conv2d(widths[-1], 1, 3, 1, 1)
        self.layers = nn.Sequential(*layers, nn.utils.parametrizations.spectral_norm(last))

    def forward(self, chips: Tensor) -> Tensor:
        found: Tensor = self.layers(chips * 2 - 1)
        return found
