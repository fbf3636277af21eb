"""Frozen dataclasses as settings: parsed from `key=value` text, described by their docstrings."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from deidcli.errors import UsageError


def parse_fields(name: str, cls: type[Any], given: Mapping[str, str]) -> Any:
    """Create a frozen dataclass from text.

    Args:
        name: what the settings are of, for error messages.

    Raises:
        UsageError: the setting does not exist, or a value is out of range.
    """
    hints = get_type_hints(cls)
    names = [f.name for f in _settable(cls)]
    values = {}
    for key, text in given.items():
        if key not in names:
            known = ", ".join(names) or "none"
            raise UsageError(f"{name} has no setting {key!r}", f"it has: {known}")
        values[key] = _parse(name, key, text, hints[key])
    try:
        return cls(**values)
    except ValueError as error:
        raise UsageError(f"{name}: {error}", f"see: deid methods {name}") from None


def _settable(cls: type[Any]) -> list[dataclasses.Field[Any]]:
    """Return the fields that text can set; one that is a dataclass itself is set by programs."""
    hints = get_type_hints(cls)
    return [f for f in dataclasses.fields(cls) if not dataclasses.is_dataclass(hints[f.name])]


def _parse(name: str, key: str, text: str, kind: Any) -> Any:
    if get_origin(kind) is not None:
        choices = [str(choice) for choice in get_args(kind)]
        if text not in choices:
            raise UsageError(f"{name}: {key}={text} is not known", f"one of: {', '.join(choices)}")
        return text
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
                text.lower()
            ]
        return _finite(kind(text))
    except (ValueError, KeyError, TypeError):
        words = {int: "a whole number", float: "a finite number", bool: "true or false"}
        word = words.get(kind, "a value that the command line can set")
        raise UsageError(
            f"{name}: {key}={text} is not {word}", f"see: deid methods {name}"
        ) from None


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(value)
    return value


def field_docs(cls: type[Any]) -> dict[str, str]:
    """Return the docstring below each field of a dataclass."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    docs = {}
    for field, after in zip(body, body[1:], strict=False):
        is_doc = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_doc:
            docs[field.target.id] = " ".join(str(after.value.value).split())  # type: ignore[attr-defined]
    return docs


class Described(NamedTuple):
    """A setting, as shown by `deid methods`."""

    name: str
    type: str
    default: str
    help: str


def describe_fields(cls: type[Any]) -> list[Described]:
    """Describe each field of a frozen dataclass, with the docstring below it."""
    docs, hints = field_docs(cls), get_type_hints(cls)
    rows = []
    for field in _settable(cls):
        kind = hints[field.name]
        shown = "|".join(map(str, get_args(kind))) if get_origin(kind) else kind.__name__
        rows.append(Described(field.name, shown, str(field.default), docs.get(field.name, "")))
    return rows
