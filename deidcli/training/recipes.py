"""The table of recipes: what `deid train` trains, and with which settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from deidcli.errors import UsageError
from deidcli.fields import parse_fields

RECIPES: dict[str, str] = {
    "a3gan": "deidcli.methods.a3gan.train",
    "attributes": "deidcli.training.attributes",
    "dae": "deidcli.methods.dae.train",
    "eae": "deidcli.methods.eae.train",
    "generator-head": "deidcli.generator.train",
    "sdn": "deidcli.methods.sdn.train",
    "surrogate": "deidcli.methods.surrogate.train",
}
"""Name on the command line -> the module with its class `Recipe` and its function `train`.
Imported only when asked for: it loads torch."""


@runtime_checkable
class Selective(Protocol):
    """A recipe in which not every setting counts for every choice."""

    def ignored(self) -> frozenset[str]:
        """Return the names of settings that have no bearing on what is made."""


def _module(name: str) -> Any:
    if name not in RECIPES:
        raise UsageError(
            f"there is nothing to train called {name!r}", f"one of: {', '.join(RECIPES)}"
        )
    return import_module(RECIPES[name])


def recipe_class(name: str) -> type[Any]:
    """Return the frozen dataclass of a recipe's settings.

    Raises:
        UsageError: no recipe has this name.
    """
    found: type[Any] = _module(name).Recipe
    return found


def needs_data(name: str) -> bool:
    """Return whether a recipe trains on pictures that the caller names."""
    return signature(_module(name).train).parameters["data"].default is Parameter.empty


def parse_recipe(name: str, given: Mapping[str, str], device: str) -> Any:
    """Create a recipe's settings from the text of `--set key=value` options.

    Args:
        device: as torch names it.

    Raises:
        UsageError: no recipe has this name, a setting does not exist or is out of range, or it
            would be ignored with the other settings.
    """
    if "device" in given:
        raise UsageError("--set device is not read", "use --device")
    recipe = parse_fields(name, recipe_class(name), {**given, "device": device})
    if isinstance(recipe, Selective) and (unused := sorted(recipe.ignored() & given.keys())):
        raise UsageError(
            f"{name}: {', '.join(unused)} would be ignored with these settings",
            f"leave it out; see: deid methods {name}",
        )
    return recipe


def train(
    name: str,
    data: Sequence[Path],
    out: Path,
    recipe: Any,
    cache: Path | None = None,
    validation: Sequence[Path] = (),
) -> list[Path]:
    """Train what a name of RECIPES stands for. The same call resumes after a kill.

    Args:
        data, validation: folders of pictures or parquet files; `data` is empty where the recipe
            needs none.
        out: folder of the checkpoints and the weights.
        recipe: as `parse_recipe` returns it.
        cache: folder of the cut faces, which stays; None: one in `out`, removed at the end.

    Returns:
        The files written.

    Raises:
        UsageError: this recipe needs data and none is named, or does not use a validation set.
        DeidError: the data cannot be trained on.
    """
    run: Callable[..., Path | list[Path] | None] = _module(name).train
    if needs_data(name) and not data:
        raise UsageError(f"{name} is trained on pictures", f"deid train {name} DATA")
    more: dict[str, Any] = {"validation": validation} if validation else {}
    if more.keys() - signature(run).parameters.keys():
        raise UsageError(f"{name} uses no validation set while it trains", "leave out --validation")
    made = run(data, out, recipe, cache=cache, **more)
    assert made is not None, "only tests stop a training early"
    return made if isinstance(made, list) else [made]
