"""sdn: what a key does to the hidden face.

The network hides a face as a point q on a sphere in CODE dimensions. The key gives an orthogonal
map of that sphere onto itself (signs, Hadamard, a permutation, signs, Hadamard, each expanded from
the face's bits by SHAKE-256), and the point that is published is q's image. Under another key, be
it one bit away, the map is an unrelated one and leads to a point anywhere on the sphere.

So a wrong key tells nothing of the face. It does tell that it is wrong: points of faces lie in few
directions, those of wrong keys in all alike, and `Bottleneck.likelihood` separates the two without
error. Whoever has the published pictures can try keys and knows which one was right.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PASSWORD_BITS = 128
"""Bits of a face's key."""
CODE = 1024
"""Dimensions of the hidden point; a power of two, for Hadamard's matrix."""
_STREAM = CODE * 8 + 2 * CODE // 8 + 16
"""Bytes of SHAKE-256 a face: the permutation's sort keys, two rows of signs, two numbers."""


@dataclass
class KeyedMap:
    """The keys of N faces, expanded."""

    order: Tensor
    """(N, CODE) int64 permutations."""
    before: Tensor
    """(N, CODE) float32 in {-1, 1}: signs before the permutation."""
    after: Tensor
    """(N, CODE) float32 in {-1, 1}: signs after it."""
    draws: Tensor
    """(N, 2) float64 in [0, 1): what the identity network draws a person by."""

    def __getitem__(self, rows: slice | Tensor) -> KeyedMap:
        return KeyedMap(self.order[rows], self.before[rows], self.after[rows], self.draws[rows])

    def filled(self, count: int) -> KeyedMap:
        """Return `count` keys: these, then the first one again."""
        rows = torch.arange(count)
        return self[torch.where(rows < len(self.order), rows, 0)]


def expand(bits: NDArray[np.uint8], bound: str = "") -> KeyedMap:
    """Expand the bits of some faces to their keys.

    Args:
        bits: (N, 128) of 0 and 1.
        bound: public text that the key is bound to, such as the attributes asked for; with other
            text the key is another one.
    """
    assert bits.ndim == 2 and bits.shape[1] == PASSWORD_BITS
    packed = np.packbits(bits.astype(np.uint8), axis=1)
    head = b"deid sdn 1\0" + bound.encode() + b"\0"
    streams = b"".join(hashlib.shake_256(head + row.tobytes()).digest(_STREAM) for row in packed)
    raw = np.frombuffer(streams, np.uint8).reshape(len(bits), _STREAM)
    sort_keys = np.ascontiguousarray(raw[:, : CODE * 8]).view("<u8")
    signs = np.unpackbits(raw[:, CODE * 8 : CODE * 8 + 2 * CODE // 8], axis=1).astype(np.float32)
    numbers = np.ascontiguousarray(raw[:, -16:]).view("<u8") >> np.uint64(11)
    before, after = np.split(1 - 2 * signs, 2, axis=1)
    return KeyedMap(
        torch.from_numpy(np.argsort(sort_keys, axis=1, kind="stable")),
        torch.from_numpy(np.ascontiguousarray(before)),
        torch.from_numpy(np.ascontiguousarray(after)),
        torch.from_numpy(numbers.astype(np.float64) / 2.0**53),
    )


def random_keys(count: int, generator: torch.Generator) -> KeyedMap:
    """Draw keys that belong to no password, for training."""
    order = torch.rand(count, CODE, generator=generator).argsort(1)
    signs = torch.randint(0, 2, (2, count, CODE), generator=generator).float() * 2 - 1
    draws = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    return KeyedMap(order, signs[0], signs[1], draws)


@cache
def hadamard() -> Tensor:
    """Return Hadamard's matrix (CODE, CODE), float32, symmetric and orthonormal (Sylvester's
    construction)."""
    matrix = torch.ones(1, 1)
    while len(matrix) < CODE:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    scaled: Tensor = matrix / CODE**0.5
    return scaled


def lock(points: Tensor, keys: KeyedMap) -> Tensor:
    """Map (N, CODE) points by the keys' orthogonal maps. Differentiable."""
    mixing = hadamard().to(points)
    mixed = (points * keys.before.to(points)) @ mixing
    out: Tensor = (mixed.gather(1, keys.order.to(points.device)) * keys.after.to(points)) @ mixing
    return out


def unlock(points: Tensor, keys: KeyedMap) -> Tensor:
    """Undo `lock`."""
    mixing = hadamard().to(points)
    mixed = (points @ mixing) * keys.after.to(points)
    back = torch.zeros_like(mixed).scatter(1, keys.order.to(points.device), mixed)
    out: Tensor = (back @ mixing) * keys.before.to(points)
    return out
