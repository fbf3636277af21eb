"""Several processes: the same result, and a worker's death costs one picture at most."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from deidcli.data.journal import Journal
from deidcli.data.samples import Sample
from deidcli.data.source import FolderShard, Item, Source
from deidcli.pipeline import engines
from deidcli.pipeline.run import Run
from deidcli.pipeline.steps import watched
from deidcli.settings import RunSettings
from tests.conftest import ROOT


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
        "import sys; from pathlib import Path; from tests import test_engines as t;"
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
