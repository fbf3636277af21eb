"""The table of methods, and what a method is.

A new method is one file in this folder and one line in METHODS.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import math
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from deidcli.celeba import parse_attributes
from deidcli.data.marks import SourceType
from deidcli.errors import UsageError
from deidcli.faces.align import Image, Mask

if TYPE_CHECKING:
    from torch import Tensor

METHODS: dict[str, str] = {
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
    "dae": "deidcli.methods.dae.settings:Facts",
    "eae": "deidcli.methods.eae.settings:Facts",
    "a3gan": "deidcli.methods.a3gan.settings:Facts",
    "sdn": "deidcli.methods.sdn.settings:Facts",
}
"""Where a method's file imports torch: the base of its class that holds its settings and all that
is asked of it before a picture is opened. So that a mistake is refused without loading torch."""


@dataclass(frozen=True)
class Chip:
    """How faces are cut for a method."""

    size: int
    """Side in px."""
    padding: float
    """Share of the mean face's side added on each side; dlib's own chips have 0.25."""


Plan = Mapping[str, NDArray[Any]]
"""What a whole-set method found in its pass over the input: named arrays, the same in every
worker."""


@dataclass(frozen=True)
class PlanFace:
    """One face of the whole set, as `prepare` sees it."""

    seed: int
    """The face's own 64-bit number, from (seed, input key, face index)."""
    chip: Image
    person: str | None
    """The person, where the source says so and the picture shows one face."""


@dataclass(frozen=True)
class Context:
    """What is known about the N faces of a batch beside their pixels."""

    seeds: NDArray[np.uint64]
    """(N,) each face's own number; the only source of randomness."""
    scales: NDArray[np.float64]
    """(N,) chip pixels per frame pixel."""
    plan: Plan | None = None
    bits: NDArray[np.uint8] | None = None
    """(N, 128) of 0 and 1: each face's own password, made of the run's. Only for a method whose
    `needs_password` holds; such a method has `restore(chips, bits) -> chips` too."""


class Method(Protocol):
    """A way to de-identify faces."""

    settings: Any
    """A frozen dataclass, a docstring under each field."""
    chip: Chip
    mask: Mask
    """(S, S): which part of the chip is pasted back, see align.paste."""

    def prepare(self, faces: Iterable[PlanFace]) -> Plan | None:
        """Whole-set methods: one pass over all faces before the first shard; others: None."""

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        """(N, 3, S, S) float32 RGB in [0, 1] -> the same, de-identified."""


Pixels = NDArray[np.float32]
"""(N, S, S, 3) RGB in [0, 1]: chips outside of torch."""


class OnPixels(ABC):
    """The base of a method that needs no network: a run calls `on_pixels` and loads no torch."""

    @abstractmethod
    def on_pixels(self, chips: Pixels, context: Context) -> Pixels:
        """The chips, de-identified."""

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        """The same for tensors, as every method has it."""
        import torch

        out = self.on_pixels(chips.permute(0, 2, 3, 1).cpu().numpy(), context)
        return torch.from_numpy(np.ascontiguousarray(out.transpose(0, 3, 1, 2))).to(chips.device)


def method_class(name: str) -> Any:
    """The class behind a method's name.

    Raises:
        UsageError: no such method.
    """
    if name not in METHODS:
        raise UsageError(f"there is no method {name!r}", f"one of: {', '.join(METHODS)}")
    return _loaded(METHODS[name])


