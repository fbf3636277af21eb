"""What a long call tells while it works; whoever calls decides what becomes of it."""

from __future__ import annotations


class Reporter:
    """Silent. Made louder by overriding: the command line prints, a program may collect."""

    def note(self, line: str) -> None:
        """Something that the user should know: one line."""

    def loading(self, what: str) -> None:
        """Begins now and may take a second or more: one line."""

    def progress(self, phase: str, done: int, total: int) -> None:
        """`done` more inputs of `total`; the first call of a phase brings what was done before."""
