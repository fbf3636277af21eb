"""Bytes of input files, and nothing but files: what was listed may be something else by now."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

LARGEST_FILE = 2 << 30
"""Bytes; larger files are withheld unread."""
BLOCK = 4096
"""Bytes at the head, in the middle and at the tail of a file that its print is made of."""


class Unreadable(Exception):
    """A file that cannot be read now. The text says why, in words that name no path.

    `passes` says that the same command may well succeed later.
    """

    def __init__(self, reason: str, passes: bool = True) -> None:
        super().__init__(reason)
        self.reason, self.passes = reason, passes


def open_regular(path: str | Path, root: str = "") -> int:
    """A file descriptor of a regular file, opened without waiting for anybody.

    Args:
        root: the real path of the folder or file that it must not lead out of; empty: links may
            lead anywhere.

    Raises:
        Unreadable: gone, not permitted, a pipe or device, or a link out of the input.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise Unreadable("no longer a regular file")
        if root:
            _require_inside(path, root, info)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_inside(path: str | Path, root: str, info: os.stat_result) -> None:
    """The opened file itself must lie inside: its name may lead elsewhere a moment later."""
    real = os.path.realpath(path)
    inside = real == root or real.startswith(root.rstrip("/") + "/")
    try:
        found = Path(real).lstat()
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    same = (found.st_dev, found.st_ino) == (info.st_dev, info.st_ino)
    if not inside or not same:
        raise Unreadable("became a link out of the input (--follow-links follows it)")


def require_regular(path: str | Path, root: str = "") -> None:
    """The checks of `open_regular`, for readers that take a path.

    Raises:
        Unreadable: as there.
    """
    os.close(open_regular(path, root))


def read_regular(path: str | Path, root: str = "") -> bytes:
    """All bytes of a regular file.

    Raises:
        Unreadable: see `open_regular`; or larger than LARGEST_FILE, or than memory.
    """
    with open(open_regular(path, root), "rb", buffering=0) as file:
        try:
            if os.fstat(file.fileno()).st_size > LARGEST_FILE:
                raise Unreadable("the file is larger than 2 GB", passes=False)
            return file.readall()
        except OSError as error:
            raise Unreadable(f"cannot be read: {error.strerror}") from None
        except MemoryError:
            raise Unreadable("cannot be read: no memory") from None


def data_print(data: bytes) -> str:
    """What tells a file's content from another's of the same size, with little reading: 32 hex
    digits of its size and of 4 KiB at its head, in its middle and at its tail."""
    return _print(len(data), lambda start: data[start : start + BLOCK])


def file_print(path: str | Path) -> str:
    """`data_print` of a file, of which three blocks are read; empty where it cannot be read."""
    try:
        descriptor = open_regular(path)
    except Unreadable:
        return ""
    try:
        size = os.fstat(descriptor).st_size
        return _print(size, lambda start: os.pread(descriptor, BLOCK, start))
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def _print(size: int, block: Callable[[int], bytes]) -> str:
    digest = hashlib.sha256(f"{size}\0".encode())
    last = max(0, size - BLOCK)
    for start in dict.fromkeys((0, last // 2, last)):
        digest.update(block(start))
    return digest.hexdigest()[:32]
