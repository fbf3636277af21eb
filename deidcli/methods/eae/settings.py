"""The settings of `eae`, and what is known of it before a network is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from deidcli.celeba import LETTERS, parse_attributes
from deidcli.errors import UsageError
from deidcli.methods.base import Facts
from deidcli.weights.own import own_cards

SizeName = Literal["compact", "paper"]
Network = Literal["prn", "sprn"]


@dataclass(frozen=True)
class EaeSettings:
    """Settings of eae."""

    attrs: str = "GSBE"
    """The attributes that the picture keeps: letters of G S B E Y; --attrs sets it."""
    network: Network = "prn"
    """prn: the embedded autoencoders. sprn: the paper's ablation, one autoencoder, NOT private."""
    size: SizeName = "compact"
    """compact: computed at 112 px, each pixel doubled. paper: computed at 224 px."""

    def __post_init__(self) -> None:
        try:
            parse_attributes(self.attrs)
        except UsageError as error:
            raise ValueError(error.message) from None


def letters_of(attributes: Sequence[str]) -> str:
    """Return the name of a set of attributes, given CelebA's names: letters in the order of
    LETTERS, or the names joined with `+` where one of them has no letter."""
    order = {name: letter for letter, name in LETTERS.items()}
    if all(name in order for name in attributes):
        return "".join(letter for letter in LETTERS if LETTERS[letter] in attributes)
    return "+".join(sorted(attributes))


def names_of(letters: str) -> tuple[str, ...]:
    """Return CelebA's names of a set, in the order of the units of its internal code."""
    return parse_attributes(letters.replace("+", ","))


def card_name(size: str, part: str) -> str:
    """Return the name of a part's weights, such as `eae-compact-GSBE`."""
    return f"eae-{size}-{part}"


def card_of(settings: EaeSettings) -> str:
    """Return the name of the weights that serve the settings' set of attributes.

    Raises:
        UsageError: there are none.
    """
    letters = letters_of(parse_attributes(settings.attrs))
    sprn = "sprn-" if settings.network == "sprn" else ""
    name, stem = card_name(settings.size, sprn + letters), card_name(settings.size, sprn)
    cards = own_cards()
    if name in cards:
        return name
    parts = {card.removeprefix(stem) for card in cards if card.startswith(stem)}
    sets = sorted(part for part in parts - {"fsn", "external"} if not part.startswith("sprn-"))
    part = " --set part=sprn" if sprn else ""
    raise UsageError(
        f"eae has no {settings.size} weights of {settings.network} for the attributes {letters}",
        f"there are: {', '.join(sets) or 'none'}; or train them: "
        f"deid train eae DATA --attrs {letters} --size {settings.size}{part}",
    )


class EaeFacts(Facts):
    """A picture without a face, from which only the asked attributes can be read."""

    settings: EaeSettings
    whole_chips = True

    @classmethod
    def warning(cls, settings: EaeSettings) -> str | None:
        """Return a warning for the ablation, which exists to be measured."""
        return "eae with network=sprn does NOT protect" if settings.network == "sprn" else None

    @classmethod
    def weights(cls, settings: EaeSettings) -> tuple[str, ...]:
        """Return the names of the weight files that these settings load.

        Raises:
            UsageError: there are no weights for the settings' set of attributes.
        """
        name = card_of(settings)
        if settings.network == "sprn":
            return (name,)
        return (card_name(settings.size, "external"), name)
