"""The journal of a run: one part a shard, and what is left when it was killed."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from pathlib import Path

import pytest

from deidcli.data.journal import (
    PRIVATE,
    Journal,
    is_own,
    new_secret,
    recorded_roots,
    seeded_secret,
)
from deidcli.data.samples import Sample
from deidcli.data.sink import Doubt, FaceRecord, Output, Result, Written
from deidcli.errors import DeidError

RECORD = {"fingerprint": "f", "run": {}, "source": "/in", "secret": "s", "started": "now"}
FACE = FaceRecord((1, 2, 3, 4), 0.5, (1, 0, 0, 0, 1, 0), "blur", 0.75, "aa", False)
SAMPLE = Sample("a.jpg", labels={"Male": 1}, partition="train", passes=True, print="p")
RESULT = Result(SAMPLE, "fallback", "why", ("note",), (), 2, 1, (Doubt((5, 6, 7, 8), 0.125),))
WRITTEN = Written(Output("a.jpg", b"", 30, 20, (FACE,)), "e" * 64)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """The journal of a run that has begun."""
    journal = Journal(tmp_path / "out")
    journal.create()
    journal.write_run(RECORD)
    return journal


def test_a_part_holds_all_that_is_known_of_an_input(journal: Journal) -> None:
    failed = Result(Sample("b.jpg"), "failed", "cannot be decoded")
    journal.write_part(3, [(RESULT, (WRITTEN,)), (failed, ())])
    assert journal.read_part(3) == [
        {"source": "a.jpg", "status": "fallback", "passes": True, "print": "p",
         "outputs": [{"name": "a.jpg"}]},
        {"source": "b.jpg", "status": "failed", "passes": False, "print": "", "outputs": []},
    ]  # fmt: skip
    assert journal.published_names(3) == ["a.jpg"]
    journal.write_part(0, [])
    journal.write_part(1, [])
    journal.write_part(2, [])
    parts = list(journal.read_parts(4))
    row = parts[3][0]
    assert [len(part) for part in parts] == [0, 0, 0, 2]
    assert (row["reason"], row["notes"], row["faces"], row["covered"]) == ("why", ["note"], 2, 1)
    assert (row["labels"], row["partition"]) == ([("Male", 1)], "train")
    assert row["doubts"] == [{"box": [5, 6, 7, 8], "score": 0.125}]
    output = row["outputs"][0]
    assert (output["width"], output["height"], output["sha256"]) == (30, 20, "e" * 64)
    face = dataclasses.asdict(FACE)
    assert output["faces"] == [{**face, "box": [1, 2, 3, 4], "affine": [1, 0, 0, 0, 1, 0]}]


def test_a_part_ends_the_notes_of_its_shard_and_no_others(journal: Journal) -> None:
    journal.note_names("000003", ["images/a.jpg"])
    journal.note_names("000003", ["images/b\n.jpg"])
    journal.note_names("000004", ["images/c.jpg"])
    lines = (journal.begun / "000003").read_text().splitlines()
    assert [json.loads(line) for line in lines] == ["images/a.jpg", "images/b\n.jpg"]
    journal.write_part(3, [])
    assert [path.name for path in journal.begun.iterdir()] == ["000004"]


def test_no_part_without_the_record_of_its_run(journal: Journal) -> None:
    (journal.folder / "run.json").unlink()
    with pytest.raises(DeidError, match="removed while the run was under way"):
        journal.write_part(0, [])
    assert not list(journal.parts.iterdir())


def test_the_folder_is_its_owners_alone(journal: Journal) -> None:
    os.chmod(journal.folder, 0o755)
    journal.create()
    assert stat.S_IMODE(journal.folder.stat().st_mode) == 0o700


def test_a_record_that_is_none_is_an_error_and_none_is_none(journal: Journal) -> None:
    assert journal.read_run() == RECORD
    path = journal.folder / "run.json"
    for text in ("{", "[]", "{}", json.dumps({**RECORD, "secret": 1})[:-20]):
        path.write_text(text)
        with pytest.raises(DeidError):
            journal.read_run()
    path.unlink()
    assert journal.read_run() is None


def test_one_run_at_a_time(journal: Journal) -> None:
    with journal.locked(), pytest.raises(DeidError, match="another run"), journal.locked():
        pass
    with journal.locked():
        pass


def test_the_input_that_ended_a_worker_is_taken_once(journal: Journal) -> None:
    assert journal.take_position() is None
    journal.write_position("a.jpg")
    journal.write_position("ä/b.jpg")
    assert journal.take_position() == "ä/b.jpg" and journal.take_position() is None


def test_cleaning_keeps_parts_links_and_the_record(journal: Journal) -> None:
    journal.write_part(0, [])
    for name in ("link.parquet", "faces.parquet", "stages.json", "large", "position"):
        (journal.folder / name).write_text("x")
    for folder in (journal.staging, journal.begun, journal.folder / "scan", journal.plan):
        folder.mkdir()
        (folder / "x").write_text("x")
    (journal.parts / "77-000001.parquet").write_text("unfinished")
    journal.clean()
    left = {path.name for path in journal.folder.iterdir()}
    assert left == {"run.json", "parts", "link.parquet", "faces.parquet", "stages.json", "plan"}
    assert [path.name for path in journal.parts.iterdir()] == ["000000.parquet"]


def test_names_that_deid_writes() -> None:
    assert all(is_own(n, PRIVATE) for n in ("run.json", "parts", "12-0123456789abcdef", "plan-7"))
    assert not any(is_own(n, PRIVATE) for n in ("images", "thesis.txt", "12-xyz", "run.json~"))


def test_secrets() -> None:
    assert new_secret() != new_secret() and len(bytes.fromhex(new_secret())) == 32
    assert seeded_secret(1, "x") == seeded_secret(1, "x")
    assert len({seeded_secret(1, "x"), seeded_secret(2, "x"), seeded_secret(1, "y")}) == 3
    assert recorded_roots({"source": "/a"}) == ["/a"]
    assert recorded_roots({"source": ["/a", "/b"]}) == ["/a", "/b"]
