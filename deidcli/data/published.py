"""Read the pictures of a finished output, and write them again, restored, into another folder.

What is read was published, so it may have passed through other hands: names are kept inside of
both folders, and a picture that cannot be read is an entry, not an exception.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from deidcli.data import parquet
from deidcli.data.images import FORMAT_OF_EXTENSION, Format
from deidcli.data.samples import EXTENSION_OF
from deidcli.data.sink import Unwritable
from deidcli.errors import DeidError

How = Literal["exact", "network", "copied", "failed"]
LOSSLESS: frozenset[Format] = frozenset({"PNG", "BMP", "TIFF"})
"""Formats that hold every pixel as it is. Restored pictures of others become PNG."""
ROWS_A_WRITE = 32


@dataclass(frozen=True)
class Picture:
    """One published picture."""

    name: str
    """Its `file_name` in metadata.parquet."""
    meta: dict[str, Any]
    """Its row there."""
    data: bytes = b""
    problem: str = ""
    """Why it has no bytes."""
    row: pa.RecordBatch | None = None
    """Parquet: the published row, one row long."""
    layout: parquet.Layout | None = None
    schema: pa.Schema | None = None
    """Parquet: of the published file."""

    @property
    def faces(self) -> list[dict[str, Any]]:
        """As metadata.parquet has them."""
        return list(self.meta["faces"] or [])


@dataclass(frozen=True)
class Restored:
    """What became of a published picture."""

    picture: Picture
    how: How
    """exact: from the seal; network: by the method; copied: as published; or failed."""
    data: bytes = b""
    format: Format | None = None
    """What the bytes are in, where they are not the published ones."""
    faces: int = 0
    """Faces that came back."""
    blacked_out: int = 0
    """Faces that stay black: the gate had refused the method's."""
    reason: str = ""


def lossless(published: Format) -> Format:
    """The format in which a restored picture is written."""
    return published if published in LOSSLESS else "PNG"


# ---------------------------------------------------------------------------- reading


def read_metadata(out: Path) -> pa.Table:
    """metadata.parquet.

    Raises:
        DeidError: damaged, or not written by deid.
    """
    try:
        table = pq.read_table(out / "metadata.parquet")
        table.validate(full=True)  # text that is no UTF-8 would raise later, row by row
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
    """Every published picture: the rows of parquet files, file by file, then files in
    metadata.parquet's order."""
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
    """Some published pictures and their bytes, in no order; None where one cannot be read.

    Of parquet files only the row groups that hold one of them are read.
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
    """The bytes of some rows' pictures."""
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
    """Whether a `file_name` of metadata.parquet is that of a row of a published parquet file."""
    return name.startswith("data/")


def inside(root: Path, name: str, folder: str) -> Path:
    """A path below `root/folder`, also where links lie on the way.

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


# ---------------------------------------------------------------------------- writing


@dataclass
class RestoredFiles:
    """The restored pictures below a folder, in the tree and under the names of OUT.

    A picture whose format had to change has `.png` added to its name. metadata.parquet lists what
    was written, with how it came back.
    """

    out: Path
    folder: Path
    _taken: set[str] = field(default_factory=set, init=False)
    _rows: list[dict[str, Any]] = field(default_factory=list, init=False)
    _file: _ParquetFile | None = field(default=None, init=False)

    def __enter__(self) -> RestoredFiles:
        table = read_metadata(self.out)
        self._taken = set(table["file_name"].to_pylist())
        self._schema = table.schema.append(pa.field("restored", pa.string()))
        self._metadata = pq.ParquetWriter(self.folder / "metadata.parquet", self._schema)
        return self

    def write(self, result: Restored) -> None:
        """Write one picture.

        Raises:
            Unwritable: its name is the problem.
            OSError: the disk is.
        """
        name = self._write_row(result) if is_row(result.picture.name) else self._write_file(result)
        self._rows.append({**result.picture.meta, "file_name": name, "restored": result.how})
        if len(self._rows) >= 1024:
            self._flush()

    def _write_file(self, result: Restored) -> str:
        name = self._name(result)
        try:
            path = inside(self.folder, name, "images")
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "xb") as file:  # never over another one
                file.write(result.data)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS):
                raise
            raise Unwritable(error.strerror) from None
        return name

    def _name(self, result: Restored) -> str:
        name = result.picture.name
        if not _changes_name(name, result.format):
            return name
        name += ".png"
        while name in self._taken:
            name = name[: -len(".png")] + "_.png"
        self._taken.add(name)
        return name

    def _write_row(self, result: Restored) -> str:
        file_name = result.picture.name.rpartition("#")[0]
        if self._file is None or self._file.name != file_name:
            self._close_file()
            self._file = _ParquetFile(self.folder, file_name, result.picture)
        return f"{file_name}#{self._file.add(result)}"

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def _flush(self) -> None:
        if self._rows:
            self._metadata.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._close_file()
            self._flush()
        self._metadata.close()


def _changes_name(name: str, format: Format | None) -> bool:
    extension = os.path.splitext(name)[1].lower()
    return format is not None and FORMAT_OF_EXTENSION.get(extension) != format


class _ParquetFile:
    """One restored parquet file, its rows one after another."""

    def __init__(self, folder: Path, name: str, picture: Picture) -> None:
        assert picture.schema is not None and picture.layout is not None
        self.name, self._schema, self._image = name, picture.schema, picture.layout.image
        path = inside(folder, name, "data")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(path, self._schema)
        self._waiting: list[tuple[pa.RecordBatch, bytes, str | None]] = []
        self._count = 0

    def add(self, result: Restored) -> int:
        """Append a row. Returns its number."""
        row = result.picture.row
        assert row is not None
        value = row.column(self._image)[0].as_py()
        name = value.get("path") if isinstance(value, dict) else None
        if name is not None and _changes_name(name, result.format):
            name += EXTENSION_OF["PNG"]
        self._waiting.append((row, result.data, name))
        if len(self._waiting) >= ROWS_A_WRITE:
            self._flush()
        self._count += 1
        return self._count - 1

    def _flush(self) -> None:
        if not self._waiting:
            return
        rows, images, names = zip(*self._waiting, strict=True)
        source, kind = pa.Table.from_batches(rows), self._schema.field(self._image).type
        made = parquet.image_array(kind, list(images), list(names))
        columns = [
            made if name == self._image else source.column(name) for name in self._schema.names
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))
        self._waiting = []

    def close(self) -> None:
        self._flush()
        self._writer.close()
