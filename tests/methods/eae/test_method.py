"""The method with the shipped weights, and the commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from deidcli.celeba import CELEBA_ATTRIBUTES, LETTERS
from deidcli.errors import UsageError
from deidcli.faces import attributes
from deidcli.faces.align import chip_affine, crop
from deidcli.faces.dlib_hog import detect_hog
from deidcli.faces.landmarks import landmarks
from deidcli.methods.base import Context
from deidcli.methods.eae import networks
from deidcli.methods.eae.method import EmbeddedAutoencoders
from deidcli.methods.eae.networks import FeatureSelection
from deidcli.methods.eae.settings import EaeSettings, card_name, names_of
from deidcli.methods.loading import load_part, ready
from deidcli.weights.own import own_cards, own_weights
from tests.conftest import PEOPLE, Outcome, copy_people
from tests.datasets import celeba

NAMES = names_of("GSBE")


class People(NamedTuple):
    """24 people who do not exist."""

    chips: Tensor
    """(24, 3, S, S) in [0, 1]."""
    present: NDArray[np.bool_]
    """(24, 4): which of NAMES the attribute classifier, which eae never saw, finds in them."""


@pytest.fixture(scope="module")
def people() -> People:
    chips, present = [], []
    classifier = attributes.load()
    for path in sorted((PEOPLE / "portraits").glob("*.jpg")):
        frame = np.asarray(Image.open(path).convert("RGB"))
        points = landmarks(frame, detect_hog(frame)[0][0])
        affine = chip_affine(points, networks.SIDE, networks.PADDING)
        chips.append(crop(frame, affine, networks.SIDE, True))
        present.append(attributes.cut(classifier, frame, points))
    found = attributes.predict(classifier, np.stack(present)) > 0.5
    columns = [CELEBA_ATTRIBUTES.index(name) for name in NAMES]
    return People(
        torch.from_numpy(np.stack(chips)).permute(0, 3, 1, 2).float() / 255, found[:, columns]
    )


@pytest.fixture
def method() -> EmbeddedAutoencoders:
    return EmbeddedAutoencoders(EaeSettings(), "cpu")


@pytest.fixture(scope="module")
def fsn() -> FeatureSelection:
    net = FeatureSelection(networks.SIZES["compact"], len(LETTERS))
    load_part(net, "", own_weights(card_name("compact", "fsn"))[0])
    return ready(net, "cpu")


@torch.inference_mode()
def published(method: EmbeddedAutoencoders, chips: Tensor) -> Tensor:
    """Without what the method remembers of other calls."""
    method._pictures.clear()
    return method(chips, Context(np.zeros(len(chips), np.uint64), np.ones(len(chips))))


@torch.inference_mode()
def read_off(fsn: FeatureSelection, pictures: Tensor) -> NDArray[np.bool_]:
    """(N, 4): which of NAMES the FSN finds in published pictures."""
    groups = [list(LETTERS.values()).index(name) for name in NAMES]
    small = functional.avg_pool2d(pictures, networks.SIDE // networks.SIZES["compact"].side)
    answers: NDArray[np.bool_] = (fsn.probabilities(small)[:, groups] > 0.5).numpy()
    return answers


def agreement(answers: NDArray[np.bool_], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(4,): balanced accuracy of answers by attribute; 0.5 is what a guess or a constant has."""
    return np.array(
        [
            (answers[is_there, k].mean() + (~answers[~is_there, k]).mean()) / 2
            for k, is_there in enumerate(present.T)
        ]
    )


# --- What the networks do, and that it falls apart without each of them


def test_the_asked_attributes_can_be_read_off_the_pictures(
    method: EmbeddedAutoencoders, fsn: FeatureSelection, people: People
) -> None:
    """0.96 to 1.00 here; a part that is noise or the identity has 0.54 at most in the mean."""
    found = agreement(read_off(fsn, published(method, people.chips)), people.present)
    assert found.min() > 0.9, dict(zip(NAMES, found, strict=True))


Replacement = Callable[[Tensor], Tensor]


def noise(*shape: int) -> Replacement:
    generator = torch.Generator().manual_seed(0)
    return lambda x: torch.randn(len(x), *shape, generator=generator)


def pixels_as_code(chips: Tensor) -> Tensor:
    return functional.adaptive_avg_pool2d(chips * 2 - 1, 7).repeat(1, 64, 1, 1)


def channels_as_bits(r: Tensor) -> Tensor:
    return r.mean((2, 3))[:, :4] - r.mean((1, 2, 3))[:, None]


