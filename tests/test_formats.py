"""Picture formats: read where a kept library reads them, else `failed`, never passed over."""

from __future__ import annotations

import io
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deidcli.data.images import BadImage, decode, is_large, looks_like_image
from deidcli.data.jxl import jxl_size
from tests.conftest import ROOT, Outcome, picture_bytes, statuses
from tests.test_datasets import portraits

Deid = Callable[..., Outcome]
HEIC = Path(__file__).parent / "files/portrait.heic"


def psd(pixels: np.ndarray) -> bytes:
    """A Photoshop file of one layer, as its header and raw planes."""
    height, width = pixels.shape[:2]
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, height, width, 8, 3)
    return header + bytes(12) + b"\0\0" + pixels.transpose(2, 0, 1).tobytes()


def jxl(pixels: np.ndarray, **options: object) -> bytes:
    pytest.importorskip("pillow_jxl")
    return picture_bytes(pixels, "JXL", **options)


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


def test_a_jxl_bomb_is_not_unpacked(portrait: np.ndarray) -> None:
    data = jxl(np.zeros((3000, 2000, 3), np.uint8))
    assert jxl_size(data) == (2000, 3000)
    for height, width in ((8, 8), (256, 256), (100, 300), (480, 640), (1, 5000), (720, 1280)):
        assert jxl_size(jxl(np.zeros((height, width, 3), np.uint8))) == (width, height)
    with pytest.MonkeyPatch.context() as patch:
        from pillow_jxl import JpegXLImagePlugin

        def opened(*_: object) -> None:
            raise AssertionError("it was decoded")

        patch.setattr(JpegXLImagePlugin.JXLImageFile, "_open", opened)
        with pytest.raises(BadImage, match="more megapixels than the limit: 6, above 5"):
            decode(data, max_megapixels=5)
    for cut in range(0, 14):
        with pytest.raises(BadImage):
            decode(data[:cut])


