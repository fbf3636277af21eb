"""Training at its smallest: what is written, what is frozen, resuming, the average."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import DeidError
from deidcli.methods.base import Context
from deidcli.methods.eae import networks, objectives, pen, train
from deidcli.methods.eae.learner import Learner, adamw, train_part
from deidcli.methods.eae.method import EmbeddedAutoencoders
from deidcli.methods.eae.recipe import Recipe
from deidcli.methods.eae.run import EaeRun, labels_of, metadata
from deidcli.methods.eae.settings import EaeSettings
from deidcli.training import weight_files
from deidcli.training.chips import Chips
from tests.methods.eae.tiny import TINY, tiny_run

Tensors = dict[str, torch.Tensor]


def tensors(folder: Path) -> dict[str, Tensors]:
    return {path.name: load_file(path) for path in sorted(folder.glob("*.safetensors"))}


def equal(a: Tensors, b: Tensors) -> bool:
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def trained(out: Path, recipe: Recipe = TINY, **changes: Any) -> list[Path]:
    paths = train.train([Path("faces")], out, replace(recipe, **changes))
    assert paths is not None
    return paths


# --- Resuming


def test_resumed_training_ends_with_the_same_weights(tiny: Chips, tmp_path: Path) -> None:
    """Killed after every second step, over all parts; 14 steps in all."""
    paths = train.train([tmp_path], tmp_path / "a", TINY, validation=[tmp_path])
    assert paths is not None and len(paths) == 3
    kills = 0
    while (
        train.train([tmp_path], tmp_path / "b", TINY, validation=[tmp_path], stop_after=2) is None
    ):
        kills += 1
    assert kills == 6
    whole, resumed = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert list(whole) == list(resumed) == sorted(path.name for path in paths)
    assert all(equal(values, resumed[name]) for name, values in whole.items())
    assert not list((tmp_path / "b").glob("*.pt")) and not (tmp_path / "b" / "faces").exists()


def test_a_kill_between_the_weights_and_their_card_is_mended(
    tiny: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(tables: Any) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(weight_files.tomli_w, "dumps", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path, part="fsn")
    before = load_file(tmp_path / "eae-compact-fsn.safetensors")
    assert not (tmp_path / "weights.toml").exists()
    trained(tmp_path, part="fsn")
    table = weight_files.tomllib.loads((tmp_path / "weights.toml").read_text())["eae-compact-fsn"]
    assert table["sha256"] == weight_files.file_sha256(tmp_path / "eae-compact-fsn.safetensors")
    assert equal(before, load_file(tmp_path / "eae-compact-fsn.safetensors"))


def test_a_part_that_is_made_is_not_made_again(
    tiny: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path, part="fsn")

    def never(*_: Any) -> torch.Tensor:
        raise AssertionError("a step was taken")

    monkeypatch.setattr(train, "fsn_objective", never)
    trained(tmp_path, part="fsn")


def test_a_change_of_settings_is_not_mixed_in(tiny: Chips, tmp_path: Path) -> None:
    trained(tmp_path, part="fsn")
    with pytest.raises(DeidError, match="fsn_rate"):
        trained(tmp_path, part="fsn", fsn_rate=1.0)


# --- The average, and what is written


@pytest.mark.parametrize("steps", [1, 5])
def test_what_is_written_is_the_average(tiny: Chips, tmp_path: Path, steps: int) -> None:
    """A number that the steps set to 1, 2, 3, ...; the decay at step t is (1 + t) / (10 + t)."""
    run = tiny_run(tmp_path, average=0.4)
    model, average = nn.Linear(1, 1), nn.Linear(1, 1)
    with torch.no_grad():
        average.weight.fill_(0.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    learner = Learner(model, average, optimizer, steps, run.settings)

    def step_of(step: int, *_: Any) -> dict[str, float]:
        with torch.no_grad():
            model.weight.fill_(step + 1)
        return learner.descend(step, model(torch.ones(1, 1)).sum())

    train_part(run, "fsn", learner, 8, step_of)
    expected = 0.0
    for step in range(steps):
        decay = min(0.4, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1)
    written = load_file(tmp_path / "eae-compact-fsn.safetensors")["weight"]
    assert written.item() == pytest.approx(expected, rel=1e-3)
    assert written.item() != pytest.approx(steps, rel=1e-3)


@pytest.mark.parametrize("part", ["fsn", "external", "internal", "sprn"])
def test_each_part_learns(
    tiny: Chips, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More steps, other weights, in every matrix that is to learn."""
    for out in (tmp_path / "one", tmp_path / "two"):
        trained(out, part="fsn")
        if part != "fsn":
            trained(out, part="external")
    key = {"fsn": "fsn_epochs", "external": "external_epochs"}.get(part, f"{part}_steps")
    found = []
    for out, steps in ((tmp_path / "one", 1), (tmp_path / "two", 3)):
        for path in out.glob(f"eae-compact-{part}.*"):
            path.unlink()
        found.append(load_file(trained(out, part=part, internal_rate=0.01, **{key: steps})[0]))
    fixed = ("encoder.",) if part == "external" else ("nothing",)
    for name, value in found[0].items():
        if value.ndim > 1 and not name.startswith(fixed):
            assert not torch.equal(value, found[1][name]), name


