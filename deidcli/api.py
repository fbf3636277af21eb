"""The front door for Python: `anonymize` and `score`, which do what the commands do.

    from deidcli import anonymize, score

    record = anonymize("photos", method="blur")
    report = score(record["output"])

One picture at a time, in memory: `deidentifier.Deidentifier`.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from deidcli.errors import Stopped, UsageError
from deidcli.pipeline.options import Options
from deidcli.pipeline.report import Reporter
from deidcli.settings import RECOGNIZER_NAMES

NOT_SETTINGS = ("method", "settings")
"""Fields of `Options` that are given otherwise: as an argument, and as keywords."""


class Logged(Reporter):
    """What the user should know as warnings of the logger `deidcli`; the rest as information."""

    def __init__(self) -> None:
        self._log = logging.getLogger("deidcli")

    def note(self, line: str) -> None:
        self._log.warning("%s", line)

    def loading(self, what: str) -> None:
        self._log.info("%s", what)


def anonymize(
    source: str | Path | Sequence[str | Path],
    method: str = "blur",
    out: str | Path | None = None,
    *,
    password: str | None = None,
    reporter: Reporter | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Write a de-identified copy of a dataset, as `deid anonymize` does.

    The same call again resumes what was interrupted. Pictures that fail are withheld and counted
    in the record; they raise nothing.

    Args:
        source: folders, pictures and parquet files; one or several.
        method: a name that `deid methods` lists.
        out: the folder that is written; None: SOURCE-deid, beside SOURCE.
        password: where the method or `seal=True` needs one; `deid restore` takes it.
        reporter: is told of notes and progress; None: notes are logged as warnings of the logger
            `deidcli`.
        settings: fields of `pipeline.options.Options` (the options of `deid anonymize`, with _ for
            -), and settings of the method (`deid methods METHOD`).

    Returns:
        What manifest.json holds: `counts`, `withheld`, `settings` and more; and `output`, the
        folder that was written.

    Raises:
        UsageError: a setting that is not known, or has a value that is not.
        DeidError: it cannot be done; the text says why and what to do.
    """
    from deidcli.data.manifest import read_manifest
    from deidcli.pipeline import anonymize as pipeline

    options = options_of(method, settings, every_option())
    wanted = pipeline.wants_password(pipeline.run_settings(options))
    passphrase = checked_password(method, password, wanted)
    try:
        record = pipeline.anonymize(
            source,
            None if out is None else Path(out),
            options,
            passphrase=passphrase,
            reporter=reporter or Logged(),
        )
    except Stopped:  # a program expects what Python raises, and no `except DeidError` eats it
        raise KeyboardInterrupt from None
    return {**record, **(read_manifest(Path(record["output"])) or {})}


def score(
    out: str | Path,
    against: str | Path | None = None,
    *,
    recognizers: Sequence[str] | None = None,
    device: str = "auto",
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Measure what is left of identity and of use in published pictures, as `deid score` does.

    Args:
        out: what was published, by `anonymize` or by another tool.
        against: the originals; None: those of the run that wrote `out`.
        recognizers: of `settings.RECOGNIZER_NAMES`; None: all that are installed.
        device: auto, cpu or cuda.
        workers: processes; None: one a core.

    Returns:
        What `deid score --json` prints: `rows` (metric, value, interval, original, chance),
        `faces`, `pictures`, `withheld`, `unmatched`, `recognizers`. docs/score.md explains each
        metric.

    Raises:
        UsageError: a recognizer or device that is not known.
        DeidError: there is nothing to score.
    """
    from deidcli.processes import check_device, default_workers, resolve_device

    if isinstance(recognizers, str):
        recognizers = [recognizers]
    for name in recognizers or []:
        if name not in RECOGNIZER_NAMES:
            known = ", ".join(RECOGNIZER_NAMES)
            raise UsageError(f"no recognizer is called {name}", f"one of: {known}")
    check_device(device)
    told = reporter or Logged()
    told.loading("loading the recognizers")
    from deidcli.evaluate import score as scoring

    return scoring.score(
        Path(out),
        None if against is None else Path(against),
        recognizers,
        resolve_device(device),
        workers or default_workers(),
        told.progress,
    )


def every_option() -> tuple[str, ...]:
    """The options of a run that may be given as keywords."""
    return tuple(f.name for f in dataclasses.fields(Options) if f.name not in NOT_SETTINGS)


def options_of(method: str, given: Mapping[str, Any], known: Collection[str]) -> Options:
    """Options from keywords, those of the run and those of the method side by side.

    Args:
        known: the options that may be given. A setting of the method has another name, but for
            `attrs`, which means the same.

    Raises:
        UsageError: there is no such method, no such setting, or its value has another type.
    """
    from deidcli.methods import settings_class

    own = [field.name for field in dataclasses.fields(settings_class(method))]
    hints = get_type_hints(Options)
    values: dict[str, Any] = {}
    of_method: dict[str, str] = {}
    for name, value in given.items():
        if name in known:
            values[name] = _checked(name, value, hints[name])
        elif name in own:
            of_method[name] = str(value)
        else:
            raise UsageError(
                f"there is no setting {name!r}",
                f"{method} has: {', '.join(own) or 'none'}; a run has: {', '.join(known)}",
            )
    return Options(method=method, settings=of_method, **values)


def _checked(name: str, value: Any, kind: Any) -> Any:
    """A value of the type that its option has."""
    accepted = get_args(kind) if get_origin(kind) else (kind,)
    for one in accepted:
        if one is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if one is str and isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, one) and (one is bool or not isinstance(value, bool)):
            return value
    words = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
    kinds = " or ".join(words.get(one, "None") for one in accepted)
    raise UsageError(f"{name}={value!r} is not {kinds}", "see: deid anonymize --help")


def checked_password(method: str, password: str | None, wanted: bool) -> bytes | None:
    """The password as keys are made of it, where one is wanted.

    Raises:
        UsageError: it is missing, not wanted, empty or soon guessed.
    """
    from deidcli.crypto.passwords import new_passphrase

    if wanted and password is None:
        raise UsageError(f"{method} needs a password", 'give it as password="..."')
    if not wanted and password is not None:
        raise UsageError(f"{method} takes no password", "leave it out; `seal` needs one")
    return None if password is None else new_passphrase(password)
