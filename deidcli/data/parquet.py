"""Parquet shards in the Hugging Face layout, or with a plain binary image column."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deidcli.data.attributes import (
    CELEBA_ATTRIBUTES,
    PARTITION,
    is_descriptor_column,
    is_identity_column,
)
from deidcli.data.images import looks_like_image
from deidcli.errors import DeidError
from deidcli.faces.align import Box

ROWS_A_SHARD = 64
"""A shard is one or more whole row groups that together hold at least this many rows."""
ROWS_A_READ = 32
"""Rows held in memory at once."""


class NoPictures(DeidError):
    """A parquet file without a column of pictures."""


@dataclass(frozen=True)
class Layout:
    """Which columns of a file hold what."""

    image: str
    is_struct: bool
    """struct<bytes, path> in either order (True), or plain binary."""
    labels: tuple[str, ...]
    identity: str | None
    partition: str | None
    dropped: tuple[str, ...]
    """Columns that are not published: other pictures, other binary data, embeddings."""
    identities: tuple[str, ...]
    """Columns that name people; published only with --keep-identity."""
    carried: tuple[str, ...]
    """Columns that are published as they are."""
    classes: tuple[str, ...] = ()
    """Those of them whose Hugging Face feature lists class names, which are published too."""
    metadata: tuple[str, ...] = ()
    """Keys of the schema's metadata, published as they are."""


@dataclass(frozen=True)
class ParquetShard:
    """Whole row groups of one parquet file."""

    index: int
    path: str
    key: str
    """Path of the file relative to the input."""
    groups: tuple[int, ...]
    first_row: int
    rows: int
    layout: Layout
    boxes: Mapping[str, tuple[Box, ...]] = field(default_factory=dict)
    """Key of a row -> faces that the user has marked (`--boxes FILE`)."""

    def __len__(self) -> int:
        return self.rows

    def weight(self) -> int:
        """About how much work it is, in rows."""
        return self.rows

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The rows in order, as (number of the first row in the file, batch).

        Raises:
            pa.ArrowException, OSError: the file is damaged from here on.
        """
        row = self.first_row
        with pq.ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 20) as file:
            for batch in file.iter_batches(ROWS_A_READ, row_groups=list(self.groups)):
                yield row, batch
                row += batch.num_rows


@dataclass(frozen=True)
class FilePlan:
    """A parquet file's layout and its cut into shards: (row groups, first row, rows)."""

    layout: Layout
    slices: tuple[tuple[tuple[int, ...], int, int], ...]


def plan_file(path: Path) -> FilePlan:
    """Read a parquet file's footer and its first rows.

    Raises:
        DeidError: not parquet, cut short, or without an image column.
    """
    try:
        with pq.ParquetFile(path) as file:
            layout = _layout(file)
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


def _layout(file: pq.ParquetFile) -> Layout:
    schema = file.schema_arrow
    image = _image_column(file)
    if image is None:
        raise NoPictures(
            f"no image column (columns: {', '.join(schema.names[:12])})",
            "an image column is struct<bytes, path>, or binary that holds encoded pictures",
        )
    if len(set(schema.names)) < len(schema.names):
        raise DeidError("two columns have the same name", "rename one of them")
    if _is_unusual_struct(schema.field(image).type):
        raise DeidError(
            "the image struct has required fields beside bytes and path", "leave them out"
        )
    identities = tuple(
        name
        for name in schema.names
        if name != image and _names_people(name, schema.field(name).type)
    )
    vectors = _long_vectors(file)
    dropped = tuple(
        name
        for name in schema.names
        if name not in (image, *identities)
        and (
            _may_hide_pixels(schema.field(name).type)
            or is_descriptor_column(name)
            or name in vectors
        )
    )
    carried = tuple(n for n in schema.names if n not in (image, *identities, *dropped))
    return Layout(
        image,
        pa.types.is_struct(schema.field(image).type),
        tuple(name for name in carried if name in CELEBA_ATTRIBUTES),
        identities[0] if identities else None,
        next((name for name in (PARTITION, "split") if name in carried), None),
        dropped,
        identities,
        carried,
        tuple(n for n, f in _features(schema).items() if n in carried and _is_class_label(f)),
        tuple(k.decode("utf-8", "replace") for k in schema.metadata or {} if k not in _KNOWN_KEYS),
    )


_KNOWN_KEYS = (b"huggingface", b"pandas")


def _is_class_label(feature: Any) -> bool:
    return isinstance(feature, dict) and feature.get("_type") == "ClassLabel"


