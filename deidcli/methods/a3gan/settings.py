"""The settings of `a3gan`, and what is known of it before a network is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deidcli.celeba import parse_attributes
from deidcli.errors import UsageError
from deidcli.methods.base import Facts
from deidcli.weights.own import own_cards

ATTRIBUTES = (
    *("Bangs", "Blond_Hair", "Brown_Hair", "Bushy_Eyebrows", "Male"),
    *("Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "Pale_Skin", "Young"),
)
"""The ten attributes of the mask, in its order (appendix D); CelebA's names."""
EXTRA_ATTRIBUTES = ("Smiling", "Eyeglasses")
"""Two more that the mask does not name and training does not change."""
READ_ATTRIBUTES = (*ATTRIBUTES, *EXTRA_ATTRIBUTES)
"""What --attrs may name."""
PRESETS: dict[str, tuple[str, ...]] = {
    "0": (),
    "1": ("Male",),
    "3": ("Male", "Mustache", "Pale_Skin"),
    "5": ("Blond_Hair", "Male", "Mustache", "Pale_Skin", "Young"),
    "10": ATTRIBUTES,
}
"""Which attributes may change in the paper's A3GAN-0 to A3GAN-10 (appendix D)."""

SizeName = Literal["compact", "paper"]
VariantName = Literal["full", "stu", "no-scu", "no-mask", "no-adain"]


@dataclass(frozen=True)
class A3ganSettings:
    """The settings of the method `a3gan`."""

    change: str = ""
    """Which of the ten attributes may change: a preset (0, 1, 3, 5, 10) or CelebA's names,
    separated by commas; empty: none, or with --attrs all that it does not name."""
    attrs: str = ""
    """The attributes that are kept, of the ten, Smiling and Eyeglasses; --attrs sets it."""
    size: SizeName = "compact"
    """compact: what a CPU trains, shipped. paper: tables 2 to 4, which you train yourself."""
    veil: bool = True
    """Average the head over cells of 8 px before the encoder sees it. Without, the shipped networks
    let the person through."""
    variant: VariantName = "full"
    """full, or an ablation of table 1 (stu, no-scu, no-mask, no-adain), which you train."""

    def __post_init__(self) -> None:
        try:
            self.changing()
        except UsageError as error:
            raise ValueError(error.message) from None

    def changing(self) -> tuple[str, ...]:
        """Return those of the ten attributes that may change, in the order of ATTRIBUTES.

        Raises:
            UsageError: a name is unknown, or one is both to be kept and to change.
        """
        kept = parse_attributes(self.attrs)
        if unknown := [name for name in kept if name not in READ_ATTRIBUTES]:
            raise UsageError(
                f"a3gan cannot keep {', '.join(unknown)}: not one of {', '.join(READ_ATTRIBUTES)}"
            )
        if self.attrs and not self.change:
            return tuple(name for name in ATTRIBUTES if name not in kept)
        free = changing(self.change or "0")
        if both := [name for name in free if name in kept]:
            raise UsageError(f"{', '.join(both)}: to be kept by --attrs and to change by change=")
        return free


def changing(change: str) -> tuple[str, ...]:
    """Return the attributes that a preset or a list of names allows to change.

    Args:
        change: a key of PRESETS, or names separated by commas.

    Returns:
        Names in the order of ATTRIBUTES.

    Raises:
        UsageError: `change` is neither.
    """
    names = list(PRESETS.get(change, ()))
    if change not in PRESETS:
        names = [part.strip() for part in change.split(",") if part.strip()]
    if unknown := [name for name in names if name not in ATTRIBUTES]:
        raise UsageError(
            f"change={change}: {', '.join(unknown)} is neither a preset ({', '.join(PRESETS)}) nor "
            f"one of {', '.join(ATTRIBUTES)}"
        )
    return tuple(name for name in ATTRIBUTES if name in names)


def weights_name(size: str, variant: str) -> str:
    """Return the name of a weight file: `a3gan-compact`, or `a3gan-compact-stu` for an ablation."""
    return f"a3gan-{size}" if variant == "full" else f"a3gan-{size}-{variant}"


class A3ganFacts(Facts):
    """Somebody else in the same picture; a mask says which attributes change."""

    settings: A3ganSettings
    whole_chips = True

    @classmethod
    def kept(cls, settings: A3ganSettings) -> tuple[str, ...]:
        """Return the attributes whose labels still hold: the ten without those that may change,
        and what --attrs names beside them."""
        free = settings.changing()
        names = [name for name in ATTRIBUTES if name not in free]
        return (*names, *(n for n in parse_attributes(settings.attrs) if n not in names))

    @classmethod
    def warning(cls, settings: A3ganSettings) -> str:
        """Return what a run says when it starts."""
        whole = "" if settings.veil else " With veil=false most people stay recognizable."
        return (
            "a3gan's shipped networks are at the beginning of their training: soft faces, the same "
            f"person for every seed, and the mask changes little.{whole} For use take surrogate"
        )

    @classmethod
    def weights(cls, settings: A3ganSettings) -> tuple[str, ...]:
        """Return the name of the weight file that these settings load.

        Raises:
            UsageError: there is no such file.
        """
        name = weights_name(settings.size, settings.variant)
        cards = own_cards()
        if name not in cards:
            there = ", ".join(card for card in cards if card.startswith("a3gan-"))
            raise UsageError(
                f"there are no weights {name}",
                f"there are: {there or 'none'}; train them with `deid train a3gan` and set "
                "DEID_WEIGHTS to its folder",
            )
        return (name,)
