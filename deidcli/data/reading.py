"""Read input files, and only regular files: a listed path may have changed since."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

LARGEST_FILE = 2 << 30
"""Bytes; larger files are withheld unread."""
BLOCK = 4096
"""Bytes at the head, middle and tail of a file that go into its print."""


class Unreadable(Exception):
    """A file that cannot be read now. The text says why without naming a path.

    `passes` says that the same command may succeed later.
    """

    def __init__(self, reason: str, passes: bool = True) -> None:
        super().__init__(reason)
        self.reason, self.passes = reason, passes


def open_regular(path: str | Path, root: str = "") -> int:
    """Open a regular file without blocking and return its file descriptor.

    Args:
        root: the real path of the folder or file that it must lie inside; empty: links may lead
            anywhere.

    Raises:
        Unreadable: the file is gone, not permitted, a pipe or device, or a link out of the input.
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
    """Check that the opened file itself lies inside root; its name may later lead elsewhere."""
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
    """Run the checks of `open_regular`, for readers that take a path.

    Raises:
        Unreadable: as for `open_regular`.
    """
    os.close(open_regular(path, root))


def read_regular(path: str | Path, root: str = "") -> bytes:
    """Return all bytes of a regular file.

    Raises:
        Unreadable: see `open_regular`; also if larger than LARGEST_FILE or memory.
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
    """Return a cheap fingerprint of a file's content: 32 hex digits from its size and 4 KiB each at
    its head, middle and tail."""
    return _print(len(data), lambda start: data[start : start + BLOCK])


def file_print(path: str | Path) -> str:
    """Return `data_print` of a file, reading only three blocks; empty if it cannot be read."""
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
