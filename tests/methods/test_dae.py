"""dae: formulas on codes of known answer, the networks, the recipe, the shipped weights."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deidcli.errors import DeidError, UsageError
from deidcli.methods import load_method
from deidcli.methods.base import Context
from deidcli.methods.blend import PADDING, blended, edge_mask, rim_to_face
from deidcli.methods.dae import targets as dae_targets
from deidcli.methods.dae import train as dae_training
from deidcli.methods.dae.networks import (
    Convolutional,
    Deblurrer,
    FullyConnected,
    Smoother,
    pack,
    principal_components,
    unpack,
)
from deidcli.methods.dae.strangers import CANDIDATES, WINDOW, Pool
from deidcli.weights import own
from tests.conftest import PEOPLE

TINY = dae_training.Settings(
    widths="24,16,8",
    k=3,
    pool_size=10,
    autoencoder_epochs=2,
    encoder_epochs=2,
    filter_epochs=1,
    matcher_epochs=1,
    batch_size=8,
    checkpoint_steps=2,
    threads=1,
)
LINE = np.array([[0.0], [1.0], [3.0], [7.0], [20.0]], np.float32)
"""Codes on a line: neighbors are plain to see."""
APART = np.array(list("abcde"), dtype=object)


def everyone(codes: np.ndarray) -> np.ndarray:
    return np.arange(len(codes))


# --- Targets


def test_neighbors_come_in_order_and_skip_the_same_person() -> None:
    rows = everyone(LINE)
    assert dae_targets.neighbors(LINE, rows, rows, 2).tolist() == [
        [1, 2],
        [0, 2],
        [1, 0],
        [2, 1],
        [3, 2],
    ]
    same = np.array(list("aabbc"), dtype=object)
    assert dae_targets.neighbors(LINE, rows, rows, 2, same).tolist() == [
        [2, 3],
        [2, 3],
        [1, 0],
        [1, 0],
        [3, 2],
    ]


def test_a_row_without_enough_neighbors_repeats_the_last_or_stays() -> None:
    rows = everyone(LINE)
    few = dae_targets.neighbors(LINE, rows[:2], rows, 3)
    assert few[0].tolist() == [1, 1, 1] and few[4].tolist() == [1, 0, 0]
    alone = np.array(["a"] * 5, dtype=object)
    assert dae_targets.neighbors(LINE, rows, rows, 2, alone).tolist() == [[i, i] for i in range(5)]


def test_neighbors_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    rows = everyone(codes)
    whole = dae_targets.neighbors(codes, rows, rows, 4)
    monkeypatch.setattr(dae_targets, "BLOCK", 7)
    np.testing.assert_array_equal(dae_targets.neighbors(codes, rows, rows, 4), whole)
    distance = np.linalg.norm(codes[:, None] - codes[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    np.testing.assert_array_equal(whole, np.argsort(distance, axis=1)[:, :4])


def test_attraction_and_repulsion_are_equations_7_to_10() -> None:
    sets = np.array([[1, 2], [0, 2], [1, 0], [2, 1], [3, 2]])
    y = dae_targets.attract(LINE, sets, 0.25)
    np.testing.assert_allclose(y[:, 0], 0.75 * LINE[:, 0] + 0.25 * np.array([2, 1.5, 0.5, 2, 5]))
    z = dae_targets.repel(y, sets, 0.5)
    np.testing.assert_allclose(z[0], 1.5 * y[0] - 0.5 * (y[1] + y[2]) / 2)


def test_supervised_keeps_to_the_attribute_and_the_last_one_counts_most() -> None:
    codes = np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32)
    first = np.where(codes[:, 0] > 0, 1, -1).astype(np.int8)
    persons = np.arange(60).astype(object)
    moved = dae_targets.supervised(codes, [first], persons, 5, 1.0, 0.0)
    assert (np.sign(moved[:, 0]) == first).all()
    pushed = dae_targets.supervised(codes, [first], persons, 5, 1.0, 0.5)
    assert np.abs(pushed[:, 0]).mean() > np.abs(moved[:, 0]).mean()
    unlabeled = dae_targets.supervised(codes, [np.zeros(60, np.int8)], persons, 5, 1.0, 0.5)
    np.testing.assert_allclose(unlabeled, codes, atol=1e-6)
    second = np.where(codes[:, 1] > 0, 1, -1).astype(np.int8)
    one = dae_targets.supervised(codes, [first, second], persons, 5, 0.8, 0.2)
    other = dae_targets.supervised(codes, [second, first], persons, 5, 0.8, 0.2)
    assert (np.sign(one[:, 1]) == second).mean() >= (np.sign(other[:, 1]) == second).mean()
    assert not np.allclose(one, other)


def test_one_shift_for_all_attributes_keeps_them_all() -> None:
    codes = np.random.default_rng(1).normal(size=(200, 6)).astype(np.float32)
    labels = [np.where(codes[:, i] > 0, 1, -1).astype(np.int8) for i in range(2)]
    persons = np.arange(200).astype(object)
    moved = dae_targets.supervised(codes, labels, persons, 8, 1.0, 0.5, together=True)
    for index, label in enumerate(labels):
        assert (np.sign(moved[:, index]) == label).all()
    labels[1][:5] = 0  # whoever lacks a label is left alone, and attracts and repels nobody
    again = dae_targets.supervised(codes, labels, persons, 8, 1.0, 0.5, together=True)
    np.testing.assert_allclose(again[:5], codes[:5], atol=1e-6)


def test_clusters_move_everybody_onto_the_centers() -> None:
    rng = np.random.default_rng(2)
    centers = np.array([[0.0, 0], [50, 0], [0, 50]])
    codes = (centers[np.arange(90) % 3] + rng.normal(size=(90, 2))).astype(np.float32)
    moved = dae_targets.clusters(codes, 3, 1.0)
    assert len(np.unique(moved.round(3), axis=0)) == 3
    for group in range(3):
        mean = codes[group::3].mean(0)
        np.testing.assert_allclose(moved[group], mean, atol=0.5)
    half = dae_targets.clusters(codes, 3, 0.5)
    np.testing.assert_allclose(half, (codes + moved) / 2, atol=1e-4)


def test_of_the_nearest_the_one_closest_to_the_mean() -> None:
    moved = dae_targets.nearest_to_mean(LINE, 2, 1.0, APART)
    # The mean is 6.2: of 20's neighbors 7 and 3 it is 7, of 7's neighbors 3 and 1 it is 3.
    assert moved[:, 0].tolist() == [3, 3, 1, 3, 7]
    eased = dae_targets.nearest_to_mean(LINE, 2, 0.4, APART)
    np.testing.assert_allclose(eased[4, 0], 0.6 * 20 + 0.4 * 7)


def test_each_cell_has_its_own_neighbor() -> None:
    volume = np.stack([LINE[:, 0], LINE[::-1, 0]], axis=1).astype(np.float32)  # one channel
    moved = dae_targets.by_cell(volume, 2, 1, 1.0)
    assert moved.tolist() == [[1, 7], [0, 3], [1, 1], [3, 0], [7, 1]]
    second = dae_targets.by_cell(volume, 2, 2, 1.0)
    assert second[0].tolist() == [3, 3]


# --- Networks


def test_packing_keeps_light_and_slow_color() -> None:
    chips = torch.rand(2, 3, 64, 64)
    flat = chips.mean((2, 3), keepdim=True).expand_as(chips)
    torch.testing.assert_close(unpack(pack(flat, True), True), flat, atol=1e-5, rtol=0)
    assert pack(chips, True).shape == (2, 4608) and pack(chips, False).shape == (2, 4096)
    gray = unpack(pack(chips, False), False)
    torch.testing.assert_close(gray[:, 0], gray[:, 2])
    torch.testing.assert_close(
        pack(unpack(pack(chips, True), True), False), pack(chips, False), atol=1e-5, rtol=0
    )


def test_a_network_starts_as_its_principal_components() -> None:
    chips = torch.rand(40, 3, 64, 64)
    packed = pack(chips, True)
    network = FullyConnected((20, 12, 6))
    mean, components = principal_components(packed, 20)
    network.start_from(mean, components)
    own = components[:, :6]
    expected = unpack((packed - mean) @ own @ own.T + mean, True)
    torch.testing.assert_close(network.decode(network.encode(chips)), expected, atol=1e-4, rtol=0)


def test_components_are_the_same_from_few_and_many_samples() -> None:
    values = torch.randn(30, 20) @ torch.diag(torch.linspace(3, 0.1, 20))
    _, many = principal_components(values, 4)
    _, few = principal_components(torch.cat([values, values.new_zeros(30, 15)], 1), 4)
    torch.testing.assert_close((many.T @ few[:20]).abs(), torch.eye(4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("color", [True, False])
def test_shapes_are_the_papers(color: bool) -> None:
    chips = torch.rand(2, 3, 64, 64)
    connected = FullyConnected(color=color)
    sizes = [layer.in_features for layer in connected.encoder if hasattr(layer, "in_features")]
    assert sizes == [4608 if color else 4096, 1024, 768] and connected.code == 512
    convolutional = Convolutional(color=color).eval()
    assert convolutional.grid == 2 and convolutional.code == 1024
    for network in (connected, convolutional):
        assert network.decode(network.encode(chips)).shape == chips.shape


def test_filters_start_harmless_and_keep_the_shape() -> None:
    chips = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(Deblurrer()(chips), chips)
    assert Smoother()(chips).shape == chips.shape
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in Deblurrer().layers) == 4


# --- The stranger and the seam


def test_the_stranger_is_one_that_fits_and_is_not_alike() -> None:
    count = 4 * CANDIDATES
    angle = torch.linspace(0, 3.1, count, dtype=torch.float64)
    embeddings = torch.stack([angle.cos(), angle.sin()], 1)
    place = torch.arange(count, dtype=torch.float64)[:, None]
    zeros = torch.zeros(count, 3)
    pool = Pool(zeros, zeros, torch.eye(3), place, embeddings)
    face = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    seeds = np.arange(200, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    drawn = torch.cat(
        [pool.draw(place[:1] + 10, face, seeds[i : i + 1]) for i in range(len(seeds))]
    )
    assert int(drawn.max()) < CANDIDATES, "a candidate that does not fit"
    # The likeness falls with the row: the drawn ones are the less alike of the candidates.
    assert int(drawn.min()) >= CANDIDATES * (1 - WINDOW[1]) - 1
    assert len(set(drawn.tolist())) >= 9
    together = pool.draw((place[:1] + 10).expand(200, 1), face.expand(200, 2), seeds)
    assert torch.equal(together, drawn)


def test_the_stranger_takes_over_only_what_is_kept() -> None:
    basis = torch.linalg.qr(torch.randn(6, 2))[0]
    codes, tuned = torch.randn(4, 6), torch.randn(4, 6)
    pool = Pool(codes, tuned @ basis, basis, torch.empty(4, 0), torch.empty(4, 0))
    kept, rows = torch.randn(3, 6), torch.tensor([2, 0, 2])
    made = pool.codes_of(kept, rows)
    torch.testing.assert_close(
        made @ basis, codes[rows] @ basis + (kept - tuned[rows]) @ basis, atol=1e-5, rtol=1e-5
    )
    beyond = torch.eye(6) - basis @ basis.T
    torch.testing.assert_close(made @ beyond, codes[rows] @ beyond, atol=1e-5, rtol=1e-5)


def test_the_rim_takes_the_pictures_tone_and_the_middle_does_not() -> None:
    faces = torch.full((1, 3, 64, 64), 0.5)
    chips = torch.full((1, 3, 64, 64), 0.8)
    made = blended(chips, faces, rim_to_face())
    assert float((made[0, :, :2] - 0.8).abs().max()) < 0.03
    assert float((made[0, :, 32, 32] - 0.5).abs().max()) < 0.02
    same = blended(faces, faces, rim_to_face())
    torch.testing.assert_close(same, faces)


def test_the_mask_is_whole_inside_and_nothing_at_the_edge() -> None:
    mask = edge_mask()
    assert mask[14:48, 20:44].min() == 1 and mask[20:40, 16:48].min() == 1
    assert max(mask[0].max(), mask[:, 0].max(), mask[-1].max()) < 0.05


# --- The recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny network, trained on portraits of people who do not exist."""
    folder = tmp_path_factory.mktemp("dae")
    settings = dataclasses.replace(TINY, target="neighbors", n=2)
    made = dae_training.train([PEOPLE / "portraits"], folder / "out", settings, folder / "cache")
    assert made is not None and [path.name for path in made] == [
        "dae-fc.safetensors",
        "dae-neighbors.safetensors",
    ]
    return folder


