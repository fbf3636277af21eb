"""Data sets for tests: portraits of people who do not exist, as folders and as parquet."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deidcli.data.source import FolderShard, Source
from tests.conftest import (
    PEOPLE,
    picture_bytes,
)


def portraits(count: int, side: int = 144) -> list[bytes]:
    """Encoded portraits of people who do not exist."""
    out = []
    for number in range(1, count + 1):
        picture = Image.open(PEOPLE / "portraits" / f"person_{number:02d}.jpg").convert("RGB")
        small = picture.resize((side, side), Image.Resampling.LANCZOS)
        out.append(picture_bytes(np.asarray(small), quality=93))
    return out


def write_shard(
    path: Path, images: list[bytes | None], *, struct_first: str = "bytes", group: int = 1000
) -> pa.Table:
    """A shard as `datasets` writes it: image struct, labels, identity, features in the schema."""
    order = ["bytes", "path"] if struct_first == "bytes" else ["path", "bytes"]
    kind = pa.struct([(name, pa.binary() if name == "bytes" else pa.string()) for name in order])
    rows = [
        None if data is None else {"bytes": data, "path": f"../../people/name_{n}.jpg"}
        for n, data in enumerate(images)
    ]
    count = len(images)
    features = {
        "image": {"_type": "Image"},
        "identity": {"dtype": "int32", "_type": "Value"},
        "Male": {"dtype": "int8", "_type": "Value"},
        "Smiling": {"dtype": "int8", "_type": "Value"},
        "note": {"dtype": "string", "_type": "Value"},
    }
    table = pa.table(
        {
            "image": pa.array(rows, type=kind),
            "identity": pa.array(range(count), type=pa.int32()),
            "Male": pa.array([1 if n % 2 else -1 for n in range(count)], type=pa.int8()),
            "Smiling": pa.array([1 if n % 3 else -1 for n in range(count)], type=pa.int8()),
            "note": pa.array([f"row {n}" for n in range(count)]),
        }
    ).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}}), "made_by": "tests"}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return table


def celeba(root: Path, count: int = 12) -> Path:
    """CelebA's own layout, with generated people."""
    (root / "img_align_celeba").mkdir(parents=True)
    names = [f"{n:06d}.jpg" for n in range(1, count + 1)]
    for name, data in zip(names, portraits(count), strict=True):
        (root / "img_align_celeba" / name).write_bytes(data)
    attributes = ["Eyeglasses", "Male", "Smiling"]
    lines = [str(count), " ".join(attributes)]
    lines += [
        f"{name} {1 if n == 0 else -1:2d} {1 if n % 2 else -1:2d}  1"
        for n, name in enumerate(names)
    ]
    (root / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    parts = "".join(f"{name} {n % 3}\n" for n, name in enumerate(names))
    (root / "list_eval_partition.txt").write_text(parts)
    people = "".join(f"{name} {4000 + n // 2}\n" for n, name in enumerate(names))
    (root / "identity_CelebA.txt").write_text(people)
    return root


def keys(source: Source) -> list[str]:
    """Keys of the pictures of a source, in order; of parquet shards, the file's."""
    found: list[str] = []
    for shard in source.shards:
        if isinstance(shard, FolderShard):
            found += [item.key for item in shard.items if not item.status]
        else:
            found.append(shard.key)
    return found


def plain_shard(path: Path, count: int = 2) -> Path:
    """A parquet file of portraits."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(portraits(count))]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": pa.array(rows, type=kind)}), path)
    return path


def images(count: int) -> pa.Array:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(portraits(count))]
    return pa.array(rows, type=kind)


CANARY = "CANARY-7391"


def image_column(data: list[bytes], stem: str = CANARY) -> pa.Array:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": d, "path": f"{stem}_{n}.jpg"} for n, d in enumerate(data)], kind)


def png16(pixels: np.ndarray, color: bool) -> bytes:
    """A 16-bit PNG, gray or RGB, written by hand: Pillow writes no 16-bit RGB."""
    wide = pixels.astype(np.uint16) * 257
    samples = wide if color else wide[..., 1]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if color else 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def odd_pictures(portrait: np.ndarray) -> dict[str, bytes]:
    """Name -> bytes of pictures that must all come out de-identified."""
    picture = Image.fromarray(portrait)
    whole = picture_bytes(portrait)
    buffers: dict[str, bytes] = {
        "plain.jpg": whole,
        "gray16.png": png16(portrait, color=False),
        "rgb16.png": png16(portrait, color=True),
        "png_named.jpg": picture_bytes(portrait, "PNG"),
        "no_extension": whole,
        "with space.jpg": whole,
        "ünïcode-名前.jpg": whole,
        "-leading-dash.jpg": whole,
        "$(touch pwned).jpg": whole,
        "same.jpg": whole,
        "same.png": picture_bytes(portrait, "PNG"),
        "upper.JPG": whole,
    }

    def save(name: str, image: Image.Image, format: str, **options: object) -> None:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)  # type: ignore[arg-type]
        buffers[name] = buffer.getvalue()

    save("cmyk.jpg", picture.convert("CMYK"), "JPEG")
    save("palette.png", picture.convert("P", palette=Image.Palette.ADAPTIVE), "PNG")
    save("gray.png", picture.convert("L"), "PNG")
    save("la.png", picture.convert("LA"), "PNG")
    see_through = picture.convert("RGBA")
    see_through.paste((0, 0, 0, 0), (0, 0, 20, 20))
    save("rgba.png", see_through, "PNG")
    other = [Image.fromarray(np.roll(portrait, 9, 1))]
    save("moving.gif", picture, "GIF", save_all=True, append_images=other)
    save("moving.webp", picture, "WEBP", save_all=True, append_images=other, quality=90)
    save("pages.tif", picture, "TIFF", save_all=True, append_images=other)
    save("still.bmp", picture, "BMP")
    return buffers


def struct_of(rows: list[dict[str, object]], path: pa.DataType) -> pa.Array:
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", path)]))


def jxl(pixels: np.ndarray, **options: object) -> bytes:
    pytest.importorskip("pillow_jxl")
    return picture_bytes(pixels, "JXL", **options)
