"""The same command again: what was lost, changed or failed is noticed, and nothing else is done."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from deidcli.data import samples
from deidcli.data.journal import Journal, private_folder
from deidcli.data.reading import Unreadable
from deidcli.data.samples import Sample
from deidcli.data.sealed import FILE
from deidcli.data.source import open_source
from deidcli.pipeline import engines, prepare, remaining, steps
from deidcli.pipeline.run import Run
from deidcli.settings import RunSettings
from tests.conftest import (
    PEOPLE,
    Outcome,
    copy_people,
    statuses,
    tree,
)
from tests.datasets import plain_shard
from tests.reversible import password_file, sealed_run, small_sealed

pytestmark = pytest.mark.usefixtures("cheap")

Deid = Callable[..., Outcome]
BASIC = ["--workers", 1, "--no-gate"]
SAME = ("--names", "keep", "--seed", 0, "--no-gate")
"""Names and faces that are the same in another OUT."""


def test_same_command_again_has_nothing_to_do(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    assert deid("anonymize", folder, "--out", out, "--workers", 1).code == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = deid("anonymize", folder, "--out", out, "--workers", 1)
    assert again.code == 0 and "already done" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_other_settings_are_refused_and_named(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    assert deid("anonymize", folder, "--out", out, "--workers", 1).code == 0
    before = tree(out)
    other = deid("anonymize", folder, "--out", out, "--method", "blur", "--seed", 3)
    assert other.code == 1
    assert "method (blackout -> blur)" in other.stderr and "seed (None -> 3)" in other.stderr
    assert "--overwrite" in other.stderr and tree(out) == before
    (folder / "new.jpg").write_bytes((folder / "person_01.jpg").read_bytes())
    changed = deid("anonymize", folder, "--out", out, "--workers", 1)
    assert changed.code == 1 and "input has changed" in changed.stderr
    over = deid("anonymize", folder, "--out", out, "--method", "blur", "--overwrite")
    assert over.code == 0 and json.loads((out / "manifest.json").read_text())["method"] == "blur"
    assert len(list((out / "images").iterdir())) == 3


def test_two_runs_at_once_are_refused(tmp_path: Path, deid: Deid) -> None:

    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    journal = Journal(out)
    journal.create()
    with journal.locked():
        outcome = deid("anonymize", folder, "--out", out, "--workers", 1)
    assert outcome.code == 1 and "another run" in outcome.stderr


def test_output_that_is_gone_is_made_again(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    args = ["anonymize", folder, "--out", out, "--names", "keep", "--workers", 1]
    assert deid(*args).code == 0
    (out / "images/person_01.jpg").unlink()
    assert deid("verify", out).code == 1
    assert deid(*args).code == 0 and deid("verify", out).code == 0
    shutil.rmtree(out)
    assert deid(*args).code == 0 and deid("verify", out).code == 0


def test_another_input_with_the_same_names_is_refused(tmp_path: Path, deid: Deid) -> None:
    for name, number in (("a", "01"), ("b", "02")):
        (tmp_path / name).mkdir()
        picture = Image.open(PEOPLE / "portraits" / f"person_{number}.jpg").resize((160, 160))
        picture.save(tmp_path / name / "x.bmp")
    out = tmp_path / "out"
    assert deid("anonymize", tmp_path / "a", "--out", out, "--workers", 1).code == 0
    outcome = deid("anonymize", tmp_path / "b", "--out", out, "--workers", 1)
    assert outcome.code == 1 and "another input" in outcome.stderr


def test_what_a_kill_left_in_the_private_folder_spoils_nothing(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 1), tmp_path / "out"
    args = ["anonymize", folder, "--out", out, *BASIC]
    assert deid(*args).code == 0
    left = private_folder(out) / "parts" / "123-faces.parquet"
    left.write_bytes(b"PAR1")
    assert deid("verify", out).code == 0
    assert deid(*args).code == 0 and not left.exists()


def prepared(folder: Path, out: Path) -> Run:
    """A run that is about to begin."""
    source = open_source(folder)
    return prepare.prepare_run(RunSettings("blackout", detector="hog", names="keep"), source, out)


def same_size(path: Path, change: Callable[[bytearray], None]) -> None:
    """Replace a file by another one of its size, and of its times."""
    info = path.stat()
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Play that a file of this name cannot be read; root may read everything."""
    hidden: list[str | None] = [None]
    real = samples.read_regular

    def read(path: str | Path, root: str = "") -> bytes:
        if Path(path).name == hidden[0]:
            raise Unreadable("cannot be read: Permission denied")
        return real(path, root)

    monkeypatch.setattr(samples, "read_regular", read)

    def hide(name: str | None) -> None:
        hidden[0] = name

    return hide


