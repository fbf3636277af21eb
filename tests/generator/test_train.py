"""Training a head: windows of the teacher, the ridge before the first step, a kill, the card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deidcli.errors import UsageError
from deidcli.generator import heads, teacher, train
from deidcli.generator.model import Generator, load_generator
from deidcli.generator.networks import PLACES, haar
from deidcli.generator.recipe import Recipe

TINY = Recipe(side=128, steps=3, batch_size=1, styles=2, window=10, linear_faces=1, warmup=1)


@pytest.fixture
def one_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "HELD_OUT", 1)


@pytest.fixture(scope="module")
def generator() -> Generator:
    return load_generator("cpu", torch.float32)


@pytest.mark.parametrize("side", [128, 256])
def test_a_window_shows_a_part_of_the_whole_face(generator: Generator, side: int) -> None:
    """Style 0 is the face's own, so where the weight is 1 it is the whole face's pixels."""
    master = teacher.Teacher(generator, side, seed=4)
    whole = master.whole(7)
    source = torch.Generator().manual_seed(1)
    window = master.window(7, 12, 2, source)
    assert window.features.shape[2:] == (12, 12) and len(window.w) == 2
    cells = side // 2
    for top in range(cells - 11):
        for left in range(cells - 11):
            cut = whole.features[:, :, top : top + 12, left : left + 12]
            if torch.equal(cut[0], window.features[0]):
                break
        else:
            continue
        break
    else:
        raise AssertionError("the window's features are none of the face's")
    wanted = whole.picture[:, :, 2 * top : 2 * top + 24, 2 * left : 2 * left + 24]
    held = torch.nn.functional.interpolate(window.weight, scale_factor=2.0)
    assert held.mean() > 0.3
    assert ((window.picture[:1] - wanted).abs() * held).max() < 1e-3
    assert torch.allclose(window.w[0], whole.w[0])
    # Another style shows the same face in other colors.
    assert ((window.picture[1:] - wanted).abs() * held).mean() > 0.005


def test_a_face_depends_on_seed_and_number(generator: Generator) -> None:
    def w(seed: int, number: int) -> torch.Tensor:
        return teacher.Teacher(generator, 256, seed)._face(number)

    assert torch.equal(w(0, 3), w(0, 3))
    assert not torch.equal(w(0, 3), w(0, 4))
    assert not torch.equal(w(0, 3), w(1, 3))


def test_the_ridge_is_found_from_features(generator: Generator) -> None:
    """Pictures that are a linear map of the features are met exactly."""
    head = heads.started_head(generator.synthesis, generator.mean, 128)
    source = torch.Generator().manual_seed(0)
    features = torch.randn(1, 512, 32, 32, generator=source)
    weight, shift = torch.randn(12, 512, generator=source), torch.randn(12, generator=source)
    bands = torch.einsum("oc,ncyx->noyx", weight, features) + shift[None, :, None, None]
    picture = heads.inverse_haar(bands[:, :3], bands[:, 3:])
    example = teacher.Example(features, generator.mean[None], picture, torch.ones(1, 1, 32, 32))
    heads.fit_linear(head, [example], ridge=1e-9)
    with torch.no_grad():
        drawn = head(features, generator.mean[None])
    assert torch.allclose(drawn, picture, atol=1e-2 * float(picture.std()))


def test_late_is_the_mean_of_the_places_left(generator: Generator) -> None:
    w = torch.arange(PLACES, dtype=torch.float32)[None, :, None].expand(1, -1, 512)
    assert float(heads.late(w, 256)[0, 0]) == sum(range(16, 23)) / 7
    assert float(heads.late(w, 128)[0, 0]) == sum(range(13, 23)) / 10


def test_margins_have_no_part_in_the_loss(generator: Generator) -> None:
    head = heads.started_head(generator.synthesis, generator.mean, 128)
    x, w = torch.randn(1, 512, 8, 8), generator.mean[None]
    weight = torch.zeros(1, 1, 8, 8)
    weight[..., 2:6, 2:6] = 1
    picture = torch.zeros(1, 3, 16, 16)
    spoiled = picture.clone()
    spoiled[..., :4, :] = 9
    first, second = (
        train.distance(head, teacher.Example(x, w, given, weight), 2.0)
        for given in (picture, spoiled)
    )
    assert torch.equal(first, second)
    with torch.no_grad():
        bands = head.bands(x, w)
    perfect = heads.inverse_haar(bands[:, :3], bands[:, 3:])
    example = teacher.Example(x, w, perfect, weight)
    assert float(train.distance(head, example, 2.0).detach()) < 1e-5
    assert torch.allclose(haar(perfect), bands, atol=1e-5)


def test_a_kill_changes_nothing(tmp_path: Path, one_held_out: None) -> None:
    whole = train.train([], tmp_path / "whole", TINY)
    assert whole is not None
    killed = replace(TINY, checkpoint_steps=1)
    assert train.train([], tmp_path / "killed", killed, stop_after=2) is None
    again = train.train([], tmp_path / "killed", killed)
    assert again is not None
    first, second = load_file(whole), load_file(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (tmp_path / "whole" / "sheet-128.png").is_file()


def test_the_card_has_the_command_and_the_head_loads(
    tmp_path: Path, one_held_out: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deidcli.weights.own import own_cards

    made = train.train([], tmp_path, TINY)
    assert made is not None and made.name == "generator-head-128.safetensors"
    monkeypatch.setenv("DEID_WEIGHTS", str(tmp_path))
    card = own_cards()["generator-head-128"]
    assert card.command == (
        "deid train generator-head --set side=128 --set steps=3 --set batch_size=1 "
        "--set styles=2 --set window=10 --set linear_faces=1 --set warmup=1"
    )
    assert set(card.scores) == {"split", "psnr", "sharpness", "l1"}
    head = heads.load_head(128)
    faces = train.held_out_faces(TINY)
    assert train.scores(head, faces)["psnr"] == pytest.approx(card.scores["psnr"], abs=0.05)


def test_scores_of_the_truth_are_perfect(generator: Generator, one_held_out: None) -> None:
    (face,) = train.held_out_faces(TINY)

    class Oracle(torch.nn.Module):
        def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            return face.picture + 0.02

    found = train.scores(Oracle(), [face])  # type: ignore[arg-type]
    assert found["psnr"] == pytest.approx(40, abs=0.5) and found["l1"] == pytest.approx(
        2.55, rel=0.1
    )
    assert found["sharpness"] == pytest.approx(1, abs=0.02)


def test_a_side_that_no_head_draws_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        train.train([], tmp_path, Recipe(side=64))


def test_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without pictures"):
        train.train([tmp_path], tmp_path, TINY)
    with pytest.raises(UsageError, match="without pictures"):
        train.train([], tmp_path, TINY, cache=tmp_path)
