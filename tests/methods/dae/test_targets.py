"""Target codes of `dae`: formulas on codes of known answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import DeidError
from deidcli.methods.dae import targets
from deidcli.methods.dae.recipe import Recipe
from deidcli.training.chips import Chips

LINE = np.array([[0.0], [1.0], [3.0], [7.0], [20.0]], np.float32)
"""Codes on a line: neighbors are plain to see."""
APART = np.array(list("abcde"), dtype=object)


def everyone(codes: np.ndarray) -> np.ndarray:
    return np.arange(len(codes))


def test_neighbors_come_in_order_and_skip_the_same_person() -> None:
    rows = everyone(LINE)
    assert targets.neighbors(LINE, rows, rows, 2).tolist() == [
        [1, 2],
        [0, 2],
        [1, 0],
        [2, 1],
        [3, 2],
    ]
    same = np.array(list("aabbc"), dtype=object)
    assert targets.neighbors(LINE, rows, rows, 2, same).tolist() == [
        [2, 3],
        [2, 3],
        [1, 0],
        [1, 0],
        [3, 2],
    ]


def test_a_row_without_enough_neighbors_repeats_the_last_or_stays() -> None:
    rows = everyone(LINE)
    few = targets.neighbors(LINE, rows[:2], rows, 3)
    assert few[0].tolist() == [1, 1, 1] and few[4].tolist() == [1, 0, 0]
    alone = np.array(["a"] * 5, dtype=object)
    assert targets.neighbors(LINE, rows, rows, 2, alone).tolist() == [[i, i] for i in range(5)]


def test_neighbors_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    rows = everyone(codes)
    whole = targets.neighbors(codes, rows, rows, 4)
    monkeypatch.setattr(targets, "BLOCK", 7)
    np.testing.assert_array_equal(targets.neighbors(codes, rows, rows, 4), whole)
    distance = np.linalg.norm(codes[:, None] - codes[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    np.testing.assert_array_equal(whole, np.argsort(distance, axis=1)[:, :4])


def test_attraction_and_repulsion_are_equations_7_to_10() -> None:
    sets = np.array([[1, 2], [0, 2], [1, 0], [2, 1], [3, 2]])
    y = targets.attract(LINE, sets, 0.25)
    np.testing.assert_allclose(y[:, 0], 0.75 * LINE[:, 0] + 0.25 * np.array([2, 1.5, 0.5, 2, 5]))
    z = targets.repel(y, sets, 0.5)
    np.testing.assert_allclose(z[0], 1.5 * y[0] - 0.5 * (y[1] + y[2]) / 2)


def test_supervised_keeps_to_the_attribute_and_the_last_one_counts_most() -> None:
    codes = np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32)
    first = np.where(codes[:, 0] > 0, 1, -1).astype(np.int8)
    persons = np.arange(60).astype(object)
    moved = targets.supervised(codes, [first], persons, 5, 1.0, 0.0)
    assert (np.sign(moved[:, 0]) == first).all()
    pushed = targets.supervised(codes, [first], persons, 5, 1.0, 0.5)
    assert np.abs(pushed[:, 0]).mean() > np.abs(moved[:, 0]).mean()
    unlabeled = targets.supervised(codes, [np.zeros(60, np.int8)], persons, 5, 1.0, 0.5)
    np.testing.assert_allclose(unlabeled, codes, atol=1e-6)
    second = np.where(codes[:, 1] > 0, 1, -1).astype(np.int8)
    one = targets.supervised(codes, [first, second], persons, 5, 0.8, 0.2)
    other = targets.supervised(codes, [second, first], persons, 5, 0.8, 0.2)
    assert (np.sign(one[:, 1]) == second).mean() >= (np.sign(other[:, 1]) == second).mean()
    assert not np.allclose(one, other)


def test_one_shift_for_all_attributes_keeps_them_all() -> None:
    codes = np.random.default_rng(1).normal(size=(200, 6)).astype(np.float32)
    labels = [np.where(codes[:, i] > 0, 1, -1).astype(np.int8) for i in range(2)]
    persons = np.arange(200).astype(object)
    moved = targets.supervised(codes, labels, persons, 8, 1.0, 0.5, together=True)
    for index, label in enumerate(labels):
        assert (np.sign(moved[:, index]) == label).all()
    labels[1][:5] = 0  # whoever lacks a label is left alone, and attracts and repels nobody
    again = targets.supervised(codes, labels, persons, 8, 1.0, 0.5, together=True)
    np.testing.assert_allclose(again[:5], codes[:5], atol=1e-6)


def test_clusters_move_everybody_onto_the_centers() -> None:
    rng = np.random.default_rng(2)
    centers = np.array([[0.0, 0], [50, 0], [0, 50]])
    codes = (centers[np.arange(90) % 3] + rng.normal(size=(90, 2))).astype(np.float32)
    moved = targets.clusters(codes, 3, 1.0)
    assert len(np.unique(moved.round(3), axis=0)) == 3
    for group in range(3):
        mean = codes[group::3].mean(0)
        np.testing.assert_allclose(moved[group], mean, atol=0.5)
    half = targets.clusters(codes, 3, 0.5)
    np.testing.assert_allclose(half, (codes + moved) / 2, atol=1e-4)


def test_of_the_nearest_the_one_closest_to_the_mean() -> None:
    moved = targets.nearest_to_mean(LINE, 2, 1.0, APART)
    # The mean is 6.2: of 20's neighbors 7 and 3 it is 7, of 7's neighbors 3 and 1 it is 3.
    assert moved[:, 0].tolist() == [3, 3, 1, 3, 7]
    eased = targets.nearest_to_mean(LINE, 2, 0.4, APART)
    np.testing.assert_allclose(eased[4, 0], 0.6 * 20 + 0.4 * 7)


def test_each_cell_has_its_own_neighbor() -> None:
    volume = np.stack([LINE[:, 0], LINE[::-1, 0]], axis=1).astype(np.float32)  # one channel
    moved = targets.by_cell(volume, 2, 1, 1.0)
    assert moved.tolist() == [[1, 7], [0, 3], [1, 1], [3, 0], [7, 1]]
    second = targets.by_cell(volume, 2, 2, 1.0)
    assert second[0].tolist() == [3, 3]


# --- From a recipe's settings to target codes


def described(count: int) -> tuple[np.ndarray, Chips]:
    """Random codes of four cells, and faces of two pictures a person with labels of Male and
    Smiling that follow the first two numbers of the code."""
    codes = np.random.default_rng(3).normal(size=(count, 8)).astype(np.float32)
    labels = np.zeros((count, 40), np.int8)
    for index, name in enumerate(("Male", "Smiling")):
        column = CELEBA_ATTRIBUTES.index(name)
        labels[:, column] = np.where(codes[:, index] > 0, 1, -1)
    persons = np.array([str(row // 2) for row in range(count)], dtype=object)
    chips = np.zeros((count, 2, 2, 3), np.uint8)
    return codes, Chips(chips, np.ones(count, dtype=bool), labels, persons)


def asked(**given: Any) -> tuple[np.ndarray, np.ndarray]:
    """Codes, and the target codes under these settings."""
    codes, faces = described(80)
    network = "conv" if given["target"] == "cells" else "fc"
    settings = Recipe(network=network, **given)  # type: ignore[arg-type]
    return codes, targets.target_codes(codes, faces, settings, 4)


@pytest.mark.parametrize("target", ["supervised", "strangers"])
@pytest.mark.parametrize("together", [True, False])
def test_supervised_targets_follow_the_settings(target: Any, together: bool) -> None:
    names = "Smiling,Male"
    codes, found = asked(
        target=target, k=4, alpha=0.6, beta=0.3, together=together, attributes=names
    )
    _, faces = described(80)
    smiling, male = (faces.labels[:, CELEBA_ATTRIBUTES.index(n)] for n in names.split(","))
    kinds = [smiling * 2 + male] if together else [smiling, male]
    expected = codes
    for kind in kinds:
        mean, other = np.empty_like(codes), np.empty_like(codes)
        distance = np.linalg.norm(expected[:, None] - expected[None], axis=2)
        distance[faces.persons[:, None] == faces.persons[None]] = np.inf
        for row in range(80):
            nearest = np.argsort(distance[row], kind="stable")
            mean[row] = expected[[i for i in nearest if kind[i] == kind[row]][:4]].mean(0)
        moved = 0.4 * expected + 0.6 * mean
        for row in range(80):
            nearest = np.argsort(distance[row], kind="stable")
            other[row] = moved[[i for i in nearest if kind[i] != kind[row]][:4]].mean(0)
        expected = 1.3 * moved - 0.3 * other
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_neighbor_targets_follow_the_settings() -> None:
    codes, found = asked(target="neighbors", n=3, alpha=0.6)
    _, faces = described(80)
    distance = np.linalg.norm(codes[:, None] - codes[None], axis=2)
    distance[faces.persons[:, None] == faces.persons[None]] = np.inf
    nearest = np.argsort(distance, axis=1)[:, :3]
    far = np.linalg.norm(codes - codes.mean(0), axis=1)
    chosen = nearest[np.arange(80), far[nearest].argmin(1)]
    np.testing.assert_allclose(found, 0.4 * codes + 0.6 * codes[chosen], atol=1e-5)


def test_cell_targets_follow_the_settings() -> None:
    codes, found = asked(target="cells", n=3, alpha=0.6)
    _, faces = described(80)
    volume, made = codes.reshape(80, 2, 4), found.reshape(80, 2, 4)
    for cell in range(4):
        some = volume[:, :, cell]
        distance = np.linalg.norm(some[:, None] - some[None], axis=2)
        distance[faces.persons[:, None] == faces.persons[None]] = np.inf
        third = np.argsort(distance, axis=1)[:, 2]
        np.testing.assert_allclose(made[:, :, cell], 0.4 * some + 0.6 * some[third], atol=1e-5)


def test_cluster_targets_follow_the_settings() -> None:
    codes, half = asked(target="clusters", clusters=5, alpha=0.5)
    _, whole = asked(target="clusters", clusters=5, alpha=1.0)
    np.testing.assert_allclose(half, (codes + whole) / 2, atol=1e-5)
    settings = Recipe(target="clusters", clusters=5, alpha=0.5)
    centers = targets.cluster_centers(codes, settings)
    np.testing.assert_array_equal(centers, np.unique(whole, axis=0))
    assert len(centers) == 5


def test_no_target_is_the_code_itself() -> None:
    codes, found = asked(target="none")
    np.testing.assert_array_equal(found, codes)


def test_labels_come_in_the_order_of_the_settings() -> None:
    _, faces = described(80)
    settings = Recipe(target="supervised", attributes="Smiling,Male")
    smiling, male = targets.attribute_labels(faces, settings)
    np.testing.assert_array_equal(smiling, faces.labels[:, CELEBA_ATTRIBUTES.index("Smiling")])
    np.testing.assert_array_equal(male, faces.labels[:, CELEBA_ATTRIBUTES.index("Male")])
    with pytest.raises(DeidError, match="Young"):
        targets.attribute_labels(faces, Recipe(target="supervised", attributes="Male,Young"))