def bits_as_channels(bits: Tensor) -> Tensor:
    return bits.repeat(1, 48)[:, :, None, None].expand(-1, -1, 7, 7)


def code_as_pixels(y: Tensor) -> Tensor:
    return functional.interpolate(y[:, :3].sigmoid(), (112, 112))


@pytest.mark.parametrize("kind", ["identity", "noise"])
@pytest.mark.parametrize(
    ("network", "half", "identity", "shape"),
    [
        ("external", "encode", pixels_as_code, (192, 7, 7)),
        ("internal", "encode", channels_as_bits, (4,)),
        ("internal", "decode", bits_as_channels, (192, 7, 7)),
        ("external", "decode", code_as_pixels, (3, 112, 112)),
    ],
)
def test_no_network_can_be_left_out(
    method: EmbeddedAutoencoders,
    fsn: FeatureSelection,
    people: People,
    monkeypatch: pytest.MonkeyPatch,
    network: str,
    half: str,
    identity: Replacement,
    shape: tuple[int, ...],
    kind: str,
) -> None:
    """With one half of an autoencoder replaced by what only passes its input on, or by noise, the
    pictures tell no more of the people than a guess: the test above would fail."""
    replacement = identity if kind == "identity" else noise(*shape)
    monkeypatch.setattr(getattr(method, network), half, replacement)
    found = agreement(read_off(fsn, published(method, people.chips)), people.present)
    assert found.mean() < 0.7
    assert found.min() < 0.6


def test_the_face_is_gone(method: EmbeddedAutoencoders, people: People) -> None:
    """No picture is near its original, and a detector that finds all originals finds no face."""
    out = published(method, people.chips)
    assert float((out - people.chips).abs().mean((1, 2, 3)).min()) > 0.1
    for picture in torch.unique(out, dim=0):
        pixels = (picture.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        assert detect_hog(np.ascontiguousarray(pixels)) == []


def test_the_picture_is_a_function_of_the_bits_alone(
    method: EmbeddedAutoencoders, people: People
) -> None:
    """24 people, at most 16 pictures: equal bits give equal bytes, and different ones differ."""
    out = published(method, people.chips)
    assert method.internal is not None
    small = functional.avg_pool2d(people.chips, networks.SIDE // method.size.side)
    with torch.inference_mode():
        bits = networks.bits_of(networks.code_of(method.external, method.internal, small))
    assert 8 < len(torch.unique(bits, dim=0)) <= 16
    for i in range(24):
        for j in range(i):
            same = torch.equal(bits[i], bits[j])
            assert torch.equal(out[i], out[j]) == same
            assert same or float((out[i] - out[j]).abs().mean()) > 0.01


def test_the_ablation_publishes_a_picture_of_each_face(people: People) -> None:
    """So the test above can fail: without the internal autoencoder no two pictures are equal."""
    sprn = EmbeddedAutoencoders(EaeSettings(network="sprn"), "cpu")
    out = published(sprn, people.chips)
    assert len(torch.unique(out, dim=0)) == 24
    warning = EmbeddedAutoencoders.warning(sprn.settings)
    assert warning is not None and "NOT protect" in warning


def test_the_fsn_reads_every_code_off_its_picture(
    method: EmbeddedAutoencoders, fsn: FeatureSelection
) -> None:
    """All sixteen, those of no person here too."""
    codes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * len(NAMES))
    with torch.inference_mode():
        pictures = torch.cat([method.picture_of(tuple(code.tolist())) for code in codes])
        shown = functional.interpolate(pictures, scale_factor=2)
    assert np.array_equal(read_off(fsn, shown), codes.numpy() > 0)


def test_a_flipped_face_gets_the_same_picture(method: EmbeddedAutoencoders, people: People) -> None:
    """The code is the mean over both, which one orientation alone does not give."""
    out = published(method, people.chips)
    assert torch.equal(published(method, people.chips.flip(3)), out)
    small = functional.avg_pool2d(people.chips, 2)
    assert method.internal is not None
    with torch.inference_mode():
        one, other = (
            method.internal.encode(method.external.encode(x)) for x in (small, small.flip(3))
        )
        both = networks.code_of(method.external, method.internal, small)
    assert float((one - other).abs().mean()) > 0.1
    assert torch.allclose(both, (one + other) / 2, atol=1e-5)


def test_pixels_are_doubled_and_the_mask_spares_the_edge(
    method: EmbeddedAutoencoders, people: People
) -> None:
    out = published(method, people.chips[:2])
    small = functional.avg_pool2d(out, 2)
    assert torch.equal(functional.interpolate(small, scale_factor=2), out)
    edge = 0.1 * networks.SIDE / (1 + 2 * networks.PADDING)
    inside = int(np.ceil(edge))
    assert method.mask.shape == (networks.SIDE, networks.SIDE)
    assert method.mask[inside:-inside, inside:-inside].min() == 1
    assert method.mask[0].max() < 0.01 and method.mask[:, -1].max() < 0.01
    assert 0.3 < method.mask[round(edge / 2), 100] < 0.7


@pytest.mark.parametrize("network", ["prn", "sprn"])
def test_a_face_is_published_alike_alone_and_in_company(
    people: People, network: Literal["prn", "sprn"]
) -> None:
    """To the last bit, which shows in the ablation whose pictures no rounding to bits makes."""
    settings = EaeSettings(network=network)
    method, chips = EmbeddedAutoencoders(settings, "cpu"), people.chips[:10]
    together = published(method, chips)
    alone = torch.cat([published(method, chip[None]) for chip in chips])
    backwards = published(EmbeddedAutoencoders(settings, "cpu"), chips.flip(0)).flip(0)
    assert together.shape == chips.shape
    assert torch.equal(together, alone) and torch.equal(together, backwards)


# --- Commands


def test_attributes_of_no_weights_are_an_error_that_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="for the attributes SE") as caught:
        EmbeddedAutoencoders.weights(EaeSettings(attrs="ES"))
    assert "GSBE" in str(caught.value.hint) and "deid train eae DATA --attrs SE" in str(
        caught.value.hint
    )


