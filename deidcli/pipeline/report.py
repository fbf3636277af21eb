"""Progress reports of a long call; the caller decides what to do with them."""

from __future__ import annotations


class Reporter:
    """A silent reporter to override: the command line prints, a program may collect."""

    def note(self, line: str) -> None:
        """Report something that the user should know, one line."""

    def loading(self, what: str) -> None:
        """Report that something is loading, which may take a second or more, one line."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """Report `done` more inputs of `total`; a phase's first call includes those done before."""
