"""Several processes: the same result, and a worker's death costs one picture at most."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deidcli.data.journal import Journal, private_folder
from deidcli.data.samples import Sample
from deidcli.data.source import FolderShard, Item, Source, open_source
from deidcli.errors import DeidError
from deidcli.pipeline import engines, prepare, steps
from deidcli.pipeline.run import Run
from deidcli.pipeline.steps import watched
from deidcli.settings import RunSettings
from tests.conftest import ROOT, Outcome, copy_people

Deid = Callable[..., Outcome]
SAME = ("--names", "keep", "--seed", 0, "--no-gate")
"""Names and faces that are the same in another OUT."""


def make_run(out: Path, names: list[str]) -> Run:
    Journal(out).create()
    shards = tuple(
        FolderShard(n // 3, tuple(Item(name, name) for name in names[n : n + 3]))
        for n in range(0, len(names), 3)
    )
    source = Source("folder", out, shards, len(names), "")
    return Run(RunSettings("blackout"), source, out, "", {}, None, "")


def step(run: Run, shard: FolderShard) -> int:
    """Notes each input; one named `bomb` ends the process, as a decoder's crash would."""
    lines = []
    for sample in watched((Sample(item.key) for item in shard.items), run):
        if sample.key.startswith("bomb") and not sample.status:
            os.kill(os.getpid(), signal.SIGKILL)
        lines.append(f"{sample.key} {sample.status}")
    (run.out.parent / f"{shard.index}.txt").write_text("\n".join(lines))
    return len(shard)


def test_a_dying_worker_costs_one_picture(tmp_path: Path) -> None:
    names = [f"p{n}" for n in range(12)]
    names[4], names[10], names[11] = "bomb a", "bomb b", "bomb c"
    run = make_run(tmp_path / "out", names)
    counts: list[int] = []
    engines._work(step, run, run.source.shards, 2, "test", lambda p, n, t: counts.append(n))
    lines = [line for n in range(4) for line in (tmp_path / f"{n}.txt").read_text().splitlines()]
    assert [line.split(" failed")[0].strip() for line in lines] == names
    assert [line for line in lines if line.endswith("failed")] == [
        "bomb a failed",
        "bomb b failed",
        "bomb c failed",
    ]
    assert sum(counts) == 12


def note_and_sleep(run: Run, shard: FolderShard) -> int:
    (run.out.parent / f"pid-{shard.index}").write_text(str(os.getpid()))
    time.sleep(60)
    return len(shard)


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """After SIGKILL of the run no worker may write on."""
    program = (
        "import sys; from pathlib import Path; from tests.pipeline import test_engines as t;"
        "run = t.make_run(Path(sys.argv[1]) / 'out', [f'p{n}' for n in range(6)]);"
        "t.engines._work(t.note_and_sleep, run, run.source.shards, 2, 't', lambda p, n, m: None)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT)
    deadline = time.monotonic() + 90
    while len(list(tmp_path.glob("pid-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    pids = [int(path.read_text()) for path in tmp_path.glob("pid-*")]
    assert len(pids) == 2
    child.kill()
    child.wait()
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def prepared(folder: Path, out: Path) -> Run:
    """A run that is about to begin."""
    source = open_source(folder)
    return prepare.prepare_run(RunSettings("blackout", detector="hog", names="keep"), source, out)


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


def test_a_finished_run_has_no_manifest_while_it_is_worked_on_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(copy_people(tmp_path / "in", 2), tmp_path / "out")
    engines.run_local(run, 1, lambda *_: None)
    manifest = run.out / "manifest.json"
    assert manifest.exists()
    (run.out / "images/person_01.jpg").unlink()
    real, seen = steps.run_shard, []

    def run_shard(run: Run, shard: Any) -> int:
        seen.append(manifest.exists())
        return real(run, shard)

    monkeypatch.setattr(steps, "run_shard", run_shard)
    engines.run_local(run, 1, lambda *_: None)
    assert seen == [False] and manifest.exists()
