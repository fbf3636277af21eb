"""Bytes to pixels and back. Nothing but pixels comes out: no EXIF, XMP, IPTC, comment, thumbnail,
color profile or second frame of the source reaches an encoder.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image as Pil
from PIL import (
    ImageCms,
    ImageFile,
    ImageOps,
    TiffImagePlugin,
    TiffTags,
    UnidentifiedImageError,
)
from PIL.PngImagePlugin import PngInfo

from deidcli.data.marks import SourceType, packet
from deidcli.faces.align import Image

ImageFile.LOAD_TRUNCATED_IMAGES = False
Pil.MAX_IMAGE_PIXELS = None  # our own limit, below, is checked before any pixel is decoded

READ_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "TGA", "AVIF"),
    *("ICO", "PCX"),
)
"""What Pillow may take bytes for, whatever their name says: formats of pixels that it decodes
itself. EPS, for one, would start Ghostscript."""

MAX_MEGAPIXELS = 150.0
"""Larger pictures are withheld: 150 MP take about 1 GB while they are decoded."""
LARGE_MEGAPIXELS = 25.0
"""Pictures above this are worked one at a time on a machine, whatever the number of workers."""
JPEG_QUALITY = 95
XMP_TAG = 700
"""Of TIFF; Adobe, XMP Specification, part 3."""

Format = Literal["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]

FORMAT_OF_EXTENSION: dict[str, Format] = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".gif": "GIF",
}
"""What a name's extension promises, and so what is written under that name."""

READ_ONLY_EXTENSIONS = frozenset(
    {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".tga", ".avif", ".ico", ".pcx", ".mpo"}
)
"""Pictures that are read; they are published as PNG, their name extended by `.png`."""

_SIGNATURES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"BM",
    b"II*\x00",
    b"MM\x00*",
    b"\x00\x00\x00\x0cjP  ",
)


class BadImage(Exception):
    """These bytes cannot be read as a picture. The text says why, as reasons.py has it."""


@dataclass(frozen=True)
class Decoded:
    """A picture as pixels."""

    pixels: Image
    """(H, W, 3) uint8 RGB, upright."""
    format: Format
    """The format that the bytes were in, or PNG where we do not write that format."""
    notes: tuple[str, ...]
    """What had to be converted, e.g. `16 bit to 8 bit`."""


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """READ_FORMATS, as far as this build of Pillow has them."""
    Pil.init()
    return tuple(name for name in READ_FORMATS if name in Pil.OPEN)


def looks_like_image(head: bytes) -> bool:
    """Whether a file's first 16 bytes are those of a picture."""
    riff = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    isobmff = head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1")
    return riff or isobmff or head.startswith(_SIGNATURES)


def decode(data: bytes, max_megapixels: float = MAX_MEGAPIXELS) -> Decoded:
    """Decode a picture to upright 8-bit RGB.

    16-bit samples are scaled to 8 bits, color profiles converted to sRGB, transparency is laid
    over white, and of animations and multi-page files the first frame is taken; each is noted.

    Raises:
        BadImage: empty, cut short, no picture, or above `max_megapixels`.
    """
    if not data:
        raise BadImage("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(data, max_megapixels)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("not a picture, or of an unknown format") from None
    except MemoryError:
        raise BadImage("too large for this machine's memory") from None
    except Exception as error:  # Pillow's decoders raise almost every built-in exception
        raise BadImage(f"cannot be decoded: {_short(error)}") from None


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:120]


def _decode(data: bytes, max_megapixels: float) -> Decoded:
    notes: list[str] = []
    with Pil.open(io.BytesIO(data), formats=_formats()) as opened:
        megapixels = opened.width * opened.height / 1e6
        if megapixels > max_megapixels:
            limit = f"{megapixels:.0f}, above {max_megapixels:g}"
            raise BadImage(f"more megapixels than the limit: {limit}")
        name = opened.format or ""
        if getattr(opened, "n_frames", 1) > 1:
            notes.append("first frame of several")
        if _bits(opened, data) == 16 and not opened.mode.startswith("I"):
            notes.append("16 bit to 8 bit")  # Pillow itself keeps the upper byte
        opened.load()
        picture = _upright(opened, notes)
        picture = _to_srgb(_to_rgb(picture, notes), notes)
        pixels = _to_array(picture)
    known: Format = {str(f): f for f in FORMAT_OF_EXTENSION.values()}.get(name, "PNG")
    if name == "MPO":  # a JPEG with further JPEGs behind it, as many cameras write
        known = "JPEG"
    return Decoded(pixels, known, tuple(notes))


def is_large(data: bytes) -> bool:
    """Whether a picture, by its header, has more than LARGE_MEGAPIXELS."""
    try:
        with Pil.open(io.BytesIO(data), formats=_formats()) as picture:
            return bool(picture.width * picture.height > LARGE_MEGAPIXELS * 1e6)
    except Exception:  # decode() will say what is wrong with it
        return False


