"""What `deid train` takes: settings with their meaning, none that would be ignored."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from deidcli.errors import UsageError
from deidcli.fields import describe_fields
from deidcli.training import recipes
from deidcli.training.recipes import RECIPES, parse_recipe, recipe_class, train
from tests.conftest import Outcome


@dataclass(frozen=True)
class Recipe:
    """A recipe that makes one of two things."""

    part: str = "all"
    """What is made: all, or first."""
    second: int = 1
    """Of what `first` leaves out."""
    device: str = "cpu"
    """Where it runs."""

    def ignored(self) -> frozenset[str]:
        return frozenset({"second"}) if self.part == "first" else frozenset()


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A recipe called `plain` whose training takes no validation set; what it was called with."""
    calls: list[object] = []

    def trained(data: Sequence[Path], out: Path, recipe: Recipe, cache: Path | None = None) -> Path:
        calls.append((tuple(data), out, recipe, cache))
        return out / "made"

    module = ModuleType("plain_recipe")
    module.Recipe, module.train = Recipe, trained  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "plain_recipe", module)
    monkeypatch.setitem(recipes.RECIPES, "plain", "plain_recipe")
    return calls


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_setting_says_what_it_means(name: str) -> None:
    cls = recipe_class(name)
    assert cls.__name__ == "Recipe"
    rows = describe_fields(cls)
    assert [row.name for row in rows if not row.help] == []
    assert [row.name for row in rows if row.default == "<dataclasses._MISSING_TYPE>"] == []
    assert not any("tiny" in row.type for row in rows)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_methods_lists_the_settings_of_the_training(
    name: str, deid: Callable[..., Outcome]
) -> None:
    rows = describe_fields(recipe_class(name))
    said = deid("methods", name)
    assert said.code == 0
    data = "" if name == "generator-head" else " DATA"
    head, _, training = said.stdout.partition(f"Training: deid train {name}{data}\n")
    for row in rows:
        assert f"--set {row.name}={row.default}  (" in training
    assert ("--set" in head) == (name not in ("attributes", "generator-head"))
    told = deid("methods", name, "--json").json
    assert [row["name"] for row in told["training"]] == [row.name for row in rows]
    assert all(row["help"] for row in told["training"] + told["settings"])


def test_a_method_without_training_lists_its_settings_alone(deid: Callable[..., Outcome]) -> None:
    assert "deid train" not in deid("methods", "blur").stdout
    told = deid("methods", "blur", "--json").json
    assert told["training"] == [] and told["settings"][0]["name"] == "sigma"


def test_settings_are_read_and_the_device_comes_beside_them(plain: list[object]) -> None:
    assert parse_recipe("plain", {"second": "4"}, "cuda") == Recipe(second=4, device="cuda")
    with pytest.raises(UsageError, match=r"no setting 'third' .*part, second"):
        parse_recipe("plain", {"third": "4"}, "cpu")
    with pytest.raises(UsageError, match="use --device"):
        parse_recipe("plain", {"device": "cuda"}, "cpu")
    with pytest.raises(UsageError, match=r"nothing to train called 'nothing' .*attributes"):
        parse_recipe("nothing", {}, "cpu")


def test_a_setting_that_would_be_ignored_is_refused(plain: list[object]) -> None:
    assert parse_recipe("plain", {"part": "first"}, "cpu").second == 1  # by default: nobody asked
    with pytest.raises(UsageError, match="plain: second would be ignored"):
        parse_recipe("plain", {"part": "first", "second": "4"}, "cpu")


def test_a_nested_dataclass_cannot_be_set_by_text() -> None:
    with pytest.raises(UsageError, match="attributes has no setting 'net'"):
        parse_recipe("attributes", {"net": "4"}, "cpu")
    assert "net" in {field.name for field in dataclasses.fields(recipe_class("attributes"))}


def test_a_validation_set_that_is_not_used_is_refused(
    plain: list[object], tmp_path: Path, deid: Callable[..., Outcome]
) -> None:
    with pytest.raises(UsageError, match="plain uses no validation set"):
        train("plain", [tmp_path], tmp_path, Recipe(), validation=[tmp_path])
    outcome = deid("train", "plain", tmp_path, "--validation", tmp_path)
    assert outcome.code == 2 and "uses no validation set" in outcome.stderr
    assert plain == []
    assert train("plain", [tmp_path], tmp_path, Recipe(), tmp_path) == [tmp_path / "made"]
    outcome = deid(
        "train", "plain", tmp_path, "-o", tmp_path, "--set", "second=3", "--device", "cpu"
    )
    assert outcome.stdout.split() == [str(tmp_path / "made")]
    called = [
        ((tmp_path,), tmp_path, Recipe(), tmp_path),
        ((tmp_path,), tmp_path, Recipe(second=3), None),
    ]
    assert plain == called


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"sdn", "generator-head", "surrogate"}))
def test_recipes_that_use_a_validation_set_take_it(name: str) -> None:
    from inspect import signature

    assert "validation" in signature(recipes._module(name).train).parameters


def test_data_that_a_recipe_needs_is_asked_for(
    plain: list[object], tmp_path: Path, deid: Callable[..., Outcome]
) -> None:
    outcome = deid("train", "plain")
    assert outcome.code == 2 and "deid train plain DATA" in outcome.stderr
    assert plain == []
    outcome = deid("train", "generator-head", tmp_path, "-o", tmp_path / "out")
    assert outcome.code == 2 and "without pictures" in outcome.stderr
