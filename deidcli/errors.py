"""The one exception that a user is meant to read, and the exit codes of the command line."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every `deid` command."""

    DONE = 0
    FAILED = 1
    """It could not be done; one line on stderr says what and how to mend it."""
    USAGE = 2
    SOME_INPUTS_FAILED = 3
    """Done, but at least one input could not be read or de-identified. Those were withheld."""
    STOPPED = 130
    """Ctrl-C; as a shell says it: 128 and the number of the signal."""


class DeidError(Exception):
    """Something that the user can mend.

    `message` says what is wrong, `hint` how to mend it; both are single lines. Neither may hold
    a password or a picture's content.
    """

    code = ExitCode.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[DeidError], tuple[str, ...]]:
        return (type(self), (self.message, self.hint))


class UsageError(DeidError):
    """An option or value that the command line does not know."""

    code = ExitCode.USAGE


class Stopped(DeidError):
    """Ctrl-C."""

    code = ExitCode.STOPPED

    def __init__(self, hint: str = "") -> None:
        super().__init__("stopped", hint)

    def __reduce__(self) -> tuple[type[DeidError], tuple[str, ...]]:
        return (type(self), (self.hint,))


def words(error: Exception) -> str:
    """An exception in one line, for the record of an input; what a library said may quote it."""
    if isinstance(error, DeidError):
        return error.message
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
