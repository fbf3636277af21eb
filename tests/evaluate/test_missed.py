"""Faces that are left: the second look at an output, and its figure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deidcli.errors import DeidError
from deidcli.evaluate import missed
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


def test_what_was_looked_at_is_not_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "out.private").mkdir()
    (out / "SHA256SUMS").write_text("one")
    asked: list[int | None] = []
    place = Place((1.0, 2.0, 30.0, 40.0), 0.5, "hog")

    def look(out: Path, record: object, sample: int | None, *_: object) -> Missed:
        asked.append(sample)
        return Missed(4, 9, {"images/a.jpg": [place]}, 1)

    monkeypatch.setattr(missed, "look_again", look)

    def again(sample: int | None) -> Missed:
        return missed.kept_or_new(out, {}, sample, "cpu", 1, lambda *_: None)

    assert again(5) == again(5) == Missed(4, 9, {"images/a.jpg": [place]}, 1) and asked == [5]
    again(None)
    (out / "SHA256SUMS").write_text("two")
    again(None)
    assert asked == [5, None, None]


def test_the_figure_of_what_is_left() -> None:
    place = Place((0.0, 0.0, 9.0, 9.0), 0.5, "hog")
    said = Missed(10, 40, {"a": [place, place], "b": [place]}, 3).as_dict()
    assert (said["pictures"], said["faces"], said["share"]) == (2, 3, 0.2)
    assert (said["looked"], said["published"], said["unread"]) == (10, 40, 3)
    assert said["low"] == pytest.approx(0.0567, abs=1e-4) and "a" not in said
    assert Missed(0, 0, {}).as_dict()["share"] is None


def test_a_sample_is_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = {f"images/{n:03d}.jpg": [] for n in range(50)}
    monkeypatch.setattr(missed, "replaced_units", lambda out, record: units)
    chosen: list[list[str]] = []

    def work(out: Path, units: dict[str, object], *_: object) -> list[tuple[str, object]]:
        chosen.append(list(units))
        left = [Place((0.0, 0.0, 9.0, 9.0), 0.5, "hog")]
        return [(n, [left, [], None][i % 3]) for i, n in enumerate(units)]

    monkeypatch.setattr(missed, "_work", work)

    def look(sample: int | None) -> Missed:
        return missed.look_again(tmp_path, {}, sample, "cpu", 1, lambda *_: None)

    said = look(12)
    assert (said.looked, said.unread, len(said.found), said.published) == (8, 4, 4, 50)
    look(12)
    look(None)
    assert chosen[0] == chosen[1] and len(set(chosen[0])) == 12 and chosen[2] == list(units)
    assert chosen[0] != sorted(units)[:12], "not the first ones"


def test_without_the_private_folder_nobody_knows_what_was_replaced(
    tmp_path: Path, deid: Deid
) -> None:
    out = blinded(tmp_path, "left", deid)
    shutil.rmtree(out.with_name("left.private"))
    with pytest.raises(DeidError, match=r"left\.private is not beside"):
        missed.replaced_units(out, {})
