"""Embedded autoencoders: the losses, the shapes, what is frozen, resume, the command."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from deidcli.celeba import CELEBA_ATTRIBUTES, LETTERS
from deidcli.errors import DeidError, UsageError
from deidcli.faces.align import chip_affine, crop
from deidcli.faces.dlib_hog import detect_hog
from deidcli.faces.landmarks import landmarks
from deidcli.faces.recognizers import RECOGNIZERS
from deidcli.methods.base import Context
from deidcli.methods.eae import (
    losses,
    networks,
)
from deidcli.methods.eae import (
    pen as eae_pen,
)
from deidcli.methods.eae import (
    recipe as eae_loop,
)
from deidcli.methods.eae import (
    settings as eae_settings,
)
from deidcli.methods.eae import (
    train as eae_training,
)
from deidcli.methods.eae.method import EmbeddedAutoencoders, load_part
from deidcli.methods.eae.networks import SIZES
from deidcli.methods.eae.settings import Settings as EaeSettings
from deidcli.training.chips import Chips
from deidcli.weights.own import own_cards
from tests.conftest import PEOPLE, Outcome, copy_people
from tests.datasets import celeba

# --- Losses of known answer


def test_attribute_loss_is_cross_entropy_of_labeled_rows() -> None:
    logits = torch.tensor([[[0.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [5.0, 0.0]]])
    targets = torch.tensor([[1.0, 1.0], [0.0, -1.0]])  # the last one is not labeled
    loss = losses.attribute_loss(logits, targets)
    first = (math.log(2) + math.log(1 + math.exp(-3))) / 2
    assert loss.tolist() == pytest.approx([first, math.log(1 + math.exp(-2))])
    assert losses.attribute_loss(logits, torch.full((2, 2), -1.0)).tolist() == [0, 0]


def test_identity_loss_counts_no_negative_cosine() -> None:
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    b = torch.tensor([[3.0, 0.0], [-1.0, 0.0], [1.0, 1.0]])
    assert float(losses.identity_loss(a, b)) == pytest.approx((1 + 0 + math.sqrt(0.5)) / 3)


def test_likeness_loss_is_nil_where_all_point_one_way() -> None:
    assert float(eae_pen.likeness_loss(torch.tensor([[1.0, 0.0], [5.0, 0.0]]))) == pytest.approx(0)
    apart = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert float(eae_pen.likeness_loss(apart)) == pytest.approx(1 - math.sqrt(0.5))


def test_multiple_loss_weighs_its_terms() -> None:
    loss = losses.multiple_loss(
        torch.tensor(1.0), torch.tensor([2.0, 3.0]), torch.tensor(4.0), 10, 7
    )
    assert float(loss) == 1 + 10 * 5 + 7 * 4


def test_arcface_loss_adds_the_margin_to_the_right_angle() -> None:
    centers = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    at = torch.tensor([[math.cos(0.6), math.sin(0.6)]])
    right, other = 64 * math.cos(0.6 + 0.5), 64 * math.sin(0.6)
    expected = math.log(1 + math.exp(other - right))
    assert float(eae_pen.arcface_loss(at, centers, torch.tensor([0]))) == pytest.approx(
        expected, rel=1e-3
    )


def test_a_recognizers_view_lies_where_its_own_chip_does() -> None:
    """A ramp over the chip: every recognizer's pixel shows the place in the mean face it names."""
    side, entry = 224, RECOGNIZERS["w600k_mbf"]
    unit = side / (1 + 2 * networks.PADDING)
    place = (torch.arange(side) + 0.5) / unit - networks.PADDING
    chips = torch.stack([place[None].expand(side, -1), place[:, None].expand(-1, side)])
    view = eae_pen.recognizer_view(torch.cat([chips, chips[:1]])[None], entry)[0]
    expected = (torch.arange(entry.size)[:, None] - torch.tensor(entry.origin)) / entry.scale
    assert torch.allclose(view[0, 50], expected[:, 0], atol=1e-4)
    assert torch.allclose(view[1, :, 50], expected[:, 1], atol=1e-4)


# --- Networks


@pytest.mark.parametrize(("name", "code"), [("compact", (192, 7, 7)), ("paper", (512, 14, 14))])
def test_shapes(name: str, code: tuple[int, int, int]) -> None:
    """Fig. 3 and 6: the codes are 512x14x14 in the paper's size; nothing is computed here."""
    size = SIZES[name]
    with torch.device("meta"):
        fsn = networks.FeatureSelection(size, 5).eval()
        external = networks.ExternalAutoencoder(size).eval()
        internal = networks.InternalAutoencoder(size, 4).eval()
        chips = torch.empty(2, 3, size.side, size.side)
        desired, r = fsn.desired(chips), external.encode(chips)
        bits = internal.encode(r)
        y = internal.decode(bits)
        assert desired.shape == r.shape == y.shape == (2, *code)
        assert bits.shape == (2, 4)
        assert fsn.heads(desired).shape == (2, 5, 2)
        assert external.decode(y).shape == chips.shape
    convolutions = [m for m in external.modules() if "Conv" in type(m).__name__]
    assert len(convolutions) == 10
    assert len([m for m in internal.modules() if isinstance(m, torch.nn.Conv2d)]) == 12
    assert len([m for m in fsn.shared.modules() if isinstance(m, torch.nn.Conv2d)]) == 6
    assert all(len([m for m in g if isinstance(m, torch.nn.Linear)]) == 3 for g in fsn.groups)


