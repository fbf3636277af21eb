"""What a user is told about the inputs and settings before a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from deidcli.data.columns import Columns, Wish
from deidcli.data.source import Source
from deidcli.pipeline import notices
from deidcli.settings import RunSettings
from tests.conftest import Outcome
from tests.datasets import portraits, write_shard

Deid = Callable[..., Outcome]


def test_settings_that_do_not_protect_are_noted(tmp_path: Path, deid: Deid) -> None:
    source, out = tmp_path / "a.parquet", tmp_path / "out"
    write_shard(source, list(portraits(1)))
    args = ["--method", "dae", "--set", "target=supervised", "--workers", 1, "--json"]
    outcome = deid("anonymize", source, "--out", out, *args)
    assert "NOT protect" in outcome.stderr
    assert any("NOT protect" in line for line in outcome.json["warnings"])


def test_lfw_layout_warns_of_names(tmp_path: Path, deid: Deid) -> None:
    root = tmp_path / "lfw"
    for person, data in zip(("Ann_Nobody", "Bob_Nobody"), portraits(2), strict=True):
        (root / person).mkdir(parents=True)
        (root / person / f"{person}_0001.jpg").write_bytes(data)
    (root / "peopleDevTest.txt").write_text("1\nBob_Nobody\t1\n")
    attributes = "# head\n#\tperson\timagenum\tMale\tSmiling\nAnn Nobody\t1\t-0.4\t1.5\n"
    (root / "lfw_attributes.txt").write_text(attributes)
    keep = ["--names", "keep", "--workers", 1]
    outcome = deid("anonymize", root, "--out", tmp_path / "kept", *keep)
    assert outcome.code == 0 and "--names random" in outcome.stderr
    rows = {
        r["file_name"]: r for r in pq.read_table(tmp_path / "kept/metadata.parquet").to_pylist()
    }
    ann = rows["images/Ann_Nobody/Ann_Nobody_0001.jpg"]
    assert (ann["Male"], ann["Smiling"]) == (-1, 1)
    assert rows["images/Bob_Nobody/Bob_Nobody_0001.jpg"]["partition"] == "test"
    args = ["anonymize", root, "--out", tmp_path / "random", "--names", "random", "--workers", 1]
    assert deid(*args).code == 0
    data = b"".join(p.read_bytes() for p in (tmp_path / "random").rglob("*") if p.is_file())
    assert b"Nobody" not in data
    assert "Nobody" not in "".join(str(p) for p in (tmp_path / "random").rglob("*"))


def test_what_is_told_before_a_run() -> None:
    source = Source("folder", Path("in"), (), 0, "", warnings=("w",), private_warnings=("p",))
    plain = RunSettings("blackout", names="keep")
    assert notices.warnings_of(source, plain) == ["p", "w"]
    people = dataclasses.replace(source, names_people=True)
    assert "named after people" in notices.warnings_of(people, plain)[-1]
    assert notices.warnings_of(people, RunSettings("blackout", names="random")) == ["p", "w"]
    face = RunSettings("surrogate", {"region": "face"}, names="random")
    assert "region=face keeps hair" in notices.warnings_of(source, face)[-1]
    copies = RunSettings("blackout", names="keep", on_no_face="copy")
    assert "copied as they are" in notices.warnings_of(source, copies)[-1]
    assert "--yes" not in notices.warnings_of(source, copies)[-1]
    careless = dataclasses.replace(copies, yes=True)
    assert notices.warnings_of(source, careless)[-1].endswith("finds one (--yes)")
    dropped = dataclasses.replace(source, columns=Columns(("a",), ("b",)))
    assert [n.split(":")[0] for n in notices.warnings_of(dropped, plain)[2:]] == [
        "columns published",
        "columns not published",
    ]


def test_attributes_without_labels_are_said_to_be_predicted() -> None:
    source = Source("folder", Path("in"), (), 0, "", label_names=("Male",))
    assert notices.predicted_attributes(None, source) == ()
    assert notices.predicted_attributes(("Male", "Smiling"), source) == ("Smiling",)
    settings = RunSettings("blackout", names="keep", attributes=("Male", "Smiling"))
    assert notices.warnings_of(source, settings) == [
        "the input has no labels for Smiling: they are predicted"
    ]


def test_the_wish_is_what_was_asked_for() -> None:
    settings = RunSettings("blackout", columns=("age",), keep_identity=True, attributes=("Male",))
    assert notices.wish_of(settings) == Wish(("age",), True, ("Male",))
