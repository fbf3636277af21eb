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
from deidcli.methods.a3gan.settings import A3ganSettings
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
    return float((chips - made)[..., 30:100, 34:94].abs().mean() * 255)


# --- The networks make the face


LEVELS = 6.0
"""What a network that has a part in making the face changes at the least, levels of 255."""


def weak(*values: Any, measured: str) -> Any:
    """What the beginning of a training does not do yet; the mark goes when it is done."""
    reason = f"the shipped a3gan is at the beginning of its training: {measured}"
    return pytest.param(*values, marks=pytest.mark.xfail(strict=True, reason=reason))


def not_yet(measured: str) -> Any:
    """As `weak`, for a whole test."""
    return pytest.mark.xfail(
        strict=True, reason=f"the shipped a3gan is at the beginning of its training: {measured}"
    )


CHANGES = {"ainet-mask": "1.9 levels"}


@pytest.mark.parametrize(
    "name",
    [weak(name, measured=CHANGES[name]) if name in CHANGES else name for name in SWITCHES],
)
def test_each_network_changes_what_is_published(
    name: str, shipped: A3gan, portraits: torch.Tensor
) -> None:
    made = published(shipped, portraits)
    with switched_off(shipped.generator, name):
        other = published(shipped, portraits)
    assert torch.equal(made, published(shipped, portraits)), "the switch is back"
    assert levels(made, other) > LEVELS


@pytest.mark.parametrize(
    "name",
    [
        *("encoder", "scu", "decoder", "last-layer"),
        weak("ainet", measured="four attributes kept 0.79, with noise for AINet 0.93"),
        weak("adain", measured="four attributes kept 0.79, without AdaIN 0.87"),
    ],
)
def test_without_a_network_no_face_or_no_attribute_is_left(
    name: str, shipped: A3gan, portraits: torch.Tensor
) -> None:
    whole = kept(portraits, published(shipped, portraits))
    with switched_off(shipped.generator, name):
        broken = kept(portraits, published(shipped, portraits))
    assert broken < whole - 0.1


@not_yet("of a veiled head, open gates let no identity through: distance 0.66, else 0.55")
def test_open_gates_let_identity_through(shipped: A3gan, portraits: torch.Tensor) -> None:
    shut = apart(portraits, published(shipped, portraits))
    with switched_off(shipped.generator, "scu-gates"):
        opened = apart(portraits, published(shipped, portraits))
    assert float(opened.mean()) < float(shut.mean()) - 0.03


@not_yet("sex stays in 71 % with the mask empty, in 75 % with Male in it")
def test_the_mask_turns_sex_and_nothing_else(shipped: A3gan, portraits: torch.Tensor) -> None:
    """Same faces, same latents; only the mask differs."""
    same = published(shipped, portraits)
    turned = published(load_method("a3gan", {"change": "Male"}, "cpu"), portraits)
    assert kept(portraits, same, ("Male",)) >= 0.85
    assert kept(portraits, turned, ("Male",)) <= 0.3
    assert kept(portraits, turned, ("Smiling", "Mouth_Slightly_Open")) >= 0.8


@not_yet("the mask turned round changes 1.9 levels")
def test_the_mask_turned_round_at_ainet_turns_sex(shipped: A3gan, portraits: torch.Tensor) -> None:
    with switched_off(shipped.generator, "ainet-mask"):
        turned = published(shipped, portraits)
    assert kept(portraits, turned, ("Male",)) <= 0.5


# --- Another person in the same picture


@not_yet("dlib takes 16 of 24 for the same person; the gate makes them black")
def test_published_faces_are_other_people(shipped: A3gan, portraits: torch.Tensor) -> None:
    own = apart(portraits, published(shipped, portraits))
    assert float((own > 0.6).float().mean()) > 0.9


@not_yet("another latent changes 5.9 levels, dlib's distance is 0.26")
def test_another_seed_is_another_person(shipped: A3gan, portraits: torch.Tensor) -> None:
    one, other = published(shipped, portraits), published(shipped, portraits, first=100)
    assert levels(one, other) > LEVELS
    assert float(apart(one, other).median()) > 0.35


def test_each_face_has_a_latent_of_its_own(shipped: A3gan, portraits: torch.Tensor) -> None:
    one = portraits[:1].expand(4, -1, -1, -1)
    made = published(shipped, one)
    assert all(levels(made[i], made[j]) > 1 for i in range(4) for j in range(i))


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
    assert manifest["counts"]["ok"] >= 5
    assert "beginning of their training" in result.stderr


def test_the_encoder_sees_a_veiled_head(shipped: A3gan, portraits: torch.Tensor) -> None:
    """Detail finer than a cell does not reach what is published; with veil=false it does."""
    checkered = (torch.arange(128)[:, None] + torch.arange(128)) % 2 * 0.2 - 0.1
    inner = torch.zeros(128, 128)
    inner[40:88, 40:88] = 1
    detailed = (portraits * 0.7 + 0.15) + checkered * inner
    plain = portraits * 0.7 + 0.15
    bare = load_method("a3gan", {"veil": "false"}, "cpu")
    with torch.inference_mode():
        changes = [
            float((method(plain, context(24)) - method(detailed, context(24))).abs().mean())
            for method in (shipped, bare)
        ]
    assert changes[0] < 1e-5 and changes[1] > 1e-3


def test_a_run_says_what_the_shipped_networks_are() -> None:
    assert "beginning of their training" in A3gan.warning(A3ganSettings())
    assert "recognizable" not in A3gan.warning(A3ganSettings())
    assert "recognizable" in A3gan.warning(A3ganSettings(veil=False))
