"""The recipe of a3gan: the settings, each part, and all of it from data to weights."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import DeidError, UsageError
from deidcli.faces import align, attributes, dlib_hog, landmarks
from deidcli.fields import describe_fields, parse_fields
from deidcli.methods import load_method
from deidcli.methods.a3gan import train as a3gan_training
from deidcli.methods.a3gan import training_faces
from deidcli.methods.a3gan.geometry import MARGIN_PADDING, MARGIN_SIDE
from deidcli.methods.a3gan.method import A3gan
from deidcli.methods.a3gan.pair_batches import Batch, Pairs
from deidcli.methods.a3gan.recipe import Recipe, Run, learning_rate_factor, veiled_share
from deidcli.methods.a3gan.settings import ATTRIBUTES, A3ganSettings
from deidcli.methods.a3gan.training_faces import Faces, augmented, load_faces, to_batch
from tests.conftest import PEOPLE
from tests.methods.a3gan.conftest import TINY, context, pictures

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# --- The settings


def test_sizes_for_tests_are_no_settings() -> None:
    for cls in (Recipe, A3ganSettings):
        (shown,) = (row.type for row in describe_fields(cls) if row.name == "size")
        assert shown == "compact|paper"
        with pytest.raises(UsageError, match="size=tiny"):
            parse_fields("a3gan", cls, {"size": "tiny"})


def test_every_setting_says_what_it_means() -> None:
    for cls in (Recipe, A3ganSettings):
        assert not [row.name for row in describe_fields(cls) if not row.help]


def test_settings_without_bearing_are_known() -> None:
    assert Recipe().ignored() == frozenset()
    supervised = Recipe(part="supervised").ignored()
    assert supervised == {
        *("steps", "gan_rate", "penalty_every", "lambda1", "lambda2", "lambda3", "lambda4"),
        *("attribute_steps", "attribute_batch", "attribute_rate", "limit"),
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"skip": "stu", "masked": "false"}, "only one"),
        ({"batch_size": "1"}, "at least 2"),
        ({"penalty_every": "0"}, "at least 1"),
        ({"blocks": "0"}, "at least 1"),
        ({"coarse": "2"}, "coarse is in"),
        ({"veiled_until": "-1"}, "veiled_until is in"),
    ],
)
def test_values_outside_their_range_are_errors(given: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_fields("a3gan", Recipe, given)


def test_an_ablation_has_weights_of_its_own_name() -> None:
    assert Recipe().weights_name == "a3gan-compact"
    assert Recipe(skip="none").weights_name == "a3gan-compact-no-scu"
    assert Recipe(size="paper", masked=False).weights_name == "a3gan-paper-no-mask"


def test_the_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    factors = [learning_rate_factor(step, 1000, 0.1) for step in range(1001)]
    assert factors[0] == pytest.approx(1 / 100) and max(factors) == factors[100] == 1
    assert factors[550] == pytest.approx(0.55) and factors[-1] == pytest.approx(0.1)
    assert learning_rate_factor(0, 20, 0.1) == 0.5, "a tenth of a short training"


# --- Photographs


def as_bytes(chips: Tensor) -> Tensor:
    return (chips * 255).round().byte().permute(0, 2, 3, 1).contiguous()


def test_chips_become_batches_around_their_own_colors() -> None:
    chips = as_bytes(pictures(3))
    batch = to_batch(chips, "cpu")
    assert batch.shape == (3, 3, 128, 128) and batch.dtype == torch.float32
    assert torch.equal(as_bytes(batch), chips)


def test_half_of_the_photographs_are_mirrored_and_all_vary_a_little() -> None:
    chips = pictures(200)
    found = augmented(chips, torch.Generator().manual_seed(0))
    same, mirrored = (
        (found - other)
        .flatten(1)
        .sub((found - other).flatten(1).mean(1, keepdim=True))
        .abs()
        .mean(1)
        for other in (chips, chips.flip(3))
    )
    assert 0.4 < float((mirrored < same).float().mean()) < 0.6
    assert float(torch.minimum(same, mirrored).max()) < 0.03
    assert not torch.isclose(found.mean((1, 2, 3)), chips.mean((1, 2, 3)), atol=1e-4).all()
    assert float(found.min()) >= 0 and float(found.max()) <= 1


def test_labels_are_those_of_the_ten_and_some_are_unknown(trained: Path) -> None:
    faces = load_faces([trained / "celeba"], trained / "cache")
    assert faces.chips.shape[1:] == (128, 128, 3) and len(faces) == len(faces.labels) == 12
    male = ATTRIBUTES.index("Male")
    assert faces.labels[:4, male].tolist() == [0, 1, 0, 1]
    others = [column for column in range(10) if column != male]
    assert (faces.labels[:, others] == -1).all()
    few = load_faces([trained / "celeba"], trained / "cache", limit=3)
    assert torch.equal(few.chips, faces.chips[[0, 6, 11]])
    assert torch.equal(few.labels, faces.labels[[0, 6, 11]])


def test_a_sheet_shows_its_rows(tmp_path: Path) -> None:
    rows = [pictures(3, 1), pictures(3, 2)]
    training_faces.write_sheet(tmp_path / "new" / "sheet.png", rows)
    shown = cv2.imread(str(tmp_path / "new" / "sheet.png"))[..., ::-1]
    assert shown.shape == (256, 384, 3)
    expected = as_bytes(rows[1])[2].numpy()
    assert np.array_equal(shown[128:, 256:], expected)
    (tmp_path / "file").write_text("")
    with pytest.raises((DeidError, OSError)):
        training_faces.write_sheet(tmp_path / "file" / "sheet.png", rows)


# --- Pairs

MEAN_FACE = align.apply_affine(
    align.chip_from_unit(np.eye(2, 3), MARGIN_SIDE, MARGIN_PADDING), align.MEAN_FACE_5
)
"""The mean face's landmarks in a chip with a margin, px."""