def test_without_its_reader_jpeg_xl_says_how_it_is_had(
    portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = jxl(portrait)
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    with pytest.raises(BadImage, match=r"deidcli\[jxl\]"):
        decode(data)


def test_avif_is_not_taken_for_heic(portrait: np.ndarray) -> None:
    data = bytearray(picture_bytes(portrait, "AVIF"))
    assert looks_like_image(data[:16])
    data[8:12] = b"mif1"
    assert np.abs(decode(bytes(data)).pixels.astype(int) - portrait).mean() < 6


# ---------------------------------------------------------------------------- pixels


def test_strips_make_no_difference(portrait: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    from deidcli.data import pixels

    see_through = Image.fromarray(portrait).convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(see_through.size))
    deep = Image.fromarray(np.linspace(-3, 900, 192 * 192).reshape(192, 192).astype(np.float32))
    pictures = {
        "rgba": see_through,
        "float": deep,
        "palette": see_through.convert("P"),
        "cmyk": Image.fromarray(portrait).convert("CMYK"),
    }
    for name, picture in pictures.items():
        monkeypatch.setattr(pixels, "STRIP", 4096)
        notes: list[str] = []
        whole = pixels.to_rgb(picture, notes)
        monkeypatch.setattr(pixels, "STRIP", 7)
        again: list[str] = []
        assert np.array_equal(pixels.to_rgb(picture, again), whole) and notes == again, name


def test_a_profile_is_applied_under_transparency(portrait: np.ndarray) -> None:
    from PIL import ImageCms

    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    wide = lab.replace(b"sRGB", b"xRGB")
    picture = Image.fromarray(portrait).convert("RGBA")
    picture.putpixel((0, 0), (0, 0, 0, 0))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", icc_profile=wide)
    decoded = decode(buffer.getvalue())
    assert set(decoded.notes) == {"color profile to sRGB", "transparency over white"}


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
def test_memory_of_a_large_picture_is_what_the_limit_says(tmp_path: Path) -> None:
    """40 MP of RGBA: 8 bytes a pixel (600 MB at 75 MP, 1.2 GB at 150), not 20."""
    pixels = np.zeros((5000, 8000, 4), np.uint8)
    pixels[..., 3] = 100
    Image.fromarray(pixels).save(tmp_path / "x.png", compress_level=1)
    program = (
        "import resource, sys; from deidcli.data.images import decode;"
        "data = open(sys.argv[1], 'rb').read();"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "before = peak(); decode(data); print((peak() - before) * 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "x.png")],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    a_pixel = int(done.stdout) / (5000 * 8000)
    assert a_pixel < 9, f"{a_pixel:.1f} bytes a pixel"
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0


# ---------------------------------------------------------------------------- parquet


def struct_of(rows: list[dict[str, object]], path: pa.DataType) -> pa.Array:
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", path)]))


@pytest.mark.parametrize("path", [pa.null(), pa.int64()])
def test_paths_that_are_no_text(tmp_path: Path, deid: Deid, path: pa.DataType) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    value = None if path == pa.null() else 7
    odd = struct_of([{"bytes": d, "path": value} for d in portraits(2)], path)
    plain = struct_of([{"bytes": d, "path": "p.jpg"} for d in portraits(2)], pa.string())
    pq.write_table(pa.table({"image": odd}), folder / "a.parquet")
    pq.write_table(pa.table({"image": plain}), folder / "b.parquet")
    outcome = deid("anonymize", folder, "--out", out, "--workers", 1, "--names", "keep")
    assert outcome.code == 0, outcome.stderr
    assert pq.read_metadata(out / "data/a.parquet").num_rows == 2
    assert pq.read_metadata(out / "data/b.parquet").num_rows == 2
    assert deid("verify", out).code == 0


def test_a_file_that_cannot_be_written_stops_no_other(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deidcli.data import parquet

    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    rows = struct_of([{"bytes": d, "path": "p.jpg"} for d in portraits(2)], pa.string())
    for name in ("a", "b"):
        pq.write_table(pa.table({"image": rows, name: [1, 2]}), folder / f"{name}.parquet")
    real = parquet.published_schema

    def published_schema(schema: pa.Schema, *args: object, **more: object) -> pa.Schema:
        if "a" in schema.names:
            raise pa.ArrowInvalid("no such cast")
        return real(schema, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(parquet, "published_schema", published_schema)
    outcome = deid("anonymize", folder, "--out", out, "--workers", 1, "--names", "keep")
    assert outcome.code == 3, outcome.stderr
    found = statuses(out)
    assert found["a.parquet#0"] == ("failed", "cannot be copied as parquet (ArrowInvalid)")
    assert found["b.parquet#1"][0] == "ok" and deid("verify", out).code == 0
    assert (
        "already done"
        in deid("anonymize", folder, "--out", out, "--workers", 1, "--names", "keep").stderr
    )


def test_a_parquet_file_that_is_gone_by_now_stops_no_other(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deidcli.pipeline import steps

    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    rows = struct_of([{"bytes": d, "path": "p.jpg"} for d in portraits(1)], pa.string())
    for name in ("a", "b"):
        pq.write_table(pa.table({"image": rows}), folder / f"{name}.parquet")
    data = (folder / "a.parquet").read_bytes()
    real = steps.run_shard

    def run_shard(*args: object) -> int:
        (folder / "a.parquet").unlink(missing_ok=True)
        return real(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(steps, "run_shard", run_shard)
        outcome = deid("anonymize", folder, "--out", out, "--workers", 1, "--names", "keep")
    assert outcome.code == 3, outcome.stderr
    assert statuses(out)["a.parquet#0"] == (
        "failed",
        "cannot be read: No such file or directory",
    )
    (folder / "a.parquet").write_bytes(data)
    assert deid("anonymize", folder, "--out", out, "--workers", 1, "--names", "keep").code == 0
    assert deid("verify", out).code == 0


def test_audio_before_the_picture_is_not_the_picture(tmp_path: Path, deid: Deid) -> None:
    data = portraits(2)
    sounds = struct_of([{"bytes": b"RIFF....WAVEfmt ", "path": "a.wav"}] * 2, pa.string())
    pictures = struct_of([{"bytes": d, "path": None} for d in data], pa.string())
    nothing_first = struct_of([{"bytes": None, "path": None}] * 20, pa.string())
    late = pa.concat_arrays([nothing_first, pictures])
    tables = {
        "sound": pa.table({"audio": sounds, "face": pictures}),
        "late": pa.table({"audio": pa.concat_arrays([sounds] * 11), "face": late}),
        "binary": pa.table({"audio": sounds, "scan": pa.array(data, pa.binary())}),
    }
    for name, table in tables.items():
        path, out = tmp_path / f"{name}.parquet", tmp_path / name
        pq.write_table(table, path)
        outcome = deid("anonymize", path, "--out", out, "--workers", 1, "--names", "keep", "--json")
        assert outcome.code == 0, (name, outcome.stderr)
        assert outcome.json["counts"]["ok"] == 2, name
        assert "audio" not in pq.read_schema(out / f"data/{name}.parquet").names
    pq.write_table(pa.table({"audio": sounds}), tmp_path / "alone.parquet")
    outcome = deid("anonymize", tmp_path / "alone.parquet", "--workers", 1, "--names", "keep")
    assert outcome.code == 1 and "no image column" in outcome.stderr
