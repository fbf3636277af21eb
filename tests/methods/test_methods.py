"""What is known of every method without importing it, and its settings."""

from __future__ import annotations

from typing import get_type_hints

import pytest

from deidcli.methods import METHODS, describe_settings


def test_settings_that_trained_methods_share_with_their_facts() -> None:
    """What is known of a method before its network is loaded is what its class says."""
    from deidcli.methods import FACTS, method_class, method_facts, settings_class

    for name in FACTS:
        assert issubclass(method_class(name), method_facts(name))
        assert settings_class(name) is get_type_hints(method_class(name).__init__)["settings"]


def test_names_that_are_known_without_an_import() -> None:
    from deidcli.faces.recognizers import RECOGNIZERS
    from deidcli.settings import RECOGNIZER_NAMES

    assert tuple(RECOGNIZERS) == RECOGNIZER_NAMES


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_is_described(name: str) -> None:
    rows = describe_settings(name)
    assert rows and all(text for _, _, _, text in rows)
