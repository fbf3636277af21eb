"""The tables of a finished run: metadata.parquet in OUT; link.parquet and faces.parquet, with each
picture's source and face positions, in OUT.private.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from deidcli.data import geometry, order, sealed
from deidcli.data.journal import Journal
from deidcli.data.labels import PARTITION
from deidcli.data.manifest import STATUSES, write_sums
from deidcli.data.parquet import ParquetShard
from deidcli.data.reasons import published_reason
from deidcli.data.sink import AtomicParquet, scratch
from deidcli.data.source import FolderShard, Shard, Source
from deidcli.pipeline.run import Run
from deidcli.weights.files import file_sha256

ROWS_A_WRITE = 4096

LINK_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("status", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("notes", pa.list_(pa.string())),
        pa.field("faces", pa.int32()),
        pa.field("outputs", pa.list_(pa.string())),
    ]
)


def metadata_schema(
    source: Source, attributes: Sequence[str], has_nonces: bool = False, has_boxes: bool = False
) -> pa.Schema:
    """Return the schema of metadata.parquet.

    Args:
        has_nonces: the method needs a password.
        has_boxes: the run has --publish-geometry.
    """
    listed = [pa.field(name, kind) for name, kind in source.fields]
    has_partition = source.has_partition and PARTITION not in dict(source.fields)
    return pa.schema(
        [
            pa.field("file_name", pa.string()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("status", pa.string()),
            *(pa.field(name, pa.int8()) for name in attributes),
            *([pa.field(PARTITION, pa.string())] if has_partition else []),
            *listed,
            pa.field("faces", pa.list_(geometry.face_type(has_nonces, has_boxes))),
        ]
    )


@dataclass
class Tally:
    """Totals over the parts."""

    statuses: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    published: int = 0
    faces: int = 0
    covered: int = 0
    doubtful: int = 0
    copied: int = 0
    """Number of pictures without a detected face that were published anyway."""
    doubts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Published name -> possible faces, as recorded in the journal."""

    def add(self, row: dict[str, Any]) -> None:
        self.statuses[row["status"]] += 1
        self.notes.update(row["notes"])
        if row["status"] in ("failed", "skipped"):
            self.reasons[(row["status"], published_reason(row["reason"]))] += 1
        self.published += len(row["outputs"])
        self.faces += row["faces"]
        self.covered += row["covered"]
        self.doubtful += bool(row["doubts"])
        self.copied += row["status"] == "no_face" and bool(row["outputs"])

    def counts(self, inputs: int) -> dict[str, int]:
        """Return inputs by status, the number listed before the run, and published counts."""
        by_status = {status: self.statuses[status] for status in STATUSES}
        assert sum(self.statuses.values()) == sum(by_status.values()) == inputs
        return {
            **by_status,
            "inputs": inputs,
            "published": self.published,
            "faces": self.faces,
            "covered": self.covered,
            "copied": self.copied,
            "doubtful": self.doubtful,
        }


class _Buffer:
    """Buffers rows for a parquet file, to write them in large row groups."""

    def __init__(self, file: AtomicParquet) -> None:
        self._file = file
        self._rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        schema = self._file.schema
        self._rows.append({name: row.get(name) for name in schema.names})
        if len(self._rows) >= ROWS_A_WRITE:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            schema = self._file.schema
            self._file.write(pa.Table.from_pylist(self._rows, schema=schema))
        self._rows = []


@dataclass(frozen=True)
class _Row:
    """One published picture."""

    meta: dict[str, Any]
    """The row of metadata.parquet, except that its faces have all fields."""
    sha256: str
    place: sealed.Staged


