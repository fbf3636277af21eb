"""Face boxes from the user: a table beside the pictures, or a column of parquet shards.

A table is CSV, JSON lines or parquet with a column `file_name` (the picture's path below the
input; `shard.parquet#7` for a row) and either four numbers, `x0, y0, x1, y1` or `x, y, width,
height`, with one row per face, or a column `boxes` with a list of boxes. JSON may also be a single
object that maps file names to lists of boxes.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deidcli.data.source import FolderShard, Item, Shard, Source
from deidcli.errors import DeidError, UsageError
from deidcli.faces.align import Box

COLUMN = "column:"
"""Prefix of a `--boxes` value that names a column instead of a file."""
_CORNERS = ("x0", "y0", "x1", "y1")
_SIDES = ("x", "y", "width", "height")
_LISTS = ("boxes", "bbox", "bboxes", "box")
_HINT = "a table has file_name and x0,y0,x1,y1 or x,y,width,height, or a column boxes"

SMALLEST = 2
"""Least width and height of a box, px. Boxes in shares of the picture would cover nothing."""

Boxes = dict[str, list[Box]]


def identify(boxes: str | None) -> str | None:
    """Return what a run records about `--boxes`: the column, or the file's sha256.

    Raises:
        UsageError: there is no such file, or no column is named.
    """
    if boxes is None:
        return None
    if boxes.startswith(COLUMN):
        if not boxes[len(COLUMN) :]:
            raise UsageError("--boxes column: names no column", "for example --boxes column:bbox")
        return boxes
    try:
        return "sha256:" + hashlib.sha256(Path(boxes).read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"--boxes {boxes} cannot be read: {error.strerror}", _HINT) from None


def read_boxes(path: Path, form: str) -> Boxes:
    """Read a table of boxes.

    Args:
        form: the order of numbers in lists of boxes, `xyxy` or `xywh`.

    Raises:
        DeidError: the table cannot be read, has other columns, or contains an invalid box.
    """
    try:
        rows = _rows(path)
        found: Boxes = {}
        for row in rows:
            name = str(row["file_name"])
            found.setdefault(name, []).extend(_boxes_of(row, form))
    except DeidError:
        raise
    except Exception as error:  # csv, json and Arrow raise many kinds
        words = f"no column {error}" if isinstance(error, KeyError) else type(error).__name__
        raise DeidError(f"{path} cannot be read as boxes ({words})", _HINT) from None
    return found


def _rows(path: Path) -> Iterable[Mapping[str, Any]]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    text = path.read_text("utf-8-sig")
    if suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    if suffix == ".json":
        return [{"file_name": name, "boxes": boxes} for name, boxes in json.loads(text).items()]
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _boxes_of(row: Mapping[str, Any], form: str) -> list[Box]:
    for names, kind in ((_CORNERS, "xyxy"), (_SIDES, "xywh")):
        if all(name in row for name in names):
            return [to_box([row[name] for name in names], kind)]
    for name in _LISTS:
        if name in row:
            return to_boxes(row[name], form)
    raise DeidError(f"no boxes in the columns {', '.join(map(str, row))}", _HINT)


def to_boxes(value: Any, form: str) -> list[Box]:
    """Parse one picture's boxes: a list, a single box, None, or JSON text.

    Raises:
        DeidError: the value is something else.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else []
        except ValueError:
            raise DeidError(f"{value[:40]!r} is not a list of boxes", _HINT) from None
    if isinstance(value, Mapping):  # Hugging Face's objects: {"bbox": [...], "category": [...]}
        value = next((value[name] for name in _LISTS if name in value), value)
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise DeidError(f"{str(value)[:40]!r} is not a list of boxes", _HINT)
    if value and all(isinstance(number, (int, float)) for number in value):
        value = [value]
    return [to_box(box, form) for box in value]


def to_box(numbers: Any, form: str) -> Box:
    """Convert four numbers to x0, y0, x1, y1.

    Raises:
        DeidError: these are not four finite numbers, or the box is empty or below SMALLEST.
    """
    try:
        a, b, c, d = (float(number) for number in numbers)
    except (TypeError, ValueError):
        raise DeidError(f"{str(numbers)[:60]} is not a box", _HINT) from None
    box = (a, b, a + c, b + d) if form == "xywh" else (a, b, c, d)
    if not all(map(math.isfinite, box)) or box[2] <= box[0] or box[3] <= box[1]:
        raise DeidError(
            f"{str(numbers)[:60]} is not a box as {form}", "see --box-format: xyxy or xywh"
        )
    if min(box[2] - box[0], box[3] - box[1]) < SMALLEST:
        raise DeidError(
            f"{str(numbers)[:60]} is not {SMALLEST} pixels wide and high",
            "boxes are in pixels of the picture, not in shares of it",
        )
    return box


def with_boxes(source: Source, boxes: Boxes) -> tuple[Source, list[str]]:
    """Return the source with boxes added, and the table's names that match no input."""
    left = dict(boxes)
    shards = tuple(_shard(shard, boxes, left) for shard in source.shards)
    return dataclasses.replace(source, shards=shards), sorted(left)


def _shard(shard: Shard, boxes: Boxes, left: Boxes) -> Shard:
    if isinstance(shard, FolderShard):
        return dataclasses.replace(
            shard, items=tuple(_item(item, boxes, left) for item in shard.items)
        )
    keys = (f"{shard.key}#{shard.first_row + row}" for row in range(shard.rows))
    own = {key: tuple(boxes[key]) for key in keys if left.pop(key, None) is not None}
    return dataclasses.replace(shard, boxes=own)


def _item(item: Item, boxes: Boxes, left: Boxes) -> Item:
    found = left.pop(item.key, None)
    return item if found is None else dataclasses.replace(item, boxes=tuple(boxes[item.key]))
