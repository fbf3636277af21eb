"""Parquet shards in the Hugging Face layout, or with a plain binary image column."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.data.columns import (
    NO_WISH,
    Columns,
    Wish,
    hiding,
    is_label,
    is_partition,
    is_plain,
    is_text,
)
from deidcli.data.identifying import is_identity_column
from deidcli.data.image_column import declared_images, features_of, image_column
from deidcli.data.labels import known_split
from deidcli.data.reading import Unreadable, require_regular
from deidcli.errors import DeidError
from deidcli.faces.align import Box

ROWS_A_SHARD = 64
"""A shard is one or more whole row groups with at least this many rows in total."""
ROWS_A_READ = 32
"""Rows held in memory at once."""
NO_IMAGE = "no image column"
TWO_NAMES = "two columns have the same name"


class NoPictures(DeidError):
    """A parquet file without a column of pictures."""


@dataclass(frozen=True)
class Layout:
    """The roles of a file's columns."""

    image: str
    is_struct: bool
    """struct<bytes, path> in either order (True), or plain binary."""
    labels: tuple[str, ...]
    """The columns that are CelebA attributes."""
    identity: str | None
    partition: str | None
    names: tuple[str, ...] = ()
    """All columns except the image column."""
    published: tuple[str, ...] = ()
    """The columns in `names` that are published beside the picture."""
    listed: tuple[str, ...] = ()
    """The columns in `published` that were requested by name. Their values are published unchanged;
    of the others, only valid labels and splits are."""


@dataclass(frozen=True)
class ParquetShard:
    """Whole row groups of one parquet file."""

    index: int
    path: str
    key: str
    """The file's path relative to the input."""
    groups: tuple[int, ...]
    first_row: int
    rows: int
    layout: Layout
    root: str = ""
    """The real path that the file must lie inside; empty: links are followed."""
    boxes: Mapping[str, tuple[Box, ...]] = field(default_factory=dict)
    """Row key -> faces that the user marked (`--boxes FILE`)."""

    def __len__(self) -> int:
        return self.rows

    def weight(self) -> int:
        """The approximate amount of work, in rows."""
        return self.rows

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the rows in order, as (number of the first row in the file, batch).

        Raises:
            pa.ArrowException, OSError: the rest of the file is damaged.
        """
        row = self.first_row
        with pq.ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 20) as file:
            for batch in file.iter_batches(ROWS_A_READ, row_groups=list(self.groups)):
                yield row, batch
                row += batch.num_rows


def source_schema(shard: ParquetShard) -> pa.Schema:
    """Return the schema of a shard's file.

    Raises:
        Unreadable: the file is gone, or no longer a regular file.
        pa.ArrowException: it is damaged.
    """
    require_regular(shard.path, shard.root)
    try:
        return pq.read_schema(shard.path)
    except OSError as error:
        raise Unreadable(f"parquet cannot be read ({type(error).__name__})") from None


@dataclass(frozen=True)
class FilePlan:
    """A parquet file's layout and its division into shards: (row groups, first row, rows)."""

    layout: Layout
    slices: tuple[tuple[tuple[int, ...], int, int], ...]


def plan_file(path: Path, wish: Wish = NO_WISH) -> FilePlan:
    """Read a parquet file's footer and its first rows.

    Args:
        wish: what to publish beside the picture.

    Raises:
        DeidError: the file is not parquet, is truncated, or has no image column.
    """
    try:
        with pq.ParquetFile(path) as file:
            layout = _layout(file, wish)
            groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    except DeidError:
        raise
    except Exception as error:  # Arrow raises many kinds on damaged or unusual files
        reason = type(error).__name__
        raise DeidError(f"cannot be read as parquet ({reason})", "restore the file") from None
    slices: list[tuple[tuple[int, ...], int, int]] = []
    members: list[int] = []
    first = row = 0
    for number, rows in enumerate(groups):
        members.append(number)
        row += rows
        if row - first >= ROWS_A_SHARD or number == len(groups) - 1:
            slices.append((tuple(members), first, row - first))
            members, first = [], row
    return FilePlan(layout, tuple(slices))