def drawn(trained: Path) -> dict[str, np.ndarray]:
    with np.load(trained / "out" / "pairs" / "block-00000.npz") as block:
        return {name: block[name] for name in block.files}


def test_faces_are_drawn_where_the_geometry_says(trained: Path) -> None:
    """dlib finds the landmarks of the mean face there."""
    found = []
    for chip in drawn(trained)["pictures"].reshape(-1, MARGIN_SIDE, MARGIN_SIDE, 3):
        large = cv2.resize(chip, None, fx=4, fy=4)
        for box, _ in dlib_hog.detect_hog(large)[:1]:
            found.append(landmarks.landmarks(large, box) / 4)
    assert len(found) >= 6
    off = np.linalg.norm(np.mean(found, 0) - MEAN_FACE, axis=1)
    assert off.max() < 3, off


def test_heads_lie_on_the_faces(trained: Path) -> None:
    heads = drawn(trained)["heads"].astype(float) / 255
    assert heads[..., 60:84, 60:84].min() > 0.9
    assert heads[..., :8, :8].mean() < 0.3
    assert 0.2 < heads.mean() < 0.8


def test_what_is_read_is_of_the_picture(trained: Path) -> None:
    """The attribute classifier agrees on sex, where the reader is sure."""
    block = drawn(trained)
    net, male = attributes.load(), CELEBA_ATTRIBUTES.index("Male")
    pictures_of = block["pictures"].reshape(-1, MARGIN_SIDE, MARGIN_SIDE, 3)
    cuts = np.stack([attributes.cut(net, picture, MEAN_FACE) for picture in pictures_of])
    said = block["answers"].reshape(-1, 41)[:, male]
    sure = np.abs(said) > 1
    same = (attributes.predict(net, cuts)[:, male] > 0.5) == (said > 0)
    assert sure.sum() >= 4 and same[sure].mean() >= 0.8


# --- The attribute head


def test_the_attribute_head_learns_each_attribute_in_its_own_column(tmp_path: Path) -> None:
    """Of brightness, in the sixth column; a label that is missing teaches nothing."""
    random = torch.Generator().manual_seed(0)
    bright = torch.rand(24, generator=random).round()
    chips = 0.1 + 0.3 * pictures(24)
    chips[:, :, 32:96, 32:96] += 0.5 * bright.view(-1, 1, 1, 1)
    labels = torch.full((24, 10), -1.0)
    labels[:, 5] = bright
    recipe = dataclasses.replace(
        TINY, attribute_steps=40, attribute_rate=1e-2, checkpoint_steps=100
    )
    faces = Faces(as_bytes(chips), labels)
    head = a3gan_training.train_attribute_head(faces, None, Run(recipe, tmp_path))
    with torch.no_grad():
        said = head(to_batch(faces.chips, "cpu"))[1]
    assert float(((said[:, 5] > 0) == (bright > 0)).float().mean()) > 0.9
    words = a3gan_training._accuracy(head, faces, "cpu")
    assert "Mouth_Slightly_Open 1.00" in words or "Mouth_Slightly_Open 0.9" in words


