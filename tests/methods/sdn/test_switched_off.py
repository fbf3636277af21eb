"""sdn: what each shipped network does, and that it shows when one is replaced.

For each network a figure that it must reach with the shipped weights, and that it misses when the
network is replaced by noise, or by one that does nothing. Where the shipped networks do next to
nothing, a test that is expected to fail says so, with what was measured.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.data.images import decode, encode
from deidcli.evaluate import quality
from deidcli.evaluate.quality import lpips, ssim
from deidcli.faces.align import chip_affine, crop, paste
from deidcli.methods.sdn.identity import Identity
from deidcli.methods.sdn.method import SecureDualNetwork
from deidcli.methods.sdn.portraits import classified_attributes, descriptors
from tests.methods.sdn.faces import bits_of, context, everybody, pixels

COUNT = 24
DLIB = 0.6
"""dlib's threshold: farther apart are two people."""


class Unchanged(nn.Module):
    """A refinement network that does nothing."""

    def forward(self, rough: Tensor, mask: Tensor) -> Tensor:
        return rough


class Blind(nn.Module):
    """An extractor that says the same, or noise, of every face."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, chips: Tensor) -> tuple[Tensor, Tensor, None]:
        drawn = self.noise * torch.randn(len(chips), 50, generator=torch.Generator().manual_seed(1))
        return 4 * drawn[:, :40], drawn[:, 40:], None


class Nobody(Identity):
    """An identity network that gives everybody the mean of the people who fit."""

    def latents(self, rows: Tensor, fitting: Tensor, *rest: Any) -> Tensor:
        means = super().latents(rows, fitting, *rest) * 0
        return means + self.codes[fitting].mean(1)


def random_weights(module: nn.Module) -> nn.Module:
    """The same network with weights that were never trained."""
    other = copy.deepcopy(module)
    torch.manual_seed(0)
    for parameter in other.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
    return other.eval()


def random_buffer(module: nn.Module, name: str) -> nn.Module:
    """The same with an orthonormal buffer, or people, drawn at random."""
    other = copy.deepcopy(module)
    buffer = other.get_buffer(name)
    noise = torch.randn(buffer.shape, generator=torch.Generator().manual_seed(0))
    buffer.copy_(noise * buffer.std(0) if name == "codes" else torch.linalg.qr(noise)[0])
    return other


def without_people(module: nn.Module) -> nn.Module:
    other = Nobody(len(module.get_buffer("codes")))
    other.load_state_dict(module.state_dict())
    return other


REPLACED: dict[str, tuple[str, Callable[[Any], nn.Module]]] = {
    "extractor constant": ("extractor", lambda _: Blind(0.0)),
    "extractor noise": ("extractor", lambda _: Blind(1.0)),
    "identity constant": ("identity", without_people),
    "identity noise": ("identity", lambda net: random_buffer(net, "codes")),
    "components noise": ("bottleneck", lambda net: random_buffer(net, "basis")),
    "carriers noise": ("bottleneck", lambda net: random_buffer(net, "carriers")),
    "erasing off": ("erasing", lambda _: Unchanged()),
    "erasing noise": ("erasing", random_weights),
    "reveal off": ("reveal", lambda _: Unchanged()),
    "reveal noise": ("reveal", random_weights),
}


def replaced(method: SecureDualNetwork, name: str) -> SecureDualNetwork:
    part, make = REPLACED[name]
    other = copy.copy(method)
    setattr(other, part, make(getattr(method, part)))
    return other


@dataclass(frozen=True)
class Figures:
    """What a method does to the 24 portraits. Restored ones come out of the tool's own JPEG."""

    method: SecureDualNetwork

    @cached_property
    def chips(self) -> Tensor:
        points = [where for _, where in everybody()]
        frames = [frame for frame, _ in everybody()]
        return self._cut(frames, points)

    @staticmethod
    def _cut(frames: list[Any], points: list[Any]) -> Tensor:
        pairs = zip(frames, points, strict=True)
        stack = np.stack([crop(f, chip_affine(p, 64, 0.6), 64, True) for f, p in pairs])
        return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255

    @cached_property
    def published(self) -> list[Tensor]:
        """In frames that were compressed, cut out again: under three keys."""
        out = []
        for seed in range(3):
            with torch.inference_mode():
                made = pixels(self.method(self.chips, context(bits_of(COUNT, seed))))
            frames = []
            for (frame, where), chip in zip(everybody(), made, strict=True):
                whole = frame.copy()
                paste(whole, chip, chip_affine(where, 64, 0.6), self.method.mask)
                frames.append(decode(encode(whole, "JPEG")).pixels)
            out.append(self._cut(frames, [where for _, where in everybody()]))
        return out

    @cached_property
    def restored(self) -> Tensor:
        with torch.inference_mode():
            return self.method.restore(self.published[0], bits_of(COUNT))

    @property
    def kept(self) -> float:
        """Share of faces whose sex and smile are as they were."""
        columns = [CELEBA_ATTRIBUTES.index(name) for name in ("Male", "Smiling")]
        said = [
            classified_attributes(torch.from_numpy(pixels(c)))[:, columns] > 0.5
            for c in (self.chips, *self.published)
        ]
        return float(np.mean([(other == said[0]).float().mean() for other in said[1:]]))

    @property
    def two_people(self) -> float:
        """Share of faces that two keys give two people."""
        one, two = (descriptors(torch.from_numpy(pixels(c))) for c in self.published[:2])
        return float(((one - two).norm(dim=1) > DLIB).float().mean())

    @property
    def restored_ssim(self) -> float:
        return float(ssim(self.restored, self.chips).mean())

    @property
    def published_lpips(self) -> float:
        if reason := quality.available().get("lpips"):
            pytest.skip(reason)
        return float(lpips(self.published[0], self.chips).mean())

    def _levels(self, one: Tensor, two: Tensor) -> float:
        inside = torch.from_numpy(self.method.mask) > 0.9
        return float((one - two)[:, :, inside].abs().mean()) * 255

    @property
    def erasing_levels(self) -> float:
        """Gray levels by which the erasing refinement network changes the surrogate."""
        with torch.inference_mode():
            given = (self.chips, context(bits_of(COUNT)))
            return self._levels(self.method(*given), replaced(self.method, "erasing off")(*given))

    @property
    def reveal_levels(self) -> float:
        """Gray levels by which the reveal refinement network changes what is restored."""
        with torch.inference_mode():
            given = (self.published[0], bits_of(COUNT))
            off = replaced(self.method, "reveal off").restore(*given)
            return self._levels(self.restored, off)


