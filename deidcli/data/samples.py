"""Read the inputs of a shard one by one, each with its bytes or the reason it has none."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from deidcli.data.images import FORMAT_OF_EXTENSION, Format
from deidcli.data.labels import Labels, known_split, to_label
from deidcli.data.listing import printable
from deidcli.data.parquet import ParquetShard
from deidcli.data.reading import (
    Unreadable,
    data_print,
    file_print,
    read_regular,
    require_regular,
)
from deidcli.data.source import LABEL_FILE, FolderShard, Item, Shard
from deidcli.faces.align import Box

EXTENSION_OF: dict[Format, str] = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "GIF": ".gif",
}


@dataclass(frozen=True)
class Sample:
    """One input."""

    key: str
    """A unique key: the relative path, for parquet `path#row`."""
    data: bytes = b""
    status: str = ""
    """Empty if it is to be de-identified; otherwise `skipped` or `failed`, with a reason."""
    reason: str = ""
    passes: bool = False
    """Whether the failure may be temporary, so that the same command retries it."""
    print: str = ""
    """The content fingerprint for later runs (`reading.data_print`), of the picture or of the row's
    parquet file."""
    name: str = ""
    """Output name of the frame (below `images/`, or the `path` in parquet)."""
    stem: str = ""
    """Output name of crops, without `_0.png`."""
    format: Format | None = None
    """The format to write under `name`; None: the source's format."""
    labels: Labels = field(default_factory=dict)
    partition: str | None = None
    identity: str | None = None
    boxes: tuple[Box, ...] = ()
    """Faces that the user marked, in pixels of the upright picture."""
    row: pa.RecordBatch | None = None
    """For parquet: the whole row, as a batch of one row."""


def read_samples(shard: Shard, secret: bytes | None) -> Iterator[Sample]:
    """Yield the inputs of a shard, in order.

    Args:
        secret: with `--names random`, the key from which names are derived; else None.
    """
    if isinstance(shard, FolderShard):
        for item in shard.items:
            yield _read_item(item, secret)
    else:
        yield from _read_rows(shard, secret)


def random_name(key: str, secret: bytes) -> str:
    """Return 16 hex digits that cannot be linked to the key without the secret."""
    return hmac.new(secret, key.encode(), hashlib.sha256).hexdigest()[:16]


def _read_item(item: Item, secret: bytes | None) -> Sample:
    if item.status:
        return Sample(item.key, b"", item.status, item.reason, item.passes, listed_print(item))
    try:
        data = read_regular(item.path, item.root)
    except Unreadable as error:
        return Sample(item.key, b"", "failed", error.reason, error.passes)
    extension = os.path.splitext(item.name)[1]
    name, stem = item.name, item.stem
    if secret is not None:
        stem = random_name(item.key, secret)
        name = stem + extension.lower()
    return Sample(
        item.key,
        data,
        name=name,
        stem=stem,
        format=FORMAT_OF_EXTENSION[extension.lower()],
        labels=item.labels,
        partition=item.partition,
        identity=item.identity,
        boxes=item.boxes,
        print=data_print(data),
    )


def _read_rows(shard: ParquetShard, secret: bytes | None) -> Iterator[Sample]:
    read = 0
    try:
        require_regular(shard.path, shard.root)
        told = file_print(shard.path)
        for first, batch in shard.batches():
            for offset in range(batch.num_rows):
                row = batch.slice(offset, 1)
                try:
                    sample = replace(_row_sample(shard, first + offset, row, secret), print=told)
                except Exception as error:  # such as text that is not UTF-8
                    key = f"{shard.key}#{first + offset}"
                    reason = f"row cannot be read: {type(error).__name__}"
                    sample = Sample(key, status="failed", reason=reason, print=told)
                yield sample
                read += 1
    except (pa.ArrowException, OSError, Unreadable) as error:
        reason = f"parquet cannot be read ({type(error).__name__})"
        if isinstance(error, Unreadable):
            reason = error.reason
        yield from failed_rows(shard, reason, read, passes=not isinstance(error, pa.ArrowException))


def failed_rows(
    shard: ParquetShard, reason: str, read: int = 0, passes: bool = False
) -> Iterator[Sample]:
    """Yield all rows of a shard after the first `read` ones as failed."""
    told = file_print(shard.path)
    for number in range(shard.first_row + read, shard.first_row + shard.rows):
        yield Sample(f"{shard.key}#{number}", b"", "failed", reason, passes, told)


def listed_print(item: Item) -> str:
    """Return the print of a file that was read for its labels, not as a picture."""
    return file_print(item.path) if item.reason == LABEL_FILE else ""


def _row_sample(
    shard: ParquetShard, number: int, row: pa.RecordBatch, secret: bytes | None
) -> Sample:
    key, layout = f"{shard.key}#{number}", shard.layout
    value = row.column(layout.image)[0].as_py()
    data = value.get("bytes") if isinstance(value, dict) else value
    path = value.get("path") if isinstance(value, dict) else None
    path = path if isinstance(path, str) else None
    if data is None:
        return Sample(key, status="skipped", reason="no picture in this row")
    stem = _safe_stem(path, number) if secret is None else random_name(key, secret)
    return Sample(
        key,
        data,
        name=stem,
        stem=stem,
        labels=_row_labels(row, layout.labels),
        partition=known_split(_text(row, layout.partition)),
        identity=_text(row, layout.identity),
        boxes=shard.boxes.get(key, ()),
        row=row,
    )


def _row_labels(row: pa.RecordBatch, names: tuple[str, ...]) -> Labels:
    pairs = ((name, to_label(row.column(name)[0].as_py())) for name in names)
    return {name: value for name, value in pairs if value is not None}


def _text(row: pa.RecordBatch, column: str | None) -> str | None:
    value: Any = None if column is None else row.column(column)[0].as_py()
    return None if value is None else str(value)


def _safe_stem(path: str | None, number: int) -> str:
    """Return the base name of a row's `path` without extension; never a folder or `..`."""
    base = printable((path or "").replace("\\", "/").rsplit("/", 1)[-1]).replace("\0", "")
    stem = os.path.splitext(base)[0].strip(". ")
    return stem or f"{number:08d}"