def _to_array(picture: Pil.Image) -> Image:
    """Strip by strip: Pillow's own conversion holds the pixels three times over."""
    pixels = np.empty((picture.height, picture.width, 3), dtype=np.uint8)
    for top in range(0, picture.height, 512):
        bottom = min(top + 512, picture.height)
        pixels[top:bottom] = np.asarray(picture.crop((0, top, picture.width, bottom)))
    return pixels


def _bits(picture: Pil.Image, data: bytes) -> int:
    """Bits a sample, as the file's header says."""
    if picture.format == "PNG":
        return data[24]
    if picture.format == "TIFF":
        return int(max(np.atleast_1d(getattr(picture, "tag_v2", {}).get(258, 8))))
    return 8


def _upright(picture: Pil.Image, notes: list[str]) -> Pil.Image:
    try:
        orientation = picture.getexif().get(0x0112, 1)
    except Exception:  # broken EXIF must not cost the picture
        return picture
    if orientation in range(2, 9):
        notes.append("EXIF orientation applied")
        return ImageOps.exif_transpose(picture)
    return picture


def _to_rgb(picture: Pil.Image, notes: list[str]) -> Pil.Image:
    mode = picture.mode
    if mode == "RGB" and "transparency" not in picture.info:
        return picture
    if mode.startswith("I") or mode == "F":
        notes.append({"F": "float to 8 bit", "I": "32 bit to 8 bit"}.get(mode, "16 bit to 8 bit"))
        return Pil.fromarray(_scale_to_8_bit(np.asarray(picture))).convert("RGB")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        return _over_white(picture, notes)
    if mode in ("CMYK", "YCCK", "LAB", "HSV", "YCbCr"):
        notes.append(f"{mode} to RGB")
        return _from_cmyk_profile(picture) if mode == "CMYK" else picture.convert("RGB")
    return picture.convert("RGB")  # 1, L, P: the same colors in RGB


def _over_white(picture: Pil.Image, notes: list[str]) -> Pil.Image:
    rgba = picture.convert("RGBA")
    if rgba.getchannel("A").getextrema() == (255, 255):
        return rgba.convert("RGB")
    notes.append("transparency over white")
    white = Pil.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Pil.alpha_composite(white, rgba).convert("RGB")


def _scale_to_8_bit(samples: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Image:
    """Gray samples of any depth to uint8: 16-bit by 257, others by their own range."""
    values = np.nan_to_num(samples.astype(np.float32), posinf=0, neginf=0)
    high = float(values.max(initial=0))
    low = min(0.0, float(values.min(initial=0)))
    if low == 0 and high <= 65535 and np.issubdtype(samples.dtype, np.integer):
        scaled = values / 257.0
    elif low == 0 and high <= 1:
        scaled = values * 255.0
    else:
        scaled = (values - low) / max(high - low, 1e-9) * 255.0
    return np.asarray(np.rint(scaled), dtype=np.uint8)


def _from_cmyk_profile(picture: Pil.Image) -> Pil.Image:
    profile = picture.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(
                picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError):
            converted = None
        if converted is not None:
            converted.info.pop("icc_profile", None)
            return converted
    return picture.convert("RGB")


def _to_srgb(picture: Pil.Image, notes: list[str]) -> Pil.Image:
    profile = picture.info.get("icc_profile")
    if not profile or b"sRGB" in profile:
        return picture
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"))
    except (ImageCms.PyCMSError, OSError):  # a profile of another color space, or a broken one
        return picture
    notes.append("color profile to sRGB")
    return converted if converted is not None else picture


def encode(
    pixels: Image,
    format: Format,
    jpeg_quality: int = JPEG_QUALITY,
    mark: SourceType | None = None,
) -> bytes:
    """Encode (H, W, 3) uint8 RGB. The same pixels and mark always give the same bytes.

    Args:
        mark: how the picture was made, said in an XMP packet; BMP and GIF have none.
    """
    buffer = io.BytesIO()
    picture = Pil.fromarray(pixels)
    xmp = b"" if mark is None else packet(mark).encode()
    if format == "JPEG":
        picture.save(buffer, "JPEG", quality=jpeg_quality, subsampling=0, **_if(xmp=xmp))
    elif format == "PNG":
        chunks = PngInfo()
        if xmp:
            chunks.add_itxt("XML:com.adobe.xmp", xmp.decode())
        picture.save(buffer, "PNG", compress_level=3, pnginfo=chunks)
    elif format == "WEBP":
        picture.save(buffer, "WEBP", quality=jpeg_quality, method=2, **_if(xmp=xmp))
    elif format == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        if xmp:
            tags.tagtype[XMP_TAG] = TiffTags.BYTE
            tags[XMP_TAG] = xmp
        picture.save(buffer, "TIFF", compression="tiff_deflate", tiffinfo=tags)
    else:
        picture.save(buffer, format)
    return buffer.getvalue()


def _if(**given: bytes) -> dict[str, bytes]:
    """Those that hold anything."""
    return {name: value for name, value in given.items() if value}
