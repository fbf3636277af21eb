"""Read the pictures of a finished output.

A published output may have been modified by others, so names must stay inside the folder, and an
unreadable picture is an entry, not an exception.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from deidcli.data import parquet
from deidcli.errors import DeidError

How = Literal["exact", "network", "copied", "failed"]


@dataclass(frozen=True)
class Picture:
    """One published picture."""

    name: str
    """Its `file_name` in metadata.parquet."""
    meta: dict[str, Any]
    """Its row in metadata.parquet."""
    data: bytes = b""
    problem: str = ""
    """The reason if it has no bytes."""
    row: pa.RecordBatch | None = None
    """For parquet: the published row, as a batch of one row."""
    layout: parquet.Layout | None = None
    schema: pa.Schema | None = None
    """For parquet: the schema of the published file."""

    @property
    def faces(self) -> list[dict[str, Any]]:
        """The faces listed in metadata.parquet."""
        return list(self.meta["faces"] or [])


# ---------------------------------------------------------------------------- reading


def read_metadata(out: Path) -> pa.Table:
    """Read metadata.parquet.

    Raises:
        DeidError: the file is damaged, or not written by deid.
    """
    try:
        table = pq.read_table(out / "metadata.parquet")
        table.validate(full=True)  # text that is not UTF-8 would raise later, row by row
        names = set(table.schema.names)
        parts = _face_fields(table.schema.field("faces").type) if "faces" in names else set()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = type(error).__name__
        raise DeidError(
            f"{out / 'metadata.parquet'} cannot be read ({reason})", "restore that file"
        ) from None
    if "file_name" not in names or "method" not in parts:
        raise DeidError(f"{out / 'metadata.parquet'} was changed", "restore that file")
    return table


def _face_fields(kind: pa.DataType) -> set[str]:
    if not (pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)):
        return set()
    return {kind.value_type.field(n).name for n in range(kind.value_type.num_fields)}


def read_pictures(out: Path) -> Iterator[Picture]:
    """Yield every published picture: rows of parquet files, file by file, then picture files in the
    order of metadata.parquet."""
    table = read_metadata(out)
    yield from _from_parquet(out, table)
    for batch in table.to_batches(256):
        for meta in batch.to_pylist():
            name = str(meta["file_name"])
            if is_row(name):
                continue
            try:
                yield Picture(name, meta, data=inside(out, name, "images").read_bytes())
            except OSError as error:
                reason = f"cannot be read: {error.strerror or 'not in OUT'}"
                yield Picture(name, meta, problem=reason)


def read_named(out: Path, names: Collection[str]) -> Iterator[tuple[str, bytes | None]]:
    """Yield some published pictures and their bytes, unordered; None for unreadable ones.

    Only row groups that contain one of them are read from parquet files.
    """
    rows: dict[str, dict[int, str]] = {}
    for name in names:
        if is_row(name):
            file, _, row = name.rpartition("#")
            rows.setdefault(file, {})[int(row)] = name
            continue
        try:
            yield name, inside(out, name, "images").read_bytes()
        except OSError:
            yield name, None
    for file, wanted in rows.items():
        left = dict(wanted)
        try:
            for number, data in _pictures_of(inside(out, file, "data"), wanted):
                yield left.pop(number), data
        except (pa.ArrowException, OSError, ValueError, DeidError):
            pass
        for name in left.values():
            yield name, None


def _pictures_of(path: Path, wanted: Collection[int]) -> Iterator[tuple[int, bytes | None]]:
    """Yield the picture bytes of some rows."""
    column = parquet.plan_file(path).layout.image
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            here = [row for row in wanted if first <= row < first + count]
            if here:
                values = file.read_row_group(group, columns=[column]).column(0)
                for row in here:
                    value = values[row - first].as_py()
                    yield row, value.get("bytes") if isinstance(value, dict) else value
            first += count


def is_row(name: str) -> bool:
    """Return whether a `file_name` of metadata.parquet names a row of a parquet file."""
    return name.startswith("data/")


def inside(root: Path, name: str, folder: str) -> Path:
    """Return a path that is below `root/folder` even after following links.

    Raises:
        OSError: the name leads elsewhere.
    """
    parts = PurePosixPath(name).parts
    path = root / name
    leaves = ".." in parts or len(parts) < 2 or parts[0] != folder or "\0" in name
    if leaves or not path.resolve().is_relative_to(root.resolve() / folder):
        raise OSError(errno.EINVAL, "its name leads out of the folder")
    return path


def _from_parquet(out: Path, table: pa.Table) -> Iterator[Picture]:
    places: dict[str, dict[int, int]] = {}
    for index, listed in enumerate(table["file_name"].to_pylist()):
        if not is_row(str(listed)):
            continue
        file, _, row = str(listed).rpartition("#")
        places.setdefault(file, {})[int(row) if row.isdecimal() else -1 - index] = index
    for file, indices in places.items():
        left = dict(indices)
        problem = "its row is missing"
        try:
            for number, batch, layout in _rows(inside(out, file, "data")):
                if number not in left:
                    continue
                index = left.pop(number)
                meta = table.slice(index, 1).to_pylist()[0]
                value = batch.column(layout.image)[0].as_py()
                data = value.get("bytes") if isinstance(value, dict) else value
                yield Picture(
                    str(meta["file_name"]),
                    meta,
                    data or b"",
                    "" if data else "no picture in this row",
                    batch,
                    layout,
                    batch.schema,
                )
        except (pa.ArrowException, OSError, ValueError, DeidError) as error:
            problem = f"{file} cannot be read ({type(error).__name__})"
        for index in left.values():
            meta = table.slice(index, 1).to_pylist()[0]
            yield Picture(str(meta["file_name"]), meta, problem=problem)


def _rows(path: Path) -> Iterator[tuple[int, pa.RecordBatch, parquet.Layout]]:
    layout = parquet.plan_file(path).layout
    number = 0
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        schema = file.schema_arrow
        for batch in file.iter_batches(parquet.ROWS_A_READ):
            for offset in range(batch.num_rows):
                row = batch.slice(offset, 1)
                yield number, row.replace_schema_metadata(schema.metadata), layout
                number += 1
