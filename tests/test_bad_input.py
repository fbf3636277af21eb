"""Odd inputs: none ends a run, none leaks, each is accounted for."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Outcome, picture_bytes, statuses

Deid = Callable[..., Outcome]


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


def hopeless() -> dict[str, bytes]:
    """Name -> bytes of files that no picture can be had from, though their names promise one."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return {
        "zero.jpg": b"",
        "garbage.png": os.urandom(500),
        "text.jpg": b"this is no picture",
        "cut.jpg": picture_bytes(noise)[:-1500],
        "cut.png": picture_bytes(noise, "PNG")[:-1500],
    }


def test_odd_inputs_together(tmp_path: Path, portrait: np.ndarray, deid: Deid) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "deep/er").mkdir(parents=True)
    good, bad = odd_pictures(portrait), hopeless()
    for name, data in {**good, **bad}.items():
        (folder / name).write_bytes(data)
    (folder / "deep/er/one.jpg").write_bytes(good["plain.jpg"])
    (folder / "tiny.png").write_bytes(picture_bytes(portrait[::10, ::7], "PNG"))
    slope = np.repeat(np.linspace(60, 190, 28).astype(np.uint8)[None, :, None], 20, axis=0)
    (folder / "faceless.png").write_bytes(picture_bytes(slope.repeat(3, axis=2), "PNG"))
    bits = io.BytesIO()
    Image.fromarray(portrait).convert("1").save(bits, "PNG")
    (folder / "one_bit.png").write_bytes(bits.getvalue())
    (folder / "notes.txt").write_text("hello")
    (folder / ".hidden.jpg").write_bytes(good["plain.jpg"])
    (folder / "broken.jpg").symlink_to(folder / "nowhere.jpg")
    outside = tmp_path / "outside.jpg"
    outside.write_bytes(good["plain.jpg"])
    (folder / "leads_out.jpg").symlink_to(outside)
    os.mkfifo(folder / "pipe.jpg")

    args = ["anonymize", folder, "--out", out, "--names", "keep", "--workers", 1, "--json"]
    outcome = deid(*args)
    found = statuses(out)
    assert outcome.code == 3, outcome.stderr
    published = {name for name, (status, _) in found.items() if status in ("ok", "fallback")}
    assert published >= {*good, "deep/er/one.jpg"}
    assert {name for name, (status, _) in found.items() if status == "failed"} == {
        *bad,
        "broken.jpg",
    }
    assert found["tiny.png"][0] in ("ok", "fallback")  # 20 px high, and a face all the same
    assert found["faceless.png"][0] == "no_face"
    assert found["one_bit.png"][0] in ("ok", "fallback", "no_face")
    for name in ("notes.txt", ".hidden.jpg", "leads_out.jpg", "pipe.jpg"):
        assert found[name][0] == "skipped", name
    files = sum(1 for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    counts = outcome.json["counts"]
    assert len(found) == files == counts["inputs"]
    assert sum(counts[s] for s in ("ok", "fallback", "no_face", "failed", "skipped")) == files
    conversions = outcome.json["conversions"]
    assert conversions["16 bit to 8 bit"] == 2
    assert conversions["CMYK to RGB"] == 1
    assert conversions["first frame of several"] == 3
    assert conversions["transparency over white"] == 1
    assert (out / "images/no_extension.png").is_file()
    assert deid("verify", out).code == 0


def test_converted_pictures_keep_their_pixels(tmp_path: Path, portrait: np.ndarray) -> None:
    from deidcli.data.images import decode

    for name, data in odd_pictures(portrait).items():
        if name.startswith(("palette", "moving", "cmyk")):
            continue
        pixels = decode(data).pixels.astype(int)
        target = portrait.copy()
        if name == "rgba.png":
            target[:20, :20] = 255
        if "gray" in name or name == "la.png":
            gray = (
                portrait[..., 1:2]
                if "16" in name
                else np.asarray(Image.fromarray(portrait).convert("L"))[..., None]
            )
            target = np.repeat(gray, 3, axis=2)
        assert np.abs(pixels - target).mean() < 4, name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_baked_in(portrait: np.ndarray, orientation: int) -> None:
    from deidcli.data.images import decode

    turn: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[::-1],
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    }
    upright = portrait[:150]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(turn[orientation](upright))
    data = picture_bytes(stored, "PNG", exif=exif)
    assert np.array_equal(decode(data).pixels, upright)


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


