"""The command line: parse, call one function, print. Heavy imports stay inside the commands.

Errors are one line on stderr and another with the way out. With --json stdout holds one object
all the same: `{"error": {"message", "hint", "code"}}`, `code` being the exit code.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from typing import Annotated, Any

import typer

from deidcli.cli import outputs, tools
from deidcli.cli.anonymize import anonymize
from deidcli.cli.printing import say_error
from deidcli.crypto.passwords import take_environment
from deidcli.errors import DeidError, ExitCode, Stopped, UsageError
from deidcli.version import __version__

app = typer.Typer(
    name="deid",
    help="De-identify the faces in folders and parquet shards of pictures, and prove it.",
    no_args_is_help=True,
    add_completion=True,
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
    json = "--json" in args[: args.index("--")] if "--" in args else "--json" in args
    try:
        code = app(args=args, standalone_mode=False)
        if code == ExitCode.STOPPED:  # what Typer makes of a KeyboardInterrupt
            return _failed(Stopped(), json)
        return int(code) if isinstance(code, int) else ExitCode.DONE
    except SystemExit as error:
        return int(error.code or 0)
    except DeidError as error:
        return _failed(error, json)
    except (KeyboardInterrupt, typer.Abort):
        return _failed(Stopped(), json)
    except _REFUSED as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message(), err=True)
            return ExitCode.USAGE
        where = error.ctx.command_path if error.ctx is not None else "deid"
        message = error.format_message().rstrip(".")
        refused = UsageError(message[:1].lower() + message[1:], f"see: {where} --help")
        return _failed(refused, json)
    except OSError as error:  # stdout is full or closed
        if not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"deid: {error.strerror or error}\n")
        return ExitCode.FAILED
    except Exception as error:
        if _was_interrupted(error):
            return _failed(Stopped(), json)
        raise


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C lies behind an error: modules of C turn it into an ImportError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


_REFUSED: Any = typer.BadParameter.__bases__[0]
"""What Typer raises for a command line that it cannot parse; it exports no name for it."""


def _failed(error: DeidError, json: bool) -> int:
    say_error(error, json)
    return error.code


def main() -> None:
    """The entry point of the `deid` command."""
    codes: list[int] = []
    # Registered first, hence run last, after multiprocessing has cleaned up. Where Ctrl-C came in
    # an `exec`, as dataclasses do, Python would end with a signal whatever the code.
    atexit.register(lambda: os._exit(codes[0]) if codes else None)
    code = run(sys.argv[1:])
    codes.append(code)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is said; a traceback would say nothing
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader is gone
            stream.flush()
    if code != ExitCode.DONE and "deidcli.processes" in sys.modules:
        from deidcli.processes import end_workers

        end_workers()
        sys.exit(code)  # what they shared is released on the way out
    if "deidcli.processes" in sys.modules:
        from deidcli.processes import remove_sockets

        remove_sockets()
    os._exit(code)  # nothing else is left to do
