"""What is encoded and published: pixels, and none of the source's metadata."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from tests.conftest import Outcome, picture_bytes
from tests.datasets import portraits, write_shard

Deid = Callable[..., Outcome]


def test_exif_gps_and_thumbnail_are_gone(tmp_path: Path, portrait: np.ndarray, deid: Deid) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x010E] = "CANARY description"
    exif[0x9286] = b"CANARY comment"
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 15.0)
    thumbnail = picture_bytes(portrait[::4, ::4])
    blob = exif.tobytes() + b"CANARY thumbnail" + thumbnail
    for format in ("jpg", "png", "webp", "tif"):
        name = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tif": "TIFF"}[format]
        extra = {"comment": b"CANARY"} if name == "JPEG" else {}
        data = picture_bytes(portrait, name, exif=exif if name == "TIFF" else blob, **extra)
        assert b"CANARY" in data
        (folder / f"p.{format}").write_bytes(data)
    assert deid("anonymize", folder, "--out", out, "--workers", 1).code == 0
    for path in (out / "images").iterdir():
        data = path.read_bytes()
        assert b"CANARY" not in data and thumbnail[:64] not in data, path
        with Image.open(path) as picture:
            assert dict(picture.getexif()) == {} or path.suffix == ".tif"
            assert 0x8825 not in picture.getexif()


def test_a_blacked_out_crop_of_a_whole_chip_is_black_to_its_edge(
    tmp_path: Path, deid: Deid
) -> None:
    """Around the head there is ground that would tell one person's crop from another's."""
    source, out = tmp_path / "a.parquet", tmp_path / "out"
    write_shard(source, list(portraits(2)))
    args = ["--method", "eae", "--output", "crops", "--workers", 1, "--gate", "2", "--json"]
    assert deid("anonymize", source, "--out", out, *args).json["counts"]["fallback"] == 2
    for row in pq.read_table(next((out / "data").iterdir()))["image"].to_pylist():
        assert np.asarray(Image.open(io.BytesIO(row["bytes"]))).max() == 0
