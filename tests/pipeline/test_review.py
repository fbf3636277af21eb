"""Places that may be faces: the second look before a copy, and the list for a person."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deidcli.faces.detect import Detection
from deidcli.pipeline import review
from deidcli.pipeline.review import Spot
from tests.conftest import PEOPLE, Outcome, copy_people, picture_bytes, statuses

Deid = Callable[..., Outcome]
PLAIN = ("--no-gate", "--workers", 1, "--names", "keep", "--json")
SCENE = PEOPLE / "scenes" / "gallery_wall.jpg"


@pytest.fixture
def pictures(tmp_path: Path, portrait: np.ndarray) -> Path:
    """A face, and a picture without one."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "face.png").write_bytes(picture_bytes(portrait, "PNG"))
    wall = np.full((200, 300, 3), 140, np.uint8)
    wall[50:150, 100:200] = 90
    (folder / "wall.png").write_bytes(picture_bytes(wall, "PNG"))
    return folder


def test_copy_withholds_what_a_second_look_finds(
    tmp_path: Path, pictures: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The detector is made blind, so that only the second look is left."""
    monkeypatch.setattr(
        "deidcli.faces.detect.Detector.detect",
        lambda self, frame: Detection([], []),
    )
    options = ("anonymize", pictures, "--on-no-face", "copy", *PLAIN)
    outcome = deid(*options, "--out", tmp_path / "out")
    found = statuses(tmp_path / "out")
    assert found["face.png"] == (
        "no_face",
        "a second look found a face, withheld (--yes copies it)",
    )
    assert found["wall.png"] == ("no_face", "no face found, copied")
    assert "copied as they are" in outcome.stderr
    assert outcome.json["counts"]["published"] == 1
    card = (tmp_path / "out/README.md").read_text()
    assert "published: 1 of 2 inputs, 1 of them without a face found and copied as it is" in card
    assert "withheld: 1 without a face" in card
    deid(*options, "--yes", "--out", tmp_path / "two")
    assert statuses(tmp_path / "two")["face.png"] == ("no_face", "no face found, copied")


def test_what_cannot_be_looked_at_again_is_not_copied(
    tmp_path: Path, pictures: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deidcli.faces.second_look.SecondLook.__call__", lambda *_: 1 / 0)
    out = tmp_path / "out"
    outcome = deid("anonymize", pictures, "--on-no-face", "copy", "--out", out, *PLAIN)
    assert outcome.code == 3 and statuses(out)["face.png"][0] == "ok"
    assert statuses(out)["wall.png"][0] == "failed"
    assert not (out / "images/wall.png").exists()


def test_doubts_are_listed_for_a_person(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deidcli.faces.detect.THRESHOLD", 0.999)
    table, out = tmp_path / "boxes.json", tmp_path / "out"
    table.write_text(json.dumps({SCENE.name: [[0, 0, 60, 60]]}))
    outcome = deid(
        *("anonymize", SCENE, "--out", out, "--boxes", table, "--no-gate"),
        *("--workers", 1, "--json"),
    )
    assert outcome.json["counts"]["doubtful"] == 1, outcome.stderr
    page = (out.with_name("out.private") / "review.html").read_text()
    assert "may be a face" in page and "Never publish this page" in page
    assert len(re.findall("<img", page)) >= 2


def test_a_finished_run_without_doubts_has_no_list(tmp_path: Path, deid: Deid) -> None:
    deid("anonymize", PEOPLE / "portraits/person_01.jpg", "--out", tmp_path / "out", "--no-gate")
    assert not (tmp_path / "out.private/review.html").exists()


def test_the_most_doubtful_pictures_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubt(score: float) -> dict[str, object]:
        return {"box": [1, 2, 3, 4], "score": score}

    doubts = {"a": [doubt(0.11)], "b": [doubt(0.12), doubt(0.19)], "c": [doubt(0.15)]}
    assert list(review.spots_of(doubts)) == ["b", "c", "a"]
    monkeypatch.setattr(review, "MOST", 2)
    kept = review.spots_of(doubts)
    assert list(kept) == ["b", "c"]
    assert kept["b"] == [Spot((1, 2, 3, 4), score, "may be a face") for score in (0.12, 0.19)]


def test_the_page_is_private_sorted_and_goes_when_nothing_is_left(
    tmp_path: Path, deid: Deid
) -> None:
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    (folder / "person_02.jpg").rename(folder / "<b>&.jpg")
    args = ["anonymize", folder, "--out", out, "--detector", "none", *PLAIN]
    assert deid(*args).code == 0
    one, two = "images/person_01.jpg", "images/<b>&.jpg"
    spots = {one: [Spot((10.0, 20.0, 60.0, 80.0), 0.12, "why one")],
             two: [Spot((0.0, 0.0, 50.0, 50.0), 1.3, "why two")]}  # fmt: skip
    assert review.write_review(out, spots) == 2 and review.read_spots(out) == spots
    page = (out.with_name("out.private") / review.FILE).read_text()
    assert page.index("why two, 0.30: 0, 0, 50, 50") < page.index("why one, 0.12: 10, 20, 60, 80")
    assert "images/&lt;b&gt;&amp;.jpg" in page and "<b>" not in page
    assert page.count("<img") == 4
    assert review.write_review(out, {}) == 0 and review.read_spots(out) == {}
    assert not (out.with_name("out.private") / review.FILE).exists()