def test_huge_picture_in_bounded_memory(tmp_path: Path) -> None:
    """12000x9000: decoded (0.3 GB of pixels), searched at reduced size, withheld."""
    import subprocess
    import sys

    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    picture_bytes_large = Image.new("RGB", (12000, 9000), (90, 120, 150))
    picture_bytes_large.save(folder / "huge.jpg", quality=60)
    program = (
        "import re, sys; from deidcli.cli import run; code = run(sys.argv[1:]);"
        "status = open('/proc/self/status').read();"
        "print(code, int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024)"
    )
    args = ["anonymize", str(folder), "--out", str(out), "--workers", "1", "--detector", "hog"]
    done = subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, check=True
    )
    code, peak_mb = map(int, done.stdout.split()[-2:])
    assert code == 0
    assert statuses(out)["huge.jpg"][0] == "no_face"
    assert peak_mb < 1500, f"{peak_mb} MB"


def test_too_many_megapixels_is_withheld(portrait: np.ndarray) -> None:
    from deidcli.data.images import BadImage, decode

    with pytest.raises(BadImage, match="megapixels"):
        decode(picture_bytes(portrait), max_megapixels=0.01)


def test_folder_without_read_permission(
    tmp_path: Path, portrait: np.ndarray, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so the refusal itself is played."""
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "locked").mkdir(parents=True)
    (folder / "locked/p.jpg").write_bytes(picture_bytes(portrait))
    (folder / "open.jpg").write_bytes(picture_bytes(portrait))
    real = os.scandir

    def scandir(path: object) -> object:
        if str(path).endswith("/locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", scandir)
    outcome = deid("anonymize", folder, "--out", out, "--workers", 1)
    assert outcome.code == 3
    found = statuses(out)
    assert found["locked"] == ("failed", "folder cannot be read: Permission denied")
    assert found["open.jpg"][0] == "ok"


def test_link_out_is_followed_when_asked(tmp_path: Path, portrait: np.ndarray, deid: Deid) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    elsewhere = tmp_path / "store"
    elsewhere.mkdir()
    (elsewhere / "p.jpg").write_bytes(picture_bytes(portrait))
    (folder / "q.jpg").symlink_to(elsewhere / "p.jpg")
    (folder / "sub").symlink_to(elsewhere)
    (folder / "loop").symlink_to(folder)
    outcome = deid("anonymize", folder, "--out", out, "--follow-links", "--workers", 1)
    assert outcome.code == 0, outcome.stderr
    found = statuses(out)
    assert {found["q.jpg"][0], found["sub/p.jpg"][0]} == {"ok"}
    assert found["loop"][0] == "skipped"


def test_same_stem_crops_do_not_collide(tmp_path: Path, portrait: np.ndarray, deid: Deid) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(picture_bytes(portrait))
    (folder / "a.png").write_bytes(picture_bytes(portrait, "PNG"))
    (folder / "b.jpg").write_bytes(picture_bytes(portrait))
    args = ["anonymize", folder, "--out", out, "--output", "crops", "--workers", 1]
    assert deid(*args, "--names", "keep").code == 0
    names = sorted(path.name for path in (out / "images").iterdir())
    assert names == ["a.jpg_0.png", "a.png_0.png", "b_0.png"]


def test_undecodable_file_name(tmp_path: Path, portrait: np.ndarray, deid: Deid) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff\nname.jpg"))).write_bytes(
        picture_bytes(portrait)
    )
    args = ["anonymize", folder, "--out", out, "--names", "keep", "--workers", 1]
    assert deid(*args).code == 0
    assert (out / "images/bad%FF\nname.jpg").is_file()
    assert deid("verify", out).code == 0


def test_nothing_is_executed_from_names(tmp_path: Path, portrait: np.ndarray, deid: Deid) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "$(touch pwned).jpg").write_bytes(picture_bytes(portrait))
    deid("anonymize", folder, "--out", tmp_path / "out", "--workers", 1)
    assert not Path("pwned").exists() and not (tmp_path / "pwned").exists()