def _layout(file: pq.ParquetFile, wish: Wish) -> Layout:
    schema = file.schema_arrow
    image = image_column(file)
    if image is None:
        names = ", ".join(schema.names[:12])
        raise NoPictures(
            f"{NO_IMAGE}: the columns are {names}",
            "an image column is struct<bytes, path>, or binary that holds encoded pictures",
        )
    if len(set(schema.names)) < len(schema.names):
        raise DeidError(TWO_NAMES, "rename one of them")
    kinds = {field.name: field.type for field in schema if field.name != image}
    hides = hiding(kinds, _text_bytes(file, kinds))
    published = tuple(name for name, kind in kinds.items() if wish.takes(name, kind, name in hides))
    return Layout(
        image,
        pa.types.is_struct(schema.field(image).type),
        tuple(name for name in kinds if name in CELEBA_ATTRIBUTES and is_plain(kinds[name])),
        next((name for name in kinds if is_identity_column(name)), None),
        next((name for name, kind in kinds.items() if is_partition(name, kind)), None),
        tuple(kinds),
        published,
        tuple(name for name in published if wish.is_listed(name)),
    )


def _text_bytes(file: pq.ParquetFile, kinds: Mapping[str, pa.DataType]) -> dict[str, float]:
    """Return the mean bytes per row of text columns, from the file's footer."""
    sizes: dict[str, int] = {}
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        for index in range(group.num_columns):
            chunk = group.column(index)
            name = chunk.path_in_schema
            if name in kinds and is_text(kinds[name]):
                sizes[name] = sizes.get(name, 0) + chunk.total_uncompressed_size
    return {name: size / max(1, file.metadata.num_rows) for name, size in sizes.items()}


def published_schema(schema: pa.Schema, layout: Layout) -> pa.Schema:
    """Build the schema of the published file: the picture and the published columns.

    It contains no metadata of the source's schema, fields or types. Hugging Face's features are
    those of the published columns, with class names only for columns requested by name.
    """
    fields, features = [], {}
    declared = features_of(schema)
    for name in schema.names:
        kind = schema.field(name).type
        if name == layout.image:
            fields.append(pa.field(name, _image_type(kind)))
            if layout.is_struct or name in declared_images(schema):
                features[name] = {"_type": "Image"}
        elif name in layout.published:
            fields.append(pa.field(name, bare_type(kind)))
            features[name] = _class_label(name, kind, declared.get(name), layout) or _feature(
                bare_type(kind)
            )
    if layout.image not in features or None in features.values():
        return pa.schema(fields)
    info = json.dumps({"info": {"features": features}})
    return pa.schema(fields, metadata={"huggingface": info})


def _image_type(kind: pa.DataType) -> pa.DataType:
    """Return a struct of only `bytes` and `path`, in the source's order, or plain binary."""
    if not pa.types.is_struct(kind):
        return kind
    names = [kind.field(n).name for n in range(kind.num_fields)]
    parts = {"bytes": kind.field("bytes").type, "path": pa.string()}
    order = [name for name in dict.fromkeys(names) if name in parts]
    return pa.struct([pa.field(name, parts[name]) for name in order])


