"""Fixtures for the tests of a3gan: chips of people who do not exist, and tiny trained weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from deidcli.faces import recognizers
from deidcli.faces.dlib_nets import DlibRecognizer
from deidcli.faces.reader import ANSWERS
from deidcli.faces.recognizers import RECOGNIZERS
from deidcli.methods import load_method
from deidcli.methods.a3gan import pairs as drawn_pairs
from deidcli.methods.a3gan import supervised
from deidcli.methods.a3gan import train as a3gan_training
from deidcli.methods.a3gan.geometry import PADDING
from deidcli.methods.a3gan.networks import SIZES, Generator, Size
from deidcli.methods.a3gan.pair_batches import Batch
from deidcli.methods.a3gan.recipe import Recipe
from deidcli.methods.base import Context
from tests.conftest import PEOPLE
from tests.datasets import celeba

TINY = Recipe(
    size="tiny",  # type: ignore[arg-type]  # no run may ask for it
    blocks=1,
    batch_size=4,
    supervised_steps=3,
    attribute_steps=3,
    attribute_batch=8,
    steps=3,
    checkpoint_steps=2,
    threads=1,
    precision="float32",
)
LATENT = SIZES["tiny"].latent


def context(count: int, first: int = 1) -> Context:
    """Faces with the numbers `first`, `first` + 1, ..."""
    seeds = np.arange(first, first + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return Context(seeds, np.ones(count))


def lively(size: Size = SIZES["tiny"], seed: int = 0, **variant: Any) -> Generator:
    """A generator whose every layer passes on what it is given: He's initial weights."""
    torch.manual_seed(seed)
    generator = Generator(size, **variant)
    for module in generator.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight)
    return generator


def pictures(count: int, seed: int = 5) -> Tensor:
    """(count, 3, 128, 128) smooth random colors in [0, 1]."""
    small = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(small, (128, 128), mode="bilinear")


def a_batch(count: int = 4) -> Batch:
    """Pairs of smooth colors."""
    random = torch.Generator().manual_seed(2)
    return Batch(
        pictures(count, 1),
        pictures(count, 2),
        pictures(count, 3)[:, :1],
        torch.randn(count, LATENT, generator=random),
        torch.rand(count, 10, generator=random).round(),
        torch.rand(count, 10, generator=random).round(),
    )


def gradient(module: nn.Module) -> Tensor:
    """All of a module's gradients, in a row."""
    return torch.cat([v.grad.flatten() for v in module.parameters() if v.grad is not None])


def changes(one: Tensor, other: Tensor) -> bool:
    """Whether two gradients differ by more than rounding does."""
    return float((one - other).norm()) > 1e-4 * float(one.norm())


def values_of(module: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in module.parameters()]


class SmallRecognizer(DlibRecognizer):
    """In dlib's place, thirty times as fast: ten small maps, and an embedding."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        torch.manual_seed(1)
        self.layers = nn.ModuleList(nn.Conv2d(4 if n else 3, 4, 3, 2 - n % 2, 1) for n in range(10))
        self.projection = nn.Parameter(30 * torch.randn(4, 6))
        self.requires_grad_(False)

    def maps(self, chips: Tensor) -> list[Tensor]:
        found = [functional.avg_pool2d(chips, 2) * 4 - 2]
        for layer in self.layers:
            found.append(functional.leaky_relu(1.5 * layer(found[-1]), 0.2))
        return found[1:]


class SmallEmbedder:
    """What `recognizers.load` gives."""

    def __init__(self) -> None:
        self.net = SmallRecognizer()
        self.recognizer = RECOGNIZERS["dlib"]


def small_reader(device: str) -> nn.Module:
    """What reads the small recognizer's maps in the reader's place."""
    torch.manual_seed(2)
    reader = nn.Linear(140, ANSWERS)
    reader.weight.data *= 30
    return reader


@pytest.fixture
def small_recognizer(monkeypatch: pytest.MonkeyPatch) -> SmallRecognizer:
    """dlib's recognizer and the reader are not asked, but small ones."""
    embedder = SmallEmbedder()
    monkeypatch.setattr(recognizers, "load", lambda name, device: embedder)
    monkeypatch.setattr(supervised, "load_reader", small_reader)
    return embedder.net


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks on several threads wait for each other most of the time; one seed for all."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def portraits() -> Tensor:
    """(24, 3, 128, 128) chips of people who do not exist."""
    from deidcli.training.chips import load_chips

    with tempfile.TemporaryDirectory() as folder:
        chips = np.array(load_chips(PEOPLE / "portraits", 128, PADDING, Path(folder), True).chips)
    return torch.from_numpy(chips).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="session")
def shipped() -> Any:
    return load_method("a3gan", {}, "cpu")


FEW = {"BANK": 4, "BLOCK": 2, "CANDIDATES": 4}
"""Of pairs.py: twelve pictures are drawn in place of 1,280."""


@pytest.fixture
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FEW.items():
        monkeypatch.setattr(drawn_pairs, name, value)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `out`: weights of tiny networks, trained on people who do not exist."""
    folder = tmp_path_factory.mktemp("a3gan")
    data = [celeba(folder / "celeba")]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in FEW.items():
            patch.setattr(drawn_pairs, name, value)
        made = a3gan_training.train(data, folder / "out", TINY, folder / "cache")
    assert made is not None and [path.name for path in made] == ["a3gan-tiny.safetensors"]
    return folder