def write_tables(run: Run, attributes: Sequence[str], has_nonces: bool) -> tuple[Tally, list[str]]:
    """Write metadata.parquet, the private tables, published parquet and sealed files, checksums.

    Args:
        has_nonces: the method needs a password.

    Returns:
        The totals, and the relative paths of the published parquet files.
    """
    source, shuffled = run.source, run.secret is not None
    journal, tally = Journal(run.out), Tally()
    orders = order.row_orders(journal, source.shards, shuffled)
    sums: list[tuple[str, str]] = []
    places: list[sealed.Staged] = []
    has_geometry = has_nonces and run.settings.output == "frames"
    with ExitStack() as stack:
        tables = _open_tables(stack, run, attributes, has_nonces, has_geometry)
        rows = _joined_rows(run, orders, tally, tables["link"], attributes)
        if shuffled or source.has_parquet:
            rows = iter(sorted(rows, key=_position))
        for row in rows:
            name, faces = str(row.meta["file_name"]), row.meta["faces"]
            tables["metadata"].add(_published(row.meta))
            tables["faces"].add(row.meta)
            if has_geometry:
                assert run.password is not None
                keys = run.password.keys
                tables["geometry"].add(geometry.sealed_row(keys, run.fingerprint, name, faces))
            if run.settings.seal:
                places.append(row.place)
            if name.startswith("images/"):
                order.require_there(run.out, name)
                sums.append((name, row.sha256))
        for table in tables.values():
            table.flush()
    shards = order.merge(run.out, source.shards, orders, dict(run.files), shuffled)
    if run.settings.seal:
        sealed.merge(run.out, places, len(source.shards))
    others = [*shards, *([sealed.FILE] if run.settings.seal else [])]
    others += [geometry.SEALED] if has_geometry else []
    sums += [(name, file_sha256(run.out / name)) for name in others]
    write_sums(run.out, sums)
    return tally, shards


def _open_tables(
    stack: ExitStack, run: Run, attributes: Sequence[str], has_nonces: bool, has_geometry: bool
) -> dict[str, _Buffer]:
    journal, temporary = Journal(run.out), scratch(run.out)
    has_boxes = run.settings.publish_geometry
    schema = metadata_schema(run.source, attributes, has_nonces, has_boxes)
    private = geometry.private_schema(has_nonces)
    files = {
        "metadata": AtomicParquet(run.out / "metadata.parquet", schema, temporary),
        "link": AtomicParquet(journal.folder / "link.parquet", LINK_SCHEMA, journal.parts),
        "faces": AtomicParquet(journal.folder / geometry.PRIVATE, private, journal.parts),
    }
    if has_geometry:
        path = run.out / geometry.SEALED
        files["geometry"] = AtomicParquet(path, geometry.SEALED_SCHEMA, temporary)
    return {name: _Buffer(stack.enter_context(file)) for name, file in files.items()}


def _position(row: _Row) -> tuple[str, int]:
    """Return the sort key: by file name; rows of a parquet file by their number."""
    name = str(row.meta["file_name"])
    file, _, number = name.rpartition("#")
    is_row = file.startswith("data/") and number.isdecimal()
    return (file, int(number)) if is_row else (name, 0)


def _published(meta: dict[str, Any]) -> dict[str, Any]:
    """Return a row of metadata.parquet, with only the face fields in the file's schema."""
    faces = [{**face, "box": geometry.rounded(face["box"])} for face in meta["faces"]]
    return {**meta, "faces": faces}


def _joined_rows(
    run: Run,
    orders: dict[str, order.Order],
    tally: Tally,
    links: _Buffer,
    attributes: Sequence[str],
) -> Iterator[_Row]:
    """Yield one row per published picture; also tally and link every input."""
    source, journal = run.source, Journal(run.out)
    numbers = {place: row for rows in orders.values() for row, place in enumerate(rows)}
    for shard, part in zip(source.shards, journal.read_parts(len(source.shards)), strict=True):
        listed = {i.key: i.columns for i in shard.items} if isinstance(shard, FolderShard) else {}
        number = 0
        for entry in part:
            tally.add(entry)
            labels, names = dict(entry["labels"]), []
            for output in entry["outputs"]:
                name = _published_name(run, shard, output["name"], numbers, number)
                names.append(name)
                meta = {
                    **listed.get(entry["source"], {}),
                    "file_name": name,
                    "width": output["width"],
                    "height": output["height"],
                    "status": entry["status"],
                    "faces": output["faces"],
                    **{attribute: labels.get(attribute) for attribute in attributes},
                }
                meta.setdefault(PARTITION, entry["partition"])
                yield _Row(meta, output["sha256"], sealed.Staged(name, shard.index, number))
                number += 1
            if entry["doubts"] and names and run.settings.output == "frames":
                tally.doubts[names[0]] = entry["doubts"]
            links.add({**entry, "outputs": names})


def _published_name(
    run: Run, shard: Shard, name: str, numbers: dict[tuple[int, int], int], row: int
) -> str:
    if not isinstance(shard, ParquetShard):
        return f"images/{name}"
    return f"data/{run.files[shard.key]}#{numbers[shard.index, row]}"