@pytest.fixture(scope="module")
def shipped(method: SecureDualNetwork) -> Figures:
    return Figures(method)


RANGES = {
    "kept": (0.7, 1.0),  # shipped 0.82; extractor off 0.57
    "two_people": (0.8, 1.0),  # 0.88; one person for all 0.0, random people 0.42
    "restored_ssim": (0.9, 1.0),  # 0.938; random components 0.33, random carriers 0.51
    "published_lpips": (0.0, 0.13),  # 0.098; the erasing network with random weights 0.47
    "erasing_levels": (1.0, 6.0),  # 2.65
    "reveal_levels": (1.0, 6.0),  # 2.63
}
"""What each figure is with the shipped networks, widely."""


@pytest.mark.parametrize("figure", RANGES)
def test_the_shipped_networks_reach_their_figures(shipped: Figures, figure: str) -> None:
    low, high = RANGES[figure]
    assert low <= getattr(shipped, figure) <= high


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("extractor constant", "kept"),
        ("extractor noise", "kept"),
        ("identity constant", "two_people"),
        ("identity noise", "two_people"),
        ("components noise", "restored_ssim"),
        ("carriers noise", "restored_ssim"),
        ("erasing noise", "published_lpips"),
        ("erasing noise", "erasing_levels"),
        ("erasing off", "erasing_levels"),
        ("reveal noise", "restored_ssim"),
        ("reveal off", "reveal_levels"),
    ],
)
def test_a_replaced_network_misses_its_figure(
    method: SecureDualNetwork, name: str, figure: str
) -> None:
    low, high = RANGES[figure]
    assert not low <= getattr(Figures(replaced(method, name)), figure) <= high


@pytest.mark.xfail(
    strict=True,
    reason="the shipped erasing refinement network improves nothing that is measured: LPIPS of the "
    "published chip 0.0982 with it, 0.0982 without (24 portraits, JPEG)",
)
def test_the_erasing_refinement_network_is_needed(
    shipped: Figures, method: SecureDualNetwork
) -> None:
    without = Figures(replaced(method, "erasing off"))
    assert shipped.published_lpips < 0.9 * without.published_lpips


@pytest.mark.xfail(
    strict=True,
    reason="the shipped reveal refinement network adds next to nothing: SSIM of the restored chip "
    "0.938 with it, 0.936 without (24 portraits, JPEG); 0.934 and 0.929 on celeba/test",
)
def test_the_reveal_refinement_network_is_needed(
    shipped: Figures, method: SecureDualNetwork
) -> None:
    without = Figures(replaced(method, "reveal off"))
    assert shipped.restored_ssim > without.restored_ssim + 0.01
