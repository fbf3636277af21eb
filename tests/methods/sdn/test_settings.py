"""sdn: what can be asked for, and what is refused."""

from __future__ import annotations

import pytest

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import UsageError
from deidcli.methods import load_method
from deidcli.methods.sdn.method import SecureDualNetwork
from deidcli.methods.sdn.settings import canonical, parse_degrees, parse_wanted


def test_text_of_what_is_asked_for() -> None:
    assert parse_wanted("S:0, Male:1") == {"Smiling": False, "Male": True}
    assert parse_degrees("Smiling:+2,Mustache:-0.5") == {"Smiling": 2.0, "Mustache": -0.5}
    assert canonical({"Smiling": False, "Male": True}, {"Young": -1.0}) == (
        "Male:1,Smiling:0,Young:-1"
    )
    for wrong in ("Male:2", "Male", "Male:yes"):
        with pytest.raises(ValueError, match="1 or 0"):
            parse_wanted(wrong)
    with pytest.raises(ValueError, match="-2 to 2"):
        parse_degrees("Smiling:3")


@pytest.mark.parametrize("option", ["wanted=Happy:1", "shift=Smiling:5", "strength=90"])
def test_settings_that_cannot_be_are_usage_errors(option: str) -> None:
    key, _, value = option.partition("=")
    with pytest.raises(UsageError):
        load_method("sdn", {key: value}, "cpu")


def test_attributes_without_a_direction_are_an_error(method: SecureDualNetwork) -> None:
    weights = method.identity.steps.clone()
    column = CELEBA_ATTRIBUTES.index("Bald")
    try:
        method.identity.steps[column] = 0
        method.wanted = {"Bald": True}
        with pytest.raises(UsageError, match="no direction for Bald"):
            method._check_directions()
    finally:
        method.identity.steps.copy_(weights)
        method.wanted = {}
