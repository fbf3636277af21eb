"""Passphrases, and the keys and bits derived from them.

passphrase -> scrypt (salt and cost in manifest.json) -> one key per use -> each face's bits.

The passphrase is used once, in the command's own process, and never stored. Workers get the keys,
through the pipe that sends them their work. Anyone with OUT can test guesses of the passphrase:
against the seal, against `sealed/geometry.parquet`, or by how faces come out (docs/restore.md).
"""

from __future__ import annotations

import os
import re
import stat
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from deidcli.errors import DeidError, UsageError

if TYPE_CHECKING:
    pass

ENVIRONMENT = "DEID_PASSWORD"
LONGEST = 1 << 16
"""Maximum bytes of a passphrase; a larger file was chosen by mistake."""


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
