"""The cache of cut faces: cut once, private, told apart by content, gone with the training."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import DeidError
from deidcli.faces import align
from deidcli.training import chips as cutting
from deidcli.training.chips import (
    Chips,
    find_all,
    frames_of,
    load_all,
    load_chips,
    load_landmarks,
    require_labels,
    with_own_faces,
)
from tests.conftest import copy_people


def test_chips_are_cut_once_and_say_where_no_face_was_found(
    labeled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_chips(labeled, 32, 0.5, tmp_path / "cache")
    assert first.chips.shape == (9, 32, 32, 3) and first.chips.dtype == np.uint8
    assert first.found.tolist() == [True] * 8 + [False]
    assert first.labels[:, CELEBA_ATTRIBUTES.index("Young")].tolist() == [1, -1] * 4 + [1]
    assert first.labels[:3, CELEBA_ATTRIBUTES.index("Male")].tolist() == [1, -1, 0]
    assert len(set(first.persons)) == 9  # nobody is known, so everybody is somebody else
    monkeypatch.setattr(cutting, "_find", None)
    larger = load_chips(labeled, 48, 0.5, tmp_path / "cache")  # cut again, not found again
    assert larger.chips.shape == (9, 48, 48, 3)
    monkeypatch.setattr(cutting, "_cut", None)
    again = load_chips(labeled, 32, 0.5, tmp_path / "cache")
    np.testing.assert_array_equal(first.chips, again.chips)
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


def test_a_chip_is_the_face_as_align_cuts_it(people: Path, tmp_path: Path) -> None:
    folder = copy_people(tmp_path / "in", 1)
    black = load_chips(folder, 64, 0.9, tmp_path / "cache")
    edge = load_chips(folder, 64, 0.9, tmp_path / "cache", extend=True)
    frame = next(cutting._frames(cutting.open_source(folder)))[1]
    points = cutting._find(frame)
    assert points is not None
    affine = align.chip_affine(points * np.array(frame.shape[1::-1]), 64, 0.9)
    np.testing.assert_array_equal(black.chips[0], align.crop(frame, affine, 64, False))
    np.testing.assert_array_equal(edge.chips[0], align.crop(frame, affine, 64, True))
    assert not np.array_equal(black.chips, edge.chips)
    unit = load_landmarks([folder], tmp_path / "cache")
    assert unit.shape == (1, 5, 2) and np.abs(unit[0] - align.MEAN_FACE_5).max() < 0.15


def test_other_pictures_under_the_same_names_are_cut_anew(tmp_path: Path) -> None:
    folder = copy_people(tmp_path / "in", 2)
    before = load_chips(folder, 32, 0.5, tmp_path / "cache")
    shutil.copy(folder / "person_02.jpg", folder / "person_01.jpg")
    after = load_chips(folder, 32, 0.5, tmp_path / "cache")
    assert not np.array_equal(before.chips[0], after.chips[0])
    np.testing.assert_array_equal(after.chips[0], after.chips[1])


def test_people_of_different_folders_are_different_people(labeled: Path, tmp_path: Path) -> None:
    table = pq.read_table(labeled).slice(0, 3)
    table = table.append_column("identity", pa.array(["ann", "ben", "ann"]))
    files = []
    for name in ("a/1.parquet", "a/2.parquet", "b/1.parquet"):
        files.append(tmp_path / name)
        files[-1].parent.mkdir(exist_ok=True)
        pq.write_table(table, files[-1])
    cut = load_all(files, 32, 0.5, tmp_path / "cache")
    assert len(cut) == len(cut.chips) == 9
    people = list(cut.persons)
    assert people[0] == people[2] == people[3] != people[1]  # ann of both files of a
    assert people[6] == people[8] and people[6] not in people[:6]  # another ann, of b
    kept = cut.keep(np.arange(9) % 2 == 0)
    assert len(kept) == 5 and list(kept.persons) == list(cut.persons[::2])


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeidError, match=r"nothing\.parquet"):
        load_all([tmp_path / "nothing.parquet"], 32, 0.5, tmp_path)
    with pytest.raises(DeidError, match="no data"):
        load_all([], 32, 0.5, tmp_path)


def test_labels_that_teach_nothing_are_refused() -> None:
    labels = np.zeros((4, 40), np.int8)
    found = np.array([True, True, True, False])

    def chips() -> Chips:
        return Chips(
            np.zeros((4, 8, 8, 3), np.uint8), found, labels, np.array(list("abcd"), object)
        )

    with pytest.raises(DeidError, match="no labels with two kinds"):
        require_labels(chips())
    male = CELEBA_ATTRIBUTES.index("Male")
    labels[:, male] = (1, 1, 1, -1)  # the other kind has no face that was found
    with pytest.raises(DeidError, match="no labels with two kinds"):
        require_labels(chips())
    labels[2, male] = -1
    require_labels(chips(), ["Male"])
    with pytest.raises(DeidError, match="no two kinds of Young"):
        require_labels(chips(), ["Male", "Young"])


def test_own_faces_last_as_long_as_the_training(tmp_path: Path) -> None:
    @with_own_faces
    def train(out: Path, finish: bool, cache: Path | None = None) -> str | None:
        assert cache is not None
        cache.mkdir(parents=True, exist_ok=True)
        (cache / "chips.npy").write_bytes(b"a face")
        return "made" if finish else None

    assert train(tmp_path / "a", finish=False) is None
    assert (tmp_path / "a" / "faces" / "chips.npy").exists()
    assert train(tmp_path / "a", True) == "made"
    assert not (tmp_path / "a" / "faces").exists()
    train(tmp_path / "a", True, tmp_path / "asked")
    assert (tmp_path / "asked" / "chips.npy").exists() and not (tmp_path / "a" / "faces").exists()


def test_whole_pictures_come_with_the_landmarks_that_chips_are_cut_by(
    labeled: Path, cache: Path
) -> None:
    """Rows of `find_all` and `frames_of` are those of `load_all`."""
    known = find_all([labeled, labeled], cache)
    cut = load_all([labeled, labeled], 40, 0.4, cache)
    assert known.chips.shape == (18, 0, 0, 3)
    for name in ("found", "labels", "persons"):
        assert np.array_equal(getattr(known, name), getattr(cut, name))
    frames = list(frames_of([labeled, labeled], cache))
    for (frame, points), chip in zip(frames, cut.chips, strict=True):
        assert np.array_equal(align.crop(frame, align.chip_affine(points, 40, 0.4), 40), chip)
    for missing in (lambda: find_all([], cache), lambda: list(frames_of([], cache))):
        with pytest.raises(DeidError, match="no data"):
            missing()
