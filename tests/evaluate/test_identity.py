"""Identity metrics on cases of known answer, and against independent formulas."""

from __future__ import annotations

import numpy as np
import pytest

from deidcli.evaluate import identity
from deidcli.evaluate.intervals import wilson

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(700, 16)).astype(np.float32)
NOBODY: list[str | None] = [None] * len(POINTS)


def l2(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a[:, None].astype(float) - b[None], axis=2)


def test_originals_against_themselves_are_all_recognized() -> None:
    found = identity.identify(POINTS, POINTS, NOBODY, l2)
    assert found.rank1.mean() == 1 and found.farthest.mean() == 0
    assert not identity.deid(found.own).any()


def test_other_people_are_recognized_at_chance() -> None:
    """Unrelated probes: rank-1 within the 95 % interval of 1 / N, by 20 draws."""
    hits = sum(
        identity.identify(
            POINTS, np.random.default_rng(seed).normal(size=POINTS.shape), NOBODY, l2
        ).rank1.sum()
        for seed in range(1, 21)
    )
    low, high = wilson(hits, 20 * len(POINTS))
    assert low <= identity.chance_by_picture(len(POINTS)) <= high


def test_one_picture_for_all_is_a_draw_by_lot() -> None:
    same = np.repeat(POINTS[:1], len(POINTS), axis=0)
    found = identity.identify(same, same, NOBODY, l2)
    assert np.allclose(found.rank1, 1 / len(POINTS)) and np.allclose(
        found.farthest, 1 / len(POINTS)
    )


def test_rank1_by_person_and_its_chance() -> None:
    persons = [str(n // 2) for n in range(len(POINTS))]
    swapped = POINTS.reshape(-1, 2, 16)[:, ::-1].reshape(-1, 16)  # each the other one's picture
    found = identity.identify(POINTS, swapped, persons, l2)
    assert found.rank1.mean() == 0 and found.rank1_person.mean() == 1
    assert identity.chance_by_person(persons) == pytest.approx(2 / len(POINTS))


def test_mirrored_identity_shows_as_farthest_match() -> None:
    unit = POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)
    found = identity.identify(unit, -unit, NOBODY, l2)
    assert found.farthest.mean() == 1 and found.rank1.mean() == 0


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = POINTS + 0.5 * RNG.normal(size=POINTS.shape).astype(np.float32)
    before = identity.identify(POINTS, probes, NOBODY, l2)
    anonymous = identity.anonymity(probes, l2, 3.0)
    monkeypatch.setattr(identity, "BLOCK", 7)
    after = identity.identify(POINTS, probes, NOBODY, l2)
    assert np.array_equal(before.rank1, after.rank1) and np.array_equal(before.own, after.own)
    assert np.array_equal(anonymous, identity.anonymity(probes, l2, 3.0))
    whole = l2(POINTS, probes).T
    assert np.array_equal(before.rank1, whole.argmin(1) == np.arange(len(POINTS)))


def test_anonymity_counts_the_indistinguishable() -> None:
    points = np.array([[0.0], [0.1], [0.2], [5.0]], np.float32)
    assert identity.anonymity(points, l2).tolist() == [3, 3, 3, 1]
    exact = np.array([[0.0], [2.0], [4.0], [7.0]], np.float32)  # the threshold itself: not apart
    assert identity.anonymity(exact, l2, 2.0).tolist() == [2, 3, 2, 1]


def test_random_pairs_are_of_different_people() -> None:
    persons: list[str | None] = ["a", "a", "b", None, None]
    pairs = identity.random_pairs(5, persons, 500)
    assert pairs.shape == (500, 2) and (pairs[:, 0] != pairs[:, 1]).all()
    assert not any({*pair} == {0, 1} for pair in pairs.tolist())
    assert any({*pair} == {3, 4} for pair in pairs.tolist())
    assert np.array_equal(pairs, identity.random_pairs(5, persons, 500))
    assert len(identity.random_pairs(2, ["a", "a"])) == 0


def test_auc_is_mann_whitney() -> None:
    same, other = RNG.normal(0, 1, 60), RNG.normal(0.7, 1, 80)
    pairs = [(s < o) + 0.5 * (s == o) for s in same for o in other]
    assert identity.auc(same, other) == pytest.approx(np.mean(pairs))
    assert identity.auc(np.ones(5), np.ones(9)) == 0.5


def test_linkability_of_known_and_of_unlinkable_faces() -> None:
    persons: list[str | None] = [str(n // 2) for n in range(400)]
    centers = np.repeat(RNG.normal(size=(200, 8)), 2, axis=0)
    linked = (centers + 0.01 * RNG.normal(size=centers.shape)).astype(np.float32)
    assert identity.auc(*identity.linkability(linked, persons, l2)) > 0.999
    free = RNG.normal(size=(400, 8)).astype(np.float32)
    assert identity.auc(*identity.linkability(free, persons, l2)) == pytest.approx(0.5, abs=0.08)


def test_linkability_takes_at_most_so_many_pairs_and_nobody_is_somebody() -> None:
    persons = ["a"] * 6 + ["b"] * 5 + [None] * 4  # 15 + 10 pairs of one person
    points = POINTS[: len(persons)]
    assert [len(part) for part in identity.linkability(points, persons, l2)] == [25, 25]
    assert [len(part) for part in identity.linkability(points, persons, l2, most=7)] == [7, 7]
    alone = identity.linkability(points[11:], persons[11:], l2)
    assert [len(part) for part in alone] == [0, 0]
    assert identity.chance_by_person(persons) == pytest.approx((36 + 25 + 4) / 15**2)


def test_distances_of_pairs_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = identity.random_pairs(len(POINTS), NOBODY, 50)
    expected = np.linalg.norm(POINTS[pairs[:, 0]] - POINTS[pairs[:, 1]], axis=1)
    monkeypatch.setattr(identity, "BLOCK", 7)
    assert np.allclose(identity.pair_values(POINTS, pairs, l2), expected, atol=1e-5)


def test_known_by_attributes() -> None:
    labels = np.array([[1], [1], [1], [-1]], np.int8)
    assert identity.known_by_attributes(labels) == pytest.approx((3 * (1 / 3) + 1) / 4)
    assert identity.known_by_attributes(np.empty((4, 0), np.int8)) == pytest.approx(1 / 4)


def test_threshold_at_far_accepts_at_most_the_rate() -> None:
    impostors = RNG.normal(size=20_000)
    threshold = identity.threshold_at_far(impostors, 1e-3)
    assert (impostors <= threshold).mean() <= 1e-3
    assert (impostors <= np.nextafter(threshold, np.inf)).mean() > 1e-3 - 1e-4
