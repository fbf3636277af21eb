"""What the commands show: text that fits the terminal, errors, progress."""

from __future__ import annotations

import json as jsonlib
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

import typer

from deidcli.errors import DeidError, plural
from deidcli.pipeline.report import Reporter

if TYPE_CHECKING:
    from types import TracebackType

SECONDS_A_LINE = 5.0
"""Between two lines of progress where there is no terminal to draw a bar on."""


def say(text: str, hang: int = 0, *, err: bool = False) -> None:
    """Print one line; on a terminal, wrapped between words to its width.

    Args:
        hang: columns that the lines after the first are indented by. A table's last column hangs
            where it begins.
    """
    typer.echo(fitted(text, hang, sys.stderr if err else sys.stdout), err=err)


def fitted(text: str, hang: int, stream: TextIO) -> str:
    """The text as `say` prints it."""
    if not stream.isatty():
        return text  # a program reads it: one line is one line
    width = max(20, shutil.get_terminal_size().columns)
    lead = text[: len(text) - len(text.lstrip())]
    return textwrap.fill(
        text.lstrip(), width, initial_indent=lead, subsequent_indent=" " * hang,
        break_long_words=False, break_on_hyphens=False, drop_whitespace=True,
        replace_whitespace=True, tabsize=1,
    ) if len(text) > width else text  # fmt: skip


def say_error(error: DeidError, json: bool) -> None:
    """An error on stderr, one line and the way out; with --json its object on stdout too."""
    if json:
        typer.echo(jsonlib.dumps(error_object(error)))
    say(f"deid: {error.message}", 6, err=True)
    if error.hint:
        say(f"  {error.hint}", 2, err=True)


def error_object(error: DeidError) -> dict[str, Any]:
    """The one schema of an error, for every command."""
    told = {"message": error.message, "hint": error.hint, "code": int(error.code)}
    return {"error": told}


def end_with(report: dict[str, Any], error: DeidError | None, json: bool) -> None:
    """End a command that has both a report and, perhaps, an error: with --json in one object."""
    if json:
        typer.echo(jsonlib.dumps(report if error is None else {**report, **error_object(error)}))
    if error is not None:
        say_error(error, json=False)
        raise typer.Exit(error.code)


_STATUS_MEANING = {
    "ok": "de-identified",
    "fallback": "blacked out: the method's face still matched, or it made none",
    "no_face": "no face found",
    "failed": "could not be read or de-identified, withheld",
    "skipped": "not a picture, not copied",
}


def print_counts(record: dict[str, Any]) -> None:
    """What became of the inputs of a run, by its manifest."""
    counts, out = record["counts"], record["output"]
    say(f"{'status':<10}{'inputs':>8}")
    for status, meaning in _STATUS_MEANING.items():
        say(f"{status:<10}{counts[status]:>8}  {meaning}", 20)
    say(f"{'total':<10}{counts['inputs']:>8}")
    for entry in record["withheld"]:
        if entry["status"] == "failed":
            say(f"  failed: {entry['count']} x {entry['reason']}", 4)
    for note, count in record["conversions"].items():
        say(f"  converted: {count} x {note}", 4)
    if counts["copied"] and record["settings"]["on_no_face"] == "copy":
        say(
            f"  WARNING: copied as they are, no face found: {plural(counts['copied'], 'picture')}",
            4,
        )
    if counts["covered"]:
        say(f"  blacked out, no landmarks found: {plural(counts['covered'], 'face')}", 4)
    if counts["doubtful"]:
        say(
            f"  {plural(counts['doubtful'], 'picture')} with places that may be faces: "
            f"{record['output']}.private/review.html", 4
        )  # fmt: skip
    say(f"{counts['faces']} faces in {counts['published']} published pictures: {out}", 2)
    say(f"keep private, never publish: {out}.private", 2)


_STATE_MEANING = {
    "new": "would be made",
    "begun": "is begun: the run would resume it",
    "finished": "is finished: nothing would be left to do, unless a picture of it is gone",
    "overwritten": "would be discarded and made anew",
}


