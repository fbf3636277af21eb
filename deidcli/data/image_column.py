"""Find the column of a parquet file that contains the pictures."""

from __future__ import annotations

import json
import os
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deidcli.data.images import FORMAT_OF_EXTENSION, READ_ONLY_EXTENSIONS, looks_like_image


def image_column(file: pq.ParquetFile) -> str | None:
    """Return the picture column: the declared one, else by its content (preferring `image`), else
    by its name."""
    schema = file.schema_arrow
    kinds = {name: feature.get("_type") for name, feature in features_of(schema).items()
             if isinstance(feature, dict)}  # fmt: skip
    names = sorted(schema.names, key=lambda n: (kinds.get(n) != "Image", n != "image"))
    candidates = [
        name
        for name in names
        if _may_hold_images(schema.field(name).type) and kinds.get(name) not in ("Audio", "Video")
    ]
    unsure = []
    for name in candidates:
        if kinds.get(name) == "Image":
            return str(name)
        looks = _looks(file, name)
        if looks:
            return str(name)
        is_struct = pa.types.is_struct(schema.field(name).type)
        if name.lower() in _IMAGE_NAMES or (looks is None and is_struct):
            unsure.append(str(name))
    unsure.sort(key=lambda name: name.lower() not in _IMAGE_NAMES)
    return unsure[0] if unsure else None


_IMAGE_NAMES = ("image", "img", "jpg", "png", "picture", "photo")
_BATCHES_LOOKED_AT = 512


def _looks(file: pq.ParquetFile, name: str) -> bool | None:
    """Return whether the first values of a column are pictures; None if it has no values."""
    batches = file.iter_batches(8, columns=[name])
    for _, batch in zip(range(_BATCHES_LOOKED_AT), batches, strict=False):
        values = [value for value in batch.column(0).to_pylist() if value]
        found = [v for v in values if not isinstance(v, dict) or v.get("bytes")]
        if found:
            return any(_is_picture(value) for value in found)
    return None


def _is_picture(value: Any) -> bool:
    data = value["bytes"] if isinstance(value, dict) else value
    path = value.get("path") if isinstance(value, dict) else None
    suffix = os.path.splitext(path)[1].lower() if isinstance(path, str) else ""
    by_name = suffix in FORMAT_OF_EXTENSION or suffix in READ_ONLY_EXTENSIONS
    return looks_like_image(data[:64]) or by_name


def _may_hold_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _may_hold_images(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def features_of(schema: pa.Schema) -> dict[str, Any]:
    """Return Hugging Face's features by column; empty if missing or invalid."""
    try:
        info = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = info.get("info", {}).get("features", {})
    except (ValueError, AttributeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def declared_images(schema: pa.Schema) -> list[str]:
    """Return the columns that Hugging Face's features declare as pictures."""
    return [
        name
        for name, feature in features_of(schema).items()
        if isinstance(feature, dict) and feature.get("_type") == "Image"
    ]
