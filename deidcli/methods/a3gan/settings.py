"""The settings of `a3gan`, and what is known of it before a network is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deidcli.celeba import parse_attributes
from deidcli.errors import UsageError
from deidcli.methods import base
from deidcli.weights.own import own_cards

ATTRIBUTES = (
    *("Bangs", "Blond_Hair", "Brown_Hair", "Bushy_Eyebrows", "Male"),
    *("Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "Pale_Skin", "Young"),
)
"""The ten of the mask, in its order (appendix D); CelebA's names."""
ALSO = ("Smiling", "Eyeglasses")
"""What a latent is chosen by beside the ten: they would show as another expression or face."""
CHANGE: dict[str, tuple[str, ...]] = {
    "0": (),
    "1": ("Male",),
    "3": ("Male", "Mustache", "Pale_Skin"),
    "5": ("Blond_Hair", "Male", "Mustache", "Pale_Skin", "Young"),
    "10": ATTRIBUTES,
}
"""The paper's A3GAN-0 to -10 (appendix D): what may change."""

SizeName = Literal["compact", "paper", "tiny"]
VariantName = Literal["full", "stu", "no-scu", "no-mask", "no-adain"]


@dataclass(frozen=True)
class Settings:
    """Settings of a3gan."""

    change: str = ""
    """Which of the ten attributes may change: a preset (0, 1, 3, 5, 10) or CelebA's names,
    separated by commas; empty: none, or with --attrs all that it does not name."""
    attrs: str = ""
    """The attributes that are kept, of the ten, Smiling and Eyeglasses; --attrs sets it."""
    latent: Literal["drawn", "normal"] = "drawn"
    """drawn: the latent of a computer-made face with what is to be kept, by the face's own seed.
    normal: from N(0, I), as in the paper, tempered."""
    size: SizeName = "compact"
    """compact: what a CPU trains, shipped. paper: tables 2 to 4, to be trained."""
    variant: VariantName = "full"
    """full, or an ablation of table 1: stu, no-scu, no-mask, no-adain; to be trained."""

    def __post_init__(self) -> None:
        try:
            self.changing()
        except UsageError as error:
            raise ValueError(error.message) from None

    def changing(self) -> tuple[str, ...]:
        """The attributes, of the ten, that may change.

        Raises:
            UsageError: a name that is not known, or one that is to be kept and to change.
        """
        kept = parse_attributes(self.attrs)
        if strange := [name for name in kept if name not in (*ATTRIBUTES, *ALSO)]:
            raise UsageError(
                f"a3gan cannot keep {', '.join(strange)}: not one of {', '.join(ATTRIBUTES + ALSO)}"
            )
        if self.attrs and not self.change:
            return tuple(name for name in ATTRIBUTES if name not in kept)
        free = changing(self.change or "0")
        if both := [name for name in free if name in kept]:
            raise UsageError(f"{', '.join(both)}: to be kept by --attrs and to change by change=")
        return free


def changing(change: str) -> tuple[str, ...]:
    """The attributes that a preset or names let change, in the order of ATTRIBUTES.

    Raises:
        UsageError: neither.
    """
    names = list(CHANGE.get(change, ()))
    if change not in CHANGE:
        names = [part.strip() for part in change.split(",") if part.strip()]
    if strange := [name for name in names if name not in ATTRIBUTES]:
        raise UsageError(
            f"change={change}: {', '.join(strange)} is neither a preset ({', '.join(CHANGE)}) nor "
            f"one of {', '.join(ATTRIBUTES)}"
        )
    return tuple(name for name in ATTRIBUTES if name in names)


def weights_name(size: str, *variant: str) -> str:
    """`a3gan-compact`, or `a3gan-compact-stu` for an ablation."""
    return "-".join(["a3gan", size, *(name for name in variant if name != "full")])


class Facts(base.Facts):
    """A photo-like face of somebody else; a mask says which attributes may change."""

    settings: Settings
    whole_chips = True
    """Published crops are the chip as it is, without the mask's soft edge."""

    @classmethod
    def kept(cls, settings: Settings) -> tuple[str, ...]:
        """The attributes whose labels still hold: the ten without those that may change, and what
        --attrs names beside them."""
        free = settings.changing()
        names = [name for name in ATTRIBUTES if name not in free]
        return (*names, *(n for n in parse_attributes(settings.attrs) if n not in names))

    @classmethod
    def weights(cls, settings: Settings) -> tuple[str, ...]:
        """The name of the weight file that these settings load.

        Raises:
            UsageError: there is none.
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
