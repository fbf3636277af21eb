"""The output of `deid restore`: pictures and parquet files with the restored faces."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deidcli.data import parquet
from deidcli.data.finished_output import How, Picture, inside, is_row, read_metadata
from deidcli.data.images import FORMAT_OF_EXTENSION, Format
from deidcli.data.samples import EXTENSION_OF
from deidcli.data.sink import Unwritable

LOSSLESS: frozenset[Format] = frozenset({"PNG", "BMP", "TIFF"})
"""Lossless formats. Restored pictures in other formats become PNG."""
ROWS_A_WRITE = 32


@dataclass(frozen=True)
class Restored:
    """The result for a published picture."""

    picture: Picture
    how: How
    """exact: from the seal; network: by the method; copied: as published; or failed."""
    data: bytes = b""
    format: Format | None = None
    """The format of the bytes, if they are not the published ones."""
    faces: int = 0
    """Number of restored faces."""
    blacked_out: int = 0
    """Number of faces that stay black because the gate rejected the method's result."""
    reason: str = ""


def lossless(published: Format) -> Format:
    """Return the format in which a restored picture is written."""
    return published if published in LOSSLESS else "PNG"


# ---------------------------------------------------------------------------- writing


@dataclass
class RestoredFiles:
    """Writes the restored pictures below a folder, with the tree and names of OUT.

    A picture whose format had to change gets the extension `.png`, after a `_` if another picture
    has that name. metadata.parquet lists what was written and how it was restored.
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
            OSError: the disk is the problem.
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
            with open(path, "xb") as file:  # never overwrite another one
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
        stem = os.path.splitext(name)[0]
        name = stem + ".png"
        while name in self._taken:  # another picture's
            stem += "_"
            name = stem + ".png"
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
    """One restored parquet file, written row by row."""

    def __init__(self, folder: Path, name: str, picture: Picture) -> None:
        assert picture.schema is not None and picture.layout is not None
        self.name, self._schema, self._image = name, picture.schema, picture.layout.image
        path = inside(folder, name, "data")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(path, self._schema)
        self._waiting: list[tuple[pa.RecordBatch, bytes, str | None]] = []
        self._count = 0

    def add(self, result: Restored) -> int:
        """Append a row and return its number."""
        row = result.picture.row
        assert row is not None
        value = row.column(self._image)[0].as_py()
        name = value.get("path") if isinstance(value, dict) else None
        if name is not None and _changes_name(name, result.format):
            name = os.path.splitext(name)[0] + EXTENSION_OF["PNG"]
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
