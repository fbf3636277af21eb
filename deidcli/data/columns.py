"""Which columns of the inputs are published beside the picture: only those requested.

One rule applies to parquet and to the tables of a folder. By default only labels of known data sets
are published, and only values that are valid labels: other values in such a column are dropped.
Everything else has to be requested, by name or as `all`.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.data.identifying import is_descriptor_column, is_identity_column
from deidcli.data.labels import PARTITION
from deidcli.data.people import has_given_name, names_person
from deidcli.errors import UsageError

ALL = "all"
PARTITIONS = (PARTITION, "split")
LONGEST_TEXT = 512
"""Mean bytes per row above which text could be a picture; `all` excludes such columns."""
SERIES = 16
"""This many numeric columns whose names differ only by a number are treated as one vector."""
OWN = frozenset({"file_name", "width", "height", "status", "faces"})
"""Columns that metadata.parquet defines itself."""
MOST_NAMED = 20
WIDTH = 80


@dataclass(frozen=True)
class Wish:
    """The columns requested for publication beside the picture."""

    names: tuple[str, ...] = ()
    """Requested columns, or only `all`."""
    identities: bool = False
    """The option --keep-identity."""
    labels: tuple[str, ...] | None = None
    """Attributes whose labels may appear in any file; None: all."""

    @property
    def everything(self) -> bool:
        return self.names == (ALL,)

    def takes(self, name: str, kind: pa.DataType, hides: bool) -> bool:
        """Return whether a column is published.

        Args:
            hides: the column could contain more than its type says, see `hiding`.
        """
        if name in CELEBA_ATTRIBUTES and self.labels is not None and name not in self.labels:
            return False
        if name in self.names and not self.everything:
            return True
        if is_identity_column(name):
            return self.identities and is_plain(kind)
        if is_label(name, kind) or is_partition(name, kind):
            return True
        return self.everything and is_plain(kind) and not hides and not is_descriptor_column(name)

    def wants(self, name: str) -> bool:
        """Return whether to read a column of a folder's tables, before its type is known."""
        if self.is_listed(name):
            return True
        return self.identities if is_identity_column(name) else self.everything

    def is_listed(self, name: str) -> bool:
        """Return whether a column was requested by name, to be published unchanged."""
        return name in self.names and not self.everything


NO_WISH = Wish()
"""Publish only the picture and labels of known data sets."""


@dataclass(frozen=True)
class Columns:
    """Which of the inputs' columns were published and which were dropped."""

    kept: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @classmethod
    def of(cls, kept: Iterable[str], seen: Iterable[str]) -> Columns:
        """Create from the published names and all names, in their original order."""
        names = dict.fromkeys(kept)
        return cls(tuple(names), tuple(n for n in dict.fromkeys(seen) if n not in names))

    def record(self) -> dict[str, Any]:
        """Return the entry for manifest.json; dropped names that may be data are only counted."""
        shown = [name for name in self.dropped if not _could_be_data(name)]
        said: dict[str, Any] = {"kept": list(self.kept), "dropped": shown}
        if len(shown) < len(self.dropped):
            said["dropped_unnamed"] = len(self.dropped) - len(shown)
        return said

    def notes(self) -> list[str]:
        """Return lines for the terminal, wrapped at its usual width."""
        said = []
        if self.kept:
            said.append(_wrapped(f"columns published: {_listed(self.kept)}"))
        if self.dropped:
            text = f"columns not published: {_listed(self.dropped)} (--columns lists what is)"
            said.append(_wrapped(text))
        return said


NO_COLUMNS = Columns()


def _listed(names: Sequence[str]) -> str:
    shown = [name if name.isprintable() else ascii(name) for name in names[:MOST_NAMED]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _wrapped(text: str) -> str:
    """Wrap text for a terminal that prints `note: ` before it."""
    lines = textwrap.wrap(
        text, WIDTH - len("note: "), break_long_words=False, break_on_hyphens=False
    )
    return "\n      ".join(lines)


def _could_be_data(name: str) -> bool:
    """Return whether a name may be data: a column per person, or a data row read as header."""
    if name in CELEBA_ATTRIBUTES:
        return False
    usual = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_. -]{0,39}", name)
    numbered = bool(re.search(r"\d{4}", name))
    return usual is None or numbered or names_person(name) or has_given_name(name)


def parse_columns(text: str) -> tuple[str, ...]:
    """Split `a,b` into names; a name that contains a comma must be in double quotes.

    Raises:
        UsageError: no name is listed, or `all` is combined with others.
    """
    import csv

    row = next(csv.reader([text], skipinitialspace=True), [])
    names = tuple(dict.fromkeys(name.strip() for name in row if name.strip()))
    if not names:
        raise UsageError("--columns names no column", "for example --columns age,caption, or all")
    if ALL in names and len(names) > 1:
        raise UsageError("--columns all stands alone", "leave out the other names, or all")
    return names


