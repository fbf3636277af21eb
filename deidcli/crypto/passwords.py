"""Passphrases, and the keys and bits derived from them.

passphrase -> scrypt (salt and cost in manifest.json) -> one key per use -> each face's bits.

The passphrase is used once, in the command's own process, and never stored. Workers get the keys,
through the pipe that sends them their work. Anyone with OUT can test guesses of the passphrase:
against the seal, against `sealed/geometry.parquet`, or by how faces come out (docs/restore.md).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deidcli.errors import DeidError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENVIRONMENT = "DEID_PASSWORD"
LONGEST = 1 << 16
"""Maximum bytes of a passphrase; a larger file was chosen by mistake."""

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


# ---------------------------------------------------------------------------- the passphrase


def take_environment() -> str | None:
    """Return the passphrase from DEID_PASSWORD and remove it from the environment.

    This must run before any other process starts: a child's environment is visible in the process
    list.
    """
    found = os.environ.pop(ENVIRONMENT, None)
    if found is not None:
        _wipe_environment()
    return found


def _wipe_environment() -> None:
    """Overwrite the passphrase in this process's initial environment block.

    Linux shows that block in `ps e` as long as the process lives, even if it changes its variables.
    On systems without these files there is nothing to wipe, or no way to do it.
    """
    name = ENVIRONMENT.encode() + b"="
    try:
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        start, end = int(fields[47]), int(fields[48])  # env_start and env_end, proc(5)
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start)
            at = start
            for entry in memory.read(end - start).split(b"\0"):
                if entry.startswith(name):  # no longer pointed to: the variable is unset
                    memory.seek(at + len(name))
                    memory.write(bytes(len(entry) - len(name)))
                at += len(entry) + 1
    except (OSError, ValueError, IndexError):
        return


def read_passphrase(file: Path | None, environment: str | None, *, twice: bool) -> bytes:
    """Return the passphrase from a file, else the environment, else a prompt without echo.

    Args:
        environment: the result of `take_environment`.
        twice: it is a new passphrase: ask twice, compare, and refuse a weak one.

    Raises:
        UsageError: it is missing, empty or weak, or others can read its file.
        DeidError: the file cannot be read, or the two typed passphrases differ.
    """
    found = _find_passphrase(file, environment, twice)
    if twice:
        check_strength(found)
    return found


def new_passphrase(text: str) -> bytes:
    """Check and normalize a new passphrase from a program, like `read_passphrase` for a typed one.

    Raises:
        UsageError: it is empty or weak.
    """
    found = _clean(os.fsencode(text), "the password")
    check_strength(found)
    return found


def _find_passphrase(file: Path | None, environment: str | None, twice: bool) -> bytes:
    if file is not None:
        return _clean(_read_file(file), f"the password in {file}")
    if environment is not None:
        return _clean(os.fsencode(environment), f"the password in {ENVIRONMENT}")
    if not (sys.stdin and sys.stdin.isatty()):
        raise UsageError(
            "a password is needed and there is no terminal to ask for it",
            f"use --password-file FILE, or set {ENVIRONMENT}",
        )
    return _clean(_ask(twice), "the password")


def _ask(twice: bool) -> bytes:
    from getpass import getpass

    try:
        first = getpass("password: ")
        if twice and getpass("the same again: ") != first:
            raise DeidError("the two passwords differ", "run the command again")
    except (EOFError, KeyboardInterrupt):
        raise DeidError("stopped, no password was given") from None
    return os.fsencode(first)


def _read_file(path: Path) -> bytes:
    """Read a file that only its owner can access."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode  # of the opened file, not of the path
            if stat.S_IMODE(mode) & 0o077:
                raise UsageError(
                    f"{path} can be opened by others than its owner", f"run: chmod 600 {path}"
                )
            data = file.read(LONGEST + 3)
    except OSError as error:
        raise DeidError(
            f"{path} cannot be read: {error.strerror}", "give the file that holds the password"
        ) from None
    for end in (b"\r\n", b"\n"):
        if data.endswith(end):
            return data[: -len(end)]
    return data


def _clean(data: bytes, what: str) -> bytes:
    """Normalize the passphrase to NFC UTF-8, so that every keyboard gives the same bytes."""
    if not data:
        raise UsageError(f"{what} is empty", "give one that nobody can guess")
    if len(data) > LONGEST:
        raise UsageError(f"{what} is longer than {LONGEST} bytes", "is it the right file?")
    try:
        return unicodedata.normalize("NFC", data.decode("utf-8")).encode()
    except UnicodeDecodeError:
        pass
    # Outside of the handler, because that error contains the passphrase.
    raise UsageError(f"{what} is not UTF-8 text", "give a passphrase of words")


def check_strength(passphrase: bytes) -> None:
    """Refuse what guessers try first. This is a minimum, not a proof of strength.

    Raises:
        UsageError: it has fewer than SHORTEST characters or fewer than DIFFERENT distinct ones, or
            it is one repeated piece, a run of neighbors (abc, 321), or one of the most common
            passwords with digits and signs around it.
    """
    text = passphrase.decode("utf-8").casefold()
    cycle = 10 if text.isdecimal() else sys.maxunicode  # 9 is followed by 0
    pairs = zip(text, text[1:], strict=False)
    steps = {(ord(after) - ord(before)) % cycle for before, after in pairs}
    if len(text) < SHORTEST:
        why = f"shorter than {SHORTEST} characters"
    elif any(text == (text[:n] * len(text))[: len(text)] for n in range(1, len(text) // 2 + 1)):
        why = "one piece again and again"
    elif len(steps) == 1:
        why = "a run of neighboring characters"
    elif len(set(text)) < DIFFERENT:
        why = f"of fewer than {DIFFERENT} different characters"
    elif _is_common(text):
        why = "one of the most common"
    else:
        return
    raise UsageError(f"the password is {why}", "take five or more random words")


SHORTEST = 12
"""Minimum number of characters of a new passphrase, after NFC."""
DIFFERENT = 5
_COMMON = frozenset(
    {"password", "passwort", "passphrase", "qwerty", "qwertz", "azerty", "qwertyuiop", "letmein"}
    | {"welcome", "admin", "administrator", "iloveyou", "changeme", "default", "secret", "dragon"}
    | {"monkey", "sunshine", "princess", "football", "baseball", "superman", "trustno", "login"}
    | {"correcthorsebatterystaple", "abcdef", "abcdefgh", "asdfgh", "asdfghjkl", "zxcvbnm", "abc"}
    | {"qwertyuiopasdfghjklzxcvbnm", "deid", "test", "hello", "master", "guest", "root", "user"}
)
_LOOKALIKES = str.maketrans("@0134$!7", "aoieasit")


def _is_common(text: str) -> bool:
    """Return whether it consists only of common passwords, digits and signs."""
    core = re.sub(r"^[\W\d_]+|[\W\d_]+$", "", text)
    for spelling in (text, core.translate(_LOOKALIKES)):
        letters = "".join(char for char in spelling if char.isalpha())
        if re.fullmatch(f"({'|'.join(sorted(_COMMON, key=len, reverse=True))}){{1,2}}", letters):
            return True
    return False


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
