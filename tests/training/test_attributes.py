"""Training of the attribute classifier: its loss, what moves, what is written."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import DeidError
from deidcli.faces.attributes import AttributeNet, NetSettings, predict
from deidcli.training import attributes as recipe_module
from deidcli.training import loop
from deidcli.training.attributes import LOWER, NEW, Recipe, batch_loss, loss_of, train
from deidcli.training.chips import Chips
from deidcli.weights.own import own_cards, own_weights

TINY = Recipe(
    net=NetSettings(side=32, width=4, blocks=(1, 1, 1), maps=1),
    cut_side=32,
    initial="",
    freeze_lower=False,
    epochs=2,
    batch_size=4,
    warmup=1,
    checkpoint_steps=1,
    threads=1,
)


def made(path: Path | None) -> dict[str, Tensor]:
    assert path is not None
    return load_file(path)


def gradient(recipe: Recipe, labels: NDArray[np.int8] | None = None) -> dict[str, Tensor]:
    """The gradient of one batch of noise."""
    random = np.random.default_rng(0)
    chips = random.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    if labels is None:
        labels = random.choice(np.array([-1, 1], np.int8), (8, 40))
    faces = Chips(chips, np.ones(8, np.bool_), labels, np.array(list("abcdefgh"), object))
    model, _, _ = recipe_module._start(recipe)
    generator = loop.seed_step(0, 0)
    batch_loss(model, faces, torch.arange(4), generator, recipe).backward()  # type: ignore[no-untyped-call]
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def test_loss_is_the_cross_entropy_of_entries_with_a_label() -> None:
    logits = torch.tensor([[2.0, -1.0, 5.0]])
    labels = torch.tensor([[1, -1, 0]], dtype=torch.int8)
    expected = (torch.tensor(-2.0).exp().log1p() + torch.tensor(-1.0).exp().log1p()) / 2
    torch.testing.assert_close(loss_of(logits, labels, 0.0), expected)
    assert float(loss_of(logits, torch.zeros_like(labels), 0.0)) == 0.0


def test_smoothing_moves_the_targets_and_the_gradient() -> None:
    best = torch.tensor([[np.log(0.95 / 0.05), -np.log(0.95 / 0.05)]]).float().requires_grad_()
    loss_of(best, torch.tensor([[1, -1]], dtype=torch.int8), 0.1).backward()  # type: ignore[no-untyped-call]
    assert best.grad is not None and float(best.grad.abs().max()) < 1e-6  # targets 0.95, 0.05
    plain, smooth = gradient(replace(TINY, smoothing=0.0)), gradient(replace(TINY, smoothing=0.3))
    assert not torch.equal(plain["head.weight"], smooth["head.weight"])


def test_labels_that_are_missing_give_no_gradient() -> None:
    labels = np.ones((8, 40), np.int8)
    labels[:, 5] = 0
    grads = gradient(TINY, labels)
    assert float(grads["head.weight"][5].abs().max()) == 0.0
    assert float(grads["head.weight"][4].abs().max()) > 0.0


def test_frozen_stages_get_no_gradient_and_keep_their_statistics(
    labeled: Path, cache: Path, tmp_path: Path
) -> None:
    def stages(recipe: Recipe) -> set[str]:
        return {name.split(".")[0] for name in gradient(recipe)}

    assert stages(TINY) >= set(LOWER)
    assert not stages(replace(TINY, freeze_lower=True)) & set(LOWER)
    torch.manual_seed(TINY.seed)
    start = AttributeNet(TINY.net).state_dict()
    frozen = made(train([labeled], tmp_path, replace(TINY, freeze_lower=True), cache))
    for name, value in frozen.items():
        if name.split(".")[0] in LOWER:  # running means, too
            assert torch.equal(value, start[name].half()), name
    assert not torch.equal(frozen["head.weight"], start["head.weight"].half())


def test_rates_and_decay_of_the_parameter_groups(tmp_path: Path) -> None:
    torch.manual_seed(1)
    initial = tmp_path / "initial.safetensors"
    save_file(AttributeNet(TINY.net).state_dict(), initial)
    recipe = replace(TINY, initial=str(initial), rate=1e-2, trunk_rate=0.25, weight_decay=0.3)
    model, average, optimizer = recipe_module._start(recipe)
    rates = {
        id(value): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for value in group["params"]
    }
    for name, value in model.named_parameters():
        rate = 1e-2 if name.split(".")[0] in NEW else 0.25e-2
        assert rates[id(value)] == (rate, 0.3 if value.ndim > 1 else 0.0), name
    loaded = load_file(initial)
    for state in (model.state_dict(), average.state_dict()):
        assert torch.equal(state["conv1.conv.weight"], loaded["conv1.conv.weight"])
    scratch, _, optimizer = recipe_module._start(replace(recipe, initial=""))
    assert {group["lr"] for group in optimizer.param_groups} == {1e-2}
    assert not torch.equal(scratch.state_dict()["conv1.conv.weight"], loaded["conv1.conv.weight"])


def test_initial_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DeidError, match=r"gone\.safetensors"):
        recipe_module._start(replace(TINY, initial=str(tmp_path / "gone.safetensors")))


def test_the_average_is_what_is_written(labeled: Path, cache: Path, tmp_path: Path) -> None:
    written = made(train([labeled], tmp_path, TINY, cache))
    state = torch.load(tmp_path / "attributes.pt", weights_only=True)
    for name, value in written.items():
        assert torch.equal(value, state["average"][name].half()), name
    assert not torch.equal(written["head.weight"], state["model"]["head.weight"].half())
    torch.manual_seed(TINY.seed)
    start = AttributeNet(TINY.net).state_dict()["head.weight"]
    assert not torch.equal(written["head.weight"], start.half())  # it moved


def test_the_average_follows_its_decay(labeled: Path, cache: Path, tmp_path: Path) -> None:
    """With a decay of 0 the average is the model itself."""
    made(train([labeled], tmp_path, replace(TINY, average=0.0), cache))
    state = torch.load(tmp_path / "attributes.pt", weights_only=True)
    for name, value in state["model"].items():
        torch.testing.assert_close(state["average"][name], value, msg=name)


@pytest.mark.parametrize("stopped", [1, 3])
def test_training_resumes_to_the_same_weights(
    stopped: int, labeled: Path, cache: Path, tmp_path: Path
) -> None:
    whole = made(train([labeled], tmp_path / "a", TINY, cache, [labeled]))
    # Eight found faces make two steps an epoch: three steps leave it inside the second epoch.
    assert train([labeled], tmp_path / "b", TINY, cache, stop_after=stopped) is None
    assert not (tmp_path / "b" / "attributes.safetensors").exists()
    resumed = made(train([labeled], tmp_path / "b", TINY, cache))
    assert whole.keys() == resumed.keys() and whole["head.weight"].dtype == torch.float16
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    other = made(train([labeled], tmp_path / "c", replace(TINY, seed=1), cache))
    assert not torch.equal(whole["head.weight"], other["head.weight"])


def test_other_settings_do_not_resume(labeled: Path, cache: Path, tmp_path: Path) -> None:
    train([labeled], tmp_path, TINY, cache, stop_after=1)
    with pytest.raises(DeidError, match="rate"):
        train([labeled], tmp_path, replace(TINY, rate=1e-4), cache)
    wider = replace(TINY, net=replace(TINY.net, width=8))
    with pytest.raises(DeidError, match="net"):
        train([labeled], tmp_path, wider, cache)
    free = replace(TINY, threads=2, checkpoint_steps=2)
    assert train([labeled], tmp_path, free, cache) is not None


def test_validation_is_scored_once_an_epoch_and_not_trained_on(
    labeled: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without = made(train([labeled], tmp_path / "a", TINY, cache))
    capsys.readouterr()
    scored = replace(TINY, checkpoint_steps=1)
    assert all(
        torch.equal(value, without[name])
        for name, value in made(train([labeled], tmp_path / "b", scored, cache, [labeled])).items()
    )
    lines = [line for line in capsys.readouterr().err.splitlines() if "step" in line]
    said = ["validation mean" in line for line in lines if " of 4" in line]
    assert said == [False, True, False, True]


def test_the_loss_falls_on_faces_that_can_be_told_apart(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bright faces and dark ones, which no augmentation mixes up."""
    random = np.random.default_rng(0)
    chips = random.integers(0, 60, (64, 32, 32, 3), dtype=np.uint8)
    chips[::2] += 180
    labels = np.zeros((64, 40), np.int8)
    young = CELEBA_ATTRIBUTES.index("Young")
    labels[:, young] = [1, -1] * 32
    faces = Chips(
        chips, np.ones(64, np.bool_), labels, np.array([str(n) for n in range(64)], object)
    )
    monkeypatch.setattr(recipe_module, "_found_chips", lambda paths, recipe, cache: faces)
    recipe = replace(TINY, epochs=12, batch_size=16, rate=1e-2, average=0.5, bfloat16=False)
    tensors = made(train([tmp_path], tmp_path / "out", recipe, cache))
    model = AttributeNet(TINY.net).eval()
    model.load_state_dict(tensors, strict=False)
    said = predict(model, chips)[:, young]
    assert ((said > 0.5) == (labels[:, young] == 1)).mean() == 1.0


