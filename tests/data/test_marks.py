"""The mark that says how a picture was made."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deidcli.data.images import decode, encode
from deidcli.data.marks import packet
from tests.conftest import (
    Outcome,
    assert_gone,
    copy_people,
)
from tests.datasets import portraits, write_shard

Deid = Callable[..., Outcome]
BASIC = ["--workers", 1, "--no-gate"]


def xmp_of(data: bytes) -> bytes:
    """The XMP packet of a picture, by Pillow."""
    with Image.open(io.BytesIO(data)) as picture:
        info = picture.info
        found = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
        if not found and picture.format == "TIFF":
            found = picture.tag_v2.get(700, b"")  # type: ignore[attr-defined]
    return found.encode() if isinstance(found, str) else bytes(found)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_a_mark_is_one_packet_and_changes_no_pixel(portrait: np.ndarray, format: Any) -> None:
    plain = encode(portrait, format)
    marked = encode(portrait, format, mark="composite")
    assert encode(portrait, format, mark="composite") == marked and xmp_of(plain) == b""
    assert (decode(plain).pixels == decode(marked).pixels).all()
    if format in ("BMP", "GIF"):
        assert plain == marked
        return
    assert xmp_of(marked) == packet("composite").encode()
    assert marked.count(b"xpacket begin") == 1
    assert abs(len(marked) - len(plain) - len(packet("composite").encode())) < 120


def test_marks_say_how_pictures_were_made(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 3)
    Image.new("RGB", (90, 90), "gray").save(folder / "wall.png")
    for name, extra, term in (
        ("blur", [], "algorithmicallyEnhanced"),
        ("dae", [], "compositeWithTrainedAlgorithmicMedia"),
        ("k-same", ["--set", "k=2"], "composite"),
        ("eae", ["--output", "crops"], "compositeWithTrainedAlgorithmicMedia"),
    ):
        out = tmp_path / name
        args = ["anonymize", folder, "--out", out, *BASIC, "--method", name, *extra]
        assert deid(*args, "--on-no-face", "copy").code == 0
        for row in pq.read_table(out / "metadata.parquet").to_pylist():
            found = xmp_of((out / row["file_name"]).read_bytes())
            # Nothing was replaced in a picture that was copied.
            assert found == (packet(term).encode() if row["status"] != "no_face" else b"")
    write_shard(tmp_path / "rows/a.parquet", [*portraits(2)])
    assert deid("anonymize", tmp_path / "rows", "--out", tmp_path / "r", *BASIC).code == 0
    for row in pq.read_table(next((tmp_path / "r/data").iterdir()))["image"].to_pylist():
        assert xmp_of(row["bytes"]) == packet("algorithmicallyEnhanced").encode()
    bare = tmp_path / "bare"
    assert deid("anonymize", folder, "--out", bare, *BASIC, "--no-mark").code == 0
    assert_gone(bare / "images", b"xpacket")