def print_dry_run(told: dict[str, Any]) -> None:
    """What `dryrun.look` found."""
    inputs, sample, estimate = told["inputs"], told["sample"], told["estimate"]
    settings = told["settings"]
    say("dry run: nothing was written")
    kinds = ", ".join(f"{count} {kind}" for kind, count in inputs["kinds"].items()) or "none"
    rows = [("inputs", f"{inputs['total']}; pictures: {kinds}")]
    rows += [("not read", f"{count} x {why}") for why, count in inputs["not_read"].items()]
    rows += [("output", f"{told['output']} {_STATE_MEANING[told['state']]}")]
    rows += [("method", " ".join([settings["method"], *_pairs(settings["method_settings"])]))]
    others = {k: v for k, v in settings.items() if k not in ("method", "method_settings")}
    rows += [("settings", " ".join(_pairs(others)))]
    if told["asks_for_password"]:
        rows += [("password", "is asked for")]
    statuses = ", ".join(f"{count} {status}" for status, count in sample["statuses"].items())
    tried = f"{sample['faces']} faces in {sample['pictures']} pictures ({statuses or 'none'})"
    rows += [("sample", tried)]
    rows += [("faces", f"about {estimate['faces']}")]
    workers = f"{estimate['workers']} worker{'s' * (estimate['workers'] > 1)}"
    rows += [("time", f"about {duration(estimate['seconds'])} with {workers}")]
    needed, free = size(told["needs_bytes"]), size(told["free_bytes"])
    rows += [("disk", f"about {size(estimate['bytes'])}, {needed} on the way; {free} are free")]
    table([(f"{name}:", text) for name, text in rows])


def _pairs(values: dict[str, Any]) -> list[str]:
    return [
        f"{key}={jsonlib.dumps(value, default=str)}".replace('"', "")
        for key, value in values.items()
    ]


class Terminal(Reporter):
    """Notes and progress on stderr: a bar on a terminal, else a line every few seconds."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._shown: _Bar | _Lines | None = None
        self._phase = ""

    def note(self, line: str) -> None:
        say(line, 6, err=True)

    def loading(self, what: str) -> None:
        if not self._quiet:
            say(f"{what} ...", 2, err=True)

    def progress(self, phase: str, done: int, total: int) -> None:
        if self._quiet:
            return
        if phase != self._phase or self._shown is None:
            self._close()
            self._phase = phase
            self._shown = (_Bar if sys.stderr.isatty() else _Lines)(phase, done, total)
        else:
            self._shown.update(done)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._shown is not None:
            self._shown.close()
        self._shown = None


class _Bar:
    def __init__(self, phase: str, done: int, total: int) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=total, initial=done, desc=phase, unit="img", file=sys.stderr,
            dynamic_ncols=True, smoothing=0.1,
        )  # fmt: skip

    def update(self, done: int) -> None:
        self._bar.update(done)

    def close(self) -> None:
        self._bar.close()


class _Lines:
    """`de-identifying: 120 of 1000, 34.1 a second, 26 s left`, every few seconds and at the end."""

    def __init__(self, phase: str, done: int, total: int) -> None:
        self._phase, self._done, self._total = phase, done, total
        self._first, self._begun = done, time.monotonic()
        self._last = self._begun

    def update(self, done: int) -> None:
        self._done += done
        now = time.monotonic()
        if self._done >= self._total or now - self._last >= SECONDS_A_LINE:
            self._last = now
            say(self._line(now - self._begun), err=True)

    def _line(self, seconds: float) -> str:
        rate = (self._done - self._first) / max(seconds, 1e-3)
        text = f"{self._phase}: {self._done} of {self._total}, {rate:.1f} a second"
        left = self._total - self._done
        return f"{text}, {duration(left / rate)} left" if left > 0 and rate > 0 else text

    def close(self) -> None:
        pass


def duration(seconds: float) -> str:
    """`8 s`, `3 min`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Bytes in words: `3.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def table(rows: Sequence[Sequence[str]], indent: int = 0) -> None:
    """Rows of text in columns; the last column wraps."""
    if not rows:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        lead = " " * indent + "".join(
            f"{cell:<{width + 2}}" for cell, width in zip(row, widths, strict=False)
        )
        say((lead + row[-1]).rstrip(), len(lead))
