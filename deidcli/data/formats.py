"""Files that deid does not read, by name: pictures in unsupported formats, and containers that may
hold pictures. Neither may be ignored as if it were not a picture."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_RAW = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq"}
    | {".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl"}
    | {".sr2", ".srf", ".srw", ".x3f"}
)
"""Camera raw files. Many are TIFF inside, and a TIFF reader would take their thumbnail for the
picture."""
_OTHERS = {
    ".ai": "Illustrator", ".bpg": "BPG", ".cur": "a cursor", ".dcm": "DICOM", ".djvu": "DjVu",
    ".emf": "EMF", ".eps": "EPS", ".exr": "OpenEXR", ".fits": "FITS", ".flif": "FLIF",
    ".icns": "ICNS", ".jxr": "JPEG XR", ".kra": "Krita", ".psb": "PSB", ".svg": "SVG",
    ".svgz": "SVG", ".wdp": "JPEG XR", ".wmf": "WMF", ".xbm": "XBM", ".xcf": "GIMP", ".xpm": "XPM",
}  # fmt: skip
_ARCHIVE = re.compile(
    r".*\.(zip|7z|rar|cbz|tgz|tbz2?|txz|tar(\.(gz|bz2|xz|zst|lz4))?|arrow|feather|tfrecords?)",
    re.IGNORECASE | re.DOTALL,
)

RAW_REASON = "a raw file of a camera, which is not read: develop it to TIFF or JPEG"
ARCHIVE_REASON = "may hold pictures and is not looked into: unpack or convert it"


def unread(path: Path) -> str:
    """Return why a file with this name is not read although it is or may contain pictures; empty if
    no reason is known."""
    suffix = path.suffix.lower()
    if suffix in _RAW:
        return RAW_REASON
    if suffix in _OTHERS:
        return f"a picture in a format that is not read ({_OTHERS[suffix]}): convert it to PNG"
    return ARCHIVE_REASON if _ARCHIVE.fullmatch(path.name) else ""


def is_postscript(head: bytes) -> bool:
    """Return whether a file's first bytes are EPS, which would have to be executed."""
    return head.startswith((b"%!PS-Adobe", b"\xc5\xd0\xd3\xc6"))


def refusal(paths: Iterable[Path]) -> tuple[str, str] | None:
    """Return a message and hint for inputs without pictures: what they are, how to convert them.

    Returns:
        None if no input is known to contain pictures.
    """
    listed = list(paths)
    names = {path.name.lower() for path in listed}
    read = "deid reads folders of pictures and parquet"
    if any(name.endswith(".arrow") for name in names):
        return (
            f"the output of save_to_disk (arrow files) is not read; {read}",
            "convert it: datasets.load_from_disk(FOLDER).to_parquet('data.parquet')",
        )
    if any(_ARCHIVE.fullmatch(name) for name in names):
        return (f"archives (tar, zip and the like) are not read; {read}", "unpack them first")
    if any(name.endswith((".jsonl", ".json", ".ndjson")) for name in names):
        return (
            f"pictures listed or encoded in JSON are not read; {read}",
            "give the folder of the pictures, or convert: "
            "datasets.load_dataset('json', data_files=FILE).to_parquet('data.parquet')",
        )
    return None