def test_the_command(tmp_path: Path, deid: Callable[..., Outcome]) -> None:
    """`--attrs` reaches the method; crops are whole chips; the manifest says what was used."""
    folder, out = copy_people(tmp_path / "in", 8), tmp_path / "out"
    args = ["anonymize", folder, "--method", "eae", "--attrs", "GS", "--out", out, "--no-gate"]
    outcome = deid(*args, "--output", "crops", "--workers", 1, "--json")
    assert outcome.code == 0, outcome.stderr
    record: dict[str, Any] = outcome.json
    assert record["settings"]["method_settings"]["attrs"] == "GS"
    assert record["settings"]["attributes"] == ["Male", "Smiling"]
    shas = {name: card.sha256 for name, card in own_cards().items()}
    for name in ("eae-compact-external", "eae-compact-GS"):
        assert record["weights"][name] == shas[name]
    pictures = [Image.open(path) for path in sorted((out / "images").glob("*.png"))]
    assert len(pictures) == 8 and all(picture.size == (224, 224) for picture in pictures)
    assert 1 < len({picture.tobytes() for picture in pictures}) <= 4
    assert deid("verify", out).code == 0


def test_an_unknown_set_is_refused_before_anything_is_written(
    tmp_path: Path, deid: Callable[..., Outcome]
) -> None:
    folder = copy_people(tmp_path / "in", 1)
    outcome = deid("anonymize", folder, "--method", "eae", "--attrs", "BE", "--out", tmp_path / "o")
    assert outcome.code == 2 and "deid train eae" in outcome.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_the_training_command(
    tmp_path: Path, deid: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder with CelebA's labels to weights that `deid anonymize` uses."""
    monkeypatch.setenv("DEID_CACHE", str(tmp_path / "cache"))
    root = celeba(tmp_path / "celeba")
    quick = ("fsn_epochs=1", "external_epochs=1", "internal_steps=2", "pen=dlib", "batch_size=4")
    options = [part for text in quick for part in ("--set", text)]
    args = ["train", "eae", root, "--attrs", "G", "--size", "compact", "--out", tmp_path / "out"]
    outcome = deid(*args, *options, "--set", "fsn_attrs=GS")
    assert outcome.code == 0, outcome.stderr
    made = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert made == [f"eae-compact-{part}.safetensors" for part in ("G", "external", "fsn")]
    again = deid(*args, *options, "--set", "fsn_attrs=GS")
    assert again.code == 0 and "steps" not in again.stderr  # nothing is trained twice
    monkeypatch.setenv("DEID_WEIGHTS", str(tmp_path / "out"))
    folder, out = copy_people(tmp_path / "in", 1), tmp_path / "published"
    run = ["anonymize", folder, "--method", "eae", "--attrs", "G", "--out", out, "--json"]
    outcome = deid(*run, "--workers", 1)
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["weights"]["eae-compact-G"] == own_cards()["eae-compact-G"].sha256
