"""The training of `dae`: each part learns, each loss counts, the same weights after a kill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from deidcli.errors import DeidError
from deidcli.methods.dae import losses, matching, targets
from deidcli.methods.dae import train as recipe
from deidcli.methods.dae.networks import Convolutional, FullyConnected, Smoother, pack
from deidcli.methods.dae.recipe import DaeRun
from deidcli.methods.dae.training_faces import (
    faces_of,
    flipped_codes,
    in_blocks,
    reconstruction_error,
    tensor_of,
)
from deidcli.training.chips import Chips, load_landmarks
from deidcli.training.loop import cosine
from tests.conftest import PEOPLE
from tests.methods.dae.conftest import STRANGERS, TINY

CONV = replace(TINY, network="conv")
LONG = replace(TINY, checkpoint_steps=1000)
STILL = replace(TINY, rate=0.0)
"""A training whose networks never move, so that all of its steps can be compared."""


@pytest.fixture(scope="module")
def goal(labeled: Path, cache: Path, faces: Chips) -> matching.MatcherTargets:
    """What the matcher is to say of the 24 faces."""
    landmarks = load_landmarks([labeled], cache)
    return matching.matcher_targets(faces, landmarks, cache)


def unit(faces: Chips) -> Tensor:
    """(N, 3, S, S) float32 RGB in [0, 1]."""
    return tensor_of(faces).permute(0, 3, 1, 2).float() / 255


# --- Each part learns


def test_the_convolutional_autoencoder_learns_from_random_weights(
    faces: Chips, tmp_path: Path
) -> None:
    chips = tensor_of(faces)
    errors = []
    for epochs in (1, 30):
        settings = replace(LONG, network="conv", autoencoder_epochs=epochs, rate=4e-3)
        run = DaeRun(settings, tmp_path / str(epochs))
        made = recipe.train_autoencoder(chips, run)
        errors.append(reconstruction_error(made, chips, run.settings))
    assert errors[1] < 0.8 * errors[0]


def test_the_connected_autoencoder_gets_better_than_its_components(
    faces: Chips, tmp_path: Path
) -> None:
    chips = tensor_of(faces)
    both = torch.cat([chips, chips.flip(2)])  # the components are those of the first half
    errors = []
    for epochs in (0, 30):
        run = DaeRun(replace(LONG, autoencoder_epochs=epochs), tmp_path / str(epochs))
        made = recipe.train_autoencoder(chips, run)
        errors.append(reconstruction_error(made, both, run.settings))
    assert errors[0] < 0.5 * float(unit(faces).var(0).mean()), "not even the components"
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("network", ["fc", "conv"])
def test_the_encoder_comes_closer_to_its_targets(
    network: Any, faces: Chips, tmp_path: Path
) -> None:
    settings = replace(LONG, network=network, encoder_epochs=40, autoencoder_epochs=10, rate=4e-3)
    run = DaeRun(settings, tmp_path)
    autoencoder = recipe.train_autoencoder(tensor_of(faces), run)
    encoder = recipe.train_encoder(autoencoder, faces, run)
    codes = in_blocks(autoencoder.encode, tensor_of(faces), "cpu")
    wanted = torch.from_numpy(targets.nearest_to_mean(codes.numpy(), 2, 1.0, faces.persons))
    found = in_blocks(encoder.encode, tensor_of(faces), "cpu")
    assert float((found - wanted).square().mean()) < 0.7 * float((codes - wanted).square().mean())


def test_the_filters_deblur_and_reconstruct(
    faces: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "SMOOTHER_EPOCHS", 1)
    run = DaeRun(replace(LONG, filter_epochs=50), tmp_path)
    filters = recipe.train_filters(tensor_of(faces), run)
    chips = unit(faces)
    blurred = gaussian_blur(chips, [5, 5], [0.7, 0.7])
    with torch.no_grad():
        sharper = losses.deblurring_loss(filters.deblurrer(blurred), chips)
        torch.manual_seed(0)
        untrained = losses.smoothing_loss(Smoother()(chips), chips)
        smoothed = losses.smoothing_loss(filters.smoother(chips), chips)
    assert float(sharper) < 0.93 * float(losses.deblurring_loss(blurred, chips))
    assert float(smoothed) < 0.2 * float(untrained)


def test_the_matcher_learns_all_that_it_is_to_say(
    faces: Chips, goal: matching.MatcherTargets, tmp_path: Path
) -> None:
    wanted = (goal.labels, goal.landmarks, goal.embeddings)
    packed = pack(unit(faces), True)
    terms = []
    for epochs in (1, 20):
        run = DaeRun(
            replace(STRANGERS, matcher_epochs=epochs, checkpoint_steps=1000), tmp_path / str(epochs)
        )
        matcher = recipe.train_matcher(tensor_of(faces), goal, run)
        with torch.no_grad():
            terms.append(losses.matcher_loss(matcher(packed), *wanted))
    for name in losses.MatcherLoss._fields:
        assert float(getattr(terms[1], name)) < 0.8 * float(getattr(terms[0], name)), name


def test_steps_are_taken_in_training_mode_and_networks_left_for_inference(
    faces: Chips, tmp_path: Path
) -> None:
    run = DaeRun(replace(CONV, autoencoder_epochs=1, checkpoint_steps=1), tmp_path)
    made = recipe.train_autoencoder(tensor_of(faces), run)
    norm = made.encoder[1]
    assert isinstance(norm, torch.nn.BatchNorm2d) and int(norm.num_batches_tracked) == 3
    assert norm.running_mean is not None and float(norm.running_mean.abs().max()) > 0
    assert not any(module.training for module in made.modules())


# --- Each loss counts


PARTS = {
    "reconstruction_loss": "autoencoder",
    "target_loss": "encoder-strangers",
    "deblurring_loss": "deblurrer",
    "smoothing_loss": "smoother",
    "matcher_loss": "matcher",
}
"""Loss -> the checkpoint of the part that it trains."""


def after_one_step(
    name: str, faces: Chips, goal: matching.MatcherTargets, out: Path
) -> dict[str, Tensor]:
    """The weights of a part after one step; the parts before it do not move."""
    settings = replace(STRANGERS, batch_size=24, autoencoder_epochs=0, encoder_epochs=1)
    if name == "autoencoder":
        settings = replace(settings, autoencoder_epochs=1)
    run, chips = DaeRun(replace(settings, filter_epochs=1, matcher_epochs=1), out), tensor_of(faces)
    if name == "matcher":
        recipe.train_matcher(chips, goal, run)
    elif name in ("deblurrer", "smoother"):
        recipe.train_filters(chips, run)
    else:
        autoencoder = recipe.train_autoencoder(chips, run)
        if name != "autoencoder":
            recipe.train_encoder(autoencoder, faces, run)
    model: dict[str, Tensor] = torch.load(out / f"{name}.pt", weights_only=True)["model"]
    return model


@pytest.mark.parametrize("loss", PARTS)
def test_no_step_is_taken_without_its_loss(
    loss: str,
    faces: Chips,
    goal: matching.MatcherTargets,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = after_one_step(PARTS[loss], faces, goal, tmp_path / "real")
    function = getattr(losses, loss)

    def nothing(*args: Any) -> Any:
        value = function(*args)
        if loss == "matcher_loss":
            return losses.MatcherLoss(*(0 * term for term in value))
        return 0 * value

    monkeypatch.setattr(losses, loss, nothing)
    without = after_one_step(PARTS[loss], faces, goal, tmp_path / "without")
    assert any(not torch.equal(real[key], without[key]) for key in real)


@pytest.mark.parametrize("term", losses.MatcherLoss._fields)
def test_no_term_of_the_matcher_is_left_out(
    term: str,
    faces: Chips,
    goal: matching.MatcherTargets,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = after_one_step("matcher", faces, goal, tmp_path / "real")
    function = losses.matcher_loss

    def without_term(*args: Any) -> losses.MatcherLoss:
        return function(*args)._replace(**{term: torch.zeros(())})

    monkeypatch.setattr(losses, "matcher_loss", without_term)
    without = after_one_step("matcher", faces, goal, tmp_path / "without")
    assert not torch.equal(real["layers.6.weight"], without["layers.6.weight"])


# --- What a step sees


def spied(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[Any, ...]]:
    """The arguments of every call of a loss."""
    calls: list[tuple[Any, ...]] = []
    function: Callable[..., Tensor] = getattr(losses, name)

    def spy(*args: Any) -> Tensor:
        calls.append(tuple(a.detach().clone() if isinstance(a, Tensor) else a for a in args))
        return function(*args)

    monkeypatch.setattr(losses, name, spy)
    return calls


def rows_of(found: Tensor, plain: Tensor, mirrored: Tensor) -> tuple[list[int], list[bool]]:
    """For each row of `found` the row of `plain` or `mirrored` that it is, and which of the two."""
    both = torch.cat([plain, mirrored]).flatten(1)
    distance = torch.cdist(found.flatten(1).double(), both.double())
    assert float(distance.min(1).values.max()) < 1e-3, "neither a face nor a flipped one"
    index = distance.argmin(1)
    return (index % len(plain)).tolist(), (index >= len(plain)).tolist()


def test_the_autoencoder_sees_every_face_and_half_of_them_flipped(
    faces: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = spied(monkeypatch, "reconstruction_loss")
    run = DaeRun(replace(STILL, autoencoder_epochs=4), tmp_path)
    autoencoder = recipe.train_autoencoder(tensor_of(faces), run)
    chips = unit(faces)
    assert len(calls) == 12
    seen, mirrored = [], []
    for made, wanted in calls:
        rows, where = rows_of(wanted, chips, chips.flip(3))
        seen += rows
        mirrored += where
        with torch.no_grad():
            again = autoencoder.decode(autoencoder.encode(wanted))
        torch.testing.assert_close(made, again, atol=1e-4, rtol=0)
    for epoch in range(4):
        assert sorted(seen[24 * epoch :][:24]) == list(range(24))
    assert seen[:24] != seen[24:48]
    assert 0.3 < np.mean(mirrored) < 0.7


def test_the_encoder_is_shown_each_face_with_its_own_target(
    faces: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = spied(monkeypatch, "target_loss")
    run = DaeRun(replace(STILL, encoder_epochs=4), tmp_path)
    autoencoder = recipe.train_autoencoder(tensor_of(faces), run)
    recipe.train_encoder(autoencoder, faces, run)
    codes = in_blocks(autoencoder.encode, tensor_of(faces), "cpu")
    mirrored = in_blocks(autoencoder.encode, tensor_of(faces).flip(2), "cpu")
    wanted = torch.from_numpy(targets.nearest_to_mean(codes.numpy(), 2, 1.0, faces.persons))
    with torch.no_grad():
        wanted_mirrored = autoencoder.encode(autoencoder.decode(wanted).flip(3))
    torch.testing.assert_close(flipped_codes(autoencoder, wanted, "cpu"), wanted_mirrored)
    assert not torch.allclose(wanted, wanted_mirrored, atol=0.1)
    flips = []
    for found, given, variance in calls:
        rows, where = rows_of(found, codes, mirrored)
        for index, (row, flip) in enumerate(zip(rows, where, strict=True)):
            expected = wanted_mirrored[row] if flip else wanted[row]
            torch.testing.assert_close(given[index], expected, atol=1e-3, rtol=0)
        flips += where
        assert variance == pytest.approx(float(codes.var(0).mean()))
    assert len(calls) == 12 and 0.3 < np.mean(flips) < 0.7


def test_the_deblurrer_sees_blurred_faces_and_is_asked_for_sharp_ones(
    faces: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = spied(monkeypatch, "deblurring_loss")  # an untrained deblurrer returns its input
    monkeypatch.setattr(recipe, "SMOOTHER_EPOCHS", 1)
    recipe.train_filters(tensor_of(faces), DaeRun(replace(STILL, filter_epochs=4), tmp_path))
    chips = unit(faces)
    blurs = []
    for blurred, sharp in calls:
        rows_of(sharp, chips, chips.flip(3))
        blurs.append(float((blurred - sharp).abs().mean()))
    assert min(blurs) > 1e-4 and max(blurs) > 1.5 * min(blurs), "not blurred, or all alike"


def test_the_learning_rate_rises_and_falls_from_each_networks_own(
    faces: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    real = recipe.optimizer_step

    def spy(optimizer: torch.optim.Optimizer, *args: Any) -> float:
        value = real(optimizer, *args)
        rates.append(optimizer.param_groups[0]["lr"])
        return value

    monkeypatch.setattr(recipe, "optimizer_step", spy)
    settings = replace(LONG, autoencoder_epochs=8)
    recipe.train_autoencoder(tensor_of(faces), DaeRun(settings, tmp_path / "fc"))
    expected = [cosine(step, 24, 2, recipe.FLOOR) for step in range(24)]
    assert rates == pytest.approx([settings.rate * factor for factor in expected])
    assert rates[0] == settings.rate / 2 and max(rates) == settings.rate
    assert rates[-1] < 0.05 * settings.rate
    rates.clear()
    conv = replace(settings, network="conv")
    recipe.train_autoencoder(tensor_of(faces), DaeRun(conv, tmp_path / "conv"))
    assert max(rates) == pytest.approx(recipe.FRESH_RATE * settings.rate)


def test_the_validation_set_is_reconstructed_at_each_checkpoint(
    faces: Chips, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = DaeRun(CONV, tmp_path)
    chips = tensor_of(faces)
    made = recipe.train_autoencoder(chips, run, chips[:5])
    lines = [line for line in capsys.readouterr().err.splitlines() if "validation" in line]
    error = reconstruction_error(made, chips[:5], CONV)  # of the network in evaluation mode
    assert len(lines) == 2 and lines[-1].endswith(f", validation {error:.5f}")


# --- From the command to the files


def test_only_the_encoder_is_tuned(faces: Chips, tmp_path: Path) -> None:
    run = DaeRun(TINY, tmp_path)
    autoencoder = recipe.train_autoencoder(tensor_of(faces), run)
    before = {key: value.clone() for key, value in autoencoder.state_dict().items()}
    tuned = recipe.train_encoder(autoencoder, faces, run).state_dict()
    for name, value in before.items():
        assert torch.equal(value, autoencoder.state_dict()[name]), name
        moved = not torch.equal(value, tuned[name])
        assert moved == name.startswith("encoder."), name


RECIPES = {
    "strangers": STRANGERS,
    "supervised": replace(TINY, target="supervised", attributes="Male"),
    "clusters": replace(TINY, target="clusters", clusters=3),
    "neighbors": TINY,
    "cells": replace(CONV, target="cells"),
}


@pytest.mark.parametrize("target", RECIPES)
def test_training_resumes_to_the_same_weights(
    target: str, labeled: Path, cache: Path, tmp_path: Path
) -> None:
    settings = RECIPES[target]
    whole = recipe.train([labeled], tmp_path / "whole", settings, cache)
    assert whole is not None
    network = "conv" if target == "cells" else "fc"
    assert [path.name for path in whole] == [
        f"dae-{network}.safetensors",
        f"dae-{target}.safetensors",
    ]
    kills = 0
    while (again := recipe.train([labeled], tmp_path / "killed", settings, cache, (), 7)) is None:
        kills += 1
        assert kills < 10, "never done"
    assert kills >= 4
    for left, right in zip(whole, again, strict=True):
        assert left.read_bytes() == right.read_bytes(), left.name


def test_checkpoints_lie_within_an_epoch(faces: Chips, tmp_path: Path) -> None:
    run = DaeRun(replace(TINY, autoencoder_epochs=4), tmp_path, left=5)
    with pytest.raises(recipe.StoppedError):
        recipe.train_autoencoder(tensor_of(faces), run)
    saved = torch.load(tmp_path / "autoencoder.pt", weights_only=True)
    assert saved["step"] == 4 and set(saved) == {"settings", "step", "model", "optimizer"}


def test_other_settings_do_not_go_on_from_a_checkpoint(faces: Chips, tmp_path: Path) -> None:
    recipe.train_autoencoder(tensor_of(faces), DaeRun(TINY, tmp_path))
    with pytest.raises(DeidError, match="autoencoder_epochs"):
        run = DaeRun(replace(TINY, autoencoder_epochs=3), tmp_path)
        recipe.train_autoencoder(tensor_of(faces), run)


def test_a_part_alone_writes_no_weights(labeled: Path, cache: Path, tmp_path: Path) -> None:
    for part, made in (
        ("autoencoder", {"autoencoder.pt"}),
        ("encoder", {"autoencoder.pt", "encoder-neighbors.pt"}),
    ):
        settings = replace(TINY, part=part)
        assert recipe.train([labeled], tmp_path, settings, cache) == []
        assert {path.name for path in tmp_path.iterdir()} == made


def test_targets_that_need_labels_say_so_before_the_first_step(cache: Path, tmp_path: Path) -> None:
    for settings in (RECIPES["supervised"], RECIPES["strangers"]):
        with pytest.raises(DeidError, match="no two kinds of Male"):
            recipe.train([PEOPLE / "portraits"], tmp_path / "out", settings, cache)
    assert not (tmp_path / "out").exists()


def test_a_pool_that_is_not_there_is_refused_before_the_first_step(
    labeled: Path, cache: Path, tmp_path: Path
) -> None:
    settings = replace(STRANGERS, pool=str(tmp_path / "missing"))
    with pytest.raises(DeidError):
        recipe.train([labeled], tmp_path / "out", settings, cache)
    assert not (tmp_path / "out").exists()


def test_no_face_and_no_descriptor_stays_beside_the_weights(labeled: Path, tmp_path: Path) -> None:
    assert recipe.train([labeled], tmp_path, replace(STRANGERS, pool="training")) is not None
    kept = {"autoencoder", "encoder-strangers", "deblurrer", "smoother", "matcher"}
    made = {"weights.toml", "dae-fc.safetensors", "dae-strangers.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == made | {f"{name}.pt" for name in kept}


def test_training_faces_are_published_only_on_request_and_with_a_warning(
    labeled: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = replace(STRANGERS, pool="training", pool_size=4)
    made = recipe.train([labeled], tmp_path, settings, cache)
    assert made is not None
    assert "WARNING: pool=training" in capsys.readouterr().err
    cards = (tmp_path / "weights.toml").read_text()
    assert cards.count("the people in the training data") == 1
    assert "--set pool=training" in cards


def test_the_pool_is_that_of_the_settings(
    labeled: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for number in (3, 9):
        path = PEOPLE / "portraits" / f"person_{number:02d}.jpg"
        (few / path.name).write_bytes(path.read_bytes())
    settings = replace(STRANGERS, pool=str(few))
    made = recipe.train([labeled], tmp_path / "out", settings, cache)
    assert made is not None and "WARNING" not in capsys.readouterr().err
    tensors = load_file(made[1])
    network = FullyConnected([24, 16, 8])
    saved = torch.load(tmp_path / "out" / "autoencoder.pt", weights_only=True)
    network.load_state_dict(saved["model"])
    chips = chips_of(few, cache)
    with torch.no_grad():
        codes = network.encode(torch.cat([chips, chips.flip(3)]))
    torch.testing.assert_close(tensors["pool.codes"].float(), codes, atol=0.02, rtol=2e-3)
    text = (tmp_path / "out" / "weights.toml").read_text()
    assert "--set pool=few" in text and str(tmp_path) not in text


def chips_of(folder: Path, cache: Path) -> Tensor:
    """(N, 3, S, S) float32 chips of a folder."""
    return unit(faces_of([folder], cache, 0)[0])


def test_cells_are_those_of_the_convolutional_grid(
    faces: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = spied(monkeypatch, "target_loss")
    settings = replace(CONV, target="cells", n=1, rate=0.0, encoder_epochs=1, batch_size=24)
    run = DaeRun(settings, tmp_path)
    autoencoder = recipe.train_autoencoder(tensor_of(faces), run)
    assert isinstance(autoencoder, Convolutional) and autoencoder.grid == 2
    recipe.train_encoder(autoencoder, faces, run)
    codes = in_blocks(autoencoder.encode, tensor_of(faces), "cpu")
    wanted = torch.from_numpy(targets.by_cell(codes.numpy(), 4, 1, 1.0, faces.persons))
    rows_of(calls[0][1], wanted, flipped_codes(autoencoder, wanted, "cpu"))
