"""Read the size of a JPEG XL picture from its first bytes.

The Pillow plugin decodes a picture when it opens it, so the megapixel limit has to be checked
before.
"""

from __future__ import annotations

import struct

CODESTREAM = b"\xff\x0a"
CONTAINER = b"\x00\x00\x00\x0cJXL \r\n\x87\n"
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_BITS = (9, 13, 18, 30)


def is_jxl(head: bytes) -> bool:
    """Return whether a file's first 12 bytes are JPEG XL."""
    return head.startswith((CODESTREAM, CONTAINER))


def jxl_size(data: bytes) -> tuple[int, int]:
    """Return width and height (ISO/IEC 18181-1, SizeHeader).

    Raises:
        ValueError: there is no such header.
    """
    stream = data if data.startswith(CODESTREAM) else _codestream(data)
    if len(stream) < 4 or not stream.startswith(CODESTREAM):
        raise ValueError("no codestream")
    bits = _Bits(stream[2:16])
    small = bits.take(1)
    height = _side(bits, small)
    ratio = bits.take(3)
    if ratio == 0:
        return _side(bits, small), height
    wide, high = _RATIOS[ratio - 1]
    return height * wide // high, height


def _side(bits: _Bits, small: int) -> int:
    return 8 * (bits.take(5) + 1) if small else 1 + bits.take(_BITS[bits.take(2)])


def _codestream(data: bytes) -> bytes:
    """Return the first bytes of the codestream inside a container's boxes."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        start = at + 8
        if size == 1:
            size = int.from_bytes(data[start : start + 8], "big")
            start += 8
        if kind in (b"jxlc", b"jxlp"):
            start += 4 if kind == b"jxlp" else 0
            return data[start : start + 16]
        if size < 8:
            break
        at += size
    return b""


class _Bits:
    """A bit reader, lowest bit of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise ValueError("cut short")
        value = self._value & ((1 << count) - 1)
        self._value >>= count
        self._left -= count
        return value
