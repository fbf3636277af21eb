"""The settings of `dae`, and what is known of the method before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from deidcli.errors import UsageError
from deidcli.methods import base
from deidcli.weights.own import Card, own_cards

Target = Literal["strangers", "supervised", "clusters", "neighbors", "cells", "none"]


@dataclass(frozen=True)
class DaeSettings:
    """The settings of dae."""

    target: Target = "strangers"
    """What the encoder was fine-tuned to produce: the mean of same-attribute neighbors, from which
    a computer-made stranger takes pose and light (strangers); that mean itself (supervised); the
    center of the face's cluster (clusters); of the n nearest faces the one closest to the mean
    (neighbors); each grid cell's n-th nearest (cells); or nothing: the plain autoencoder (none).
    Only strangers was measured to protect."""
    deblur: bool = True
    """Sharpen the decoder's output."""
    smooth: bool = True
    """Remove from the decoder's output what faces do not have."""
    blend: bool = True
    """Match the picture's tone at the chip's rim."""
    snap: bool = True
    """Clusters: publish the nearest center itself instead of what the encoder made of the face, so
    that the published face says no more about the original than which of K clusters it is in."""

    def __post_init__(self) -> None:
        if self.target not in get_args(Target):
            raise ValueError(f"no target is called {self.target}")


class DaeFacts(base.Facts):
    """The face of somebody who does not exist, of the same sex, expression and pose."""

    settings: DaeSettings
    whole_chips = True
    """Published crops are the chip as it is, without the mask's soft edge."""

    @classmethod
    def weights(cls, settings: DaeSettings) -> tuple[str, ...]:
        """Return the names of the two weight files: the shared decoder's and the target's own.

        Raises:
            UsageError: there are no weights for this target.
        """
        card = card_of(settings.target)
        return (f"dae-{card.input['network']}", card.name)

    @classmethod
    def warning(cls, settings: DaeSettings) -> str | None:
        """Return a warning for every target under which recognizers still find the person: all
        except strangers and snapped clusters."""
        if settings.target == "strangers" or (settings.target == "clusters" and settings.snap):
            return None
        return f"dae with target={settings.target} does NOT protect: see docs/methods/dae.md"


def card_of(target: str) -> Card:
    """Return the card of the weights that were trained for a target.

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
