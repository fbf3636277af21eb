"""`deid score`, `deid verify`, `deid restore`: what is done with an output."""

from __future__ import annotations

import json as jsonlib
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from deidcli.cli.parameters import Json, PasswordFile, Quiet, completing
from deidcli.cli.printing import Terminal, end_with, say
from deidcli.errors import DeidError, ExitCode, Stopped, UsageError
from deidcli.settings import RECOGNIZER_NAMES


def score(
    published: Annotated[Path, typer.Argument(metavar="OUT", help="What was published.")],
    against: Annotated[
        Path | None, typer.Option("--against", help="The originals; default: those of the run.")
    ] = None,
    recognizer: Annotated[
        list[str] | None,
        typer.Option(
            "--recognizer",
            help="Repeatable; default: all that are installed.",
            autocompletion=completing(lambda: RECOGNIZER_NAMES),
        ),
    ] = None,
    groups: Annotated[bool, typer.Option("--groups", help="Show the figures by group.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: one a core.")
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Measure what is left of identity and of use.

    \b
    deid score ./celeba-deid
    deid score ./made-by-another-tool --against ./originals
    """
    from deidcli.processes import check_device, default_workers, resolve_device

    for name in recognizer or []:
        if name not in RECOGNIZER_NAMES:
            known = ", ".join(RECOGNIZER_NAMES)
            raise UsageError(f"no recognizer is called {name}", f"one of: {known}")
    check_device(device)
    try:
        with Terminal(quiet) as reporter:
            reporter.loading("loading the recognizers")
            from deidcli.evaluate import score as scoring

            on = resolve_device(device)
            report = scoring.score(
                published, against, recognizer, on, workers or default_workers(), reporter.progress
            )
    except KeyboardInterrupt:
        raise Stopped("the same command again goes on from here") from None
    if json:
        typer.echo(jsonlib.dumps(report))
    elif not quiet:
        for line in scoring.table(report, groups).splitlines():
            say(line, scoring.TEXT_COLUMN)


def verify(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A finished output.")],
    faces: Annotated[
        bool, typer.Option("--faces", help="Also look again, slowly, for faces that are left.")
    ] = False,
    sample: Annotated[
        int, typer.Option(min=0, help="Pictures that --faces looks at; 0: all.")
    ] = 200,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: one a core.")
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Prove the accounting and every checksum of an output.

    \b
    deid verify ./celeba-deid
    deid verify ./celeba-deid --faces
    """
    from deidcli.processes import check_device, default_workers, resolve_device
    from deidcli.verify import faces_left, verify_output

    check_device(device)
    real = Path(os.path.realpath(out))
    report = verify_output(real)
    if faces:
        try:
            with Terminal(quiet) as reporter:
                report["faces"] = faces_left(
                    real, sample or None, resolve_device(device), workers or default_workers(),
                    reporter.progress,
                )  # fmt: skip
        except KeyboardInterrupt:
            raise Stopped("the same command again starts it anew") from None
    error = None
    if not report["ok"]:
        error = DeidError(
            f"{out} is not what its manifest says", "make it anew: deid anonymize ... --overwrite"
        )
    if not (json or quiet):
        for check in report["checks"]:
            say(f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['detail']}", 5)
        if faces:
            _say_faces(report["faces"], f"{out}.private")
    end_with(report, error, json)


def _say_faces(said: dict[str, Any], private: str) -> None:
    """What a second look found, with its interval."""
    share, low, high = (100 * (said[name] or 0) for name in ("share", "low", "high"))
    say(
        f"look faces left: {said['pictures']} of {said['looked']} pictures looked at have places "
        f"that look like a face ({share:.1f} %, 95 % interval {low:.1f} to {high:.1f} %); "
        f"{said['faces']} places",
        5,
    )
    if said["unread"]:
        say(f"     {said['unread']} pictures could not be read", 5)
    if said["faces"]:
        say(f"     see which are faces: {private}/review.html", 5)


def restore(
    context: typer.Context,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A finished output.")],
    to: Annotated[Path, typer.Option("--to", help="The folder to write; not OUT.")],
    password_file: PasswordFile = None,
    networks_only: Annotated[
        bool, typer.Option("--networks-only", help="By the method's network, although sealed.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Faces a batch.")] = 16,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what an earlier restore wrote.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Bring the faces of an output back, with its password.

    \b
    deid restore ./photos-deid --to ./photos-restored
    """
    from deidcli.crypto.passwords import read_passphrase
    from deidcli.processes import check_device, default_workers, limit_threads
    from deidcli.restore import dataset as restoring

    check_device(device)
    source, target = Path(os.path.realpath(out)), Path(os.path.realpath(to))
    restoring.can_be_restored(source, networks_only)  # before a password is asked for
    restoring.check_target(source, target, overwrite)
    passphrase = read_passphrase(password_file, context.obj, twice=False)
    limit_threads(default_workers())
    try:
        with Terminal(quiet) as reporter:
            reporter.loading("checking the output and loading what restores it")
            said = restoring.restore(
                source, target, passphrase, networks_only=networks_only, overwrite=overwrite,
                device=device, batch_size=batch_size, progress=reporter.progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        raise Stopped("nothing was written") from None
    if json:
        typer.echo(jsonlib.dumps({"output": str(target), **said}))
    elif not quiet:
        for key, meaning in restoring.MEANINGS.items():
            say(f"{key:<12}{said['counts'][key]:>8}  {meaning}", 22)
        for entry in said["failed"][:20]:
            say(f"  failed: {entry['file_name']}: {entry['reason']}", 4)
        say(f"keep private, never publish: {target}", 2)
    if said["counts"]["failed"]:
        raise typer.Exit(ExitCode.SOME_INPUTS_FAILED)
