"""The face generator as a whole: noise to w, w to pictures of 128, 256, 512 or 1,024 px."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from deidcli.generator.graph import Graph
from deidcli.generator.networks import (
    PLACES,
    WIDTH,
    Mapping,
    Synthesis,
    read_mapping,
    read_synthesis,
)
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


class Generator:
    """MobileStyleGAN on one device; nothing in it is trained."""

    def __init__(self, mapping: Mapping, synthesis: Synthesis, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.mapping = mapping.to(self.device)
        self.synthesis = synthesis.to(self.device, memory_format=torch.channels_last)
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
                (StyleGAN, arXiv:1812.04948), sec. 2.1 and appendix B.

        Returns:
            (N, 512) float32 on the generator's device.
        """
        with torch.no_grad():
            w = self.mapping(z.to(self.device))
        return self.mean + truncation * (w - self.mean)


@cache
def load_generator(device: str = "cpu") -> Generator:
    """The generator on a device, kept for the process.

    Raises:
        DeidError: the package random-face is not installed or altered; the hint is the command.
    """
    mapping = Graph(pip_file(GENERATOR_MAPPING_GRAPH), pip_file(GENERATOR_MAPPING))
    synthesis = Graph(pip_file(GENERATOR_SYNTHESIS_GRAPH), pip_file(GENERATOR_SYNTHESIS))
    return Generator(read_mapping(mapping), read_synthesis(synthesis), device)


def everywhere(w: Tensor) -> Tensor:
    """One w at every place: (N, 512) -> (N, 23, 512)."""
    return w[:, None].expand(-1, PLACES, -1)


def mix(
    w: Tensor, other: Tensor, places: Sequence[int] | range = IDENTITY_PLACES
) -> Tensor:
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