def test_only_the_encoder_is_tuned(trained: Path) -> None:
    body = torch.load(trained / "out" / "autoencoder.pt", weights_only=True)["model"]
    tuned = torch.load(trained / "out" / "encoder-neighbors.pt", weights_only=True)["model"]
    for name, value in body.items():
        moved = not torch.equal(value, tuned[name])
        assert moved == name.startswith("encoder."), name


def test_training_resumes_to_the_same_weights(trained: Path) -> None:
    settings = dataclasses.replace(TINY, target="neighbors", n=2)
    data, cache = [PEOPLE / "portraits"], trained / "cache"
    for _ in range(40):
        made = dae_training.train(data, trained / "again", settings, cache, stop_after=3)
        if made is not None:
            break
    else:
        raise AssertionError("never done")
    for path in made:
        left, right = load_file(path), load_file(trained / "out" / path.name)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), path.name


def test_trained_weights_are_used_where_deid_weights_says(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEID_WEIGHTS", str(trained / "out"))
    method = load_method("dae", {"target": "neighbors"}, "cpu")
    chips = torch.rand(3, 3, 64, 64)
    assert method(chips, context(3)).shape == chips.shape
    cards = own.own_cards()
    assert {name for name in cards if name.startswith("dae")} == {"dae-fc", "dae-neighbors"}
    assert cards["attributes"].folder == own.weights_folder()  # other kinds stay
    with pytest.raises(UsageError, match="target=clusters"):
        load_method("dae", {"target": "clusters"}, "cpu")


def test_clusters_publish_one_of_the_centers_and_nothing_else(
    trained: Path, monkeypatch: pytest.MonkeyPatch, portraits: torch.Tensor
) -> None:
    settings = dataclasses.replace(TINY, target="clusters", clusters=3)
    dae_training.train([PEOPLE / "portraits"], trained / "c", settings, trained / "cache")
    monkeypatch.setenv("DEID_WEIGHTS", str(trained / "c"))
    faces = {}
    for snap in ("true", "false"):
        given = {"target": "clusters", "blend": "false", "snap": snap}
        faces[snap] = load_method("dae", given, "cpu")(portraits, context(len(portraits)))
    assert len(faces["true"].flatten(1).unique(dim=0)) <= 3 < len(portraits)
    assert len(faces["false"].flatten(1).unique(dim=0)) == len(portraits)


def test_targets_that_need_labels_say_so(trained: Path) -> None:
    settings = dataclasses.replace(TINY, target="supervised", part="encoder")
    with pytest.raises(DeidError, match="no two kinds of Male"):
        dae_training.train([PEOPLE / "portraits"], trained / "out", settings, trained / "cache")


@pytest.mark.parametrize(
    "given", [{"target": "cells"}, {"target": "strangers", "color": False}, {"attributes": "Mail"}]
)
def test_settings_that_do_not_fit_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises((ValueError, UsageError)):
        dataclasses.replace(TINY, **given)


# --- The shipped weights


def context(count: int, first: int = 1) -> Context:
    seeds = np.arange(first, first + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return Context(seeds, np.ones(count))


@pytest.fixture(scope="module")
def portraits() -> torch.Tensor:
    """(24, 3, 64, 64) chips of people who do not exist."""
    from deidcli.training.chips import load_chips

    with tempfile.TemporaryDirectory() as folder:
        chips = np.array(load_chips(PEOPLE / "portraits", 64, PADDING, Path(folder), True).chips)
    return torch.from_numpy(chips).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def shipped() -> Any:
    return load_method("dae", {}, "cpu")


def test_a_face_does_not_depend_on_its_batch(shipped: Any, portraits: torch.Tensor) -> None:
    with torch.inference_mode():
        whole = (shipped(portraits, context(24)) * 255).round()
        single = [
            (shipped(portraits[i : i + 1], context(1, i + 1)) * 255).round() for i in (0, 7, 23)
        ]
    for row, alone in zip((0, 7, 23), single, strict=True):
        assert torch.equal(whole[row], alone[0])


def test_another_seed_is_another_person(shipped: Any, portraits: torch.Tensor) -> None:
    with torch.inference_mode():
        one, other = (shipped(portraits[:4], context(4, first)) for first in (1, 100))
    assert float((one - other).abs().mean()) > 0.01


def test_strangers_are_not_the_originals(shipped: Any, portraits: torch.Tensor) -> None:
    from deidcli.faces import align, recognizers

    points = align.apply_affine(align.chip_from_unit(np.eye(2, 3), 64, PADDING), align.MEAN_FACE_5)

    def embedded(chips: torch.Tensor) -> np.ndarray:
        pixels = (chips * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        return recognizers.embed("dlib", [recognizers.cut("dlib", chip, points) for chip in pixels])

    with torch.inference_mode():
        made = shipped(portraits, context(24))
        plain = shipped.network.decode(shipped.network.encode(portraits)).clamp(0, 1)
    gallery = embedded(portraits)
    own = np.linalg.norm(gallery - embedded(made), axis=1)
    assert (own > 0.6).mean() > 0.9 and float(plain.std()) > 0.05


def test_shipped_weights_are_small_and_their_cards_whole() -> None:
    cards = [card for card in own.own_cards().values() if card.kind == "dae"]
    assert len(cards) >= 4, "a default and two others on the trade-off, and what they share"
    folder = own.weights_folder()
    assert sum((folder / card.file).stat().st_size for card in cards) < 60e6
    for card in cards:
        assert card.trained_on and card.command and card.license, card.name
        assert {value.dtype for value in own.own_weights(card.name)[0].values()} == {torch.float16}


def test_the_command_records_weights_and_settings(deid: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = deid("anonymize", PEOPLE / "portraits", "--method", "dae", "--out", out)
    assert result.code == 0, result.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["method_settings"]["target"] == "strangers"
    assert {"dae-fc", "dae-strangers"} <= set(manifest["weights"])
    assert manifest["counts"]["ok"] >= 20
