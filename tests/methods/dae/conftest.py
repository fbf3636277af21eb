"""Tiny training data and recipes of `dae`, and chips of people who do not exist."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deidcli.methods.base import Context
from deidcli.methods.blend import PADDING, SIDE
from deidcli.methods.dae.recipe import Recipe
from deidcli.methods.dae.training_faces import faces_of
from deidcli.training.chips import Chips, load_chips
from tests.conftest import PEOPLE

TINY = Recipe(
    target="neighbors",
    n=2,
    widths="24,16,8",
    channels="4,4,4,8,8",
    k=3,
    pool_size=10,
    autoencoder_epochs=2,
    encoder_epochs=2,
    filter_epochs=1,
    matcher_epochs=1,
    batch_size=8,
    checkpoint_steps=4,
    threads=1,
)
"""The smallest recipe: 24 faces, 3 steps an epoch."""
STRANGERS = replace(TINY, target="strangers", attributes="Male", pool=str(PEOPLE / "portraits"))


def context(count: int, first: int = 1) -> Context:
    """Seeds for `count` faces, those of a run whose faces begin with number `first`."""
    seeds = np.arange(first, first + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return Context(seeds, np.ones(count))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny networks lose more by a second thread than they gain."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 portraits of people who do not exist, with made-up labels: every second one
    is Male, the first half is Smiling."""
    folder = tmp_path_factory.mktemp("dae-data") / "labeled"
    folder.mkdir()
    rows = []
    for index, path in enumerate(sorted((PEOPLE / "portraits").glob("*.jpg"))):
        shutil.copy(path, folder)
        rows.append((path.name, 1 if index % 2 else -1, 1 if index < 12 else -1))
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "Male", "Smiling"), *rows])
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of cut chips for all trainings here, so that faces are found once."""
    return tmp_path_factory.mktemp("dae-cache")


@pytest.fixture(scope="session")
def faces(labeled: Path, cache: Path) -> Chips:
    """The 24 chips with their labels."""
    return faces_of([labeled], cache, 0)[0]


@pytest.fixture(scope="session")
def portraits(cache: Path) -> torch.Tensor:
    """(24, 3, 64, 64) float32 chips of people who do not exist."""
    chips = np.array(load_chips(PEOPLE / "portraits", SIDE, PADDING, cache, True).chips)
    return torch.from_numpy(chips).permute(0, 3, 1, 2).float() / 255