def check_wish(
    wish: Wish, tables: Iterable[str], rows: Iterable[str] = (), images: Iterable[str] = ()
) -> None:
    """Check that the requested columns can be published.

    Args:
        tables: the columns of folders' tables.
        rows: the columns of parquet files, without their pictures.
        images: the columns that contain the pictures.

    Raises:
        UsageError: no input has such a column, it is the picture, or --attrs excludes it.
    """
    if wish.everything:
        return
    listed, pictures = dict.fromkeys(tables), set(images)
    known = {**listed, **dict.fromkeys(rows)}
    for name in wish.names:
        if name in OWN and (name in listed or not pictures):
            raise UsageError(
                f"--columns {name}: metadata.parquet has a column of its own of that name",
                "rename the input's, or leave it out",
            )
        if name in pictures and name not in known:
            raise UsageError(
                f"--columns {name} is the picture itself", "it is published anyway: leave it out"
            )
        if name not in known:
            have = _listed(tuple(known)) or "no column beside the picture"
            raise UsageError(f"--columns {name}: no input has such a column", f"they have: {have}")
        if name in CELEBA_ATTRIBUTES and wish.labels is not None and name not in wish.labels:
            raise UsageError(
                f"--columns {name} is an attribute that is not kept",
                "name it in --attrs too, or leave it out",
            )


def is_plain(kind: pa.DataType) -> bool:
    """Return whether a type is numbers, text, booleans or dates."""
    if pa.types.is_dictionary(kind):
        return is_plain(kind.value_type)
    tests = (
        pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal,
        pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
        pa.types.is_temporal,
    )  # fmt: skip
    return any(test(kind) for test in tests)


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is text of any kind, including dictionary-encoded text."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in tests)


def is_label(name: str, kind: pa.DataType) -> bool:
    """Return whether a column is one of CelebA's attributes, by name and type."""
    return name in CELEBA_ATTRIBUTES and (pa.types.is_boolean(kind) or pa.types.is_integer(kind))


def is_partition(name: str, kind: pa.DataType) -> bool:
    """Return whether a column contains a picture's split, by name and type."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)
    return name in PARTITIONS and any(test(kind) for test in texts)


def hiding(kinds: Mapping[str, pa.DataType], text_bytes: Mapping[str, float]) -> set[str]:
    """Return columns of plain types that could still contain a picture or an embedding.

    Args:
        text_bytes: mean bytes per row of text columns.
    """
    found = {name for name, size in text_bytes.items() if size > LONGEST_TEXT}
    groups = {name: re.sub(r"\d+", "#", name) for name, kind in kinds.items() if _is_number(kind)}
    sizes = Counter(groups.values())
    return found | {n for n, group in groups.items() if "#" in group and sizes[group] >= SERIES}


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


# ---------------------------------------------------------------------------- tables of a folder


@dataclass(frozen=True)
class Table:
    """The published columns of a folder's metadata files, by picture key."""

    fields: tuple[tuple[str, pa.DataType], ...] = ()
    rows: Mapping[str, Mapping[str, Any]] | None = None

    def row(self, key: str) -> Mapping[str, Any]:
        """Return a picture's values."""
        return (self.rows or {}).get(key, {})


def fitted(wish: Wish, cells: Mapping[str, Mapping[str, object]]) -> Table:
    """Return the published columns of a folder's tables, each with a type that fits its values.

    Args:
        cells: column -> picture key -> value; values from a CSV file are text.
    """
    kinds, values = {}, {}
    for name, column in cells.items():
        kinds[name], values[name] = _fit(list(column.values()))
    sizes = {
        name: sum(len(str(v).encode()) for v in values[name] if v is not None)
        / max(1, len(values[name]))
        for name, kind in kinds.items()
        if pa.types.is_string(kind)
    }
    hides = hiding(kinds, sizes)
    chosen = []
    rows: dict[str, dict[str, Any]] = {}
    for name, kind in kinds.items():
        known = name in CELEBA_ATTRIBUTES or (name in PARTITIONS and not wish.is_listed(name))
        if known or name in OWN or not wish.takes(name, kind, name in hides):
            continue
        chosen.append((name, kind))
        for key, value in zip(cells[name], values[name], strict=True):
            rows.setdefault(key, {})[name] = value
    return Table(tuple(chosen), rows)


def _fit(values: list[object]) -> tuple[pa.DataType, list[Any]]:
    """Infer a type for values and convert them to it."""
    if all(value is None or isinstance(value, str) for value in values):
        return _fit_text([None if value is None else str(value) for value in values])
    try:
        array = pa.array(values)
    except (pa.ArrowException, TypeError, OverflowError):  # mixed types
        return pa.string(), [None if value is None else str(value) for value in values]
    if pa.types.is_null(array.type):
        return pa.string(), values
    return array.type, array.to_pylist()


_INTEGER = re.compile(r"0|-?[1-9]\d{0,17}")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d{1,2})?")


def _fit_text(values: list[str | None]) -> tuple[pa.DataType, list[Any]]:
    """Convert text to numbers or booleans if all values allow it; empty text is then missing."""
    some = [value.strip() for value in values if value and value.strip()]
    readers: tuple[tuple[pa.DataType, Any, Any], ...] = (
        (pa.int64(), _INTEGER.fullmatch, int),
        (pa.float64(), _NUMBER.fullmatch, float),
        (pa.bool_(), lambda v: v.lower() in ("true", "false"), lambda v: v.lower() == "true"),
    )
    for kind, fits, read in readers:
        if some and all(fits(value) for value in some):
            return kind, [read(v.strip()) if v and v.strip() else None for v in values]
    return pa.string(), values