def test_the_card_loads_where_deid_weights_says(
    labeled: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train([labeled], tmp_path, TINY, cache)
    monkeypatch.setenv("DEID_WEIGHTS", str(tmp_path))
    tensors, card = own_weights("attributes")
    assert tensors.keys() == load_file(tmp_path / "attributes.safetensors").keys()
    assert card.kind == "attributes" and card.trained_on == "people.parquet"
    assert card.input["side"] == 32 and card.input["padding"] == TINY.net.padding
    assert "--set batch_size=4" in card.command and "threads" not in card.command
    assert "net" not in card.command.replace("mobilefacenet", "")
    assert "dae" in {other.kind for other in own_cards().values()}  # those that we ship
    with safe_open(tmp_path / "attributes.safetensors", "pt") as file:
        kept = json.loads(file.metadata()["settings"])
    assert kept == json.loads(json.dumps(dataclasses.asdict(TINY)))


def test_a_training_keeps_faces_for_as_long_as_it_lasts(
    labeled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in the user's cache; in `out` alone, until it is done; in `cache` where asked."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DEID_CACHE", str(tmp_path / "user"))
    out = tmp_path / "a"
    assert train([labeled], out, TINY, stop_after=1) is None
    assert list((out / "faces").rglob("chips.npy"))
    assert out.joinpath("faces").stat().st_mode & 0o077 == 0
    assert train([labeled], out, TINY) is not None
    assert not (out / "faces").exists() and not list(out.rglob("chips.npy"))
    assert train([labeled], tmp_path / "b", TINY, tmp_path / "asked") is not None
    assert list((tmp_path / "asked").rglob("chips.npy"))
    assert not (tmp_path / "home").exists() and not (tmp_path / "user").exists()


def test_data_without_labels_is_refused_before_the_first_step(people: Path, tmp_path: Path) -> None:
    from tests.conftest import copy_people

    with pytest.raises(DeidError, match="no labels"):
        train([copy_people(tmp_path / "in", 2)], tmp_path / "out", TINY)
    assert not (tmp_path / "out" / "attributes.pt").exists()


def test_a_rate_of_the_trunk_needs_initial_weights() -> None:
    assert TINY.ignored() == {"trunk_rate"} and Recipe().ignored() == frozenset()
