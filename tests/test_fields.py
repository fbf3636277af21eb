"""Settings from text, and what is said of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from deidcli.errors import UsageError
from deidcli.fields import Described, describe_fields, field_docs, parse_fields


@dataclass(frozen=True)
class Sizes:
    """What is parsed."""

    count: int = 3
    """How
    many."""
    share: float = 0.5
    kind: Literal["a", "b"] = "a"
    """Which."""
    on: bool = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("count has to be 1 or more")


def test_text_becomes_what_the_field_is() -> None:
    given = {"count": "7", "share": "1e-3", "kind": "b", "on": "Yes"}
    assert parse_fields("sizes", Sizes, given) == Sizes(7, 0.001, "b", True)
    assert parse_fields("sizes", Sizes, {}) == Sizes()
    assert parse_fields("sizes", Sizes, {"on": "0"}).on is False


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("count", "1.5", "not a whole number"),
        ("share", "inf", "not a finite number"),
        ("share", "nan", "not a finite number"),
        ("kind", "c", "not known"),
        ("on", "maybe", "not true or false"),
        ("count", "0", "has to be 1 or more"),
        ("size", "1", "no setting 'size'"),
    ],
)
def test_what_it_is_not_is_refused(key: str, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_fields("sizes", Sizes, {key: text})


def test_fields_are_described_by_what_stands_under_them() -> None:
    assert field_docs(Sizes) == {"count": "How many.", "kind": "Which."}
    assert describe_fields(Sizes) == [
        Described("count", "int", "3", "How many."),
        Described("share", "float", "0.5", ""),
        Described("kind", "a|b", "a", "Which."),
        Described("on", "bool", "False", ""),
    ]
