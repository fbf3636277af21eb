"""Convert a Pillow picture to upright (H, W, 3) uint8 RGB, strip by strip.

Pillow's own conversions of a whole picture keep two to four copies of its pixels. Here memory holds
the decoder's output, the result, and one strip.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil
from PIL import ImageCms

from deidcli.faces.align import Image

STRIP = 512
"""Rows converted at a time."""

_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_OTHER_COLORS = ("CMYK", "YCCK", "LAB", "HSV", "YCbCr")


def to_rgb(picture: Pil.Image, notes: list[str]) -> Image:
    """Return the pixels of a loaded picture, without applying its orientation.

    Args:
        notes: conversions are appended to it.

    Returns:
        (H, W, 3) uint8 RGB, converted to sRGB if the picture has a color profile.
    """
    pixels = np.empty((picture.height, picture.width, 3), dtype=np.uint8)
    mode = picture.mode
    if mode.startswith("I") or mode == "F":
        notes.append({"F": "float to 8 bit", "I": "32 bit to 8 bit"}.get(mode, "16 bit to 8 bit"))
        low, high, whole = _range(picture)
        for rows, strip in _strips(picture):
            pixels[rows] = _scaled(np.asarray(strip), low, high, whole)[:, :, None]
        return pixels
    to_strip, cmyk = _converter(picture, notes)
    to_srgb = None if cmyk else _transform(picture, "RGB")
    if to_srgb is not None:
        notes.append("color profile to sRGB")
    see_through = False
    for rows, strip in _strips(picture):
        converted, seen = to_strip(strip)
        see_through = see_through or seen
        if to_srgb is not None:
            converted = ImageCms.applyTransform(converted, to_srgb) or converted
        pixels[rows] = np.asarray(converted)
    if see_through:
        notes.append("transparency over white")
    return pixels


def turned(pixels: Image, orientation: int) -> Image:
    """Rotate and flip pixels by an EXIF orientation, 1 to 8."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def orientation(picture: Pil.Image) -> int:
    """Return the EXIF orientation, 1 (upright) to 8."""
    try:
        value = picture.getexif().get(0x0112, 1)
    except Exception:  # broken EXIF must not lose the picture
        return 1
    return value if value in range(2, 9) else 1


def _strips(picture: Pil.Image) -> Iterator[tuple[slice, Pil.Image]]:
    for top in range(0, picture.height, STRIP):
        bottom = min(top + STRIP, picture.height)
        yield slice(top, bottom), picture.crop((0, top, picture.width, bottom))


_Strip = Callable[[Pil.Image], tuple[Pil.Image, bool]]
"""Converts a strip to RGB and returns whether any of it was transparent."""


def _converter(picture: Pil.Image, notes: list[str]) -> tuple[_Strip, bool]:
    """Return the strip converter, and whether it already applies a CMYK profile."""
    mode = picture.mode
    if mode == "RGB" and "transparency" not in picture.info:
        return lambda strip: (strip, False), False
    if mode in _WITH_ALPHA or "transparency" in picture.info:
        return _over_white, False
    if mode in _OTHER_COLORS:
        notes.append(f"{mode} to RGB")
        from_profile = _transform(picture, "CMYK") if mode == "CMYK" else None
        if from_profile is not None:
            return lambda strip: (_applied(strip, from_profile), False), True
    return lambda strip: (strip.convert("RGB"), False), False  # 1, L, P: the same colors


def _applied(strip: Pil.Image, transform: Any) -> Pil.Image:
    converted = ImageCms.applyTransform(strip, transform)
    return strip.convert("RGB") if converted is None else converted


def _over_white(strip: Pil.Image) -> tuple[Pil.Image, bool]:
    rgba = strip.convert("RGBA")
    if rgba.getchannel("A").getextrema() == (255, 255):
        return rgba.convert("RGB"), False
    white = Pil.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Pil.alpha_composite(white, rgba).convert("RGB"), True


def _transform(picture: Pil.Image, mode: str) -> Any:
    """Return the transform from the picture's color profile to sRGB; None if there is nothing to
    convert or the profile is broken or for another color space."""
    profile = picture.info.get("icc_profile")
    if not profile or b"sRGB" in profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None


def _range(picture: Pil.Image) -> tuple[float, float, bool]:
    """Return minimum (at most 0), maximum (at least 0), and whether all values are integers."""
    low = high = 0.0
    whole = True
    for _, strip in _strips(picture):
        samples = np.asarray(strip)
        whole = whole and np.issubdtype(samples.dtype, np.integer)
        values = np.nan_to_num(samples.astype(np.float32), posinf=0, neginf=0)
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    return low, high, whole


def _scaled(samples: NDArray[Any], low: float, high: float, whole: bool) -> NDArray[np.uint8]:
    """Convert gray samples of any depth to uint8: 16-bit divided by 257, others by their range."""
    values = np.nan_to_num(samples.astype(np.float32), posinf=0, neginf=0)
    if low == 0 and high <= 65535 and whole:
        scaled = values / 257.0
    elif low == 0 and high <= 1:
        scaled = values * 255.0
    else:
        scaled = (values - low) / max(high - low, 1e-9) * 255.0
    return np.asarray(np.rint(scaled), dtype=np.uint8)