def test_each_part_has_its_own_steps_batch_and_learning_rates(
    tiny: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path)
    found: dict[str, tuple[int, int, list[float]]] = {}

    def recorded(run: EaeRun, part: str, learner: Learner[Any], batch_size: int, *_: Any) -> None:
        rates = list(dict.fromkeys(group["lr"] for group in learner.optimizer.param_groups))
        found[part] = (learner.steps, batch_size, rates)

    monkeypatch.setattr(train, "train_part", recorded)
    run = tiny_run(
        tmp_path, encoder_share=0.25, internal_steps=0, fsn_rate=0.1, external_rate=0.2,
        internal_rate=0.3, sprn_rate=0.4, pen_rate=0.5, pen_epochs=4,
    )  # fmt: skip
    for train_one in train.PARTS.values():
        train_one(run)
    assert found == {
        "fsn": (2 * 3, 8, [0.1]),
        "external": (1 * 3, 8, [0.2 * 0.25, 0.2]),
        "internal": (300, 8, [0.3]),
        "sprn": (2, 4, [0.4]),
        "pen": (4 * 3, 8, [0.5]),
    }
    train.PARTS["external"](tiny_run(tmp_path, encoder_share=0.0, external_rate=0.2))
    assert found["external"] == (1 * 3, 8, [0.2])  # the frozen encoder is none of the optimizer's


def test_the_learning_rate_is_each_groups_own_times_the_cosine() -> None:
    """Warmup is a tenth of the steps here, for 100 steps of it would be more than that."""
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(
        [{"params": [model.weight], "lr": 0.5}, {"params": [model.bias], "lr": 0.25}]
    )
    learner = Learner(model, nn.Linear(1, 1), optimizer, 40, Recipe(warmup=100))
    for step, factor in ((0, 1 / 4), (3, 1.0), (4, 1.0), (22, 0.5)):
        learner.descend(step, model(torch.ones(1, 1)).sum())
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([0.5 * factor, 0.25 * factor])


@pytest.mark.parametrize("fine_tuned", [False, True])
def test_pictures_are_judged_on_some_batches_unless_only_the_decoder_learns(
    tiny: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fine_tuned: bool
) -> None:
    trained(tmp_path)
    judged: list[bool] = []
    whole = objectives.internal_objective

    def recorded(*args: Any) -> torch.Tensor:
        judged.append(args[-1])
        return whole(*args)

    monkeypatch.setattr(train, "internal_objective", recorded)
    file = str(tmp_path / "eae-compact-GS.safetensors") if fine_tuned else ""
    trained(tmp_path, part="internal", attrs="S", fine_tune_from=file)
    assert judged == ([True] * 5 if fine_tuned else [True, False, True, False, True])


