"""`deid anonymize`."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from deidcli.cli.parameters import Json, PasswordFile, with_options
from deidcli.cli.printing import ProgressBar, print_counts
from deidcli.errors import ExitCode, UsageError
from deidcli.options import Options


@with_options(Options)
def anonymize(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="Folder, or parquet file.")],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Default: INPUT-deid, beside INPUT.")
    ] = None,
    options: Options,
    password_file: PasswordFile = None,
    json: Json = False,
) -> None:
    """Write a de-identified copy of a dataset.

    \b
    deid anonymize ./photos
    deid anonymize ./celeba --method blur --attrs GS --out ./celeba-blurred
    deid anonymize ./shards --method k-same --set k=20 --output crops
    deid anonymize ./photos --method blur --seal

    The same command again resumes where the last one stopped.
    """
    from deidcli import anonymize as front
    from deidcli.passwords import read_passphrase

    settings = front.run_settings(options)
    passphrase = None
    if front.wants_password(settings):
        passphrase = read_passphrase(password_file, context.obj, twice=True)
    elif password_file is not None:
        raise UsageError(
            f"{settings.method} takes no password", "leave out --password-file, or add --seal"
        )
    with ProgressBar() as progress:
        record = front.anonymize(
            source, out, options, passphrase=passphrase, progress=progress,
            say=lambda line: typer.echo(line, err=True),
        )  # fmt: skip
    if json:
        typer.echo(jsonlib.dumps(record, default=str))
    else:
        print_counts(record)
    if record["counts"]["failed"]:
        raise typer.Exit(ExitCode.SOME_INPUTS_FAILED)
