"""The settings of `eae`, and what is known of it before a network is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from deidcli.celeba import LETTERS, parse_attributes
from deidcli.errors import UsageError
from deidcli.methods import base
from deidcli.weights.own import own_cards

SizeName = Literal["compact", "paper"]
Network = Literal["prn", "sprn"]


@dataclass(frozen=True)
class Settings:
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
    """CelebA's names -> the set's name: letters in the order of LETTERS, else names with `+`."""
    order = {name: letter for letter, name in LETTERS.items()}
    if all(name in order for name in attributes):
        return "".join(letter for letter in LETTERS if LETTERS[letter] in attributes)
    return "+".join(sorted(attributes))


def names_of(letters: str) -> tuple[str, ...]:
    """CelebA's names of a set, in the order of its internal code."""
    return parse_attributes(letters.replace("+", ","))


def card_name(size: str, part: str) -> str:
    """`eae-compact-GSBE`: the name of a part's weights."""
    return f"eae-{size}-{part}"


def card_of(settings: Settings) -> str:
    """The name of the weights of a set.

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


class Facts(base.Facts):
    """A picture without a face, from which only the asked attributes can be read."""

    settings: Settings
    whole_chips = True
    """Published crops are the chip as it is, without the mask's soft edge."""

    @classmethod
    def warning(cls, settings: Settings) -> str | None:
        """The ablation is there to be measured."""
        return "eae with network=sprn does NOT protect" if settings.network == "sprn" else None

    @classmethod
    def weights(cls, settings: Settings) -> tuple[str, ...]:
        """The names of the weight files that these settings load."""
        name = card_of(settings)
        if settings.network == "sprn":
            return (name,)
        return (card_name(settings.size, "external"), name)
