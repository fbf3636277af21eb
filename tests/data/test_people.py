"""Names of people in the names of files and folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deidcli.data.people import has_given_name, names_people, names_person
from tests.conftest import (
    Outcome,
    assert_gone,
    copy_people,
)

Deid = Callable[..., Outcome]
BASIC = ["--workers", 1, "--no-gate"]


@pytest.mark.parametrize(
    "key",
    [
        *("Jane Doe/1.jpg", "jane_doe/1.jpg", "Ann_Nobody/Ann_Nobody_0001.jpg", "x/Jane Doe 3.jpg"),
        *("Doe, Jane/a.png", "María José García/1.jpg", "Zhang Wei.jpg", "JaneDoe/1.jpg"),
    ],
)
def test_names_of_people_are_noticed(key: str) -> None:
    assert names_people(key)


@pytest.mark.parametrize(
    "key",
    [
        *("Test Set/1.jpg", "Holiday Pictures/1.jpg", "IMG_0001.jpg", "New York/DSC 0042.JPG"),
        *("img_align_celeba/000001.jpg", "a/b/c.png", "portraits/person_01.jpg", "train-0.parquet"),
        *(
            "team_page.jpg",
            "Screen Shot 2020-01-01.png",
            "patient_name",
            "My Photos/Team Party.jpg",
        ),
    ],
)
def test_other_names_are_not(key: str) -> None:
    assert not names_people(key)


def test_folders_named_after_people_are_warned_of(tmp_path: Path, deid: Deid) -> None:
    copy_people(tmp_path / "in" / "Jane Doe", 1)
    for names, warned in (("keep", True), ("random", False)):
        args = ["anonymize", tmp_path / "in", "--out", tmp_path / names, *BASIC]
        outcome = deid(*args, "--names", names)
        assert outcome.code == 0 and ("named after people" in outcome.stderr) == warned
    assert_gone(tmp_path / "random", b"Jane", b"Doe")


def test_a_given_name_is_a_word_of_its_own() -> None:
    assert has_given_name("photos of anna (2020)") and has_given_name("JOHN-1.jpg")
    assert not has_given_name("annals") and not has_given_name("johnson") and not has_given_name("")


def test_two_to_four_words_and_none_that_is_common() -> None:
    assert names_person("Xu Li Wang Zhou") and names_person("O'Brien, Pat")
    assert not names_person("Xavier") and not names_person("Xa Xb Xc Xd Xe")
    assert not names_person("Old Bridge") and not names_person("XAVIER QUINTUS")
