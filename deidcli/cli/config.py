"""`--config`: options from a TOML file, or those of a finished run from its manifest.json."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from deidcli.errors import DeidError, UsageError
from deidcli.pipeline.options import Options
from deidcli.settings import RunSettings
from deidcli.version import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

LARGEST = 1 << 24
"""Bytes of a file at most: a larger one was given by mistake."""
OTHER_FILE = "sha256:"
"""Stands for a table of boxes, which a manifest does not name."""
OPPOSITES = {"gate": "no_gate", "no_gate": "gate"}
"""An option that is typed takes the place of its opposite in the file."""
Values = dict[str, Any]
"""Values of options by the names of their fields."""


@dataclass(frozen=True)
class Config:
    """What a file says."""

    values: Values
    notes: tuple[str, ...] = ()
    """What the user should know, one line each."""


def read_config(path: Path, others: Mapping[str, type]) -> Config:
    """The options that a file sets.

    Args:
        others: options of the command beside those of `Options`: field name -> type.

    Raises:
        DeidError: it cannot be read.
        UsageError: it holds a key that is no option, or a value of another type.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST).decode("utf-8")
        is_json = path.suffix.lower() == ".json"
        found = json.loads(text) if is_json else tomllib.loads(text)
    except OSError as error:
        raise DeidError(
            f"{path} cannot be read: {error.strerror}", "give a TOML file, or a manifest.json"
        ) from None
    except (ValueError, RecursionError) as error:
        kind = "JSON" if is_json else "TOML"
        raise UsageError(
            f"{path} is not {kind}: {' '.join(str(error).split())[:100]}",
            "give a TOML file of options, or the manifest.json of a finished run",
        ) from None
    return _of_manifest(path, found) if is_json else Config(_of_toml(path, found, others))


def merged(config: Values, typed: Values) -> Values:
    """Both; what was typed wins. Settings of the method are joined key by key, unless another
    method was typed than the one they belong to.

    Raises:
        UsageError: the file is the manifest of a run that took boxes from another one.
    """
    values = {key: value for key, value in config.items() if OPPOSITES.get(key) not in typed}
    if "settings" in values:
        named = config.get("method")
        if named is not None and typed.get("method", named) != named:
            values.pop("settings")
        else:
            typed = {**typed, "settings": {**values["settings"], **typed.get("settings", {})}}
    values = {**values, **typed}
    if str(values.get("boxes")).startswith(OTHER_FILE):
        raise UsageError("that run took boxes from a file", "give the same file with --boxes")
    return values


def _of_toml(path: Path, found: Mapping[str, Any], others: Mapping[str, type]) -> Values:
    kinds = {**get_type_hints(Options), **others}
    values: Values = {}
    for key, value in found.items():
        name = "settings" if key == "set" else key.replace("-", "_")
        if name not in kinds or key == "settings":
            known = ", ".join("set" if n == "settings" else n.replace("_", "-") for n in kinds)
            raise UsageError(f"{path}: there is no option {key!r}", f"one of: {known}")
        if name in values:
            raise UsageError(f"{path}: {key} is there twice, as a-b and a_b", "leave one out")
        values[name] = _checked(path, key, value, kinds[name])
    return values


def _checked(path: Path, key: str, value: Any, kind: Any) -> Any:
    """A value of the type that its option has."""
    if get_origin(kind) is not None and get_args(kind) and type(None) not in get_args(kind):
        if not isinstance(value, dict):
            raise UsageError(f"{path}: {key} is not a table", "[set] holds the method's settings")
        return {name: _text(path, f"{key}.{name}", inner) for name, inner in value.items()}
    accepted = [k for k in (get_args(kind) or (kind,)) if k is not type(None)]
    for one in accepted:
        if one is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if one is Path and isinstance(value, str):
            return Path(value)
        if type(value) is one:
            return value
    words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    wanted = " or ".join(words.get(one, "a path") for one in accepted)
    raise UsageError(f"{path}: {key} = {value!r} is not {wanted}", "see: deid anonymize --help")


def _text(path: Path, key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise UsageError(f"{path}: {key} is neither text nor number", "see: deid methods NAME")


def _of_manifest(path: Path, record: Any) -> Config:
    """The options that give a finished run's settings again."""
    settings = record.get("settings") if isinstance(record, dict) else None
    if not isinstance(settings, dict) or not isinstance(settings.get("method"), str):
        raise UsageError(
            f"{path} is not the manifest of a run", "give OUT/manifest.json, or a TOML file"
        )
    made_by = record.get("deid_version")
    strange = settings.keys() - {field.name for field in dataclasses.fields(RunSettings)}
    if strange:
        raise UsageError(
            f"{path} was written by deid {made_by} with settings that this one does not have: "
            + ", ".join(sorted(strange)),
            f"this is deid {__version__}",
        )
    older = f"{path} was written by deid {made_by}, this is {__version__}: results may differ"
    return Config(_options_of(settings), () if made_by == __version__ else (older,))


def _options_of(settings: Mapping[str, Any]) -> Values:
    kinds = {field.name for field in dataclasses.fields(Options)}
    values = {name: _plain(value) for name, value in settings.items() if name in kinds}
    given = {k: str(v) for k, v in dict(settings.get("method_settings") or {}).items()}
    if "attrs" in given:
        values["attrs"] = given.pop("attrs") or None
    elif settings.get("attributes") is not None:
        values["attrs"] = _plain(settings["attributes"])
    values["settings"] = given
    if settings.get("gate") is None:
        values["no_gate"] = True
    if settings.get("mark") is False:
        values["no_mark"] = True
    if settings.get("boxes") == "table":  # as `RunSettings.published` has it
        values["boxes"] = OTHER_FILE
    # None listed is none typed; names go through CSV, as one may hold a comma.
    values["columns"] = _words(settings.get("columns") or ()) or None
    return {name: value for name, value in values.items() if value is not None}


def _words(names: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(names)
    return text.getvalue()


def _plain(value: Any) -> Any:
    """Lists are recorded where the command line takes words separated by commas."""
    return ",".join(map(str, value)) if isinstance(value, list) else value
