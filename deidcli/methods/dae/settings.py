"""The settings of `dae`, and what is known of it before a network is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deidcli.errors import UsageError
from deidcli.methods import base
from deidcli.weights.own import Card, own_cards

Target = Literal["strangers", "supervised", "clusters", "neighbors", "cells", "none"]


@dataclass(frozen=True)
class Settings:
    """Settings of dae."""

    target: Target = "strangers"
    """What the encoder was fine-tuned to produce: the mean of same-attribute neighbors, of which a
    computer-made stranger takes over pose and light (strangers), that mean itself (supervised),
    the center of the face's cluster (clusters), of the n nearest faces the one closest to the
    mean (neighbors), each grid cell's n-th nearest (cells); none: the plain autoencoder. Of
    these, only strangers was measured to protect."""
    deblur: bool = True
    """Sharpen what the decoder gives."""
    smooth: bool = True
    """Take out what faces do not have."""
    blend: bool = True
    """Match the picture's tone at the chip's rim."""
    snap: bool = True
    """Clusters: take the nearest center itself, not what the encoder made of the face, so that
    whoever holds the weights learns no more of a face than which of K it is."""

    def __post_init__(self) -> None:
        if self.target not in Target.__args__:  # type: ignore[attr-defined]
            raise ValueError(f"no target is called {self.target}")


class Facts(base.Facts):
    """The face of somebody who does not exist, of the same sex, expression and pose."""

    settings: Settings
    whole_chips = True
    """Published crops are the chip as it is, without the mask's soft edge."""

    @classmethod
    def weights(cls, settings: Settings) -> tuple[str, ...]:
        """The names of the weight files that these settings load."""
        card = card_of(settings.target)
        return (f"dae-{card.input['network']}", card.name)

    @classmethod
    def warning(cls, settings: Settings) -> str | None:
        """All targets but strangers and snapped clusters leave the person to recognizers."""
        if settings.target == "strangers" or (settings.target == "clusters" and settings.snap):
            return None
        return f"dae with target={settings.target} does NOT protect: see docs/methods/dae.md"


def card_of(target: str) -> Card:
    """The card of the weights of a target.

    Raises:
        UsageError: there are none.
    """
    cards = own_cards()
    if f"dae-{target}" in cards:
        return cards[f"dae-{target}"]
    there = sorted(
        name.removeprefix("dae-")
        for name in cards
        if name.startswith("dae-") and name not in ("dae-fc", "dae-conv")
    )
    raise UsageError(
        f"there are no weights of dae for target={target}",
        f"there are: {', '.join(there) or 'none'}; train them with "
        f"`deid train dae DATA --set target={target}` and set DEID_WEIGHTS to its folder",
    )
