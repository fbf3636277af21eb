"""The wire format of protocol buffers: enough to read an ONNX file and change its header.

Source: protobuf.dev, Encoding. The ONNX files that deid opens are few and known (their sha256 is
checked), so they do not justify depending on the package `onnx`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read a varint at an offset; return it and the offset after it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def read_fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield the fields of a message: number and value (an int, or bytes as a view)."""
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = read_varint(data, at)
            yield number, value
        else:
            length, at = read_varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
            yield number, data[at : at + length]
            at += length


def varint(value: int) -> bytes:
    """Encode an integer as a varint."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def field(number: int, value: int | bytes | memoryview) -> bytes:
    """Encode a field: an int as a varint, bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + bytes(value)
