"""The settings of `sdn`, and what is known of it before a network is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from deidcli.celeba import parse_attributes
from deidcli.errors import UsageError
from deidcli.methods.base import Facts
from deidcli.weights.own import own_cards

SizeName = Literal["compact", "paper"]

MOST_DEGREES = 2.0
"""The largest shift either way, degrees (table 4)."""


@dataclass(frozen=True)
class SdnSettings:
    """The settings of sdn."""

    size: SizeName = "compact"
    """compact: 64 px, trained on a CPU. paper: 128 px, near the paper's arithmetic."""
    wanted: str = ""
    """Attributes that the surrogate is to have or not, such as Male:1,Smiling:0; empty: sex,
    expression, glasses and age as they are. Restoring needs the same."""
    shift: str = ""
    """Attributes by which the surrogate is moved, in degrees from -2 to 2, such as Smiling:+2
    (table 4). Restoring needs the same."""
    strength: float = 2.0
    """Root mean square of the pattern that hides the original, gray levels of 255."""

    def __post_init__(self) -> None:
        if not 0.5 <= self.strength <= 8:
            raise ValueError("strength goes from 0.5 to 8")
        try:
            parse_wanted(self.wanted)
            parse_degrees(self.shift)
        except UsageError as error:
            raise ValueError(error.message) from None


def parse_degrees(text: str) -> dict[str, float]:
    """Read `Smiling:+2,Male:-1` as attribute -> degree.

    Raises:
        ValueError: no such attribute, or a degree beyond MOST_DEGREES.
    """
    degrees: dict[str, float] = {}
    for name, value in _pairs(text):
        try:
            degree = float(value)
        except ValueError:
            raise ValueError(f"{value!r} is not a number of degrees") from None
        if not abs(degree) <= MOST_DEGREES:
            raise ValueError(f"degrees go from -{MOST_DEGREES:g} to {MOST_DEGREES:g}")
        degrees[name] = degree
    return degrees


def parse_wanted(text: str) -> dict[str, bool]:
    """Read `Male:1,Smiling:0` as attribute -> whether the surrogate is to have it.

    Raises:
        ValueError: no such attribute, or neither 0 nor 1.
    """
    pairs = _pairs(text)
    if wrong := [value for _, value in pairs if value not in ("0", "1")]:
        raise ValueError(f"an attribute is asked for by 1 or 0, not by {wrong[0]!r}")
    return {name: value == "1" for name, value in pairs}


def canonical(wanted: Mapping[str, bool], shift: Mapping[str, float]) -> str:
    """Return what was asked for as one text, the same for every order of its parts."""
    parts = [f"{name}:{int(value)}" for name, value in sorted(wanted.items())]
    parts += [f"{name}:{value:+g}" for name, value in sorted(shift.items()) if value]
    return ",".join(parts)


def _pairs(text: str) -> list[tuple[str, str]]:
    """Split `NAME:VALUE,...` into CelebA's names and the texts of their values."""
    pairs = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition(":")
        try:
            found = parse_attributes(name.strip())
        except UsageError:
            raise ValueError(f"{part!r}: {name.strip()!r} is not an attribute of CelebA") from None
        if len(found) != 1:
            raise ValueError(f"{part!r} is not of the form NAME:VALUE")
        pairs.append((found[0], value.strip()))
    return pairs


class SdnFacts(Facts):
    """Another face for a password; with the password, `deid restore` brings the face back."""

    settings: SdnSettings
    needs_password = True
    """`Context.bits` must be given: (N, 128) of 0 and 1."""

    @classmethod
    def weights(cls, settings: SdnSettings) -> tuple[str, ...]:
        """Return the name of the weight file that these settings load.

        Raises:
            UsageError: there are no weights of this size.
        """
        name = f"sdn-{settings.size}"
        if name not in own_cards():
            raise UsageError(
                f"there are no weights of sdn for size={settings.size}",
                f"train them with `deid train sdn DATA --size {settings.size}` and set "
                "DEID_WEIGHTS to its folder",
            )
        return (name,)
