"""Our own weights: those that we ship, and those that DEID_WEIGHTS names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deidcli.errors import DeidError
from deidcli.training.weight_files import write_own_weights
from deidcli.weights import own
from deidcli.weights.own import checked_card, how_to_mend, own_cards, own_weights, weights_folder
from tests.conftest import ROOT

CARD = {"kind": "dae", "trained_on": "", "command": "", "license": "MIT", "input": {}}


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in DEID_WEIGHTS with one file of the kind dae."""
    write_own_weights(tmp_path, "dae-mine", {"a": torch.ones(2)}, CARD)
    monkeypatch.setenv("DEID_WEIGHTS", str(tmp_path))
    return tmp_path


def test_every_shipped_file_has_a_card_and_its_bytes() -> None:
    assert weights_folder() == ROOT / "weights"
    cards = own_cards()
    shipped = {path.name for path in weights_folder().glob("*.safetensors")}
    assert {card.file for card in cards.values()} == shipped
    for name, card in cards.items():
        assert checked_card(name) == card
        assert card.license and card.trained_on and card.command and card.input, name
        assert how_to_mend(card) == "reinstall deidcli"


def test_a_kind_that_is_given_hides_the_shipped_ones_of_it_alone(given: Path) -> None:
    cards = own_cards()
    assert [card.name for card in cards.values() if card.kind == "dae"] == ["dae-mine"]
    assert {"attributes", "eae", "a3gan", "sdn"} <= {card.kind for card in cards.values()}
    tensors, card = own_weights("dae-mine")
    assert tensors["a"].tolist() == [1.0, 1.0] and card.folder == given
    assert how_to_mend(card) == own.GIVEN_HINT


def test_changed_missing_and_unknown_weights_are_refused(given: Path) -> None:
    with pytest.raises(DeidError, match=r"no weights are called nothing .*dae-mine"):
        own_weights("nothing")
    path = given / "dae-mine.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for load in (own_weights, checked_card):
        with pytest.raises(DeidError, match=r"not those of its card .*DEID_WEIGHTS"):
            load("dae-mine")
    path.unlink()
    with pytest.raises(DeidError, match="are not at"):
        own_weights("dae-mine")


def test_a_folder_without_readable_cards_is_refused(given: Path) -> None:
    cards = given / "weights.toml"
    cards.write_text("[dae-mine\n")
    with pytest.raises(DeidError, match="cannot be read"):
        own_cards()
    cards.write_text('[dae-mine]\nfile = "a"\n')  # most of a card is missing
    with pytest.raises(DeidError, match="cannot be read"):
        own_cards()
    cards.unlink()
    with pytest.raises(DeidError, match=r"no weights\.toml"):
        own_cards()


def test_weights_of_a_wheel_come_before_those_of_a_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "deidcli"
    monkeypatch.setattr(own, "__file__", str(package / "weights" / "own.py"))
    with pytest.raises(DeidError, match=r"no weights\.toml in .*reinstall"):
        weights_folder()
    for folder in (tmp_path / "weights", package / "_weights"):
        folder.mkdir(parents=True)
        (folder / "weights.toml").write_text("")
        assert weights_folder() == folder
