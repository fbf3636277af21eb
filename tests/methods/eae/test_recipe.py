"""The settings of a training, which of them count, and the cards that tell them."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from deidcli.fields import parse_fields
from deidcli.methods.eae import train
from deidcli.methods.eae.recipe import DECIDES, Recipe
from deidcli.methods.eae.run import metadata
from deidcli.training.chips import Chips
from deidcli.training.weight_files import tomllib
from deidcli.weights.own import own_cards, weights_folder
from tests.methods.eae.tiny import TINY, tiny_run


@pytest.mark.parametrize(
    ("changes", "ignored"),
    [
        ({}, {"pen_epochs", "pen_rate", "sprn_steps", "sprn_initial"}),
        ({"pen": "arcface"}, {"sprn_rate"}),
        ({"part": "sprn"}, {"alike", "picture_every", "internal_steps", "fine_tune_from", "soft"}),
        ({"part": "fsn"}, {"attrs", "a1", "a2", "pen", "external_epochs", "sprn_steps", "soft"}),
        ({"part": "external"}, {"attrs", "internal_rate", "alike"}),
        ({"part": "internal"}, {"sprn_batch", "sprn_initial", "pen_rate"}),
        ({"part": "internal", "fine_tune_from": "x"}, {"picture_every", "soft"}),
        ({"part": "pen", "pen": "arcface"}, {"attrs", "weight_decay", "fsn_epochs"}),
    ],
)
def test_settings_without_bearing_are_told(changes: dict[str, Any], ignored: set[str]) -> None:
    found = Recipe(**changes).ignored()
    assert ignored <= found
    assert not found & {"part", "seed", "size", "batch_size", "device", "threads"}


@pytest.mark.parametrize(
    ("changes", "counting"),
    [
        ({}, {"attrs", "soft", "picture_every", "alike", "fsn_epochs", "internal_initial"}),
        ({"part": "fsn", "targets": "x.npy"}, {"soft", "targets", "fsn_rate", "average"}),
        ({"part": "sprn"}, {"attrs", "a1", "a2", "pen", "sprn_rate", "fsn_epochs"}),
        ({"part": "pen", "pen": "arcface"}, {"pen_rate", "pen_epochs", "warmup", "average"}),
    ],
)
def test_settings_that_count_are_not_ignored(changes: dict[str, Any], counting: set[str]) -> None:
    assert not Recipe(**changes).ignored() & counting


def test_every_setting_counts_for_some_part() -> None:
    parts = [Recipe(part=part, pen="arcface", targets="x") for part in (*DECIDES, "all")]  # type: ignore[arg-type]
    ignored = frozenset.intersection(*[recipe.ignored() for recipe in parts])
    assert ignored == frozenset()
    names = {field.name for field in fields(Recipe)}
    assert {name for part in DECIDES.values() for name in part} <= names


def test_the_commands_of_the_shipped_cards_are_accepted() -> None:
    """Parsed as `deid train` does, with no setting that the part ignores."""
    shipped = tomllib.loads((weights_folder() / "weights.toml").read_text())
    commands = [card["command"] for card in shipped.values() if card["kind"] == "eae"]
    assert len(commands) == 10
    for command in commands:
        words = shlex.split(command)
        assert words[:3] == ["deid", "train", "eae"]
        given = {}
        for option, value in zip(words, words[1:], strict=False):
            if option == "--set":
                key, _, text = value.partition("=")
                given[key] = text
            elif option in ("--attrs", "--size"):
                given[option.removeprefix("--")] = value
        recipe = parse_fields("eae", Recipe, given)
        assert not recipe.ignored() & set(given), command


def test_a_shipped_file_tells_its_settings_by_todays_names() -> None:
    settings = metadata(weights_folder() / "eae-compact-GSBE.safetensors")["settings"]
    assert settings["fine_tune_from"] == "eae-compact-GSBEY.safetensors"
    assert set(settings) - {"data"} <= {field.name for field in fields(Recipe)}


def test_a_card_tells_the_command(tiny: Chips, tmp_path: Path) -> None:
    """Of the settings that bear on the part, those that are not the default; paths by name."""
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "fsn.safetensors"
    out = tmp_path / "out"
    assert train.train([Path("faces")], tmp_path, replace(TINY, part="fsn"))
    (tmp_path / "eae-compact-fsn.safetensors").rename(file)
    recipe = replace(TINY, part="fsn", fsn_initial=str(file), internal_steps=99, a1=7.0)
    assert train.train([Path("some/faces")], out, recipe)
    card = tomllib.loads((out / "weights.toml").read_text())["eae-compact-fsn"]
    assert card["command"] == (
        "deid train eae DATA --set part=fsn --set batch_size=8 --set fsn_epochs=2 "
        "--set fsn_initial=fsn.safetensors --set warmup=1"
    )
    assert card["trained_on"] == "faces" and card["kind"] == "eae"
    assert card["input"] == {"side": 32, "padding": 0.65, "range": "[0, 1]", "color": "RGB"}


def test_cards_of_other_methods_stay(
    tiny: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dae = '[dae-fc]\nfile = "dae-fc.safetensors"\nsha256 = "00"\nkind = "dae"\ntrained_on = "x"\n'
    dae += 'command = "deid train dae DATA"\nlicense = "Apache-2.0"\ninput = {}\nscores = {}\n'
    (tmp_path / "weights.toml").write_text(dae)
    assert train.train([Path("faces")], tmp_path, replace(TINY, part="fsn"))
    found = tomllib.loads((tmp_path / "weights.toml").read_text())
    assert list(found) == ["dae-fc", "eae-compact-fsn"]
    assert found["dae-fc"] == tomllib.loads(dae)["dae-fc"]
    monkeypatch.setenv("DEID_WEIGHTS", str(tmp_path))
    assert own_cards()["dae-fc"].command == "deid train dae DATA"


@pytest.mark.parametrize("name", ['faces "2019"', "Anna's faces", "back\\slash", "a]\n[b"])
def test_a_data_set_of_any_name_gives_cards_that_load(
    tiny: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    recipe = replace(TINY, part="fsn", fsn_epochs=1)
    assert train.train([tmp_path / name], tmp_path / "out", recipe)
    monkeypatch.setenv("DEID_WEIGHTS", str(tmp_path / "out"))
    assert own_cards()["eae-compact-fsn"].trained_on == name


def test_a_run_names_its_files_by_set_and_size(tiny: Chips, tmp_path: Path) -> None:
    run = tiny_run(tmp_path, attrs="SG")
    names = [run.path(part).name for part in ("fsn", "internal", "sprn")]
    assert names == [f"eae-compact-{part}.safetensors" for part in ("fsn", "GS", "sprn-GS")]