def test_pooling_before_the_activation_is_the_papers_order() -> None:
    block = networks._block(3, 8, 3, 1, 2).eval()
    conv, norm, pool, _ = block
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(
        block(x), pool(torch.nn.functional.leaky_relu(norm(conv(x)), networks.SLOPE))
    )


# --- Training on a tiny made-up set

TINY = eae_loop.Settings(
    attrs="GS", batch_size=8, fsn_epochs=2, external_epochs=1, internal_steps=5, picture_every=2,
    pen="dlib", sprn_steps=2, sprn_batch=4, checkpoint_steps=1, warmup=1,
)  # fmt: skip


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Chips:
    """24 chips of noise with labels, in place of a data set; networks a few channels wide."""
    rng = np.random.default_rng(0)
    labels = rng.choice(np.array([-1, 1], np.int8), (24, len(CELEBA_ATTRIBUTES)))
    chips = Chips(
        rng.integers(0, 256, (24, 32, 32, 3), dtype=np.uint8),
        np.ones(24, bool),
        labels,
        np.array([f"p{n // 2}" for n in range(24)], dtype=object),
    )
    monkeypatch.setattr(eae_loop, "load_all", lambda *_, **__: chips)
    size = replace(
        SIZES["compact"], side=32, widths=(8,) * 6, inner=(8,) * 5, back=(8,) * 5, hidden=(8, 8)
    )
    monkeypatch.setitem(networks.SIZES, "compact", size)
    monkeypatch.setattr(eae_training, "CENTERED", 8)
    return chips


def tensors(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.name: load_file(path) for path in sorted(folder.glob("*.safetensors"))}


def test_resumed_training_ends_with_the_same_weights(tiny: Chips, tmp_path: Path) -> None:
    paths = eae_training.train([tmp_path], tmp_path / "a", TINY, validation=[tmp_path])
    assert paths is not None and len(paths) == 3
    stops = 0
    for stop in (1, 2, 3, 4, None):
        done = eae_training.train([tmp_path], tmp_path / "b", TINY, stop_after=stop)
        stops += done is None
    assert stops >= 3 and done is not None
    whole, resumed = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert list(whole) == list(resumed) == sorted(path.name for path in paths)
    for name, values in whole.items():
        assert all(torch.equal(values[key], resumed[name][key]) for key in values), name


