"""The recipe of a3gan: the settings, each part, and all of it from data to weights."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deidcli.errors import DeidError, UsageError
from deidcli.fields import describe_fields, parse_fields
from deidcli.methods import load_method
from deidcli.methods.a3gan import losses, networks
from deidcli.methods.a3gan import train as a3gan_training
from deidcli.methods.a3gan.attribute_head import AttributeHead
from deidcli.methods.a3gan.canvas import COMPONENTS, LATENT, Canvas, rim_cells, to_64
from deidcli.methods.a3gan.latents import Description, Pool, attribute_mask, rim_of
from deidcli.methods.a3gan.method import A3gan
from deidcli.methods.a3gan.networks import SIZES, Discriminator
from deidcli.methods.a3gan.portraits import PortraitBank
from deidcli.methods.a3gan.recipe import Recipe, Run, learning_rate_factor
from deidcli.methods.a3gan.settings import A3ganSettings
from deidcli.methods.a3gan.teacher import (
    Material,
    draw_masks,
    make_batch,
    new_generator,
    principal_latents,
    prototypes,
)
from deidcli.methods.a3gan.training_faces import Faces
from deidcli.methods.blend import wide_edge_mask
from deidcli.training.chips import load_chips
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


def test_without_a_pool_nothing_is_trained(trained: Path, deid: Callable[..., Any]) -> None:
    """What is published is made of the pool: of real people, if that were the data."""
    out = trained / "no-pool"
    settings = dataclasses.replace(TINY, pool="")
    with pytest.raises(UsageError, match="needs a pool") as raised:
        a3gan_training.train([trained / "celeba"], out, settings, trained / "cache")
    assert "pool=training" in (raised.value.hint or "")
    with pytest.raises(UsageError, match="no pool elsewhere"):
        missing = dataclasses.replace(TINY, pool="elsewhere")
        a3gan_training.train([trained / "celeba"], out, missing, trained / "cache")
    outcome = deid("train", "a3gan", trained / "celeba", "--out", out)
    assert outcome.code == 2 and "make_people.py" in outcome.stderr
    assert not out.exists()
    dataclasses.replace(settings, part="attribute_head").require_pool()


def test_settings_without_bearing_are_known() -> None:
    assert Recipe(pool="p").ignored() == frozenset()
    head = Recipe(part="attribute_head").ignored()
    assert {"pool", "steps", "lambda4", "skip", "batch_size", "recognizer"} <= head
    assert not head & {"size", "more", "attribute_epochs", "rate", "seed", "threads", "part"}
    teacher = Recipe(pool="p", part="teacher").ignored()
    assert {"steps", "gan_rate", "lambda_teacher", "average"} <= teacher
    assert not teacher & {"pool", "skip", "teacher_steps", "batch_size"}
    assert Recipe(pool="p", recognizer_faces=0).ignored() == {
        *("recognizer", "lambda3", "lambda_diversity")
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"skip": "stu", "masked": "false"}, "only one"),
        ({"batch_size": "1"}, "at least 2"),
        ({"penalty_every": "0"}, "at least 1"),
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
    assert factors[0] == pytest.approx(1 / 50) and max(factors) == factors[50] == 1
    assert factors[-1] == pytest.approx(0.1)


# --- What the generator learns from


def test_latents_have_unit_variance_and_draw_their_faces() -> None:
    values = torch.randn(40, 60) @ torch.diag(torch.linspace(3, 0.1, 60))
    mean, components, codes = principal_latents(values, 0)
    torch.testing.assert_close(mean + codes @ components, values, atol=1e-3, rtol=1e-3)
    used = codes[:, :30]
    torch.testing.assert_close(used.T @ used / len(used), torch.eye(30), atol=1e-3, rtol=0)
    assert float(codes[:, COMPONENTS:].abs().max()) == 0


def test_prototypes_are_what_an_attribute_adds() -> None:
    attributes = (torch.rand(4000, 12) < 0.5).float()
    effect = torch.randn(12, 5)
    found = prototypes(attributes @ effect + 7, attributes)
    torch.testing.assert_close(found, effect, atol=0.05, rtol=0)


def test_masks_for_training_hold_the_presets_and_nothing() -> None:
    masks = draw_masks(3000, torch.Generator().manual_seed(0))
    nothing = float((masks.sum(1) == 0).float().mean())
    assert 1 / 3 + 1 / 15 < nothing < 0.5
    assert float((masks == attribute_mask("5")).all(1).float().mean()) > 0.04


@pytest.fixture(scope="module")
def material() -> Material:
    """Eight faces, and four computer-made ones that draw smooth colors."""
    random = torch.Generator().manual_seed(0)
    count, pool = 8, 8

    def described(rows: int) -> Description:
        sizes = (12, 10, 11, 128, 180)
        return Description(*(torch.rand(rows, size, generator=random) for size in sizes))

    def as_bytes(chips: torch.Tensor) -> torch.Tensor:
        return (chips * 255).byte().permute(0, 2, 3, 1).contiguous()

    labels = torch.zeros(count, 12), torch.zeros(count, 40)
    faces = Faces(as_bytes(pictures(count, 1)), *labels, torch.zeros(count, 10))
    codes = torch.zeros(pool, LATENT)
    codes[:, :COMPONENTS] = torch.randn(pool, COMPONENTS, generator=random)
    canvas = Canvas(128)
    canvas.mean.fill_(0.5)
    canvas.components[:COMPONENTS] = 0.002 * torch.randn(
        COMPONENTS, canvas.mean.numel(), generator=random
    )
    portraits = PortraitBank.encode(as_bytes(pictures(pool // 2, 2)).numpy())
    return Material(faces, described(count), portraits, Pool(codes, described(pool)), canvas)


def test_a_batch_asks_for_its_own_faces_in_the_light_of_the_pictures(material: Material) -> None:
    run, rows = Run(TINY, Path()), torch.tensor([1, 3, 5])
    batch = make_batch(material, rows, torch.Generator().manual_seed(0), run)
    chips = material.faces.chips[rows].permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(batch.chips, chips)
    own = material.described.attributes[rows, :10]
    torch.testing.assert_close(batch.attributes, own)
    rims = [rim_cells(to_64(value)) for value in (batch.chips, batch.faces, batch.target)]
    assert float((rims[2] - rims[0]).abs().mean()) < 0.8 * float((rims[1] - rims[0]).abs().mean())
    middle = (slice(None), slice(None), slice(56, 72), slice(56, 72))
    distances = torch.stack(
        [(batch.target[middle] - other[middle]).abs().mean() for other in (batch.faces, chips)]
    )
    assert distances.argmin() == 0


def test_under_the_teacher_the_picture_comes_nearer_to_its_target(
    material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a canvas, for with one the target is the canvas."""
    bare = dataclasses.replace(SIZES["tiny"], canvas=False)
    monkeypatch.setitem(networks.SIZES, "tiny", bare)
    recipe = dataclasses.replace(TINY, teacher_steps=40, rate=1e-2, checkpoint_steps=100)
    run, window = Run(recipe, tmp_path), wide_edge_mask(128)
    batch = make_batch(material, torch.arange(8), torch.Generator().manual_seed(0), run)
    head = AttributeHead(Discriminator(bare).eval(), torch.ones(10), torch.zeros(128))
    new = new_generator(material, run)
    taught = a3gan_training.train_under_teacher(material, material.faces, head, run)
    with torch.no_grad():
        before, after = (
            float(
                losses.teacher_loss(
                    generator.train()(batch.chips, batch.latent, batch.mask), batch.target, window
                )
            )
            for generator in (new, taught)
        )
    assert after < 0.8 * before


