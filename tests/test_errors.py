"""Errors between processes."""

from __future__ import annotations

from deidcli.errors import DeidError, Stopped, UsageError


def test_errors_keep_their_kind_between_processes() -> None:
    import pickle

    for error in (DeidError("a", "b"), UsageError("a", "b"), Stopped("b")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert (again.message, again.hint, again.code) == (error.message, error.hint, error.code)
