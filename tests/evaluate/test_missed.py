"""Faces that are left: the second look at an output, and its figure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deidcli.evaluate.missed import Missed
from deidcli.faces.second_look import Place
from tests.conftest import PEOPLE, Outcome

Deid = Callable[..., Outcome]
SCENE = PEOPLE / "scenes" / "gallery_wall.jpg"


def blinded(tmp_path: Path, name: str, deid: Deid, as_parquet: bool = False) -> Path:
    """An output in which only the user's one box was covered, of seven faces and more."""
    folder, out = tmp_path / f"{name}-in", tmp_path / name
    folder.mkdir()
    if as_parquet:
        data = [(PEOPLE / "portraits/person_01.jpg").read_bytes(), SCENE.read_bytes()]
        pq.write_table(pa.table({"image": data}), folder / "a.parquet", row_group_size=1)
    else:
        Image.open(SCENE).save(folder / "scene.png")
    key = "a.parquet#1" if as_parquet else "scene.png"
    table = tmp_path / f"{name}.json"
    table.write_text(json.dumps({key: [[0, 0, 60, 60]], "a.parquet#0": [[0, 0, 511, 511]]}))
    outcome = deid(
        *("anonymize", folder, "--out", out, "--boxes", table, "--boxes-are", "replace"),
        *("--no-gate", "--workers", 1, "--json"),
    )
    assert outcome.code == 0, outcome.stderr
    return out


@pytest.mark.parametrize("as_parquet", [False, True])
def test_verify_finds_the_faces_that_are_left(tmp_path: Path, deid: Deid, as_parquet: bool) -> None:
    out = blinded(tmp_path, "left", deid, as_parquet)
    said = deid("verify", out, "--faces", "--workers", 1)
    assert said.code == 0, said.stderr
    pictures = 2 if as_parquet else 1
    assert f"1 of {pictures} pictures looked at" in said.stdout
    report = deid("verify", out, "--faces", "--workers", 1, "--json").json["faces"]
    assert report["pictures"] == 1 and report["faces"] >= 7
    assert report["low"] < report["share"] <= report["high"]
    page = (out.with_name("left.private") / "review.html").read_text()
    assert page.count("a second look sees a face") >= 7 and "data:image/jpeg;base64," in page
    assert "review" not in "".join(p.name for p in out.rglob("*"))


def test_nothing_is_left_where_all_was_replaced(tmp_path: Path, deid: Deid) -> None:
    out = tmp_path / "out"
    for method in ("blackout", "blur"):
        deid("anonymize", SCENE, "--out", out, "--method", method, "--no-gate", "--overwrite")
        report = deid("verify", out, "--faces", "--workers", 1, "--json").json["faces"]
        assert (report["looked"], report["faces"]) == (1, 0)


def test_score_has_the_figure_and_keeps_it(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (1, 2):
        path = PEOPLE / "portraits" / f"person_{number:02d}.jpg"
        Image.open(path).resize((256, 256)).save(folder / f"{number}.png")
    out = tmp_path / "out"
    deid("anonymize", folder, "--out", out, "--no-gate", "--workers", 1)

    def row() -> dict[str, float]:
        report = deid("score", out, "--recognizer", "dlib", "--workers", 1, "--json")
        assert report.code == 0, report.stderr
        return next(r for r in report.json["rows"] if r["metric"] == "missed faces")

    first = row()
    assert (first["value"], first["n"]) == (0.0, 2) and first["high"] > 0.5
    monkeypatch.setattr("deidcli.evaluate.missed.look_again", lambda *_: 1 / 0)
    assert row() == first


def test_the_interval_is_wilsons() -> None:
    place = Place((0, 0, 20, 20), 0.9, "hog")
    said = Missed(200, 1000, {"a": [place], "b": [place, place]})
    low, high = said.interval
    assert said.faces == 3 and low == pytest.approx(0.0027, abs=1e-3)
    assert high == pytest.approx(0.0357, abs=1e-3)
    assert "a" not in json.dumps(list(said.as_dict().values()))
