"""Decode and encode pictures. Only pixels are kept: no EXIF, XMP, IPTC, comment, thumbnail, color
profile or second frame of the source reaches an encoder.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image as Pil
from PIL import ImageFile, TiffImagePlugin, TiffTags, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from deidcli.data.formats import RAW_REASON
from deidcli.data.jxl import is_jxl, jxl_size
from deidcli.data.marks import SourceType, packet
from deidcli.data.pixels import orientation, to_rgb, turned
from deidcli.faces.align import Image

ImageFile.LOAD_TRUNCATED_IMAGES = False
Pil.MAX_IMAGE_PIXELS = None  # our own limit, below, is checked before any pixel is decoded

MAX_MEGAPIXELS = 150.0
"""Larger pictures are withheld. Decoding 150 MP takes 1.2 GB for JPEG, PNG or TIFF, and up to
2.8 GB for JPEG 2000, WebP, AVIF, HEIC or JPEG XL, whose libraries hold several copies of the
pixels."""
LARGE_MEGAPIXELS = 25.0
"""Larger pictures are processed one at a time per machine, whatever the number of workers."""
JPEG_QUALITY = 95
XMP_TAG = 700
"""TIFF's tag; Adobe, XMP Specification, part 3."""

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
"""The format that each extension stands for, and in which files of that name are written."""

READ_ONLY_EXTENSIONS = frozenset(
    {".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"}
    | {".tga", ".avif", ".ico", ".pcx", ".mpo", ".heic", ".heif", ".hif", ".jxl", ".psd", ".qoi"}
    | {".dds", ".sgi", ".bw", ".apng"}
)
"""Formats that are read but published as PNG, with `.png` appended to the name."""

_SIGNATURES = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"II*\x00",
    b"MM\x00*",
    b"\x00\x00\x00\x0cjP  ",
    b"\xff\x4f\xff\x51",
    b"8BPS\x00\x01",
    b"qoif",
    b"DDS \x7c\x00\x00\x00",
)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")


class BadImage(Exception):
    """These bytes cannot be read as a picture. The text gives the reason, see reasons.py."""


@dataclass(frozen=True)
class Decoded:
    """A picture as pixels."""

    pixels: Image
    """(H, W, 3) uint8 RGB, upright."""
    format: Format
    """The source's format, or PNG if deid does not write that format."""
    notes: tuple[str, ...]
    """What had to be converted, e.g. `16 bit to 8 bit`."""


def looks_like_image(head: bytes) -> bool:
    """Return whether a file's first 16 bytes look like a picture."""
    riff = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    avif = head[4:8] == b"ftyp" and head[8:12] in _AVIF_BRANDS
    bmp = head[:2] == b"BM" and head[6:10] == bytes(4)
    return riff or avif or bmp or _is_heif(head) or is_jxl(head) or head.startswith(_SIGNATURES)


def _is_heif(data: bytes) -> bool:
    """Return whether data is HEIC. AVIF may share a brand with it, but has its own reader."""
    brands = data[8 : max(12, min(64, int.from_bytes(data[:4], "big")))]
    heif = data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS
    return heif and not any(brand in brands for brand in _AVIF_BRANDS)


def decode(data: bytes, max_megapixels: float = MAX_MEGAPIXELS) -> Decoded:
    """Decode a picture to upright 8-bit RGB.

    16-bit samples are scaled to 8 bits, color profiles are converted to sRGB, transparency is
    composited over white, and only the first frame of animations and multi-page files is kept. Each
    conversion is noted.

    Raises:
        BadImage: the data is empty, truncated, not a picture, or above `max_megapixels`.
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
    pixels, name, turn = _load(data, max_megapixels, notes)
    known: Format = {str(f): f for f in FORMAT_OF_EXTENSION.values()}.get(name, "PNG")
    if name == "MPO":  # a JPEG followed by further JPEGs, as many cameras write
        known = "JPEG"
    return Decoded(turned(pixels, turn) if turn > 1 else pixels, known, tuple(notes))


def _load(data: bytes, max_megapixels: float, notes: list[str]) -> tuple[Image, str, int]:
    """Return pixels, format and EXIF orientation, with the decoder's memory already released."""
    width, height = _size(data)
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        limit = f"{megapixels:.0f}, above {max_megapixels:g}"
        raise BadImage(f"more megapixels than the limit: {limit}")
    with _open(data) as opened:
        if _is_raw(opened):
            raise BadImage(RAW_REASON)
        if getattr(opened, "n_frames", 1) > 1 and opened.format != "PSD":  # those are its layers
            notes.append("first frame of several")
        if _bits(opened, data) == 16 and not opened.mode.startswith("I"):
            notes.append("16 bit to 8 bit")  # Pillow itself keeps the upper byte
        opened.load()
        turn = orientation(opened)
        if turn > 1:
            notes.append("EXIF orientation applied")
        return to_rgb(opened, notes), opened.format or "", turn


_READ = (
    *("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF"),
    *("ICO", "PCX", "PSD", "QOI", "DDS", "SGI", "TGA"),
)
"""Pillow's readers, in the order they are tried. Others are excluded: EPS, for example, runs
another program on the file. TGA is last because it accepts many files that are not TGA."""


def _open(data: bytes) -> Pil.Image:
    """Open a picture without decoding it (JPEG XL is decoded)."""
    if is_jxl(data[:12]):
        try:
            import pillow_jxl  # noqa: F401 - it registers a reader
        except ImportError:
            raise BadImage("JPEG XL, which pip install 'deidcli[jxl]' makes readable") from None
        return Pil.open(io.BytesIO(data), formats=("JXL",))
    if _is_heif(data[:64]):
        import pi_heif

        pi_heif.register_heif_opener()
        return Pil.open(io.BytesIO(data), formats=("HEIF",))
    return Pil.open(io.BytesIO(data), formats=_formats())


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    """Return the readers in _READ that this build of Pillow supports."""
    Pil.init()
    return tuple(name for name in _READ if name in Pil.OPEN)


def _size(data: bytes) -> tuple[int, int]:
    """Return width and height from the header, without decoding pixels."""
    if is_jxl(data[:12]):
        try:
            return jxl_size(data)
        except ValueError:
            raise BadImage("JPEG XL without a header") from None
    with _open(data) as opened:
        return opened.width, opened.height


def is_large(data: bytes) -> bool:
    """Return whether a picture's header declares more than LARGE_MEGAPIXELS."""
    try:
        width, height = _size(data)
        return width * height > LARGE_MEGAPIXELS * 1e6
    except Exception:  # decode() will say what is wrong with it
        return False


def _is_raw(picture: Pil.Image) -> bool:
    """Return whether a TIFF is a camera raw file, which would open as its thumbnail."""
    tags = getattr(picture, "tag_v2", {}) if picture.format == "TIFF" else {}
    return _DNG_VERSION in tags


_DNG_VERSION = 50706


def _bits(picture: Pil.Image, data: bytes) -> int:
    """Return the bits per sample from the file's header."""
    if picture.format == "PNG":
        return data[24]
    if picture.format == "TIFF":
        return int(max(np.atleast_1d(getattr(picture, "tag_v2", {}).get(258, 8))))
    return 8


def encode(
    pixels: Image,
    format: Format,
    jpeg_quality: int = JPEG_QUALITY,
    mark: SourceType | None = None,
) -> bytes:
    """Encode (H, W, 3) uint8 RGB. The same pixels and mark always give the same bytes.

    Args:
        mark: how the picture was made, stored as an XMP packet; BMP and GIF have none.
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
    """Return the non-empty arguments."""
    return {name: value for name, value in given.items() if value}