@pytest.mark.parametrize("place", ["head", "middle", "tail"])
def test_an_input_replaced_by_one_of_its_size_is_noticed(
    tmp_path: Path, deid: Deid, place: str
) -> None:
    folder, out = copy_people(tmp_path / "in", 3), tmp_path / "out"
    args = ["anonymize", folder, "--out", out, "--workers", 1, *SAME]
    assert deid(*args).code == 0
    before = tree(out)
    path = folder / "person_02.jpg"
    where = {"head": 700, "middle": path.stat().st_size // 2, "tail": -5}[place]

    def change(data: bytearray) -> None:
        data[where] ^= 1

    same_size(path, change)
    outcome = deid(*args)
    assert outcome.code == 1 and "person_02.jpg holds something else" in outcome.stderr
    assert "--overwrite" in outcome.stderr and tree(out) == before


def test_a_parquet_file_of_the_same_size_is_noticed(tmp_path: Path, deid: Deid) -> None:
    path, out = plain_shard(tmp_path / "in/x.parquet", 2), tmp_path / "out"
    assert deid("anonymize", tmp_path / "in", "--out", out, "--workers", 1, *SAME).code == 0

    def change(data: bytearray) -> None:
        data[len(data) // 2] ^= 1

    same_size(path, change)
    outcome = deid("anonymize", tmp_path / "in", "--out", out, "--workers", 1, *SAME)
    assert outcome.code == 1 and "x.parquet holds something else" in outcome.stderr


def test_changed_labels_are_noticed(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 1), tmp_path / "out"
    (folder / "metadata.csv").write_text("file_name,Male\nperson_01.jpg,1\n")
    args = ["anonymize", folder, "--out", out, "--workers", 1, *SAME]
    assert deid(*args).code == 0
    (folder / "metadata.csv").write_text("file_name,Male\nperson_01.jpg,0\n")
    outcome = deid(*args)
    assert outcome.code == 1 and "metadata.csv holds something else" in outcome.stderr


def test_what_could_not_be_read_is_tried_again(
    tmp_path: Path, deid: Deid, unreadable: Callable[[str | None], None]
) -> None:
    folder, whole, out = copy_people(tmp_path / "in", 3), tmp_path / "whole", tmp_path / "out"
    assert deid("anonymize", folder, "--out", whole, "--workers", 1, *SAME).code == 0
    args = ["anonymize", folder, "--out", out, "--workers", 1, *SAME]
    unreadable("person_02.jpg")
    assert deid(*args).code == 3
    assert statuses(out)["person_02.jpg"] == ("failed", "cannot be read: Permission denied")
    again = deid(*args)
    assert again.code == 3 and "inputs that failed and are tried again: 1" in again.stderr
    assert deid("verify", out).code == 0
    unreadable(None)
    assert deid(*args).code == 0
    assert deid("verify", out).code == 0 and tree(out) == tree(whole)
    assert "already done" in deid(*args).stderr


def test_what_was_published_once_does_not_outlast_a_failure(
    tmp_path: Path, deid: Deid, unreadable: Callable[[str | None], None]
) -> None:
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    args = ["anonymize", folder, "--out", out, "--workers", 1, *SAME]
    assert deid(*args).code == 0
    (out / "images/person_01.jpg").unlink()
    unreadable("person_02.jpg")
    assert deid(*args).code == 3
    assert [path.name for path in (out / "images").iterdir()] == ["person_01.jpg"]
    assert deid("verify", out).code == 0


def test_a_broken_picture_is_tried_again_when_it_was_mended(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    good = (folder / "person_02.jpg").read_bytes()
    (folder / "person_02.jpg").write_bytes(b"\xff\xd8\xff broken")
    args = ["anonymize", folder, "--out", out, "--workers", 1, *SAME]
    assert deid(*args).code == 3
    again = deid(*args)
    assert again.code == 3 and "already done" in again.stderr, "it would fail in the same way"
    (folder / "person_02.jpg").write_bytes(good)
    assert deid(*args).code == 0 and deid("verify", out).code == 0


def test_neighbors_of_a_killed_worker_are_tried_again(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    args = ["anonymize", folder, "--out", out, "--workers", 1, *SAME]
    real = steps.watched

    def watched(found: Iterator[Sample], run: Run) -> Iterator[Sample]:
        from dataclasses import replace

        yield from real(found, replace(run, poisoned=frozenset({"person_01.jpg"})))

    with monkeypatch.context() as patch:
        patch.setattr(steps, "watched", watched)
        assert deid(*args).code == 3
    assert statuses(out)["person_01.jpg"][1].startswith("ended its worker")
    assert deid(*args).code == 0 and statuses(out)["person_01.jpg"][0] == "ok"


def test_rows_of_a_parquet_file_are_joined_anew(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One shard of several failed; the published file has to have all rows in their order."""
    folder, whole, out = tmp_path / "in", tmp_path / "whole", tmp_path / "out"
    path = plain_shard(folder / "x.parquet", 3)
    table = pq.read_table(path)
    monkeypatch.setattr("deidcli.data.parquet.ROWS_A_SHARD", 1)
    pq.write_table(table, path, row_group_size=1)
    assert deid("anonymize", folder, "--out", whole, "--workers", 1, *SAME).code == 0
    real = samples.require_regular
    calls: list[int] = []

    def require_regular(path: str | Path, root: str = "") -> None:
        calls.append(1)
        if len(calls) == 2:
            raise Unreadable("cannot be read: Input/output error")
        real(path, root)

    with monkeypatch.context() as patch:
        patch.setattr(samples, "require_regular", require_regular)
        assert deid("anonymize", folder, "--out", out, "--workers", 1, *SAME).code == 3
    assert pq.read_metadata(out / "data/x.parquet").num_rows == 2
    assert deid("verify", out).code == 0
    assert deid("anonymize", folder, "--out", out, "--workers", 1, *SAME).code == 0
    assert deid("verify", out).code == 0 and tree(out) == tree(whole)


def test_whole_set_methods_look_again_at_all_faces(
    tmp_path: Path, deid: Deid, unreadable: Callable[[str | None], None]
) -> None:
    folder, whole, out = copy_people(tmp_path / "in", 4), tmp_path / "whole", tmp_path / "out"
    args = ["anonymize", folder, "--method", "k-same", "--set", "k=2", "--workers", 1, *SAME]
    assert deid(*args, "--out", whole).code == 0
    unreadable("person_02.jpg")
    assert deid(*args, "--out", out).code == 3
    unreadable(None)
    assert deid(*args, "--out", out).code == 0
    assert tree(out) == tree(whole)


def test_links_that_were_broken_are_tried_again(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 1), tmp_path / "out"
    (folder / "b.jpg").symlink_to(folder / "target.jpg")
    (folder / "target.jpg").write_bytes(b"")
    (folder / "target.jpg").rename(folder / "target.txt")
    args = ["anonymize", folder, "--out", out, "--workers", 1, *SAME]
    assert deid(*args).code == 3 and statuses(out)["b.jpg"] == ("failed", "broken link")
    (folder / "b.jpg").unlink()
    shutil.copy(folder / "person_01.jpg", folder / "b.jpg")
    assert deid(*args).code == 0 and statuses(out)["b.jpg"][0] == "ok"


def test_left_says_why(tmp_path: Path) -> None:
    run = prepared(copy_people(tmp_path / "in", 2), tmp_path / "out")
    assert len(remaining.unfinished(run).shards) == 1
    engines.run_local(run, 1, lambda *_: None)
    assert remaining.unfinished(run).shards == ()
    (tmp_path / "out/images/person_01.jpg").unlink()
    left = remaining.unfinished(run)
    assert (left.gone, left.failed, len(left.shards)) == (1, 0, 1) and "gone" in left.why()


def test_what_is_gone_is_made_again(tmp_path: Path, deid: Deid) -> None:
    out = small_sealed(tmp_path, deid)
    before = tree(out)
    again = ["--detector", "none", "--no-gate"]
    for name in (FILE, "images/chip00.png"):
        (out / name).unlink()
        sealed_run(deid, tmp_path / "in", out, *again)
        assert tree(out) == before
        assert deid("verify", out).code == 0


def test_another_password_does_not_resume(tmp_path: Path, deid: Deid) -> None:
    out = small_sealed(tmp_path, deid)
    before, private = tree(out), tree(private_folder(out))
    wrong = password_file(tmp_path, "quite another one")
    args = ["anonymize", tmp_path / "in", "--out", out, "--seal", "--workers", 1, "--seed", 5]
    args += ["--names", "keep", "--detector", "none", "--no-gate", "--password-file"]
    outcome = deid(*args, wrong)
    assert outcome.code == 1 and "another password" in outcome.stderr
    (out / "manifest.json").unlink()
    (out / "images/chip00.png").unlink()
    outcome = deid(*args, wrong)
    assert outcome.code == 1 and "another password" in outcome.stderr
    assert not (out / "images/chip00.png").exists() and tree(private_folder(out)) == private
    assert deid(*args, password_file(tmp_path)).code == 0
    assert tree(out) == before
    assert deid(*args, wrong, "--overwrite").code == 0
    assert tree(out) != before


def test_a_part_that_lacks_rows_is_no_part(tmp_path: Path) -> None:
    run = prepared(copy_people(tmp_path / "in", 2), tmp_path / "out")
    engines.run_local(run, 1, lambda *_: None)
    part = Journal(run.out).part(0)
    rows = pq.read_table(part)
    pq.write_table(rows.slice(0, 1), part)
    assert [shard.index for shard in remaining.unfinished(run).shards] == [0]
    assert [shard.index for shard in remaining.missing(run)] == [0]
    pq.write_table(rows, part)
    assert not remaining.unfinished(run).shards and not remaining.missing(run)
