"""Lists of inputs, and addresses that are none."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from deidcli.errors import UsageError
from deidcli.pipeline.inputs import with_list
from tests.conftest import Outcome

Deid = Callable[..., Outcome]


def test_lists_that_are_none() -> None:
    assert with_list(["a", "-", "b"], io.BytesIO(b"x\n\ny z\n")) == ["a", "x", "y z", "b"]
    with pytest.raises(UsageError, match="once"):
        with_list(["-", "-"], io.BytesIO(b"x"))
    with pytest.raises(UsageError, match="no path"):
        with_list(["-"], io.BytesIO(b"\n\n"))
    with pytest.raises(UsageError, match="stdin"):
        with_list(["-"], None)


@pytest.mark.parametrize("address", ["s3://bucket/x", "https://a.org/b.zip", "hf://datasets/a/b"])
def test_an_address_gets_a_sentence(address: str, deid: Deid) -> None:
    outcome = deid("anonymize", address)
    assert outcome.code == 1
    assert f"{address} is an address" in outcome.stderr and "download" in outcome.stderr