def test_the_pen_learns_who_is_who(
    tiny: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def recorded(model: pen.PersonClassifier, images: torch.Tensor, who: torch.Tensor) -> Any:
        seen.extend(zip(who.tolist(), rows.pop(), strict=True))
        return (model.centers * 0).sum()

    rows: list[list[int]] = []
    images_of = EaeRun.images

    def images(run: EaeRun, chosen: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        rows.append(chosen.tolist())
        return images_of(run, chosen, generator)

    monkeypatch.setattr(EaeRun, "images", images)
    monkeypatch.setattr(train, "pen_objective", recorded)
    trained(tmp_path, part="pen", pen="arcface", pen_epochs=1)
    names = sorted({f"p{n // 2}" for n in range(24)})
    assert len(seen) == 24
    assert all(names[who] == tiny.persons[row] for who, row in seen)


def test_weights_decay_and_vectors_do_not() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module[0].weight.requires_grad_(False)
    optimizer = adamw(Recipe(weight_decay=0.5), [(module, 0.1), (nn.Linear(1, 1), 0.2)])
    found = [
        (tuple(group["params"][0].shape), group["weight_decay"], group["lr"])
        for group in optimizer.param_groups
    ]
    vectors = [((2,), 0.0, 0.1)] * 3
    assert found == [*vectors, ((1, 1), 0.5, 0.2), ((1,), 0.0, 0.2)]


def test_training_writes_cards_that_load(
    tiny: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OUT serves as DEID_WEIGHTS, for the PRN and the SPRN, and the pictures are the files'."""
    out = tmp_path / "out"
    trained(out)
    trained(out, part="sprn")
    monkeypatch.setenv("DEID_WEIGHTS", str(out))
    chips = torch.rand(2, 3, networks.SIDE, networks.SIDE)
    for network in ("prn", "sprn"):
        settings = EaeSettings(attrs="SG", network=network)  # type: ignore[arg-type]
        method = EmbeddedAutoencoders(settings, "cpu")
        assert method.external.training is False
        assert len(EmbeddedAutoencoders.weights(settings)) == (1 if network == "sprn" else 2)
        name = "sprn-GS" if network == "sprn" else "external"
        file = load_file(out / f"eae-compact-{name}.safetensors")
        assert torch.equal(method.external.decoder[0].weight, file["decoder.0.weight"].float())
        # `compact` takes half of SIDE; here it is said to be 32 px, so one pixel in 7.
        with torch.inference_mode():
            published = method(chips, Context(np.zeros(2, np.uint64), np.ones(2)))
        assert published.shape == chips.shape


def test_scores_stand_in_the_card_and_in_the_file(
    tiny: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An FSN that says "present" of everything is right as often as the attribute is there."""
    monkeypatch.setattr(
        networks.FeatureSelection, "probabilities", lambda self, x: torch.full((len(x), 5), 0.9)
    )
    recipe = replace(TINY, part="fsn")
    assert train.train([tmp_path], tmp_path / "o", recipe, validation=[tmp_path]) is not None
    share = (tiny.labels[:, CELEBA_ATTRIBUTES.index("Smiling")] == 1).mean()
    table = weight_files.tomllib.loads((tmp_path / "o" / "weights.toml").read_text())[
        "eae-compact-fsn"
    ]
    scores = table["scores"]["values"]
    assert scores["Smiling"] == pytest.approx(100 * share, abs=0.01)
    assert list(scores) == ["Male", "Smiling", "Big_Nose", "Eyeglasses", "Young"]
    assert metadata(tmp_path / "o" / "eae-compact-fsn.safetensors")["scores"] == scores


# --- What is frozen, and what is taken over


def test_only_the_internal_autoencoder_learns(
    tiny: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("fsn", "external"):
        trained(tmp_path, part=part)
    frozen = objectives.frozen_networks(tiny_run(tmp_path))
    before = {k: v.clone() for k, v in frozen.external.state_dict().items()}
    monkeypatch.setattr(train, "frozen_networks", lambda _: frozen)
    trained(tmp_path, part="internal")
    for module in (frozen.fsn, frozen.external):
        assert not any(m.training for m in module.modules())
        assert all(not p.requires_grad and p.grad is None for p in module.parameters())
    assert all(torch.equal(v, before[k]) for k, v in frozen.external.state_dict().items())


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_external_encoder_is_the_fsns_and_stays_so(
    tiny: Chips, tmp_path: Path, share: float
) -> None:
    """With running statistics and all, unless it is given a share of the learning rate."""
    trained(tmp_path, part="fsn")
    external = load_file(trained(tmp_path, part="external", encoder_share=share)[0])
    fsn = load_file(tmp_path / "eae-compact-fsn.safetensors")
    names = [name for name in external if name.startswith("encoder.")]
    assert len(names) == 5 * 5
    for name in names:
        same = torch.equal(external[name], fsn[name.replace("encoder.", "shared.")])
        assert same == (share == 0), name


def test_the_internal_encoder_starts_from_the_fsns_sixth_block(tiny: Chips, tmp_path: Path) -> None:
    """At a learning rate of 0 its kernels stay as they start."""
    trained(tmp_path, internal_rate=0.0)
    fsn = load_file(tmp_path / "eae-compact-fsn.safetensors")
    internal = load_file(tmp_path / "eae-compact-GS.safetensors")
    assert torch.equal(internal["encoder.0.0.weight"], fsn["shared.5.0.weight"])


def test_fine_tuning_takes_the_encoder_over_as_it_is(tiny: Chips, tmp_path: Path) -> None:
    """Units of the asked attributes in the set's own order, and only the decoder learns."""
    trained(tmp_path, attrs="GSB")
    whole = tmp_path / "eae-compact-GSB.safetensors"
    trained(tmp_path, attrs="BG", part="internal", fine_tune_from=str(whole))
    old, new = load_file(whole), load_file(tmp_path / "eae-compact-GB.safetensors")
    encoder = [name for name in old if name.startswith("encoder.")]
    assert encoder and all(torch.equal(old[name], new[name]) for name in encoder)
    assert torch.equal(old["code.weight"][[0, 2]], new["code.weight"])
    assert not torch.equal(old["decoder.1.weight"], new["decoder.1.weight"])


@pytest.mark.parametrize(
    ("part", "key"), [("fsn", "fsn_initial"), ("internal", "internal_initial")]
)
def test_a_part_can_continue_from_other_weights(
    tiny: Chips, tmp_path: Path, part: str, key: str
) -> None:
    """At a learning rate of 0 its kernels are those of the file."""
    first = trained(tmp_path / "a", seed=3)
    file = first[0] if part == "fsn" else first[-1]
    rate = {f"{part}_rate": 0.0}
    made = trained(tmp_path / "b", **{key: str(file)}, **rate)
    old, new = load_file(file), load_file(made[0] if part == "fsn" else made[-1])
    kernels = [name for name, value in old.items() if value.ndim > 1]
    assert kernels and all(torch.equal(old[name], new[name]) for name in kernels)


def test_the_ablation_can_start_from_another_autoencoder(tiny: Chips, tmp_path: Path) -> None:
    trained(tmp_path)
    file = trained(tmp_path / "other", seed=3)[1]
    made = trained(tmp_path, part="sprn", sprn_initial=str(file), sprn_rate=0.0)[0]
    old, new = load_file(file), load_file(made)
    assert torch.equal(old["decoder.0.weight"], new["decoder.0.weight"])


def test_a_pen_of_our_own_trains(tiny: Chips, tmp_path: Path) -> None:
    """On the persons of the data, and its file holds an embedder that can be used."""
    made = trained(tmp_path, part="pen", pen="arcface", pen_epochs=1, pen_rate=0.01)
    assert made == [tmp_path / "eae-compact-pen.safetensors"]
    file = load_file(made[0])
    assert file["centers"].shape == (12, pen.EMBEDDING)
    run = tiny_run(tmp_path, part="pen", pen="arcface")
    images = torch.rand(2, 3, 32, 32)
    embeddings = objectives.frozen_pen(run)(images)
    embedder = pen.Embedder(run.size)
    state = {k.removeprefix("embedder."): v.float() for k, v in file.items() if k != "centers"}
    embedder.load_state_dict(state, strict=False)
    view = pen.recognizer_view(images, objectives.recognizers.RECOGNIZERS["mobilefacenet"])
    assert torch.allclose(embeddings, embedder.eval()(view), atol=1e-5)


def test_the_frozen_pen_has_the_mean_of_the_data_subtracted(tiny: Chips, tmp_path: Path) -> None:
    trained(tmp_path)
    run = tiny_run(tmp_path)
    frozen = objectives.frozen_networks(run)
    images = torch.from_numpy(tiny.chips[:8]).permute(0, 3, 1, 2).float() / 255
    assert objectives.frozen_pen(run)(images).mean(0).norm() > 0.5
    assert torch.allclose(frozen.pen(images).mean(0), torch.zeros(128), atol=1e-5)


# --- Labels


def test_attributes_without_labels_are_an_error(tiny: Chips, tmp_path: Path) -> None:
    tiny.labels[:, CELEBA_ATTRIBUTES.index("Smiling")] = 0
    with pytest.raises(DeidError, match="Smiling"):
        trained(tmp_path)


def test_an_attribute_that_the_fsn_does_not_learn_is_an_error(tiny: Chips, tmp_path: Path) -> None:
    with pytest.raises(DeidError, match="does not learn Smiling"):
        tiny_run(tmp_path, attrs="GS", fsn_attrs="GB")


def test_each_label_goes_with_its_attribute(tiny: Chips, tmp_path: Path) -> None:
    """In the order of the set and of the FSN's groups, which are two."""
    run = tiny_run(tmp_path, attrs="ES", fsn_attrs="YES")
    smiling, glasses = (CELEBA_ATTRIBUTES.index(name) for name in ("Smiling", "Eyeglasses"))
    run.chips.labels[0, [smiling, glasses]] = [1, -1]
    run.chips.labels[1, [smiling, glasses]] = [0, 1]
    assert run.attributes == ("Smiling", "Eyeglasses")
    assert [run.fsn_attributes[group] for group in run.groups] == list(run.attributes)
    assert run.labels(torch.tensor([0, 1])).tolist() == [[1, 0], [-1, 1]]
    young = labels_of(run.chips, ["Young"])[0, 0]
    assert run.fsn_targets(torch.tensor([0])).tolist() == [[young, 0, 1]]


def test_soft_targets_are_mixed_into_the_fsns(tiny: Chips, tmp_path: Path) -> None:
    """And stand alone where there is no label; the file has a row a picture, found or not."""
    soft = np.random.default_rng(5).random((24, 40)).astype(np.float32)
    np.save(tmp_path / "soft.npy", soft)
    tiny.found[3] = False
    run: EaeRun = tiny_run(tmp_path, fsn_attrs="SG", targets=str(tmp_path / "soft.npy"), soft=0.25)
    columns = [CELEBA_ATTRIBUTES.index("Smiling"), CELEBA_ATTRIBUTES.index("Male")]
    run.chips.labels[0, columns] = [1, 0]
    run.chips.labels[3, columns] = [-1, 1]  # the fifth picture
    smiling, male = soft[0, columns], soft[4, columns]
    assert run.fsn_targets(torch.tensor([0, 3])).flatten().tolist() == pytest.approx(
        [0.75 + 0.25 * smiling[0], smiling[1], 0.25 * male[0], 0.75 + 0.25 * male[1]]
    )
