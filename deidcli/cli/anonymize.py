"""`deid anonymize`: its options are in `pipeline/options.py`, its work `pipeline/anonymize.py`."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deidcli.cli.parameters import Json, PasswordFile, Quiet, typed_values, with_options
from deidcli.cli.printing import Terminal, print_counts, print_dry_run
from deidcli.errors import ExitCode, UsageError
from deidcli.pipeline.options import Options

if TYPE_CHECKING:
    from deidcli.settings import RunSettings

OTHERS = {"out": Path, "password_file": Path}
"""What `--config` may set beside `Options`."""

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT", help="Folders, pictures, parquet files; - for a list of them on stdin."
    ),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Options from a TOML file, or from a run's manifest.json."),
]


@with_options(Options)
def anonymize(
    context: typer.Context,
    inputs: Inputs,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Default: INPUT-deid, beside INPUT or what holds all INPUTs."
        ),
    ] = None,
    typed: dict[str, Any],
    password_file: PasswordFile = None,
    config: Config = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Say what would be done; write nothing.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Write a de-identified copy of a dataset.

    \b
    deid anonymize ./photos
    deid anonymize ./celeba --method blur --attrs GS --out ./celeba-blurred
    deid anonymize ./shards --method k-same --set k=20 --output crops
    deid anonymize ./2023 ./2024 portrait.jpg --out ./all-deid
    find . -name '*.jpg' -print0 | deid anonymize - --out ./found-deid
    deid anonymize ./photos --config ./celeba-deid/manifest.json

    The same command again resumes where the last one stopped.
    """
    from deidcli.pipeline import anonymize as front
    from deidcli.pipeline import inputs as listing

    reporter = Terminal(quiet)
    others = typed_values(context, {"out": out, "password_file": password_file})
    values = _with_config(config, typed | others, reporter)
    out, password_file = values.pop("out", None), values.pop("password_file", None)
    options = Options(**values)
    settings = front.run_settings(options)
    roots = listing.local_paths(listing.with_list(inputs, _stdin()))
    if dry_run:
        _dry_run(roots, out, options, reporter, json)
        return
    front.output_of(roots, out)
    passphrase = _passphrase(settings, password_file, context.obj)
    with reporter:
        record = front.anonymize(roots, out, options, passphrase=passphrase, reporter=reporter)
    if json:
        typer.echo(jsonlib.dumps(record, default=str))
    elif not quiet:
        print_counts(record)
    if record["counts"]["failed"]:
        raise typer.Exit(ExitCode.SOME_INPUTS_FAILED)


def _with_config(config: Path | None, typed: dict[str, Any], reporter: Terminal) -> dict[str, Any]:
    """The options by name: those of the file, and over them those that were typed."""
    if config is None:
        return typed
    from deidcli.cli.config import merged, read_config

    found = read_config(config, OTHERS)
    for note in found.notes:
        reporter.note(f"note: {note}")
    return merged(found.values, typed)


def _stdin() -> Any:
    return None if sys.stdin is None else getattr(sys.stdin, "buffer", None)


def _passphrase(settings: RunSettings, file: Path | None, environment: str | None) -> bytes | None:
    from deidcli.crypto.passwords import read_passphrase
    from deidcli.pipeline.anonymize import wants_password

    if wants_password(settings):
        return read_passphrase(file, environment, twice=True)
    if file is not None:
        raise UsageError(
            f"{settings.method} takes no password", "leave out --password-file, or add --seal"
        )
    return None


def _dry_run(
    roots: tuple[Path, ...], out: Path | None, options: Options, reporter: Terminal, json: bool
) -> None:
    from deidcli.pipeline import dryrun

    with reporter:
        told = dryrun.look(roots, out, options, reporter=reporter)
    if json:
        typer.echo(jsonlib.dumps(told, default=str))
    else:
        print_dry_run(told)
