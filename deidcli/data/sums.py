"""Read and write SHA256SUMS as `sha256sum -c` expects it."""

from __future__ import annotations

import re
from pathlib import Path

_LINE = re.compile(r"(\\?)([0-9a-f]{64})  (.+)", re.DOTALL)


def escape_sum_name(name: str) -> str:
    """Escape a file name as `sha256sum` does."""
    return name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def unescape_sum_name(text: str) -> str:
    """Undo `escape_sum_name`."""
    back = {"\\n": "\n", "\\r": "\r", "\\\\": "\\"}
    return re.sub(r"\\[nr\\]", lambda match: back[match[0]], text)


def read_sums(out: Path) -> dict[str, str]:
    """Read SHA256SUMS as file name -> sha256."""
    sums = {}
    for line in (out / "SHA256SUMS").read_bytes().decode("utf-8").split("\n"):
        match = _LINE.fullmatch(line)
        if match:
            escaped, sha256, name = match.groups()
            sums[unescape_sum_name(name) if escaped else name] = sha256
    return sums
