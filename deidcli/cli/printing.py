"""What the commands show: tables, errors, progress."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from deidcli.engines import Progress

_STATUS_MEANING = {
    "ok": "de-identified",
    "fallback": "blacked out: the method's face still matched",
    "no_face": "no face found",
    "failed": "could not be read or de-identified, withheld",
    "skipped": "not a picture, not copied",
}


def print_counts(record: dict[str, Any]) -> None:
    """What became of the inputs of a run, by its manifest."""
    counts, out = record["counts"], record["output"]
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


class ProgressBar:
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
