"""Keys from a passphrase: scrypt, one key a use, the bits of a face."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deidcli.errors import DeidError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCRYPT_N = 1 << 17
"""scrypt's cost: 128 MiB and about 0.5 s per guess on one core. r and p are as in Percival and
Josefsson, RFC 7914."""
SCRYPT_R = 8
SCRYPT_P = 1
COSTS = (1 << 14, 1 << 20)
"""The range of n in a manifest: at most 1 GiB, so that a forged one cannot exhaust memory."""
SALT_BYTES = 16
FACE_BITS = 128
"""Number of bits that a network gets per face."""


# ---------------------------------------------------------------------------- keys


@dataclass(frozen=True)
class Kdf:
    """The key derivation parameters; recorded in manifest.json."""

    salt: bytes
    n: int
    r: int = SCRYPT_R
    p: int = SCRYPT_P

    @classmethod
    def from_dict(cls, values: Any) -> Kdf:
        """Create from the result of `as_dict`.

        Raises:
            DeidError: the values are invalid, or the cost is not one that deid uses.
        """
        try:
            kdf = cls(bytes.fromhex(values["salt"]), *(int(values[key]) for key in "nrp"))
            usual = values["kdf"] == "scrypt" and kdf.n.bit_count() == 1
        except (KeyError, TypeError, ValueError):
            raise DeidError("manifest.json does not say how the password was used") from None
        in_range = COSTS[0] <= kdf.n <= COSTS[1] and (kdf.r, kdf.p) == (SCRYPT_R, SCRYPT_P)
        if not (usual and in_range and len(kdf.salt) == SALT_BYTES):
            raise DeidError("manifest.json asks for another use of the password than deid's")
        return kdf

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"kdf": "scrypt", "n": self.n, "r": self.r, "p": self.p, "salt": self.salt.hex()}


@dataclass(frozen=True, repr=False)
class Keys:
    """A 32-byte key for each use of a passphrase. It has no repr, so that no key reaches a log."""

    network: bytes
    """Each face's bits are derived from it."""
    seal: bytes
    """Key of the sealed originals (AES-256-GCM)."""
    seal_nonce: bytes
    manifest: bytes
    """Authenticates the manifest of a sealed output."""
    geometry: bytes
    """Key of the face positions (AES-256-GCM)."""
    verifier: bytes
    """Stored in OUT.private, so that a run is not resumed with another passphrase."""


def derive(passphrase: bytes, kdf: Kdf) -> Keys:
    """Derive the keys from a passphrase. This takes 128 bytes * n * r of memory."""
    root = hashlib.scrypt(
        passphrase, salt=kdf.salt, n=kdf.n, r=kdf.r, p=kdf.p, dklen=32,
        maxmem=256 * kdf.r * kdf.n,
    )  # fmt: skip
    labels = ("network", "seal", "seal nonce", "manifest", "geometry", "verifier")
    return Keys(*(keyed_hash(root, label) for label in labels))


def keyed_hash(key: bytes, label: str, data: bytes = b"") -> bytes:
    """Return an HMAC-SHA256, 32 bytes; the label separates different uses of one key.

    With a key from scrypt and no data this is one block of HKDF-Expand (RFC 5869, sec. 2.3).
    """
    return hmac.new(key, b"deid 1 " + label.encode() + b"\0" + data, hashlib.sha256).digest()


def new_kdf(secret: bytes) -> Kdf:
    """Return the parameters of a new run: a salt from the run's secret, and the current cost."""
    return Kdf(keyed_hash(secret, "salt")[:SALT_BYTES], SCRYPT_N)


# ---------------------------------------------------------------------------- faces


def face_nonce(secret: bytes, seed: int) -> str:
    """Return the 32 hex digits published with a face, from which its bits can be derived again.

    They are derived from the run's secret and not from the passphrase; otherwise anyone who knows
    the source's names could test passphrases against them.

    Args:
        seed: `settings.face_seed` of the face.
    """
    return keyed_hash(secret, "nonce", seed.to_bytes(8, "little"))[:16].hex()


def face_bits(keys: Keys, nonces: Sequence[str]) -> NDArray[np.uint8]:
    """Return each face's own password: (N, FACE_BITS) uint8 of 0 and 1.

    One face's bits reveal nothing about another's, because HMAC-SHA256 is one-way.

    Raises:
        ValueError: a nonce is not hex.
    """
    import numpy as np

    rows = [keyed_hash(keys.network, "bits", bytes.fromhex(nonce)) for nonce in nonces]
    bits = np.frombuffer(b"".join(rows), np.uint8).reshape(len(nonces), 32)
    return np.unpackbits(bits[:, : FACE_BITS // 8], axis=1)
