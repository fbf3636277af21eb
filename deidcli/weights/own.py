"""Our own weights: safetensors with a card each, in weights/weights.toml."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deidcli.errors import DeidError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Card:
    """What is known of a weight file: one table of weights.toml."""

    name: str
    """The table's name, and the one that `own_weights` takes."""
    folder: Path
    """Where the file lies."""
    file: str
    sha256: str
    kind: str
    """What loads it: `attributes`, or the name of a method."""
    trained_on: str
    command: str
    license: str
    input: dict[str, Any]
    """Side, padding, range and color order of the chips that the network takes."""
    scores: dict[str, Any]
    notes: str = ""


def weights_folder() -> Path:
    """Return the folder of the weights that we ship: in the package, or in the repository."""
    package = Path(__file__).parent.parent
    folders = [package / "_weights", package.parent / "weights"]
    for folder in folders:
        if (folder / "weights.toml").is_file():
            return folder
    raise DeidError(
        f"no weights.toml in {' or '.join(str(folder) for folder in folders)}", "reinstall deidcli"
    )


def own_cards() -> dict[str, Card]:
    """Return the cards of our weight files by name: those that we ship and those in $DEID_WEIGHTS.

    Files of one kind belong together, so a kind that is in $DEID_WEIGHTS hides all that we ship
    of it, and leaves the other kinds.
    """
    shipped = _cards(weights_folder(), "reinstall deidcli")
    given = os.environ.get("DEID_WEIGHTS")
    if not given:
        return shipped
    own = _cards(Path(given), GIVEN_HINT)
    kinds = {card.kind for card in own.values()}
    return {name: card for name, card in shipped.items() if card.kind not in kinds} | own


GIVEN_HINT = "set DEID_WEIGHTS to a whole folder that `deid train` wrote, or unset it"


def _cards(folder: Path, hint: str) -> dict[str, Card]:
    path = folder / "weights.toml"
    if not path.is_file():
        raise DeidError(f"no weights.toml in {folder}", hint)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf8"))
        return {name: Card(name=name, folder=folder, **table) for name, table in tables.items()}
    except (tomllib.TOMLDecodeError, TypeError, UnicodeDecodeError) as error:
        raise DeidError(f"{path} cannot be read: {error}", hint) from None


def how_to_mend(card: Card) -> str:
    """Return what a user can do about a weight file of ours that is missing or altered."""
    return "reinstall deidcli" if card.folder == weights_folder() else GIVEN_HINT


def own_weights(name: str) -> tuple[dict[str, Tensor], Card]:
    """Load one of our weight files, its sha256 checked, and its card.

    Returns:
        Tensors on the CPU as the file holds them (fp16 for most), by name.

    Raises:
        DeidError: no card has this name, or the file is missing or altered.
    """
    data, card = _own_bytes(name)
    from safetensors.torch import load

    return load(data), card


def checked_card(name: str) -> Card:
    """Return the card of one of our weight files after checking its bytes; torch is not loaded.

    Raises:
        DeidError: as `own_weights`.
    """
    return _own_bytes(name)[1]


def _own_bytes(name: str) -> tuple[bytes, Card]:
    cards = own_cards()
    if name not in cards:
        raise DeidError(f"no weights are called {name}", f"choose from {', '.join(cards)}")
    card = cards[name]
    path = card.folder / card.file
    if not path.is_file():
        raise DeidError(f"the weights {name} are not at {path}", how_to_mend(card))
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != card.sha256:
        raise DeidError(f"the bytes of {path} are not those of its card", how_to_mend(card))
    return data, card
