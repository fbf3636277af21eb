"""The command line: parse, call one function, print. Heavy imports stay inside the commands."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from deidcli import __version__
from deidcli.cli import outputs, tools
from deidcli.cli.anonymize import anonymize
from deidcli.errors import DeidError, ExitCode
from deidcli.passwords import take_environment

app = typer.Typer(
    name="deid",
    help="De-identify the faces in folders and parquet shards of pictures, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
weights_app = typer.Typer(help="The weight files in use.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")

app.command()(anonymize)
app.command()(tools.methods)
app.command()(outputs.score)
app.command()(tools.train)
app.command()(outputs.verify)
app.command()(outputs.restore)
weights_app.command("list")(tools.weights_list)
weights_app.command("verify")(tools.weights_verify)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"deid {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    # Before any other process starts: a child's environment can be read in the process list.
    context.obj = take_environment()


def run(args: list[str]) -> int:
    """Run one command line and return its exit code. Known errors are one line and the way out."""
    try:
        app(args=args)
    except SystemExit as error:
        return int(error.code or 0)
    except DeidError as error:
        line = f"deid: {error.message}"
        typer.echo(f"{line}\n  {error.hint}" if error.hint else line, err=True)
        return error.code
    except OSError as error:  # stdout is full or closed
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"deid: {error.strerror or error}\n")
        return ExitCode.FAILED
    return ExitCode.DONE


def main() -> None:
    """The entry point of the `deid` command."""
    code = run(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # workers that still compute must not hold the terminal
