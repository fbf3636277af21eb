"""Pictures decoded and encoded: pixels, orientation, profiles, limits."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deidcli.data.images import BadImage, decode
from tests.conftest import (
    Outcome,
    copy_people,
    picture_bytes,
    statuses,
)
from tests.datasets import odd_pictures

Deid = Callable[..., Outcome]
BASIC = ["--workers", 1, "--no-gate"]
EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 64 64
%%EndComments
0 0 64 64 rectfill
showpage
%%EOF
"""


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


def test_too_many_megapixels_is_withheld(portrait: np.ndarray) -> None:
    from deidcli.data.images import decode

    with pytest.raises(BadImage, match="megapixels"):
        decode(picture_bytes(portrait), max_megapixels=0.01)


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


def test_formats_that_cannot_hold_a_picture(
    tmp_path: Path, portrait: np.ndarray, deid: Deid
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    wide = np.full((300, 17_000, 3), 128, np.uint8)
    wide[50:242, 100:292] = portrait
    (folder / "pano.webp").write_bytes(picture_bytes(wide, "PNG"))
    (folder / "pano.png").write_bytes(picture_bytes(wide, "PNG"))
    Image.new("RGB", (65_000, 50)).save(folder / "line.png")
    outcome = deid("anonymize", folder, "--out", out, "--workers", 1)
    assert outcome.code == 3, outcome.stderr
    found = statuses(out)
    assert found["pano.webp"][0] == "failed" and "encoding" in found["pano.webp"][1]
    assert found["line.png"][0] == "no_face"


def test_postscript_is_never_opened(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its name says: Pillow would hand it to Ghostscript."""
    from PIL import EpsImagePlugin

    def never(*args: object, **options: object) -> None:
        raise AssertionError("Ghostscript was asked")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", never)
    opened: list[object] = []
    real = EpsImagePlugin.EpsImageFile._open
    monkeypatch.setattr(
        EpsImagePlugin.EpsImageFile, "_open", lambda self: (opened.append(self), real(self))
    )
    folder, out = copy_people(tmp_path / "in", 1), tmp_path / "out"
    (folder / "sketch.jpg").write_bytes(EPS)
    assert deid("anonymize", folder, "--out", out, *BASIC).code == 3
    assert statuses(out)["sketch.jpg"] == ("failed", "not a picture, or of an unknown format")
    assert not opened
