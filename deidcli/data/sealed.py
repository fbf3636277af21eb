"""The file of a sealed run: OUT/sealed/faces.parquet, one row per published picture.

A shard's rows are staged in OUT.private/staging, one row group per picture, and joined when the run
finishes. Rows are in the order of metadata.parquet.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deidcli.crypto.sealing import SealedFace
from deidcli.data.journal import Journal
from deidcli.data.sink import AtomicParquet, Result, Sink, Written, scratch, writing

FILE = "sealed/faces.parquet"
"""Relative to OUT."""
BYTES_A_WRITE = 8 << 20
"""Approximate sealed bytes per row group, which a reader needs in memory at once."""
OPEN_FILES = 64

SCHEMA = pa.schema(
    [
        pa.field("file_name", pa.string()),
        pa.field(
            "faces",
            pa.list_(
                pa.struct(
                    [
                        pa.field("nonce", pa.binary()),
                        pa.field("data", pa.large_binary()),
                    ]
                )
            ),
        ),
    ]
)


@dataclass(frozen=True)
class Staged:
    """The location of a published picture's staged sealed row."""

    file_name: str
    """The name in metadata.parquet."""
    shard: int
    row: int


def staged_name(shard: int) -> str:
    """Return the name of the staging file of a shard's sealed rows."""
    return f"sealed-{shard:06d}.parquet"


def is_kept(journal: Journal, shard: int) -> bool:
    """Return whether a finished shard's sealed rows still exist, staged or joined."""
    return (journal.staging / staged_name(shard)).exists() or (journal.out / FILE).exists()


class SealingSink:
    """A sink that wraps another one and also writes the sealed rows of its pictures."""

    def __init__(self, sink: Sink, shard: int, staging: Path) -> None:
        self._sink = sink
        self._stack = ExitStack()
        path = staging / staged_name(shard)
        self._file = self._stack.enter_context(AtomicParquet(path, SCHEMA, staging))

    def write(self, result: Result) -> tuple[Written, ...]:
        """Write a result's pictures, then their sealed rows; see the other sinks."""
        written = self._sink.write(result)
        for output in result.outputs:
            self._file.write(_table([{"file_name": output.name, "faces": _faces(output.sealed)}]))
        return written

    def close(self) -> None:
        self._sink.close()
        self._stack.close()


def _faces(sealed: Sequence[SealedFace]) -> list[dict[str, Any]]:
    return [{"nonce": face.nonce, "data": face.data} for face in sealed]


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def merge(out: Path, places: Sequence[Staged], shards: int) -> None:
    """Join the staged rows of all shards into OUT/sealed/faces.parquet, in the order of `places`.

    If the file exists and staged rows do not, they were joined before; shards processed again since
    then gave the same bytes.
    """
    staging = Journal(out).staging
    staged = [staging / staged_name(shard) for shard in range(shards)]
    if (out / FILE).exists() and not all(path.exists() for path in staged):
        return

    @lru_cache(maxsize=OPEN_FILES)
    def opened(shard: int) -> pq.ParquetFile:
        return pq.ParquetFile(staged[shard])

    with writing():
        (out / FILE).parent.mkdir(parents=True, exist_ok=True)
    with AtomicParquet(out / FILE, SCHEMA, scratch(out)) as file:
        rows: list[pa.Table] = []
        size = 0
        for place in places:
            row = opened(place.shard).read_row_group(place.row)
            name = pa.array([place.file_name], pa.string())
            rows.append(row.set_column(0, SCHEMA.field(0), name))
            size += row.nbytes
            if size >= BYTES_A_WRITE:
                file.write(pa.concat_tables(rows).combine_chunks())
                rows, size = [], 0
        if rows:
            file.write(pa.concat_tables(rows).combine_chunks())
    opened.cache_clear()


class SealedRows:
    """Access to rows of a sealed file by file name, with one row group in memory."""

    def __init__(self, out: Path) -> None:
        self._file = pq.ParquetFile(out / FILE, pre_buffer=False)
        names = self._file.read(columns=["file_name"])["file_name"].to_pylist()
        self._row = {name: number for number, name in enumerate(names)}
        self._starts = [0]
        for group in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            self._starts.append(self._starts[-1] + rows)
        self._group = -1
        self._table = SCHEMA.empty_table()

    def faces(self, name: str) -> list[SealedFace]:
        """Return the sealed faces of a published picture.

        Raises:
            KeyError: the picture has no row.
        """
        number = self._row[name]
        group = bisect_right(self._starts, number) - 1
        if group != self._group:
            self._group, self._table = group, self._file.read_row_group(group)
        row = self._table.slice(number - self._starts[group], 1).to_pylist()[0]
        return [SealedFace(face["nonce"], face["data"]) for face in row["faces"]]


def count_faces(out: Path) -> dict[str, int]:
    """Map file names to their number of sealed faces, without reading the pixels."""
    with pq.ParquetFile(out / FILE) as file:
        table = file.read(columns=["file_name", "faces.list.element.nonce"])
    return {row["file_name"]: len(row["faces"]) for row in table.to_pylist()}
