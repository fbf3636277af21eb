"""The exceptions for users to read, and the exit codes of the command line."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every `deid` command."""

    DONE = 0
    FAILED = 1
    """Failed; one line on stderr says why and how to fix it."""
    USAGE = 2
    SOME_INPUTS_FAILED = 3
    """Done, but at least one input could not be read or de-identified. Those were withheld."""
    STOPPED = 130
    """Ctrl-C; as in shells, 128 plus the number of the signal."""


class DeidError(Exception):
    """A problem that the user can fix.

    `message` says what is wrong, `hint` how to fix it; both are single lines. Neither may contain a
    password or a picture's content.
    """

    code = ExitCode.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[type[DeidError], tuple[str, ...]]:
        return (type(self), (self.message, self.hint))


class UsageError(DeidError):
    """An option or value that deid does not know."""

    code = ExitCode.USAGE


class Stopped(DeidError):
    """Ctrl-C."""

    code = ExitCode.STOPPED

    def __init__(self, hint: str = "") -> None:
        super().__init__("stopped", hint)

    def __reduce__(self) -> tuple[type[DeidError], tuple[str, ...]]:
        return (type(self), (self.hint,))


def plural(count: int, noun: str) -> str:
    """Return "1 picture" or "2 pictures"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def words(error: Exception) -> str:
    """Format an exception as one line for an input's record; libraries may quote the input."""
    if isinstance(error, DeidError):
        return error.message
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