def _may_hide_pixels(kind: pa.DataType) -> bool:
    """Whether a column of this type could hold a picture: binary, or arrays of bytes."""
    if isinstance(kind, pa.BaseExtensionType):
        return _may_hide_pixels(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _may_hide_pixels(kind.value_type)
    if pa.types.is_nested(kind) and any(
        pa.types.is_uint8(kind.field(n).type) or pa.types.is_int8(kind.field(n).type)
        for n in range(kind.num_fields)
        if not pa.types.is_struct(kind) and not pa.types.is_map(kind)
    ):
        return True
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary_view(kind):
        return True
    return any(_may_hide_pixels(kind.field(n).type) for n in range(kind.num_fields))


def _is_unusual_struct(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and any(
        kind.field(n).name not in ("bytes", "path") and not kind.field(n).nullable
        for n in range(kind.num_fields)
    )


def _names_people(name: str, kind: pa.DataType) -> bool:
    """Whether a column, or a field within it, says by its name that it identifies a person."""
    if is_identity_column(name):
        return True
    if isinstance(kind, pa.BaseExtensionType) or not pa.types.is_nested(kind):
        return False
    fields = [kind.field(n) for n in range(kind.num_fields)]
    return any(_names_people(field.name, field.type) for field in fields)


LONGEST_VECTOR = 64
"""Lists of numbers from this length on are taken for embeddings of faces."""


def _long_vectors(file: pq.ParquetFile) -> set[str]:
    """Columns whose first rows hold long lists of floating-point numbers."""
    names = [
        field.name
        for field in file.schema_arrow
        if not isinstance(field.type, pa.BaseExtensionType)
        and pa.types.is_nested(field.type)
        and any(
            pa.types.is_floating(field.type.field(n).type) for n in range(field.type.num_fields)
        )
    ]
    first = next(iter(file.iter_batches(8, columns=names)), None) if names else None
    if first is None:
        return set()
    return {
        name
        for name in names
        if any(
            isinstance(value, list) and len(value) >= LONGEST_VECTOR
            for value in first.column(name).to_pylist()
        )
    }


def _image_column(file: pq.ParquetFile) -> str | None:
    """The column that holds the pictures; `image` before others, then in file order."""
    schema = file.schema_arrow
    declared = _declared_images(schema)
    names = sorted(schema.names, key=lambda n: (n not in declared, n != "image"))
    candidates = [name for name in names if _may_hold_images(schema.field(name).type)]
    structs = [name for name in candidates if pa.types.is_struct(schema.field(name).type)]
    if structs:
        return str(structs[0])
    for name in candidates:
        if name in declared or name.lower() in ("image", "img", "jpg", "png", "picture", "photo"):
            return str(name)
        first = next(iter(file.iter_batches(8, columns=[name])), None)
        values = [] if first is None else first.column(0).to_pylist()
        if any(value and looks_like_image(value[:16]) for value in values):
            return str(name)
    return None


def _may_hold_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _may_hold_images(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _features(schema: pa.Schema) -> dict[str, Any]:
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = info.get("info", {}).get("features", {})
    except (ValueError, AttributeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _declared_images(schema: pa.Schema) -> list[str]:
    return [
        name
        for name, feature in _features(schema).items()
        if isinstance(feature, dict) and feature.get("_type") == "Image"
    ]


def published_schema(
    schema: pa.Schema, layout: Layout, keep_identity: bool, labels: Sequence[str] | None = None
) -> pa.Schema:
    """The schema of the published file: the source's, without what is never published.

    Args:
        labels: CelebA's attributes that may be published; None: all.

    The Hugging Face features in its metadata lose the same columns; other metadata stays.
    """
    away = set(layout.dropped) | (set() if keep_identity else set(layout.identities))
    if labels is not None:
        away |= set(layout.labels) - set(labels)
    fields = [schema.field(name) for name in schema.names if name not in away]
    metadata = dict(schema.metadata or {})
    features = _features(schema)
    metadata.pop(b"huggingface", None)
    if features:  # the features alone: what else stands there describes the source
        kept = {name: feature for name, feature in features.items() if name not in away}
        metadata[b"huggingface"] = json.dumps({"info": {"features": kept}}).encode()
    metadata.pop(b"pandas", None)  # may describe an index that is gone
    return pa.schema(fields, metadata=metadata or None)


def image_array(kind: pa.DataType, images: list[bytes], names: list[str | None]) -> pa.Array:
    """Encoded pictures as an array of the image column's own type."""
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
    """What the files of a run have in common, for warnings and the manifest."""

    labels: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()
    carried: frozenset[str] = frozenset()
    identities: frozenset[str] = frozenset()
    classes: frozenset[str] = frozenset()
    metadata: frozenset[str] = frozenset()
    has_partition: bool = False
    has_identity: bool = field(default=False)

    def add(self, plan: FilePlan) -> Summary:
        layout = plan.layout
        return replace(
            self,
            labels=self.labels | set(layout.labels),
            dropped=self.dropped | set(layout.dropped),
            carried=self.carried | set(layout.carried),
            identities=self.identities | set(layout.identities),
            classes=self.classes | set(layout.classes),
            metadata=self.metadata | set(layout.metadata),
            has_partition=self.has_partition or layout.partition is not None,
            has_identity=self.has_identity or layout.identity is not None,
        )

    def warnings(self) -> list[str]:
        """What a publisher has to know about the columns."""
        said = []
        if self.dropped:
            names = ", ".join(sorted(self.dropped))
            said.append(f"columns not published (pictures, binary data, embeddings): {names}")
        others = sorted(self.carried - set(CELEBA_ATTRIBUTES))
        if others:
            said.append(f"columns published as they are, check them: {', '.join(others)}")
        if self.classes:
            names = ", ".join(sorted(self.classes))
            said.append(f"class names are published too; do they name people? {names}")
        if self.metadata:
            names = ", ".join(sorted(self.metadata))
            said.append(f"schema metadata published as it is, check it: {names}")
        return said
