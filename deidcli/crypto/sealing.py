"""`--seal`: the exact original pixels of each replaced region, encrypted, beside the pictures.

Each region is AES-256-GCM under one key of the run, its nonce derived from the key, the place and
the pixels, its associated data the run, the published picture and the face. A MAC over
manifest.json, under another key of the same passphrase, binds the rest: through the manifest's
checksums of metadata.parquet and SHA256SUMS it covers every published byte that is put back.

The box of a region is encrypted with it: whoever has a copy of the photograph could tell it by
the box. So is where faces were, for a method that finds them again with the password.

Pixels are not compressed: a compressed length would tell which of an attacker's own pictures is
the original.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from deidcli.crypto.passwords import Keys, keyed_hash
from deidcli.faces.align import Image

CIPHER = "AES-256-GCM"
NONCE_BYTES = 12
"""NIST SP 800-38D, sec. 5.2.1.1: the length that GCM uses as it is."""
FREE = ("scores", "seal_mac")
"""Keys of manifest.json that the MAC leaves out: `deid score` adds its own later."""

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, the upper bounds excluded."""


_BOX = np.dtype("<i4")
_BOX_BYTES = 4 * _BOX.itemsize


class Unsealable(Exception):
    """A sealed region is not what the run wrote, or the key is another."""


@dataclass(frozen=True)
class SealedFace:
    """One encrypted region."""

    nonce: bytes
    data: bytes
    """Encrypted: the box, four int32; then 3 bytes a pixel, row by row, RGB. After it the 16 bytes
    of GCM's tag."""


def seal(keys: Keys, place: Place, box: Box, pixels: Image) -> SealedFace:
    """Encrypt a region of the original.

    GCM breaks when one nonce meets two different messages. Here the nonce is the first 96 bits of
    a keyed hash of all that is encrypted and authenticated, the pixels included. So the same
    nonce comes again only for the same region of the same picture (a resumed or repeated run
    writes the same bytes, which tells nothing new), or by a collision of 96 bits: below 2^-32
    for 2^32 faces under one key, the limit that SP 800-38D sets for random nonces. Neither a
    counter nor a source of randomness has to survive a kill.

    Args:
        pixels: (y1 - y0, x1 - x0, 3) uint8 RGB.
    """
    bound, plain = place.bound(), np.array(box, _BOX).tobytes() + pixels.tobytes()
    nonce = keyed_hash(keys.seal_nonce, "face", bound + b"\0" + plain)[:NONCE_BYTES]
    return SealedFace(nonce, AESGCM(keys.seal).encrypt(nonce, plain, bound))


def unseal(keys: Keys, place: Place, face: SealedFace) -> tuple[Box, Image]:
    """The box of a sealed region, and its (y1 - y0, x1 - x0, 3) uint8 RGB pixels.

    Raises:
        Unsealable: one bit of it, of the picture's bytes or of the key is another.
    """
    try:
        plain = AESGCM(keys.seal).decrypt(face.nonce, face.data, place.bound())
        x0, y0, x1, y1 = (int(value) for value in np.frombuffer(plain[:_BOX_BYTES], _BOX))
        pixels = np.frombuffer(plain[_BOX_BYTES:], np.uint8).reshape(y1 - y0, x1 - x0, 3)
        return (x0, y0, x1, y1), pixels
    except (InvalidTag, ValueError):
        raise Unsealable from None


@dataclass(frozen=True)
class Place:
    """Where a sealed region belongs."""

    fingerprint: str
    """The fingerprint of the run."""
    picture: str
    """sha256 of the published picture's bytes, hex."""
    face: int
    """Which of the picture's faces."""

    @classmethod
    def of(cls, fingerprint: str, data: bytes, face: int) -> Place:
        """A face of a published picture, by that picture's bytes."""
        return cls(fingerprint, hashlib.sha256(data).hexdigest(), face)

    def bound(self) -> bytes:
        """The associated data; JSON, so that no two places give the same bytes."""
        return json.dumps(
            ["deid sealed face 2", self.fingerprint, self.picture, self.face]
        ).encode()


def seal_changes(
    keys: Keys,
    fingerprint: str,
    data: bytes,
    before: Image,
    after: Image,
    areas: Sequence[Sequence[Box]],
) -> tuple[SealedFace, ...]:
    """The original pixels of each face of a frame, as far as they were changed.

    Where faces overlap so do their boxes; all of them hold pixels of the untouched frame.

    Args:
        data: the published picture.
        before, after: (H, W, 3) uint8 RGB, the frame untouched and as it was encoded.
        areas: for each face, the boxes beyond which nothing was written for it.
    """
    first, sealed = Place.of(fingerprint, data, 0), []
    for index, boxes in enumerate(areas):
        left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
        rows = slice(top, max(top, *(box[3] for box in boxes)))
        columns = slice(left, max(left, *(box[2] for box in boxes)))
        x0, y0, x1, y1 = changed_box(before[rows, columns], after[rows, columns])
        box = (x0 + left, y0 + top, x1 + left, y1 + top)
        pixels = np.ascontiguousarray(before[box[1] : box[3], box[0] : box[2]])
        sealed.append(seal(keys, replace(first, face=index), box, pixels))
    return tuple(sealed)


def changed_box(before: Image, after: Image) -> Box:
    """The smallest box that holds all pixels in which two (H, W, 3) pictures differ.

    All zeros where they are equal.
    """
    differs = (before != after).any(axis=2)
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def seal_geometry(
    keys: Keys, fingerprint: str, name: str, affines: NDArray[np.float64]
) -> tuple[bytes, bytes]:
    """Encrypt where the faces of a published picture were.

    It is bound to the picture's name and not to its bytes: faces of recompressed pictures come
    back too. The nonce is made as for `seal`.

    Args:
        affines: (N, 6), frame to chip.

    Returns:
        nonce, data.
    """
    bound, plain = _geometry_bound(fingerprint, name), affines.astype("<f8").tobytes()
    nonce = keyed_hash(keys.geometry, "nonce", bound + b"\0" + plain)[:NONCE_BYTES]
    return nonce, AESGCM(keys.geometry).encrypt(nonce, plain, bound)


def unseal_geometry(
    keys: Keys, fingerprint: str, name: str, nonce: bytes, data: bytes
) -> NDArray[np.float64]:
    """The (N, 6) affines of a published picture's faces.

    Raises:
        Unsealable: one bit of it, the name, the run or the key is another.
    """
    try:
        plain = AESGCM(keys.geometry).decrypt(nonce, data, _geometry_bound(fingerprint, name))
        return np.frombuffer(plain, "<f8").astype(np.float64).reshape(-1, 6)
    except (InvalidTag, ValueError, TypeError):
        raise Unsealable from None


def _geometry_bound(fingerprint: str, name: str) -> bytes:
    return json.dumps(["deid sealed geometry 1", fingerprint, name]).encode()


def manifest_mac(keys: Keys, record: Mapping[str, Any]) -> str:
    """The MAC of a manifest's content, hex: HMAC-SHA256."""
    values = {key: value for key, value in record.items() if key not in FREE}
    plain = json.loads(json.dumps(values, default=str))
    return keyed_hash(keys.manifest, "manifest", json.dumps(plain, sort_keys=True).encode()).hex()


def is_manifest_of(keys: Keys, record: Mapping[str, Any]) -> bool:
    """Return whether a manifest carries the MAC that this passphrase gives it."""
    said = str(record.get("seal_mac", "")).encode("utf-8", "replace")
    return hmac.compare_digest(said, manifest_mac(keys, record).encode())
