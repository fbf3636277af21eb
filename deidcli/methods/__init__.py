"""The table of methods, and what a method is.

A new method is a file or a package in this folder and one line in METHODS.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any, get_type_hints

from deidcli.data.marks import SourceType
from deidcli.errors import UsageError
from deidcli.fields import Described, describe_fields, parse_fields
from deidcli.methods.base import Facts, Method

METHODS: dict[str, str] = {
    "surrogate": "deidcli.methods.surrogate.method:Surrogate",
    "blackout": "deidcli.methods.filters:Blackout",
    "pixelate": "deidcli.methods.filters:Pixelate",
    "blur": "deidcli.methods.filters:Blur",
    "k-same": "deidcli.methods.ksame:KSame",
    "dae": "deidcli.methods.dae.method:DeepAutoencoder",
    "eae": "deidcli.methods.eae.method:EmbeddedAutoencoders",
    "a3gan": "deidcli.methods.a3gan.method:A3gan",
    "sdn": "deidcli.methods.sdn.method:SecureDualNetwork",
}
"""Name on the command line -> `module:Class`. Loaded only when asked for."""

FACTS: dict[str, str] = {
    "surrogate": "deidcli.methods.surrogate.settings:SurrogateFacts",
    "dae": "deidcli.methods.dae.settings:DaeFacts",
    "eae": "deidcli.methods.eae.settings:EaeFacts",
    "a3gan": "deidcli.methods.a3gan.settings:A3ganFacts",
    "sdn": "deidcli.methods.sdn.settings:SdnFacts",
}
"""Where a method's file imports torch: the base of its class that holds its settings and all that
is asked of it before a picture is opened. So that a mistake is refused without loading torch."""


def method_class(name: str) -> type[Method]:
    """The class behind a method's name.

    Raises:
        UsageError: no such method.
    """
    if name not in METHODS:
        raise UsageError(f"there is no method {name!r}", f"one of: {', '.join(METHODS)}")
    found: type[Method] = _loaded(METHODS[name])
    return found


def _loaded(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def method_facts(name: str) -> type[Facts]:
    """The class behind a method's name, or the part of it that needs no torch.

    Raises:
        UsageError: no such method.
    """
    found: type[Facts] = _loaded(FACTS[name]) if name in FACTS else method_class(name)
    return found


def settings_class(name: str) -> type[Any]:
    """The frozen dataclass of a method's settings."""
    facts = method_facts(name)
    hints = get_type_hints(facts if name in FACTS else facts.__init__)
    found: type[Any] = hints["settings"]
    return found


def load_method(name: str, given: Mapping[str, str], device: str) -> Method:
    """Build a method from the text of its `--set key=value` options.

    Raises:
        UsageError: no such method or setting, or a value outside its range.
    """
    settings = parse_settings(name, given)
    build: Any = method_class(name)
    method: Method = build(settings, device)
    return method


def keeps_attributes(name: str) -> bool:
    """Whether a method is told by its setting `attrs`, hence by --attrs, which ones it keeps."""
    return any(field.name == "attrs" for field in dataclasses.fields(settings_class(name)))


def kept_attributes(name: str, settings: Mapping[str, Any]) -> tuple[str, ...] | None:
    """`Facts.kept` from all of a method's settings, as RunSettings has them."""
    return method_facts(name).kept(settings_class(name)(**settings))


def method_weights(name: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """`Facts.weights` from all of a method's settings, as RunSettings has them.

    Raises:
        UsageError: there are no weights for these settings.
    """
    return method_facts(name).weights(settings_class(name)(**settings))


def method_warning(name: str, settings: Mapping[str, Any]) -> str | None:
    """`Facts.warning` from all of a method's settings, as RunSettings has them."""
    return method_facts(name).warning(settings_class(name)(**settings))


def one_seed_a_person(name: str, settings: Mapping[str, Any]) -> bool:
    """`Facts.per_person` from all of a method's settings, as RunSettings has them."""
    return method_facts(name).per_person(settings_class(name)(**settings))


def source_type(name: str, settings: Mapping[str, Any]) -> SourceType:
    """IPTC's word for a picture whose faces a method replaced: its `source_type`; without one, a
    method with weights of ours is a trained model, any other an algorithm.

    Args:
        settings: all of them, as RunSettings has them.
    """
    said = method_facts(name).source_type
    if said is not None:
        return said
    trained = bool(method_weights(name, settings)) if settings else False
    return "compositeWithTrainedAlgorithmicMedia" if trained else "algorithmicallyEnhanced"


def parse_settings(name: str, given: Mapping[str, str]) -> Any:
    """A method's Settings from text; see `load_method`."""
    return parse_fields(name, settings_class(name), given)


def describe_settings(name: str) -> list[Described]:
    """Each of a method's settings."""
    return describe_fields(settings_class(name))