# --- All of it


def train(folder: Path, out: str, recipe: Recipe = TINY, **more: Any) -> list[Path] | None:
    data = [folder / "celeba"]
    return a3gan_training.train(data, folder / out, recipe, folder / "cache", **more)


@pytest.mark.usefixtures("few_pairs")
def test_training_resumes_to_the_same_weights_and_draws_a_sheet(trained: Path) -> None:
    """It leaves after every second step, at times between two checkpoints."""
    shown = cv2.imread(str(trained / "out" / "samples.png"))
    assert shown.shape == (11 * 128, 12 * 128, 3)
    for times in range(40):  # noqa: B007
        made = train(trained, "again", stop_after=2)
        if made is not None:
            break
    else:
        raise AssertionError("never done")
    assert times >= 3
    left, right = load_file(made[0]), load_file(trained / "out" / made[0].name)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_the_sheet_shows_photographs_what_is_published_of_them_and_pairs(trained: Path) -> None:
    shown = cv2.imread(str(trained / "out" / "samples.png"))[..., ::-1]
    rows = shown.reshape(11, 128, 12, 128, 3).transpose(0, 2, 1, 3, 4)
    faces = load_faces([trained / "celeba"], trained / "cache")
    assert np.array_equal(rows[0], faces.chips.numpy())
    for row in rows[1:5]:
        assert np.array_equal(row[:, -1], rows[0][:, -1]), "only the head is replaced"
        assert np.abs(row[:, 64, 64].astype(int) - rows[0][:, 64, 64]).mean() > 5
    for left, right in ((1, 2), (1, 3), (3, 4)):
        assert not np.array_equal(rows[left], rows[right])
    assert np.array_equal(rows[8][0], drawn(trained)["pictures"][0, 0, 8:-8, 8:-8])
    assert not np.array_equal(rows[8], rows[10])
    coarse, whole = (np.abs(np.diff(rows[row].astype(int), axis=2)).mean() for row in (5, 8))
    assert coarse < 0.8 * whole, "veiled"


def test_the_average_is_what_is_written(trained: Path) -> None:
    out = trained / "out"
    written = load_file(out / "a3gan-tiny.safetensors")
    gan = torch.load(out / "gan.pt", weights_only=True)
    moved = 0
    for key, value in gan["average"].items():
        if value.is_floating_point():
            assert torch.equal(written.pop(f"generator.{key}"), value.half())
            moved += not torch.equal(value.half(), gan["generator"][key].half())
    assert moved > 10 and not written


def test_each_part_goes_on_from_the_one_before(trained: Path) -> None:
    out = trained / "out"
    parts = {
        name: torch.load(out / f"{name}.pt", weights_only=True)
        for name in ("supervised", "attribute_head", "gan")
    }
    for key in ("generator", "average"):
        old, new = (parts[name][key]["encoder.4.0.weight"] for name in ("supervised", "gan"))
        assert not torch.equal(old, new) and float((old - new).norm() / old.norm()) < 0.2
    old, new = (
        parts[name][key]["attributes.2.weight"]
        for name, key in (("attribute_head", "model"), ("gan", "discriminator"))
    )
    assert not torch.equal(old, new) and float((old - new).norm() / old.norm()) < 0.2


def test_the_card_says_what_it_was_trained_on(trained: Path) -> None:
    card = tomllib.loads((trained / "out" / "weights.toml").read_text())["a3gan-tiny"]
    assert card["trained_on"] == "celeba, pictures of random-face"
    assert card["kind"] == "a3gan" and card["license"] == "Apache-2.0"
    assert card["input"] == {"side": 128, "padding": 0.5, "range": "[0, 1]", "color": "RGB"}
    assert "deid train a3gan" in card["command"] and "cache" not in card["command"]
    for setting in ("supervised_steps=3", "blocks=1", "batch_size=4"):
        assert setting in card["command"]


