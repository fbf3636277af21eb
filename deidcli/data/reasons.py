"""Reasons for withholding an input, in a form that may be published.

A reason is our own text, possibly followed by a colon and a library's message, which may quote the
file. OUT.private has all of it; manifest.json has only our text, and only if it is listed here.
"""

from __future__ import annotations

import errno
import os
import re

OTHER = "another reason, see link.parquet in OUT.private"

REASONS = frozenset(
    {
        "the file is empty",
        "the file is larger than 2 GB",
        "not a picture, or of an unknown format",
        "too large for this machine's memory",
        "more megapixels than the limit",
        "cannot be decoded",
        "cannot be read",
        "folder cannot be read",
        "row cannot be read",
        "parquet cannot be read",
        "cannot be read as parquet",
        "no image column",
        "two columns have the same name",
        "no picture in this row",
        "not a parquet file",
        "not a picture",
        "a parquet file without rows",
        "a folder that is listed elsewhere",
        "link to a folder that holds the input",
        "label file",
        "hidden file",
        "not a regular file",
        "broken link",
        "link to a listed folder",
        "link to a folder (--follow-links follows it)",
        "link out of the input (--follow-links follows it)",
        "became a link out of the input",
        "no longer a regular file",
        "a raw file of a camera, which is not read",
        "a picture in a format that is not read",
        "may hold pictures and is not looked into",
        "JPEG XL, which pip install 'deidcli[jxl]' makes readable",
        "JPEG XL without a header",
        "cannot be copied as parquet",
        "its name is not UTF-8",
        "its name cannot be written",
        "its columns cannot be written",
        "ended its worker (crash or memory)",
        "detection",
        "method",
        "encoding",
    }
)
_SYSTEM = frozenset(os.strerror(number) for number in errno.errorcode)
"""The operating system's messages about files; they contain nothing of the file."""


def published_reason(reason: str) -> str:
    """Return the part of a reason that manifest.json may contain."""
    if reason in REASONS:
        return reason
    words, _, detail = reason.partition(": ")
    words = re.sub(r" \([^()]*\)$", "", words)
    if words not in REASONS:
        return OTHER
    return f"{words}: {detail}" if detail in _SYSTEM else words
