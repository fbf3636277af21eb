"""`--overwrite` removes what deid wrote, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from deidcli.data.journal import Journal, private_folder
from deidcli.data.sealed import FILE
from deidcli.pipeline import finish, tables
from tests.conftest import Outcome, copy_people, tree
from tests.datasets import plain_shard
from tests.reversible import password_file

Deid = Callable[..., Outcome]
SAME = ("--names", "keep", "--seed", 0, "--no-gate")
"""Names and faces that are the same in another OUT."""


def test_overwrite_takes_only_what_is_its_own(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 1)
    precious = tmp_path / "precious"
    (precious / "sub").mkdir(parents=True)
    (precious / "thesis.txt").write_text("x")
    (tmp_path / "precious.private").mkdir()
    (tmp_path / "precious.private/run.json").write_text("{}")
    outcome = deid("anonymize", folder, "--out", precious, "--overwrite", "--workers", 1)
    assert outcome.code == 1 and "not the record" in outcome.stderr
    out = tmp_path / "out"
    assert deid("anonymize", folder, "--out", out, "--workers", 1).code == 0
    (out / "notes.txt").write_text("mine")
    outcome = deid("anonymize", folder, "--out", out, "--overwrite", "--workers", 1)
    assert outcome.code == 1 and "notes.txt" in outcome.stderr
    assert (out / "notes.txt").read_text() == "mine" and (out / "manifest.json").exists()
    (out / "notes.txt").unlink()
    shutil.rmtree(out)
    out.symlink_to(precious)
    outcome = deid("anonymize", folder, "--out", out, "--overwrite", "--workers", 1)
    assert outcome.code == 1 and (precious / "thesis.txt").read_text() == "x"


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
    assert deid("verify", out).code == 0


def test_overwrite_knows_what_a_killed_shard_had_written(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures of a shard that has no part yet, and tables that no SHA256SUMS lists."""

    class Killed(BaseException):
        pass

    def write_part(*_: object) -> None:
        raise Killed

    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    plain_shard(folder / "x.parquet", 1)
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


@pytest.mark.usefixtures("cheap")
def test_overwrite_knows_joined_files_by_their_notes(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their names are random, no part has them, and the run was killed before SHA256SUMS."""

    class Killed(BaseException):
        pass

    def write_sums(*_: object) -> None:
        raise Killed

    folder, out = tmp_path / "in", tmp_path / "out"
    plain_shard(folder / "x.parquet", 1)
    args = ["anonymize", folder, "--out", out, "--workers", 1, "--no-gate", "--detector", "none"]
    args += ["--seal", "--password-file", password_file(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(tables, "write_sums", write_sums)
        with pytest.raises(Killed):
            deid(*args)
    left = {path.relative_to(out).as_posix() for path in out.rglob("*.parquet")}
    assert left == {"data/train-00000-of-00001.parquet", FILE, "metadata.parquet"}
    outcome = deid(*args, "--overwrite")
    assert outcome.code == 0, outcome.stderr
    assert deid("verify", out).code == 0
