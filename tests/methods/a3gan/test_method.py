"""The method a3gan with its shipped weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.faces import align, attributes, recognizers
from deidcli.methods import load_method
from deidcli.methods.a3gan.geometry import PADDING
from deidcli.methods.a3gan.method import A3gan
from deidcli.weights import own
from tests.conftest import PEOPLE
from tests.methods.a3gan.conftest import context
from tests.methods.a3gan.switches import SWITCHES, switched_off

POINTS = align.apply_affine(align.chip_from_unit(np.eye(2, 3), 128, PADDING), align.MEAN_FACE_5)
"""The landmarks of a chip, px."""
Names = tuple[str, ...]
JUDGED = ("Male", "Smiling", "Mouth_Slightly_Open", "Young")


def as_pixels(chips: torch.Tensor) -> np.ndarray:
    """(N, 128, 128, 3) uint8."""
    return (chips * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def published(method: A3gan, chips: torch.Tensor, first: int = 1) -> torch.Tensor:
    """The chips as they are laid into their pictures."""
    with torch.inference_mode():
        made = method(chips, context(len(chips), first))
        return torch.lerp(chips, made, torch.from_numpy(method.mask))


def kept(chips: torch.Tensor, made: torch.Tensor, names: Names = JUDGED) -> float:
    """Share of attributes whose value stays, by the attribute classifier, another network."""
    columns = [CELEBA_ATTRIBUTES.index(name) for name in names]
    before, after = (classified(some)[:, columns] for some in (chips, made))
    return float((before == after).mean())


def classified(chips: torch.Tensor) -> np.ndarray:
    """(N, 40) bool."""
    net = classifier()
    cuts = np.stack([attributes.cut(net, chip, POINTS) for chip in as_pixels(chips)])
    return attributes.predict(net, cuts) > 0.5


@cache
def classifier() -> Any:
    return attributes.load()


def embedded(chips: torch.Tensor) -> torch.Tensor:
    cuts = [recognizers.cut("dlib", chip, POINTS) for chip in as_pixels(chips)]
    return torch.from_numpy(recognizers.embed("dlib", cuts))


def apart(chips: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """(N,) dlib's distances; below 0.6 it takes two faces for one person."""
    return (embedded(chips) - embedded(made)).norm(dim=1)


def levels(chips: torch.Tensor, made: torch.Tensor) -> float:
    """Mean difference in the face, levels of 255."""
    return float((chips - made)[:, :, 30:100, 34:94].abs().mean() * 255)


# --- The networks make the face


LEVELS = 6.0
"""What a network that has a part in making the face changes at the least, levels of 255."""


@pytest.mark.parametrize("name", SWITCHES)
def test_each_network_changes_what_is_published(
    name: str, shipped: A3gan, portraits: torch.Tensor
) -> None:
    made = published(shipped, portraits)
    with switched_off(shipped.generator, name):
        other = published(shipped, portraits)
    assert torch.equal(made, published(shipped, portraits)), "the switch is back"
    assert levels(made, other) > LEVELS


@pytest.mark.parametrize("name", ["encoder", "scu", "ainet", "adain", "decoder"])
def test_without_a_network_no_face_or_no_attribute_is_left(
    name: str, shipped: A3gan, portraits: torch.Tensor
) -> None:
    whole = kept(portraits, published(shipped, portraits))
    with switched_off(shipped.generator, name):
        broken = kept(portraits, published(shipped, portraits))
    assert broken < whole - 0.1


def test_open_gates_let_identity_through(shipped: A3gan, portraits: torch.Tensor) -> None:
    shut = apart(portraits, published(shipped, portraits))
    with switched_off(shipped.generator, "scu-gates"):
        opened = apart(portraits, published(shipped, portraits))
    assert float(opened.mean()) < float(shut.mean()) - 0.03


def test_the_mask_turns_sex_and_nothing_else(shipped: A3gan, portraits: torch.Tensor) -> None:
    """Same faces, same latents; only the mask differs."""
    same = published(shipped, portraits)
    turned = published(load_method("a3gan", {"change": "Male"}, "cpu"), portraits)
    assert kept(portraits, same, ("Male",)) >= 0.85
    assert kept(portraits, turned, ("Male",)) <= 0.3
    assert kept(portraits, turned, ("Smiling", "Mouth_Slightly_Open")) >= 0.8


def test_the_mask_turned_round_at_ainet_turns_sex(shipped: A3gan, portraits: torch.Tensor) -> None:
    with switched_off(shipped.generator, "ainet-mask"):
        turned = published(shipped, portraits)
    assert kept(portraits, turned, ("Male",)) <= 0.5


# --- Another person in the same picture


def test_published_faces_are_other_people(shipped: A3gan, portraits: torch.Tensor) -> None:
    own = apart(portraits, published(shipped, portraits))
    assert float((own > 0.6).float().mean()) > 0.9


def test_another_seed_is_another_person(shipped: A3gan, portraits: torch.Tensor) -> None:
    one, other = published(shipped, portraits), published(shipped, portraits, first=100)
    assert levels(one, other) > LEVELS
    assert float(apart(one, other).median()) > 0.35


def test_what_surrounds_the_head_stays(shipped: A3gan, portraits: torch.Tensor) -> None:
    made = published(shipped, portraits)
    rim = torch.from_numpy(shipped.mask) == 0
    assert torch.equal(made[:, :, rim], portraits[:, :, rim])
    assert shipped.mask.shape == (128, 128) and shipped.mask[64, 64] == 1
    assert not shipped.mask[-1].any() and not shipped.mask[:, 0].any()


def test_a_face_does_not_depend_on_its_batch(shipped: A3gan, portraits: torch.Tensor) -> None:
    with torch.inference_mode():
        whole = (shipped(portraits, context(24)) * 255).round()
        single = [(shipped(portraits[i : i + 1], context(1, i + 1)) * 255).round() for i in (0, 23)]
    for row, alone in zip((0, 23), single, strict=True):
        assert torch.equal(whole[row], alone[0])
    assert shipped(portraits[:0], context(0)).shape == (0, 3, 128, 128)


# --- Weights and command


def test_shipped_weights_are_small_and_their_cards_whole() -> None:
    cards = [card for card in own.own_cards().values() if card.kind == "a3gan"]
    assert "a3gan-compact" in {card.name for card in cards}
    folder = own.weights_folder()
    assert sum((folder / card.file).stat().st_size for card in cards) < 80e6
    for card in cards:
        assert card.trained_on and card.command and card.license, card.name
        tensors = own.own_weights(card.name)[0]
        assert {value.dtype for value in tensors.values()} == {torch.float16}
        assert all(name.startswith("generator.") for name in tensors), "no picture is in them"


def test_the_command_records_weights_and_settings(deid: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = deid(
        "anonymize", PEOPLE / "portraits", "--method", "a3gan", "--set", "change=Male", "--out", out
    )
    assert result.code == 0, result.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["method_settings"]["change"] == "Male"
    assert "a3gan-compact" in manifest["weights"]
    assert manifest["counts"]["ok"] >= 20
