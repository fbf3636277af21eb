"""The settings of a training run of `dae`: what does not fit, what is ignored, whose pool it is."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest

from deidcli.errors import UsageError
from deidcli.methods.dae.recipe import USED, Recipe
from deidcli.methods.dae.settings import Target
from deidcli.methods.dae.train import train
from tests.methods.dae.conftest import STRANGERS, TINY


@pytest.mark.parametrize(
    "given",
    [
        {"target": "cells"},
        {"target": "strangers", "color": False},
        {"target": "strangers", "network": "conv"},
        {"attributes": "Mail"},
        {"widths": "0"},
        {"widths": "64,,8"},
        {"channels": "8,-4"},
    ],
)
def test_settings_that_do_not_fit_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises((ValueError, UsageError)):
        replace(TINY, **given)


SUPERVISED = {"attributes", "together", "k", "alpha", "beta"}
POOL = {"pool", "pool_size", "matcher_epochs"}


@pytest.mark.parametrize(
    ("target", "used"),
    [
        ("strangers", SUPERVISED | POOL),
        ("supervised", SUPERVISED),
        ("clusters", {"alpha", "clusters"}),
        ("neighbors", {"alpha", "n"}),
        ("cells", {"alpha", "n"}),
        ("none", set()),
    ],
)
def test_what_a_target_ignores_is_named(target: Target, used: set[str]) -> None:
    network: Any = "conv" if target == "cells" else "fc"
    unused = (SUPERVISED | POOL | {"clusters", "n"}) - used
    unused |= {"widths"} if target == "cells" else {"channels"}
    unused |= {"encoder_epochs"} if target == "none" else set()
    assert Recipe(target=target, network=network).ignored() == unused


def test_the_shape_of_the_other_network_is_ignored() -> None:
    assert "widths" in Recipe(target="none", network="conv").ignored()
    assert "channels" not in Recipe(target="none", network="conv").ignored()


def test_every_target_has_a_line_and_names_real_settings() -> None:
    assert set(USED) == set(get_args(Target))
    names = {field.name for field in fields(Recipe)}
    for target in USED:
        network: Any = "conv" if target == "cells" else "fc"
        assert Recipe(target=target, network=network).ignored() <= names


def test_strangers_without_a_pool_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    settings = replace(STRANGERS, pool="")
    with pytest.raises(UsageError, match="needs a pool") as refused:
        train([tmp_path / "nothing"], tmp_path / "out", settings, tmp_path / "cache")
    assert "--set pool=FOLDER" in refused.value.hint and "pool=training" in refused.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [{"part": "autoencoder"}, {"target": "supervised"}])
def test_a_run_that_needs_no_pool_is_not_asked_for_one(given: dict[str, Any]) -> None:
    replace(STRANGERS, pool="", **given).require_pool()