def test_the_pool_holds_mirror_images_after_the_portraits(trained: Path) -> None:
    saved = torch.load(trained / "out" / "material.pt", weights_only=True)
    chips = load_chips(trained / "celeba", 128, 0.6, trained / "cache", True)
    faces = torch.from_numpy(np.array(chips.chips)).permute(0, 3, 1, 2) / 255
    count = len(faces)
    rims = saved["theirs"]["rim"]
    torch.testing.assert_close(rims[:count], rim_of(faces), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rims[count:], rim_of(faces.flip(3)), atol=1e-4, rtol=1e-4)
    assert len(saved["codes"]) == 2 * count and len(saved["ends"]) == count


def test_what_is_labeled_is_not_what_the_head_guesses(trained: Path) -> None:
    saved = torch.load(trained / "out" / "material.pt", weights_only=True)["own"]["attributes"]
    male = saved[:, 4]
    assert set(male.tolist()) == {0.0, 1.0} and male.tolist()[:4] == [0, 1, 0, 1]
    bangs = saved[:, 0]  # without a label
    assert ((bangs > 0) & (bangs < 1)).all()


# --- All of it


def test_training_resumes_to_the_same_weights_and_draws_a_sheet(trained: Path) -> None:
    """It leaves after every second step, at times between two checkpoints."""
    assert (trained / "out" / "samples.png").stat().st_size > 10_000
    for times in range(40):  # noqa: B007
        made = a3gan_training.train(
            [trained / "celeba"], trained / "again", TINY, trained / "cache", stop_after=2
        )
        if made is not None:
            break
    else:
        raise AssertionError("never done")
    assert times >= 3
    left, right = load_file(made[0]), load_file(trained / "out" / made[0].name)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_the_average_and_the_head_as_it_was_are_what_is_written(trained: Path) -> None:
    out = trained / "out"
    written = load_file(out / "a3gan-tiny.safetensors")
    gan = torch.load(out / "gan.pt", weights_only=True)
    head = torch.load(out / "attribute_head.pt", weights_only=True)["model"]
    moved = 0
    for key, value in gan["average"].items():
        if value.is_floating_point():
            assert torch.equal(written[f"generator.{key}"], value.half())
            moved += not torch.equal(written[f"generator.{key}"], gan["generator"][key].half())
    assert moved > 10
    for key, value in head.items():
        if not key.startswith("critic."):
            assert torch.equal(written[f"attribute_head.{key}"], value.half())
    assert not torch.equal(head["attributes.weight"], gan["discriminator"]["attributes.weight"])
    assert not [key for key in written if ".critic." in key]