def bare_type(kind: pa.DataType) -> pa.DataType:
    """Return a type without metadata, dictionaries or extension names."""
    if isinstance(kind, pa.BaseExtensionType):
        return bare_type(kind.storage_type)
    if pa.types.is_dictionary(kind):  # its entries may belong to withheld rows
        return bare_type(kind.value_type)
    if pa.types.is_struct(kind):
        fields = [kind.field(n) for n in range(kind.num_fields)]
        return pa.struct([pa.field(f.name, bare_type(f.type)) for f in fields])
    if pa.types.is_map(kind):
        return pa.map_(bare_type(kind.key_type), bare_type(kind.item_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(bare_type(kind.value_type), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(bare_type(kind.value_type))
    return pa.list_(bare_type(kind.value_type)) if pa.types.is_list(kind) else kind


def _class_label(
    name: str, kind: pa.DataType, declared: Any, layout: Layout
) -> dict[str, Any] | None:
    """Return the class names of a column requested by name, if it has any."""
    names = declared.get("names") if isinstance(declared, dict) else None
    if name not in layout.listed or not pa.types.is_integer(kind) or not isinstance(names, list):
        return None
    texts = [word for word in names if isinstance(word, str)]
    return {"names": texts, "_type": "ClassLabel"} if texts == names else None


_FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}


def _feature(kind: pa.DataType) -> Any:
    """Return Hugging Face's feature for a type; None if there is none."""
    if pa.types.is_struct(kind):
        parts = {kind.field(n).name: _feature(kind.field(n).type) for n in range(kind.num_fields)}
        return None if None in parts.values() or "_type" in parts else parts
    if pa.types.is_list(kind):
        part = _feature(kind.value_type)
        return None if part is None else [part]
    if pa.types.is_nested(kind) or pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return None
    dtype = "date32" if pa.types.is_date32(kind) else _FLOATS.get(str(kind), str(kind))
    return {"dtype": dtype, "_type": "Value"}


def published_column(name: str, values: pa.ChunkedArray, layout: Layout) -> pa.ChunkedArray:
    """Return a published column's values: unchanged if it was requested by name; else invalid
    labels and splits are dropped."""
    plain = _plain_values(values)
    if name in layout.listed:
        return plain
    if is_label(name, plain.type):
        if pa.types.is_boolean(plain.type):
            return plain
        signs = [0, 1] if pa.types.is_unsigned_integer(plain.type) else [-1, 0, 1]
        known = pc.is_in(plain, pa.array(signs, plain.type))
    elif is_partition(name, plain.type):
        words = [known_split(value) is not None for value in plain.to_pylist()]
        known = pa.chunked_array([pa.array(words, pa.bool_())])
    else:
        return plain
    return pc.if_else(known, plain, pa.scalar(None, plain.type))


def _plain_values(values: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = bare_type(values.type)
    if isinstance(values.type, pa.BaseExtensionType):
        stored = values.type.storage_type
        values = pa.chunked_array([chunk.storage for chunk in values.chunks], stored)
    if values.type == kind:
        return values
    try:
        return values.cast(kind)
    except pa.ArrowException:  # dictionaries within lists
        return pa.chunked_array([pa.array(values.to_pylist(), kind)])


def image_array(kind: pa.DataType, images: list[bytes], names: list[str | None]) -> pa.Array:
    """Return encoded pictures as an array of the image column's type."""
    if not pa.types.is_struct(kind):
        return pa.array(images, type=kind)
    values: dict[str, list[Any]] = {"bytes": list(images), "path": list(names)}
    rows = [
        {kind.field(n).name: values.get(kind.field(n).name, [None] * len(images))[row]
         for n in range(kind.num_fields)}
        for row in range(len(images))
    ]  # fmt: skip
    return pa.array(rows, type=kind)


@dataclass(frozen=True)
class Summary:
    """The combined layout of a run's files."""

    labels: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    seen: tuple[str, ...] = ()
    published: tuple[str, ...] = ()
    has_partition: bool = False
    has_identity: bool = False

    def add(self, plan: FilePlan) -> Summary:
        layout = plan.layout
        return Summary(
            self.labels | set(layout.labels),
            self.images | {layout.image},
            (*self.seen, *layout.names),
            (*self.published, *layout.published),
            self.has_partition or layout.partition is not None,
            self.has_identity or layout.identity is not None,
        )

    def columns(self) -> Columns:
        """Return which columns are published and which are not."""
        return Columns.of(self.published, self.seen)