def test_training_writes_cards_that_load(
    tiny: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OUT serves as DEID_WEIGHTS, for the PRN and the SPRN."""
    eae_training.train([tmp_path], tmp_path / "out", TINY)
    eae_training.train([tmp_path], tmp_path / "out", replace(TINY, part="sprn"))
    monkeypatch.setenv("DEID_WEIGHTS", str(tmp_path / "out"))
    for network in ("prn", "sprn"):
        settings = EaeSettings(attrs="SG", network=network)  # type: ignore[arg-type]
        method = EmbeddedAutoencoders(settings, "cpu")
        assert method.external.training is False
        assert len(EmbeddedAutoencoders.weights(settings)) == (1 if network == "sprn" else 2)


def test_only_the_internal_autoencoder_learns(
    tiny: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = eae_loop.Run([tmp_path], tmp_path, TINY, tmp_path, (), None)
    for part in ("fsn", "external"):
        eae_training._RECIPES[part](run)
    judges = eae_training._judges(run)
    before = {k: v.clone() for k, v in judges.external.state_dict().items()}
    monkeypatch.setattr(eae_training, "_judges", lambda _: judges)
    eae_training._RECIPES["internal"](run)
    for module in (judges.fsn, judges.external):
        assert not any(m.training for m in module.modules())
        assert all(not p.requires_grad and p.grad is None for p in module.parameters())
    assert all(torch.equal(v, before[k]) for k, v in judges.external.state_dict().items())


def test_a_change_of_settings_is_not_mixed_in(tiny: Chips, tmp_path: Path) -> None:
    eae_training.train([tmp_path], tmp_path, replace(TINY, part="fsn"))
    with pytest.raises(DeidError, match="fsn_rate"):
        eae_training.train([tmp_path], tmp_path, replace(TINY, part="fsn", fsn_rate=1.0))


def test_attributes_without_labels_are_an_error(tiny: Chips, tmp_path: Path) -> None:
    tiny.labels[:, CELEBA_ATTRIBUTES.index("Smiling")] = 0
    with pytest.raises(DeidError, match="Smiling"):
        eae_training.train([tmp_path], tmp_path, TINY)


def test_pen_of_our_own_trains(tiny: Chips, tmp_path: Path) -> None:
    settings = replace(TINY, part="pen", pen="arcface", pen_epochs=1, pen_rate=0.01)
    assert eae_training.train([tmp_path], tmp_path, settings) == [
        tmp_path / "eae-compact-pen.safetensors"
    ]
    run = eae_loop.Run([tmp_path], tmp_path, settings, tmp_path, (), None)
    assert eae_training._pen(run)(torch.rand(2, 3, 32, 32)).shape == (2, eae_pen.EMBEDDING)


def test_warm_start_takes_the_encoder_as_it_is(tiny: Chips, tmp_path: Path) -> None:
    """Units of the asked attributes in the set's own order, and only the decoder learns."""
    eae_training.train([tmp_path], tmp_path, replace(TINY, attrs="GSB"))
    whole = tmp_path / "eae-compact-GSB.safetensors"
    settings = replace(TINY, attrs="BG", part="internal", warm=str(whole))
    assert eae_training.train([tmp_path], tmp_path, settings) is not None
    old, new = load_file(whole), load_file(tmp_path / "eae-compact-GB.safetensors")
    encoder = [name for name in old if name.startswith("encoder.")]
    assert encoder and all(torch.equal(old[name], new[name]) for name in encoder)
    assert torch.equal(old["code.weight"][[0, 2]], new["code.weight"])
    assert not torch.equal(old["decoder.1.weight"], new["decoder.1.weight"])


# --- The method, with the shipped weights


@pytest.fixture(scope="module")
def method() -> EmbeddedAutoencoders:
    return EmbeddedAutoencoders(EaeSettings(), "cpu")


def portraits(count: int) -> torch.Tensor:
    """(count, 3, S, S): chips of people who do not exist."""
    chips = []
    for path in sorted((PEOPLE / "portraits").glob("*.jpg"))[:count]:
        frame = np.asarray(Image.open(path).convert("RGB"))
        points = landmarks(frame, detect_hog(frame)[0][0])
        chips.append(
            crop(frame, chip_affine(points, networks.SIDE, networks.PADDING), networks.SIDE, True)
        )
    return torch.from_numpy(np.stack(chips)).permute(0, 3, 1, 2).float() / 255


def context(count: int) -> Context:
    return Context(np.zeros(count, np.uint64), np.ones(count))


def test_a_face_is_published_alike_alone_and_in_company(method: EmbeddedAutoencoders) -> None:
    chips = portraits(11)
    with torch.inference_mode():
        together = method(chips, context(11))
        alone = torch.cat([method(chip[None], context(1)) for chip in chips])
        fresh = EmbeddedAutoencoders(EaeSettings(), "cpu")(chips.flip(0), context(11)).flip(0)
    assert together.shape == chips.shape
    assert torch.equal(together, alone) and torch.equal(together, fresh)


def test_the_picture_is_a_function_of_the_bits_alone(method: EmbeddedAutoencoders) -> None:
    """So four attributes give at most sixteen pictures, and different ones differ."""
    chips = portraits(16)
    with torch.inference_mode():
        out = method(chips, context(16))
        assert method.internal is not None
        small = torch.nn.functional.avg_pool2d(chips, networks.SIDE // method.size.side)
        bits = networks.bits_of(networks.code_of(method.external, method.internal, small))
    assert len(torch.unique(bits, dim=0)) > 1
    for i in range(16):
        for j in range(i):
            same = torch.equal(bits[i], bits[j])
            assert torch.equal(out[i], out[j]) == same
            assert same or float((out[i] - out[j]).abs().mean()) > 0.01


def test_the_frozen_fsn_reads_the_code_off_every_picture(method: EmbeddedAutoencoders) -> None:
    """The asked attributes are there, in each of the sixteen pictures."""
    names = eae_settings.names_of("GSBE")
    fsn = networks.FeatureSelection(method.size, len(LETTERS))
    load_part(fsn, eae_settings.card_name("compact", "fsn"), "cpu")
    order = list(LETTERS.values())
    codes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * len(names))
    with torch.inference_mode():
        pictures = torch.cat([method._picture(tuple(code.tolist())) for code in codes])
        said = fsn.answers(pictures)[:, [order.index(name) for name in names]]
    assert torch.equal(said > 0.5, codes > 0)


def test_attributes_of_no_weights_are_an_error_that_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="for the attributes SE") as caught:
        EmbeddedAutoencoders.weights(EaeSettings(attrs="ES"))
    assert "GSBE" in str(caught.value.hint) and "deid train eae DATA --attrs SE" in str(
        caught.value.hint
    )


def test_the_command(tmp_path: Path, deid: Callable[..., Outcome]) -> None:
    """`--attrs` reaches the method; crops are whole chips; the manifest says what was used."""
    folder, out = copy_people(tmp_path / "in", 4), tmp_path / "out"
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
    assert len(pictures) == 4 and all(picture.size == (224, 224) for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) <= 4
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
