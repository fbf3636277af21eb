"""Fixtures for the tests of a3gan: chips of people who do not exist, and tiny trained weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deidcli.methods import load_method
from deidcli.methods.a3gan import train as a3gan_training
from deidcli.methods.a3gan.networks import SIZES, Generator, Size
from deidcli.methods.a3gan.recipe import Recipe
from deidcli.methods.a3gan.settings import READ_ATTRIBUTES
from deidcli.methods.base import Context
from deidcli.methods.blend import PADDING
from tests.conftest import PEOPLE
from tests.datasets import celeba

TINY = Recipe(
    size="tiny",  # type: ignore[arg-type]  # no run may ask for it
    pool="training",
    attribute_epochs=1,
    attribute_batch=8,
    batch_size=8,
    teacher_steps=3,
    steps=3,
    recognizer_faces=2,
    recognizer="dlib",  # always installed
    checkpoint_steps=2,
    threads=1,
)


def column(name: str) -> int:
    """The column of an attribute among those that the attribute head reads."""
    return READ_ATTRIBUTES.index(name)


def context(count: int, first: int = 1) -> Context:
    """Faces with the numbers `first`, `first` + 1, ..."""
    seeds = np.arange(first, first + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return Context(seeds, np.ones(count))


def lively(size: Size = SIZES["tiny"], seed: int = 0, **variant: Any) -> Generator:
    """A generator whose every layer passes on what it is given: He's initial weights, and a last
    layer that is not 0, on a gray canvas."""
    torch.manual_seed(seed)
    generator = Generator(size, **variant)
    for module in generator.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight)
    if generator.canvas is not None:
        generator.canvas.mean.fill_(0.5)
    return generator


def pictures(count: int, seed: int = 5) -> torch.Tensor:
    """(count, 3, 128, 128) smooth random colors in [0, 1]."""
    small = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(small, (128, 128), mode="bilinear")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks on several threads wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def portraits() -> torch.Tensor:
    """(24, 3, 128, 128) chips of people who do not exist."""
    from deidcli.training.chips import load_chips

    with tempfile.TemporaryDirectory() as folder:
        chips = np.array(load_chips(PEOPLE / "portraits", 128, PADDING, Path(folder), True).chips)
    return torch.from_numpy(chips).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="session")
def shipped() -> Any:
    return load_method("a3gan", {}, "cpu")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `out`: weights of tiny networks, trained on people who do not exist."""
    folder = tmp_path_factory.mktemp("a3gan")
    data = [celeba(folder / "celeba")]
    made = a3gan_training.train(data, folder / "out", TINY, folder / "cache")
    assert made is not None and [path.name for path in made] == ["a3gan-tiny.safetensors"]
    return folder
