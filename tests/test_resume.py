"""The same command again: what was lost, changed or failed is noticed, and nothing else is done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from deidcli.data import reading, samples
from deidcli.data.journal import Journal, private_folder
from deidcli.data.reading import Unreadable
from deidcli.data.samples import Sample
from deidcli.data.source import content_signature, open_source
from deidcli.errors import DeidError
from deidcli.pipeline import engines, finish, prepare, resume, steps
from deidcli.pipeline.run import Run
from deidcli.settings import RunSettings
from tests.conftest import Outcome, copy_people, statuses, tree
from tests.test_source import write_shard

Deid = Callable[..., Outcome]
SAME = ("--names", "keep", "--seed", 0, "--no-gate")
"""Names and faces that are the same in another OUT."""


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


# ---------------------------------------------------------------------------- what is gone


def test_output_deleted_in_mid_run_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deid: Deid
) -> None:
    folder, out = copy_people(tmp_path / "in", 4), tmp_path / "out"
    run = prepared(folder, out)
    worked: list[int] = []
    real = steps.run_shard

    def run_shard(run: Run, shard: Any) -> int:
        done = real(run, shard)
        if shard.index == 1 and 1 not in worked:
            shutil.rmtree(out / "images")
        worked.append(shard.index)
        return done

    monkeypatch.setattr(steps, "run_shard", run_shard)
    record = engines.run_local(run, 1, lambda *_: None)
    assert worked == [0, 1, 0, 1]
    assert record["counts"]["published"] == len(list((out / "images").iterdir())) == 4
    assert deid("verify", out).code == 0


def test_output_that_vanishes_again_and_again_fails_clearly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    run = prepared(folder, out)
    real = steps.run_shard

    def run_shard(run: Run, shard: Any) -> int:
        done = real(run, shard)
        (out / "images/person_01.jpg").unlink(missing_ok=True)
        return done

    monkeypatch.setattr(steps, "run_shard", run_shard)
    with pytest.raises(DeidError, match="removed while the run was under way"):
        engines.run_local(run, 1, lambda *_: None)
    assert not (out / "manifest.json").exists()


def test_a_journal_deleted_in_mid_run_is_one_line_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deid: Deid
) -> None:
    folder, out = copy_people(tmp_path / "in", 4), tmp_path / "out"
    real = steps.run_shard

    def run_shard(run: Run, shard: Any) -> int:
        shutil.rmtree(private_folder(out), ignore_errors=True)
        return real(run, shard)

    with monkeypatch.context() as patch:
        patch.setattr(steps, "run_shard", run_shard)
        outcome = deid("anonymize", folder, "--out", out, "--workers", 1, *SAME)
    assert outcome.code == 1 and f"{out}.private was removed" in outcome.stderr
    assert f"remove {out} and {out}.private" in outcome.stderr
    shutil.rmtree(out)
    shutil.rmtree(private_folder(out), ignore_errors=True)
    assert deid("anonymize", folder, "--out", out, "--workers", 1, *SAME).code == 0


# ---------------------------------------------------------------------------- what changed


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
    path, out = write_shard(tmp_path / "in/x.parquet", 2), tmp_path / "out"
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


def test_the_content_decides_what_is_derived_from_the_inputs(tmp_path: Path) -> None:
    """A run that can be repeated derives secrets from it; training, where its chips are kept."""
    folder = copy_people(tmp_path / "in", 1)
    before = open_source(folder)

    def change(data: bytearray) -> None:
        data[700] ^= 1

    told = content_signature(before)
    same_size(folder / "person_01.jpg", change)
    after = open_source(folder)
    assert after.signature == before.signature and content_signature(after) != told


def test_prints_of_data_and_of_files_are_the_same(tmp_path: Path) -> None:
    for size in (0, 1, 4095, 4096, 4097, 8192, 12287, 12289, 50_000):
        data = os.urandom(size)
        (tmp_path / "x").write_bytes(data)
        assert reading.file_print(tmp_path / "x") == reading.data_print(data)
    assert reading.file_print(tmp_path / "none") == ""


# ---------------------------------------------------------------------------- what had failed


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
    path = write_shard(folder / "x.parquet", 3)
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


# ---------------------------------------------------------------------------- --overwrite


@pytest.mark.parametrize("name", ["images/mine.jpg", "images/deep/mine.txt", "data/mine.parquet"])
def test_overwrite_never_removes_what_deid_did_not_write(
    tmp_path: Path, deid: Deid, name: str
) -> None:
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    args = ["anonymize", folder, "--out", out, "--workers", 1, *SAME, "--overwrite"]
    assert deid(*args).code == 0 and deid(*args).code == 0
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text("mine")
    before = tree(out)
    outcome = deid(*args, "--method", "blur")
    assert outcome.code == 1 and name in outcome.stderr, outcome.stderr
    assert "move it away" in outcome.stderr
    assert tree(out) == before and (out / "manifest.json").exists()
    (out / name).unlink()
    assert deid(*args, "--method", "blur").code == 0
    assert deid("verify", out).code == 0 or not any((out / name).parent.iterdir())


def test_overwrite_knows_what_a_killed_shard_had_written(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures of a shard that has no part yet, and tables that no SHA256SUMS lists."""

    class Killed(BaseException):
        pass

    def write_part(*_: object) -> None:
        raise Killed

    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    write_shard(folder / "x.parquet", 1)
    args = ["anonymize", folder, "--out", out, "--workers", 1, *SAME]
    for name, owner in (("write_part", Journal), ("write_card", finish.manifest)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, write_part)
            with pytest.raises(Killed):
                deid(*args)
        assert any((out / "images").iterdir())
        if name == "write_card":
            assert (out / "data/x.parquet").exists()
            (out / "SHA256SUMS").unlink()
        assert deid(*args, "--overwrite").code == 0, name
        assert deid("verify", out).code == 0
        shutil.rmtree(out)
        shutil.rmtree(private_folder(out))


def test_left_says_why(tmp_path: Path) -> None:
    run = prepared(copy_people(tmp_path / "in", 2), tmp_path / "out")
    assert len(resume.unfinished(run).shards) == 1
    engines.run_local(run, 1, lambda *_: None)
    assert resume.unfinished(run).shards == ()
    (tmp_path / "out/images/person_01.jpg").unlink()
    left = resume.unfinished(run)
    assert (left.gone, left.failed, len(left.shards)) == (1, 0, 1) and "gone" in left.why()
