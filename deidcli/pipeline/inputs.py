"""The INPUTs of a command: local paths, or a list of them on stdin."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from deidcli.errors import UsageError


def local_paths(given: str | Path | Sequence[str | Path]) -> tuple[Path, ...]:
    """Convert INPUTs to paths.

    Raises:
        UsageError: there are no inputs.
    """
    paths = [given] if isinstance(given, str | Path) else list(given)
    if not paths:
        raise UsageError("no INPUT is given", "give a folder, pictures or parquet files")
    return tuple(Path(path) for path in paths)


def with_list(given: Sequence[str], stdin: BinaryIO | None) -> list[str]:
    """Replace `-` in the INPUTs by the paths listed on stdin.

    Paths are separated by newlines, or by NULs as in `find -print0`; empty lines are ignored.

    Raises:
        UsageError: `-` is used twice, or nothing is listed.
    """
    if "-" not in given:
        return list(given)
    if given.count("-") > 1:
        raise UsageError("- stands for the list on stdin and can be given once", "leave one out")
    if stdin is None or stdin.isatty():
        raise UsageError(
            "- takes a list of paths from stdin, which is the terminal",
            "for example: find photos -name '*.jpg' | deid anonymize - --out photos-deid",
        )
    data = stdin.read()
    parts = data.split(b"\0") if b"\0" in data else data.splitlines()
    listed = [os.fsdecode(part) for part in parts if part]
    if not listed:
        raise UsageError("stdin lists no path", "one path a line, or separated by NUL")
    at = list(given).index("-")
    return [*given[:at], *listed, *given[at + 1 :]]
