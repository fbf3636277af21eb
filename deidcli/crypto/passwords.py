"""Passphrases, and the keys and bits that are made of them.

passphrase -> scrypt (salt and cost in manifest.json) -> one key for each use -> each face's bits.

The passphrase itself is used once, in the process of the command, and is kept nowhere. What
workers get are the keys, through the pipe that brings them their work. OUT holds nothing that
tells whether a passphrase is right, unless the run was sealed.
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
"""Bytes of a passphrase at most: a file beyond it was given by mistake."""

SCRYPT_N = 1 << 17
"""scrypt's cost: 128 MiB and about 0.5 s a guess on one core. With r and p as in Percival and
Josefsson, RFC 7914."""
SCRYPT_R = 8
SCRYPT_P = 1
COSTS = (1 << 14, 1 << 20)
"""What a manifest may ask for: at most 1 GiB, so that a forged one cannot exhaust the machine."""
SALT_BYTES = 16
FACE_BITS = 128
"""Bits that a network gets for one face."""


# ---------------------------------------------------------------------------- the passphrase


def take_environment() -> str | None:
    """The passphrase from DEID_PASSWORD, which is gone from the environment afterwards.

    Before any other process is started: a child's environment can be read in the process list.
    """
    found = os.environ.pop(ENVIRONMENT, None)
    if found is not None:
        _wipe_environment()
    return found


def _wipe_environment() -> None:
    """Overwrite the passphrase in the block that this process was started with.

    Linux shows that block in `ps e` for as long as the process lives, whatever it does with its
    variables. Where the system has no such files there is nothing to wipe, or no way to.
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
    """The passphrase, from a file, else from the environment, else asked for without echo.

    Args:
        environment: what `take_environment` found.
        twice: a new one: ask two times and compare, and refuse one that is soon guessed.

    Raises:
        UsageError: there is none, it is empty or weak, or its file can be read by others.
        DeidError: the file cannot be read, or the two that were typed differ.
    """
    found = _find_passphrase(file, environment, twice)
    if twice:
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
    """The content of a file that none but its owner can read."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode  # of what was opened, not of what is there now
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
    """The passphrase as UTF-8 in one spelling, so that every keyboard gives the same bytes."""
    if not data:
        raise UsageError(f"{what} is empty", "give one that nobody can guess")
    if len(data) > LONGEST:
        raise UsageError(f"{what} is longer than {LONGEST} bytes", "is it the right file?")
    try:
        return unicodedata.normalize("NFC", data.decode("utf-8")).encode()
    except UnicodeDecodeError:
        pass
    # Outside of the handler: that error holds the passphrase.
    raise UsageError(f"{what} is not UTF-8 text", "give a passphrase of words")


def check_strength(passphrase: bytes) -> None:
    """A floor, no proof of strength: what guessers try first is refused.

    Raises:
        UsageError: shorter than SHORTEST characters, of fewer than DIFFERENT different ones, one
            piece again and again, a run of neighbors (abc, 321), or a password that is
            among the most common with digits and signs around it.
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
"""Characters of a new passphrase at least, after NFC."""
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
    """Return whether nothing is left of it but common passwords, digits and signs."""
    core = re.sub(r"^[\W\d_]+|[\W\d_]+$", "", text)
    for spelling in (text, core.translate(_LOOKALIKES)):
        letters = "".join(char for char in spelling if char.isalpha())
        if re.fullmatch(f"({'|'.join(sorted(_COMMON, key=len, reverse=True))}){{1,2}}", letters):
            return True
    return False


# ---------------------------------------------------------------------------- keys


@dataclass(frozen=True)
class Kdf:
    """How a passphrase becomes a key; recorded in manifest.json."""

    salt: bytes
    n: int
    r: int = SCRYPT_R
    p: int = SCRYPT_P

    @classmethod
    def from_dict(cls, values: Any) -> Kdf:
        """What `as_dict` gave.

        Raises:
            DeidError: not that, or a cost that no run of deid asks for.
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
        """Plain values for JSON."""
        return {"kdf": "scrypt", "n": self.n, "r": self.r, "p": self.p, "salt": self.salt.hex()}


@dataclass(frozen=True, repr=False)
class Keys:
    """32 bytes for each use of a passphrase. No repr: none of them may reach a log."""

    network: bytes
    """Each face's bits follow from it."""
    seal: bytes
    """AES-256-GCM of the sealed originals."""
    seal_nonce: bytes
    manifest: bytes
    """Authenticates the manifest of a sealed output."""
    geometry: bytes
    """AES-256-GCM of where faces were."""
    verifier: bytes
    """Kept in OUT.private, so that a run is not continued with another passphrase."""


def derive(passphrase: bytes, kdf: Kdf) -> Keys:
    """The keys of a passphrase. Takes 128 bytes * n * r of memory."""
    root = hashlib.scrypt(
        passphrase, salt=kdf.salt, n=kdf.n, r=kdf.r, p=kdf.p, dklen=32,
        maxmem=256 * kdf.r * kdf.n,
    )  # fmt: skip
    labels = ("network", "seal", "seal nonce", "manifest", "geometry", "verifier")
    return Keys(*(keyed_hash(root, label) for label in labels))


def keyed_hash(key: bytes, label: str, data: bytes = b"") -> bytes:
    """HMAC-SHA256, 32 bytes; the label keeps apart what one key is used for.

    With a key from scrypt and no data this is one block of HKDF-Expand (RFC 5869, sec. 2.3).
    """
    return hmac.new(key, b"deid 1 " + label.encode() + b"\0" + data, hashlib.sha256).digest()


def new_kdf(secret: bytes) -> Kdf:
    """The salt of a run, from the run's own secret, and today's cost."""
    return Kdf(keyed_hash(secret, "salt")[:SALT_BYTES], SCRYPT_N)


# ---------------------------------------------------------------------------- faces


def face_nonce(secret: bytes, seed: int) -> str:
    """What is published with a face, so that its bits can be made again: 32 hex digits.

    From the run's secret and not from the passphrase: whoever knows the source's names could
    try passphrases on it otherwise, and would learn which is right.

    Args:
        seed: `settings.face_seed` of the face.
    """
    return keyed_hash(secret, "nonce", seed.to_bytes(8, "little"))[:16].hex()


def face_bits(keys: Keys, nonces: Sequence[str]) -> NDArray[np.uint8]:
    """(N, FACE_BITS) uint8 of 0 and 1: each face's own password.

    One face's bits tell nothing of another's: HMAC-SHA256 is one way.

    Raises:
        ValueError: a nonce is not hex.
    """
    import numpy as np

    rows = [keyed_hash(keys.network, "bits", bytes.fromhex(nonce)) for nonce in nonces]
    bits = np.frombuffer(b"".join(rows), np.uint8).reshape(len(nonces), 32)
    return np.unpackbits(bits[:, : FACE_BITS // 8], axis=1)
