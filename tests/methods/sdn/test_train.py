"""sdn: the recipe from end to end, killed and resumed, and what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from deidcli.errors import DeidError
from deidcli.methods.sdn import train
from deidcli.methods.sdn.method import SecureDualNetwork
from deidcli.methods.sdn.recipe import Recipe
from deidcli.methods.sdn.refinement import RefinementTraining
from deidcli.methods.sdn.settings import SdnSettings
from tests.conftest import Outcome, copy_people
from tests.methods.sdn.faces import bits_of, context, training_data

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture
def quick(tmp_path: Path, method: SecureDualNetwork, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The smallest training; the bottleneck's closed form, which takes a minute, is given."""
    monkeypatch.setattr(train, "fit_bottleneck", lambda *_: method.bottleneck)
    return Recipe(
        pool=str(copy_people(tmp_path / "pool", 6)),
        extractor_steps=3,
        steps=4,
        pool_size=4,
        batch_size=4,
        extractor_batch=4,
        classifier_every=2,
        adversarial_from=0.5,
        checkpoint_steps=1,
    )


def test_kill_and_resume_give_the_same_weights(tmp_path: Path, quick: Recipe) -> None:
    """Killed in each part."""
    root, cache = training_data(tmp_path / "celeba"), tmp_path / "cache"
    files = []
    for name, stops in (("whole", []), ("killed", [1, 3, 2])):
        out = tmp_path / name
        for stop in stops:
            assert train.train([root], out, quick, cache, stop_after=stop) is None
        made = train.train([root], out, quick, cache)
        assert made is not None
        files.append(made[0].read_bytes())
    assert files[0] == files[1]
    tensors = load_file(tmp_path / "whole" / "sdn-compact.safetensors")
    assert float(tensors["reveal.last.weight"].abs().max()) > 0  # it started at zero
    with pytest.raises(DeidError, match="other settings: rate"):
        train.train([root], tmp_path / "whole", replace(quick, rate=0.5), cache)


def test_what_is_trained_publishes_and_restores(
    tmp_path: Path, quick: Recipe, chips: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From pictures to weights to a method, at the smallest size; the averaged networks are what is
    saved."""
    kept: list[RefinementTraining] = []

    def write(training: RefinementTraining, *rest: Any) -> Path:
        kept.append(training)
        return original(training, *rest)

    original = train.write
    monkeypatch.setattr(train, "write", write)
    out = tmp_path / "out"
    assert train.train([training_data(tmp_path / "celeba")], out, quick)
    assert not (out / "faces").exists()
    tensors = load_file(out / "sdn-compact.safetensors")
    for part in ("erasing", "reveal"):
        average = kept[-1].get_submodule(f"{part}_average").state_dict()
        now = kept[-1].networks.get_submodule(part).state_dict()
        for key, value in average.items():
            assert torch.equal(tensors[f"{part}.{key}"], value.half())
        assert not torch.equal(average["last.weight"], now["last.weight"])
    monkeypatch.setenv("DEID_WEIGHTS", str(out))
    trained = SecureDualNetwork(SdnSettings(), "cpu")
    assert len(trained.identity.codes) == 8  # four portraits, each flipped, too
    with torch.inference_mode():
        made = trained(chips, context(bits_of(12)))
        back = trained.restore(made, bits_of(12))
    inside = torch.from_numpy(trained.mask) > 0.9
    changed, left = ((x - chips)[:, :, inside].abs().mean() for x in (made, back))
    assert float(changed) > 3 * float(left)


def test_no_pool_is_refused_before_anything_is_done(
    tmp_path: Path, deid: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "load_faces", lambda *_, **__: pytest.fail("faces were looked for"))
    out = tmp_path / "out"
    outcome = deid("train", "sdn", training_data(tmp_path / "celeba"), "--out", out)
    assert outcome.code == 2 and "pool=training" in outcome.stderr
    assert not out.exists()
    Recipe(part="extractor").require_pool()  # which needs none


def test_training_faces_as_the_pool_are_told_of(
    tmp_path: Path, quick: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = training_data(tmp_path / "celeba"), tmp_path / "out"
    assert train.train([root], out, replace(quick, pool="training", steps=1))
    assert "warning: pool=training" in capsys.readouterr().err
    card = tomllib.loads((out / "weights.toml").read_text())["sdn-compact"]
    assert "faces of the training pictures' people" in card["notes"]
    assert "--set pool=training" in card["command"] and card["trained_on"] == "celeba"


def test_a_named_pool_needs_no_warning(tmp_path: Path, quick: Recipe) -> None:
    out = tmp_path / "out"
    assert train.train([training_data(tmp_path / "celeba")], out, replace(quick, steps=1))
    card = tomllib.loads((out / "weights.toml").read_text())["sdn-compact"]
    assert card["notes"] == "" and card["trained_on"] == "celeba, pool"


def test_settings_without_bearing_are_named() -> None:
    assert Recipe().ignored() == frozenset()
    extractor, bottleneck = (Recipe(part=part).ignored() for part in ("extractor", "bottleneck"))
    assert {"pool", "pool_size", "strength", "steps", "alike"} <= extractor
    assert extractor - bottleneck == {"pool", "pool_size", "strength"}
    assert not extractor & {"size", "seed", "rate", "extractor_steps", "extractor_batch", "part"}


def test_validation_is_refused(tmp_path: Path, deid: Callable[..., Outcome]) -> None:
    """Nothing is scored while sdn trains."""
    outcome = deid("train", "sdn", tmp_path, "--validation", tmp_path)
    assert outcome.code == 2 and "--validation" in outcome.stderr


def test_training_without_labels_is_refused_before_the_first_step(tmp_path: Path) -> None:
    copy_people(tmp_path / "in", 3)
    with pytest.raises(DeidError, match="no labels"):
        cache = tmp_path / "cache"
        train.train([tmp_path / "in"], tmp_path / "out", Recipe(pool="training"), cache)
    assert not (tmp_path / "out").exists()


def test_training_needs_to_be_told_a_size_it_knows(
    tmp_path: Path, deid: Callable[..., Outcome]
) -> None:
    outcome = deid("train", "sdn", tmp_path, "--size", "huge")
    assert outcome.code == 2 and "compact, paper" in outcome.stderr
