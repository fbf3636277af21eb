"""The face generator as a whole: noise to w, w to pictures of 128, 256, 512 or 1,024 px."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from deidcli.generator.graph import Graph
from deidcli.generator.heads import LAYERS, Head, late, load_head, trained_sides
from deidcli.generator.networks import PLACES, WIDTH, Mapping, Synthesis
from deidcli.generator.reading import read_mapping, read_synthesis
from deidcli.weights.files import pip_file
from deidcli.weights.pip_files import (
    GENERATOR_MAPPING,
    GENERATOR_MAPPING_GRAPH,
    GENERATOR_SYNTHESIS,
    GENERATOR_SYNTHESIS_GRAPH,
)

MEAN_OF = 4096
"""Draws that the mean w is taken over, as the package does."""
IDENTITY_PLACES = range(4, 10)
"""Places whose w decides who a picture shows; the others keep pose, glasses, hair outline and
ground. Chosen by eye on four pairs; docs/generator.md."""


SIDES = (128, 256, 512, 1024)
"""px of the pictures that a generator draws."""
CHUNK = {"cpu": 1, "cuda": 16}
"""Faces that are drawn at once: on a CPU, where one face fills the cache, more are no faster."""


class Generator:
    """MobileStyleGAN on one device, for drawing; nothing in it is trained."""

    def __init__(
        self,
        mapping: Mapping,
        synthesis: Synthesis,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> None:
        """Args: dtype: of the synthesis; default: half on a CUDA device, else float32."""
        self.device = torch.device(device)
        half = self.device.type == "cuda"
        self.dtype = dtype or (torch.float16 if half else torch.float32)
        self.mapping = mapping.to(self.device)
        self.synthesis = synthesis.to(self.device, self.dtype)
        self.synthesis.to(memory_format=torch.channels_last)
        self._heads: dict[int, Head] = {}
        noise = torch.randn(MEAN_OF, WIDTH, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            self.mean = self.mapping(noise.to(self.device)).mean(0)
        """(512,) the mean w, which truncation draws towards."""

    def w_of(self, z: Tensor, truncation: float | Tensor = 1.0) -> Tensor:
        """Gaussian noise to w.

        Args:
            z: (N, 512).
            truncation: share of the distance from the mean w that is kept, in [0, 1], for all or
                (N, 1): lower gives cleaner and more alike faces. Source: Karras et al. 2019
                (StyleGAN, arXiv:1812.04948), appendix B.

        Returns:
            (N, 512) float32 on the generator's device.
        """
        with torch.no_grad():
            w: Tensor = self.mapping(z.to(self.device))
            drawn: Tensor = self.mean + truncation * (w - self.mean)
            return drawn

    def draw(self, w: Tensor, side: int = 1024) -> Tensor:
        """Pictures of faces, without a gradient.

        Args:
            w: (N, 512), or (N, 23, 512) with a w for each place (`networks.PLACES`).
            side: 1024 and 512 from the whole network; 256 and 128 from the features on the way, by
                a head that we trained, at a fifth of the time. Without a head of its own, 128 is
                256 averaged down.

        Returns:
            (N, 3, side, side) float32 RGB in [-1, 1] on the generator's device.

        Raises:
            ValueError: no such side.
            DeidError: the head's weights are not there.
        """
        if side not in SIDES:
            raise ValueError(f"{side} px is none of {SIDES}")
        places = (w if w.dim() == 3 else everywhere(w)).to(self.device)
        with torch.inference_mode():
            chunks = torch.split(places, CHUNK.get(self.device.type, 1))
            drawn = [self._draw(chunk, side).float().clamp_(-1, 1) for chunk in chunks]
            return torch.cat(drawn) if drawn else torch.zeros(0, 3, side, side)

    def _draw(self, w: Tensor, side: int) -> Tensor:
        network, w = self.synthesis, w.to(self.dtype)
        if side < 512:
            headed = side if side in trained_sides() else 256
            x = network.features(w, LAYERS[headed])
            return functional.avg_pool2d(self._head(headed)(x, late(w, headed)), headed // side)
        x = network.features(w, len(network.layers))
        return network.picture(x, w) if side == 1024 else network.bands(x, w)[:, :3] / 2

    def _head(self, side: int) -> Head:
        if side not in self._heads:
            head = load_head(side).to(self.device, self.dtype)
            self._heads[side] = head.to(memory_format=torch.channels_last)
        return self._heads[side]


@cache
def load_generator(device: str = "cpu", dtype: torch.dtype | None = None) -> Generator:
    """The generator on a device, kept for the process.

    Raises:
        DeidError: the package random-face is not installed or altered; the hint is the command.
    """
    mapping = Graph(pip_file(GENERATOR_MAPPING_GRAPH), pip_file(GENERATOR_MAPPING))
    synthesis = Graph(pip_file(GENERATOR_SYNTHESIS_GRAPH), pip_file(GENERATOR_SYNTHESIS))
    return Generator(read_mapping(mapping), read_synthesis(synthesis), device, dtype)


def everywhere(w: Tensor) -> Tensor:
    """One w at every place: (N, 512) -> (N, 23, 512)."""
    return w[:, None].expand(-1, PLACES, -1)


def mix(w: Tensor, other: Tensor, places: Sequence[int] | range = IDENTITY_PLACES) -> Tensor:
    """The same picture with another person: `other`'s w at some places, `w` at the rest.

    Args:
        w, other: (N, 512), or (N, 23, 512).

    Returns:
        (N, 23, 512). Source: Karras et al. 2019, sec. 3.1 (style mixing).
    """
    mixed = (w if w.dim() == 3 else everywhere(w)).clone()
    source = other if other.dim() == 3 else everywhere(other)
    mixed[:, list(places)] = source[:, list(places)]
    return mixed