def _loaded(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def method_facts(name: str) -> Any:
    """The class behind a method's name, or the part of it that needs no torch.

    Raises:
        UsageError: no such method.
    """
    if name not in FACTS:
        return method_class(name)
    return _loaded(FACTS[name])


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
    method: Method = method_class(name)(settings, device)
    return method


def needs_prepare(name: str) -> bool:
    """Whether a method looks at the whole set before it starts."""
    return bool(getattr(method_facts(name), "whole_set", False))


def needs_password(name: str) -> bool:
    """Whether a method's faces depend on a password, and come back with it."""
    return bool(getattr(method_facts(name), "needs_password", False))


def keeps_attributes(name: str) -> bool:
    """Whether a method is told by its setting `attrs`, hence by --attrs, which ones it keeps."""
    return any(field.name == "attrs" for field in dataclasses.fields(settings_class(name)))


def kept_attributes(name: str, settings: Mapping[str, Any]) -> tuple[str, ...] | None:
    """What a method's picture keeps, hence which labels may stand beside it; None: all.

    That is its setting `attrs`, or what its classmethod `kept(settings)` says.

    Args:
        settings: all of them, as RunSettings has them.
    """
    if not keeps_attributes(name):
        return None
    said = getattr(method_facts(name), "kept", None)
    if said is None:
        return parse_attributes(settings["attrs"])
    names: tuple[str, ...] = said(settings_class(name)(**settings))
    return names


def method_weights(name: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of our weight files that a method loads: what its classmethod `weights` says.

    Args:
        settings: all of them, as RunSettings has them.

    Raises:
        UsageError: there are no weights for these settings.
    """
    said = getattr(method_facts(name), "weights", None)
    if said is None:
        return ()
    names: tuple[str, ...] = said(settings_class(name)(**settings))
    return names


def method_warning(name: str, settings: Mapping[str, Any]) -> str | None:
    """What must be known of these settings before publishing: the classmethod `warning` says."""
    said = getattr(method_facts(name), "warning", None)
    if said is None:
        return None
    text: str | None = said(settings_class(name)(**settings))
    return text


def source_type(name: str, settings: Mapping[str, Any]) -> SourceType:
    """IPTC's word for a picture whose faces a method replaced: its `source_type`; without one, a
    method with weights of ours is a trained model, any other an algorithm.

    Args:
        settings: all of them, as RunSettings has them.
    """
    said: SourceType | None = getattr(method_facts(name), "source_type", None)
    if said is not None:
        return said
    trained = bool(method_weights(name, settings)) if settings else False
    return "compositeWithTrainedAlgorithmicMedia" if trained else "algorithmicallyEnhanced"


def parse_settings(name: str, given: Mapping[str, str]) -> Any:
    """A method's Settings from text; see `load_method`."""
    return parse_fields(name, settings_class(name), given)


def parse_fields(name: str, cls: type[Any], given: Mapping[str, str]) -> Any:
    """A frozen dataclass from text.

    Args:
        name: what the settings are of, for error messages.

    Raises:
        UsageError: no such setting, or a value outside its range.
    """
    hints = get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]
    values = {}
    for key, text in given.items():
        if key not in names:
            known = ", ".join(names) or "none"
            raise UsageError(f"{name} has no setting {key!r}", f"it has: {known}")
        values[key] = _parse(name, key, text, hints[key])
    try:
        return cls(**values)
    except ValueError as error:
        raise UsageError(f"{name}: {error}", f"see: deid methods {name}") from None


def _parse(name: str, key: str, text: str, kind: Any) -> Any:
    if get_origin(kind) is not None:
        choices = [str(choice) for choice in get_args(kind)]
        if text not in choices:
            raise UsageError(f"{name}: {key}={text} is not known", f"one of: {', '.join(choices)}")
        return text
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
                text.lower()
            ]
        return _finite(kind(text))
    except (ValueError, KeyError, TypeError):
        words = {int: "a whole number", float: "a finite number", bool: "true or false"}
        word = words.get(kind, "a value that the command line can set")
        raise UsageError(
            f"{name}: {key}={text} is not {word}", f"see: deid methods {name}"
        ) from None


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(value)
    return value


def describe_settings(name: str) -> list[tuple[str, str, str, str]]:
    """(name, type, default, docstring) of each of a method's settings."""
    cls = settings_class(name)
    docs = _field_docs(cls)
    hints = get_type_hints(cls)
    rows = []
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        shown = "|".join(map(str, get_args(kind))) if get_origin(kind) else kind.__name__
        rows.append((field.name, shown, str(field.default), docs.get(field.name, "")))
    return rows


def _field_docs(cls: type[Any]) -> dict[str, str]:
    """The docstring that stands under each field of a dataclass."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    docs = {}
    for field, after in zip(body, body[1:], strict=False):
        is_doc = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_doc:
            docs[field.target.id] = " ".join(str(after.value.value).split())  # type: ignore[attr-defined]
    return docs
