"""De-identify a data set with one call.

`deid anonymize` parses its arguments, calls `anonymize` and prints the result; any other program
can do the same.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deidcli.celeba import parse_attributes
from deidcli.data.boxes import identify
from deidcli.errors import Stopped, UsageError, plural
from deidcli.methods import (
    METHODS,
    keeps_attributes,
    kept_attributes,
    method_facts,
    method_weights,
    parse_settings,
)
from deidcli.pipeline.inputs import local_paths
from deidcli.pipeline.options import Options
from deidcli.pipeline.report import Reporter
from deidcli.processes import check_device, default_workers, modules_of, warm_up
from deidcli.settings import GATE_DISTANCE, RunSettings

if TYPE_CHECKING:
    from deidcli.data.source import Source


def run_settings(options: Options) -> RunSettings:
    """Check all options and convert them to run settings; no input is read.

    Raises:
        UsageError: an option or a setting of the method has an invalid value.
        DeidError: the method's weights are missing, or the device is not available.
    """
    if options.no_gate and options.gate is not None:
        raise UsageError("--gate and --no-gate contradict each other", "leave one of them out")
    given = dict(options.settings)
    asked = None if options.attrs is None else parse_attributes(options.attrs)
    if asked == ():
        raise UsageError("--attrs names no attribute", "for example --attrs GS, or leave it out")
    if keeps_attributes(options.method) and options.attrs is not None:
        given["attrs"] = options.attrs
    method_settings = dataclasses.asdict(parse_settings(options.method, given))
    method_weights(options.method, method_settings)  # an unknown set is an error before OUT is
    kept = kept_attributes(options.method, method_settings)
    made: dict[str, Any] = {
        "method_settings": method_settings,
        # Attributes that the picture does not keep are not published either.
        "attributes": asked if kept is None else _both(kept, asked),
        "columns": () if options.columns is None else _columns(options.columns),
        "gate": gate_distance(options),
        "boxes": identify(options.boxes),
        "mark": not options.no_mark,
    }
    names = {f.name for f in dataclasses.fields(Options)} - made.keys()
    same = {f.name for f in dataclasses.fields(RunSettings)} & names
    settings = RunSettings(**made, **{name: getattr(options, name) for name in same})
    check_device(options.device)
    return settings


def _both(kept: tuple[str, ...], asked: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the attributes that a method keeps and --attrs lists."""
    return kept if asked is None else tuple(name for name in kept if name in asked)


def _columns(text: str) -> tuple[str, ...]:
    from deidcli.data.columns import parse_columns  # loads pyarrow: only if needed

    return parse_columns(text)


def gate_distance(options: Options) -> float | None:
    """Return the gate's distance from the options; None: no gate."""
    if options.no_gate:
        return None
    return GATE_DISTANCE if options.gate is None else options.gate


def wants_password(settings: RunSettings) -> bool:
    """Return whether a run needs a passphrase."""
    return settings.seal or method_facts(settings.method).needs_password


def anonymize(
    inputs: str | Path | Sequence[str | Path],
    out: Path | None = None,
    options: Options | None = None,
    *,
    passphrase: bytes | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """De-identify a data set, or resume an earlier call with the same arguments.

    Args:
        inputs: folders, pictures and parquet files; one or several.
        out: the output folder; None: beside the inputs, see `output.default_output`.
        passphrase: required if `wants_password` returns True.

    Returns:
        The content of manifest.json, and `output`, the folder that was written.

    Raises:
        UsageError: an option is unknown.
        DeidError: the call failed; the message says why, its hint what to do.
    """
    options, reporter = options or Options(), reporter or Reporter()
    roots = local_paths(inputs)
    settings = run_settings(options)
    if settings.boxes is None and settings.boxes_are == "replace":
        raise UsageError(
            "--boxes-are replace without boxes", "name yours: --boxes FILE or column:NAME"
        )
    if (passphrase is not None) != wants_password(settings):
        raise UsageError(f"{settings.method} and a password do not go together", "see `--seal`")
    target = output_of(roots, out)
    workers = options.workers or default_workers()
    try:
        if workers > 1:
            place, gate = METHODS[settings.method], settings.gate is not None
            # It imports in parallel with what follows.
            warm_up(modules_of(place, gate, settings.detector))
        record = _run(settings, roots, target, options, workers, passphrase, reporter)
    except KeyboardInterrupt:
        raise Stopped("the same command again resumes") from None
    return {"output": str(target), **record}


def output_of(roots: Sequence[Path], out: Path | None) -> Path:
    """Return the folder that a run writes, with links followed, so that all checks apply to it.

    Raises:
        UsageError: no output is set, and the inputs have no common folder to derive it from.
    """
    from deidcli.pipeline.output import default_output

    return Path(os.path.realpath(default_output(roots) if out is None else out))


def listed(roots: Sequence[Path], out: Path, settings: RunSettings, reporter: Reporter) -> Source:
    """List all inputs once and report warnings about them.

    Raises:
        DeidError: there are no inputs, or OUT cannot be written.
    """
    from deidcli.data.source import open_source
    from deidcli.pipeline import notices, output

    reporter.loading("listing the inputs")
    source = open_source(roots, settings.follow_links, notices.wish_of(settings))
    output.check_output(out, source)
    for warning in notices.warnings_of(source, settings):
        reporter.note(f"note: {warning}")
    return source


def marked(source: Source, options: Options, reporter: Reporter) -> Source:
    """Return the source with the boxes of `--boxes FILE`."""
    from deidcli.data.boxes import COLUMN, read_boxes, with_boxes

    if options.boxes is None or options.boxes.startswith(COLUMN):
        return source
    source, strange = with_boxes(source, read_boxes(Path(options.boxes), options.box_format))
    if strange:
        names = plural(len(strange), "picture")
        reporter.note(f"note: --boxes names {names} not in the input, such as {strange[0]}")
    return source


def parts_to_load(settings: RunSettings) -> str:
    """Describe what every worker loads before its first picture."""
    parts = [f"the method {settings.method}"]
    if settings.detector != "none":
        parts.insert(0, f"the face detector ({settings.detector})")
    if settings.gate is not None:
        parts.append("the gate")
    return "loading " + " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _run(
    settings: RunSettings,
    roots: Sequence[Path],
    out: Path,
    options: Options,
    workers: int,
    passphrase: bytes | None,
    reporter: Reporter,
) -> dict[str, Any]:
    from deidcli.data.journal import Journal
    from deidcli.data.manifest import read_manifest
    from deidcli.pipeline import engines, prepare, remaining

    source = marked(listed(roots, out, settings, reporter), options, reporter)
    journal = Journal(out)
    journal.create()
    with journal.locked():
        run = prepare.prepare_run(
            settings,
            source,
            out,
            overwrite=options.overwrite,
            device=options.device,
            batch_size=options.batch_size,
            passphrase=passphrase,
            repeatable=options.seed is not None,
        )
        done = read_manifest(out)
        if done is not None:
            left = remaining.unfinished(run)
            if not left.shards:
                journal.clean()
                reporter.note("already done, nothing was left to do")
                return done
            reporter.note(left.why())
        reporter.loading(parts_to_load(settings))
        return engines.run_local(run, workers, reporter.progress)