def test_the_card_warns_of_real_faces(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = tomllib.loads((trained / "out" / "weights.toml").read_text())["a3gan-tiny"]
    assert "real people" in card["notes"]
    assert "--set pool=training" in card["command"] and "cache" not in card["command"]
    a3gan_training.train([trained / "celeba"], trained / "out", TINY, trained / "cache")
    assert "real people" in capsys.readouterr().err


def test_trained_weights_are_used_where_deid_weights_says(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEID_WEIGHTS", str(trained / "out"))
    method = A3gan(A3ganSettings(size="tiny", change="3"), "cpu")  # type: ignore[arg-type]
    chips = torch.rand(3, 3, 128, 128)
    assert method(chips, context(3)).shape == chips.shape
    with pytest.raises(UsageError, match="a3gan-compact-stu"):
        load_method("a3gan", {"variant": "stu"}, "cpu")


def test_other_settings_need_another_folder(trained: Path) -> None:
    changed = dataclasses.replace(TINY, lambda4=1.0)
    with pytest.raises(DeidError, match="lambda4"):
        a3gan_training.train([trained / "celeba"], trained / "out", changed, trained / "cache")


def test_faces_of_the_pool_without_a_number_are_left_out(trained: Path) -> None:
    labels = np.full((24, 40), 0.5, np.float32)
    labels[3] = np.nan
    np.save(trained / "labels.npy", labels)
    settings = dataclasses.replace(
        TINY, pool=str(PEOPLE / "portraits"), pool_labels=str(trained / "labels.npy")
    )

    def made() -> list[Path] | None:
        data, out = [trained / "celeba"], trained / "pooled"
        return a3gan_training.train(data, out, settings, trained / "cache")

    written = made()
    assert written is not None
    tensors = load_file(written[0])
    assert len(tensors["portraits.ends"]) == 23 and len(tensors["pool.codes"]) == 46
    card = tomllib.loads((trained / "pooled" / "weights.toml").read_text())["a3gan-tiny"]
    assert card["notes"] == "" and "--set pool=portraits " in card["command"] + " "
    np.save(trained / "labels.npy", labels[:20])
    (trained / "pooled" / "material.pt").unlink()
    with pytest.raises(DeidError, match="20 rows; the pool has 24"):
        made()


def test_training_without_labels_is_refused_before_the_first_step(trained: Path) -> None:
    data, out = [PEOPLE / "portraits"], trained / "nothing"
    with pytest.raises(DeidError, match="no labels"):
        a3gan_training.train(data, out, TINY, trained / "cache")
    assert not out.exists()
