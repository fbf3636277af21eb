"""Picture formats: read where a kept library reads them, else `failed`, never passed over."""

from __future__ import annotations

import io
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deidcli.data.images import BadImage, decode, is_large, looks_like_image
from tests.conftest import Outcome, picture_bytes, statuses
from tests.datasets import jxl

Deid = Callable[..., Outcome]
HEIC = Path(__file__).parent / "files/portrait.heic"
HOW = ("convert it to PNG", "develop it to TIFF or JPEG", "unpack or convert it")
UNREAD = {
    "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "a.nef": b"II*\0" + bytes(60),
    "b.CR2": b"II*\0\x10\0\0\0CR\x02\0" + bytes(60),
    "c.cr3": b"\0\0\0\x18ftypcrx " + bytes(60),
    "d.xcf": b"gimp xcf v011\0",
    "e.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "f_without_extension": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "g.exr": b"v/1\x01" + bytes(60),
    "h.dcm": bytes(128) + b"DICM",
    "photos.zip": b"PK\3\4",
    "photos.tar.gz": b"\x1f\x8b",
    "data-00000-of-00001.arrow": b"ARROW1",
}
LIGHT = ("--names", "keep", "--no-gate", "--detector", "hog", "--workers", 1)
REFUSED = {
    "photos.tar": "unpack",
    "photos.tar.gz": "unpack",
    "photos.zip": "unpack",
    "data.jsonl": "to_parquet",
    "data-00000-of-00001.arrow": "load_from_disk",
}


def psd(pixels: np.ndarray) -> bytes:
    """A Photoshop file of one layer, as its header and raw planes."""
    height, width = pixels.shape[:2]
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, height, width, 8, 3)
    return header + bytes(12) + b"\0\0" + pixels.transpose(2, 0, 1).tobytes()


def readable(portrait: np.ndarray) -> dict[str, bytes]:
    """Name -> bytes of pictures that are read and published as PNG."""
    found = {"a.heic": HEIC.read_bytes(), "b.psd": psd(portrait), "c.jxl": jxl(portrait)}
    for name, format in (("d.dds", "DDS"), ("e.sgi", "SGI"), ("f.jp2", "JPEG2000")):
        found[name] = picture_bytes(portrait, format)
    found["g.qoi"] = qoi(portrait)
    return found


def qoi(pixels: np.ndarray) -> bytes:
    """The Quite OK Image format, each pixel written out."""
    height, width = pixels.shape[:2]
    body = b"".join(b"\xfe" + bytes(pixel) for pixel in pixels.reshape(-1, 3))
    return struct.pack(">4sIIBB", b"qoif", width, height, 3, 0) + body + bytes(7) + b"\1"


def test_formats_of_kept_libraries_are_read(
    tmp_path: Path, portrait: np.ndarray, deid: Deid
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    good = readable(portrait)
    for name, data in good.items():
        (folder / name).write_bytes(data)
        (folder / f"{name[0]}_without_extension").write_bytes(data)
    outcome = deid(
        "anonymize", folder, "--out", out, "--workers", 1, "--names", "keep", "--no-gate"
    )
    found = statuses(out)
    assert all(found[name] == ("ok", "") for name in good), found
    named = [n for n in good if n != "e.sgi"]  # two bytes tell too little of that one
    assert all(found[f"{name[0]}_without_extension"][0] == "ok" for name in named), found
    assert outcome.code == 0, outcome.stderr
    assert {p.name for p in (out / "images").iterdir()} >= {f"{name}.png" for name in good}


def test_what_is_read_has_the_right_pixels(portrait: np.ndarray) -> None:
    for name, data in readable(portrait).items():
        pixels = decode(data).pixels.astype(int)
        assert np.abs(pixels - portrait).mean() < 4, name


def test_other_picture_formats_are_failed_and_never_passed_over(
    tmp_path: Path, portrait: np.ndarray, deid: Deid
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "p.jpg").write_bytes(picture_bytes(portrait))
    others = {
        "notes.txt": b"x",
        "paper.pdf": b"%PDF-1.7",
        "BMs and more": b"BMs are cars",
        "q": b"",
    }
    for name, data in {**UNREAD, **others}.items():
        (folder / name).write_bytes(data)
    assert deid("anonymize", folder, "--out", out, "--workers", 1, "--names", "keep").code == 3
    found = statuses(out)
    for name in UNREAD:
        assert found[name][0] == "failed" and found[name][1].endswith(HOW), found[name]
    assert {found[name] for name in others} == {("skipped", "not a picture")}
    assert found["p.jpg"][0] == "ok"


def test_a_raw_file_named_tiff_is_not_its_thumbnail(portrait: np.ndarray) -> None:
    buffer = io.BytesIO()
    tags = {50706: b"\1\4\0\0"}
    Image.fromarray(portrait).save(buffer, "TIFF", tiffinfo=tags)
    with pytest.raises(BadImage, match="raw file of a camera"):
        decode(buffer.getvalue())


def test_postscript_is_never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """An EPS by another name starts Ghostscript where all of Pillow's readers are tried."""

    def popen(*_: object, **__: object) -> None:
        raise AssertionError("another program was started")

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(subprocess, "check_call", popen)
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "EPS")
    with pytest.raises(BadImage, match="not a picture, or of an unknown format"):
        decode(buffer.getvalue())
    assert not is_large(buffer.getvalue())


def test_avif_is_not_taken_for_heic(portrait: np.ndarray) -> None:
    data = bytearray(picture_bytes(portrait, "AVIF"))
    assert looks_like_image(data[:16])
    data[8:12] = b"mif1"
    assert np.abs(decode(bytes(data)).pixels.astype(int) - portrait).mean() < 6


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("alone", [True, False])
def test_containers_are_refused_with_a_way_out(
    tmp_path: Path, deid: Deid, name: str, alone: bool
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / name).write_bytes(b"PK\3\4")
    (folder / "state.json").write_text("{}")
    outcome = deid("anonymize", folder / name if alone else folder, *LIGHT)
    assert outcome.code == 1, outcome.stderr
    assert "deid reads folders of pictures and parquet" in outcome.stderr
    assert REFUSED[name] in outcome.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    assert len(list(folder.iterdir())) == 2


def test_a_single_picture_of_an_unread_format(tmp_path: Path, deid: Deid) -> None:
    (tmp_path / "x.svg").write_text("<svg/>")
    outcome = deid("anonymize", tmp_path / "x.svg", *LIGHT)
    assert outcome.code == 1 and "not read (SVG): convert it to PNG" in outcome.stderr