def test_trained_weights_are_used_where_deid_weights_says(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEID_WEIGHTS", str(trained / "out"))
    method = A3gan(A3ganSettings(size="tiny", change="3"), "cpu")  # type: ignore[arg-type]
    chips = torch.rand(3, 3, 128, 128)
    assert method(chips, context(3)).shape == chips.shape
    with pytest.raises(UsageError, match="a3gan-compact-stu"):
        load_method("a3gan", {"variant": "stu"}, "cpu")


def test_a_warm_start_begins_with_the_weights_that_are_there(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEID_WEIGHTS", str(trained / "out"))
    new, warm = (
        a3gan_training.new_generator(Run(dataclasses.replace(TINY, warm=warm), tmp_path))
        for warm in (False, True)
    )
    written = load_file(trained / "out" / "a3gan-tiny.safetensors")
    for name, value in warm.named_parameters():
        assert torch.equal(value, written[f"generator.{name}"].float())
    assert not torch.equal(new.encoder[0][0].weight, warm.encoder[0][0].weight)
    again = a3gan_training.new_generator(Run(TINY, tmp_path))
    assert torch.equal(new.encoder[0][0].weight, again.encoder[0][0].weight)


@pytest.mark.usefixtures("few_pairs")
def test_pairs_alone_can_be_trained_on(trained: Path) -> None:
    made = train(trained, "out", dataclasses.replace(TINY, part="supervised"))
    assert made is not None
    taught = torch.load(trained / "out" / "supervised.pt", weights_only=True)["average"]
    written = load_file(made[0])
    assert torch.equal(written["generator.last.0.bias"], taught["last.0.bias"].half())
    train(trained, "out")  # as it was


@pytest.mark.usefixtures("few_pairs")
def test_other_settings_need_another_folder(trained: Path) -> None:
    with pytest.raises(DeidError, match="lambda4"):
        train(trained, "out", dataclasses.replace(TINY, lambda4=1.0))
    with pytest.raises(DeidError, match="lambda_person"):
        train(trained, "out", dataclasses.replace(TINY, lambda_person=1.0))


def test_training_without_labels_is_refused_before_the_first_step(trained: Path) -> None:
    data, out = [PEOPLE / "portraits"], trained / "nothing"
    with pytest.raises(DeidError, match="no labels"):
        a3gan_training.train(data, out, TINY, trained / "cache")
    assert not out.exists()


@pytest.mark.parametrize(
    ("step", "until", "share"),
    [
        (0, 1.0, 1),
        (99, 1.0, 1),
        (0, 0.5, 1),
        (50, 0.5, 1),
        (75, 0.5, 0.5),
        (100, 0.5, 0),
        (20, 0, 0.8),
    ],
)
def test_sources_are_veiled_at_first(step: int, until: float, share: float) -> None:
    assert veiled_share(step, 100, until) == pytest.approx(share)


def test_the_share_of_veiled_sources_reaches_the_pairs(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    batch = Pairs.batch

    def watched(self: Pairs, *args: Any, veil: float = 0.0, **given: Any) -> Batch:
        seen.append(veil)
        assert given.pop("coarse") == TINY.coarse > 0
        return batch(self, *args, veil=veil, **given)

    monkeypatch.setattr(Pairs, "batch", watched)
    for name in ("draw_sheet", "told_by"):
        monkeypatch.setattr(a3gan_training, name, lambda *args: "")
    shutil.copytree(trained / "out" / "pairs", trained / "veils" / "pairs")
    settings = dataclasses.replace(TINY, veiled_until=0.0, part="supervised")
    a3gan_training.train([trained / "celeba"], trained / "veils", settings, trained / "cache")
    assert seen == pytest.approx([1, 2 / 3, 1 / 3])


def test_pairs_of_another_seed_are_not_taken(trained: Path) -> None:
    shutil.copytree(trained / "out" / "pairs", trained / "seeds" / "pairs")
    settings = dataclasses.replace(TINY, seed=TINY.seed + 1)
    with pytest.raises(DeidError, match="another seed"):
        a3gan_training.train([trained / "celeba"], trained / "seeds", settings, trained / "cache")
