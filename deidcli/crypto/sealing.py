"""`--seal`: store the original pixels of each replaced region, encrypted, beside the pictures.

Each region is encrypted with AES-256-GCM under one key of the run. Its nonce is derived from the
key, the place and the pixels; its associated data are the run, the published picture and the face.
A MAC over manifest.json, under another key of the same passphrase, binds the rest: through the
manifest's checksums of metadata.parquet and SHA256SUMS it covers every published byte that
restoring uses.

A region's box is encrypted with it, because anyone with a copy of the photograph could recognize it
by the box. So are the face positions, for a method that needs them to restore with the password.

Pixels are not compressed, because a compressed length would reveal which of an attacker's own
pictures is the original.
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

from deidcli.crypto.keys import Keys, keyed_hash
from deidcli.faces.align import Image

CIPHER = "AES-256-GCM"
NONCE_BYTES = 12
"""NIST SP 800-38D, sec. 5.2.1.1: the length that GCM uses without hashing."""
FREE = ("scores", "seal_mac")
"""Keys of manifest.json that the MAC excludes, since `deid score` adds its own later."""

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels, the upper bounds excluded."""


_BOX = np.dtype("<i4")
_BOX_BYTES = 4 * _BOX.itemsize


class Unsealable(Exception):
    """A sealed region is not what the run wrote, or the key is wrong."""


@dataclass(frozen=True)
class SealedFace:
    """One encrypted region."""

    nonce: bytes
    data: bytes
    """The encrypted box (four int32) and RGB pixels (3 bytes each, row by row), then GCM's 16-byte
    tag."""


def seal(keys: Keys, place: Place, box: Box, pixels: Image) -> SealedFace:
    """Encrypt a region of the original.

    GCM breaks when one nonce is used for two different messages. Here the nonce is the first 96
    bits of a keyed hash of everything encrypted and authenticated, including the pixels. A nonce
    thus repeats only for the same region of the same picture (a resumed or repeated run writes the
    same bytes, which reveals nothing new), or by a collision of 96 bits: below 2^-32 for 2^32 faces
    under one key, the limit that SP 800-38D sets for random nonces. Neither a counter nor a source
    of randomness has to survive a kill.

    Args:
        pixels: (y1 - y0, x1 - x0, 3) uint8 RGB.
    """
    bound, plain = place.bound(), np.array(box, _BOX).tobytes() + pixels.tobytes()
    nonce = keyed_hash(keys.seal_nonce, "face", bound + b"\0" + plain)[:NONCE_BYTES]
    return SealedFace(nonce, AESGCM(keys.seal).encrypt(nonce, plain, bound))


def unseal(keys: Keys, place: Place, face: SealedFace) -> tuple[Box, Image]:
    """Decrypt a sealed region: its box and (y1 - y0, x1 - x0, 3) uint8 RGB pixels.

    Raises:
        Unsealable: a bit of the region, the picture's bytes or the key differs.
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
    """The place that a sealed region belongs to."""

    fingerprint: str
    """The fingerprint of the run."""
    picture: str
    """sha256 of the published picture's bytes, hex."""
    face: int
    """The face's index in the picture."""

    @classmethod
    def of(cls, fingerprint: str, data: bytes, face: int) -> Place:
        """Create the place of a face in a published picture from the picture's bytes."""
        return cls(fingerprint, hashlib.sha256(data).hexdigest(), face)

    def bound(self) -> bytes:
        """Return the associated data, as JSON, so that no two places give the same bytes."""
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
    """Seal the changed original pixels of each face in a frame.

    If faces overlap, so do their boxes; all contain pixels of the original frame.

    Args:
        data: the published picture.
        before, after: (H, W, 3) uint8 RGB, the original frame and the one that was encoded.
        areas: for each face, boxes outside of which nothing was written for it.
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
    """Return the smallest box that contains all pixels in which two (H, W, 3) pictures differ.

    It is all zeros if they are equal.
    """
    differs = (before != after).any(axis=2)
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def seal_geometry(
    keys: Keys, fingerprint: str, name: str, affines: NDArray[np.float64]
) -> tuple[bytes, bytes]:
    """Encrypt the face positions of a published picture.

    They are bound to the picture's name instead of its bytes, so that faces of recompressed
    pictures can be restored too. The nonce is derived as in `seal`.

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
    """Decrypt the (N, 6) affines of a published picture's faces.

    Raises:
        Unsealable: a bit of the data, the name, the run or the key differs.
    """
    try:
        plain = AESGCM(keys.geometry).decrypt(nonce, data, _geometry_bound(fingerprint, name))
        return np.frombuffer(plain, "<f8").astype(np.float64).reshape(-1, 6)
    except (InvalidTag, ValueError, TypeError):
        raise Unsealable from None


def _geometry_bound(fingerprint: str, name: str) -> bytes:
    return json.dumps(["deid sealed geometry 1", fingerprint, name]).encode()


def manifest_mac(keys: Keys, record: Mapping[str, Any]) -> str:
    """Return the MAC of a manifest's content: HMAC-SHA256 as hex."""
    values = {key: value for key, value in record.items() if key not in FREE}
    plain = json.loads(json.dumps(values, default=str))
    return keyed_hash(keys.manifest, "manifest", json.dumps(plain, sort_keys=True).encode()).hex()


def is_manifest_of(keys: Keys, record: Mapping[str, Any]) -> bool:
    """Return whether a manifest has the MAC that this passphrase produces."""
    said = str(record.get("seal_mac", "")).encode("utf-8", "replace")
    return hmac.compare_digest(said, manifest_mac(keys, record).encode())
