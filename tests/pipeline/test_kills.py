"""A run that is killed at any write is finished by the same command, to the same bytes."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deidcli.data.journal import private_folder
from tests.conftest import (
    Outcome,
    manifest_without_times,
    tree,
)
from tests.reversible import chips, parquet_people, password_file

pytestmark = pytest.mark.usefixtures("cheap")

Deid = Callable[..., Outcome]


def deid_command() -> list[str]:
    return [sys.executable, "-m", "deidcli"]


def test_killed_at_random_moments(tmp_path: Path, small_portraits: Path) -> None:
    """SIGKILL at 20 random points; the same command finishes with the same bytes."""
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    args = [*deid_command(), "anonymize", str(small_portraits), "--workers", "2"]
    args += ["--names", "keep", "--out"]
    begin = time.monotonic()
    subprocess.run([*args, str(whole)], check=True, capture_output=True)
    duration = time.monotonic() - begin
    chance = random.Random(4)
    for _ in range(20):
        process = subprocess.Popen(
            [*args, str(torn)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=chance.uniform(0.1, 1.05) * duration)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        if (torn / "manifest.json").exists():
            break
    done = subprocess.run([*args, str(torn)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert tree(torn) == tree(whole)
    assert manifest_without_times(torn) == manifest_without_times(whole)
    private = [tree(path.with_name(path.name + ".private")) for path in (whole, torn)]
    assert private[0]["link.parquet"] == private[1]["link.parquet"]
    subprocess.run([*deid_command(), "verify", str(torn)], check=True, capture_output=True)


class Killed(BaseException):
    """The end of the process; nothing may catch it."""


def killed_at(step: int, after: bool, work: Callable[[], object]) -> str | None:
    """Do some work that dies just before or just after its n-th `os.replace`.

    Returns:
        The name of the file that was being replaced; None: the work was over before.
    """
    real, seen, name = os.replace, 0, ""

    def replace(source: object, target: object) -> None:
        nonlocal seen, name
        seen += 1
        if seen > step:  # another thread of a process that is dead by now
            raise Killed
        name = Path(str(target)).name
        if seen < step or after:
            real(source, target)  # type: ignore[arg-type]
        if seen == step:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        try:
            work()
        except Killed:
            return name
    return None


FAST = ["--detector", "none", "--no-gate", "--workers", 1, "--names", "keep", "--seed", 5]
KINDS: dict[str, list[object]] = {
    "folder": [],
    "parquet": [],
    "whole-set": ["--method", "k-same", "--set", "k=2"],
    "sealed": ["--seal"],
}
WRITTEN = {
    "folder": {"chip00.png", "chip02.png", "000000.parquet"},
    "parquet": {"train-00000.parquet", "000000.parquet"},
    "whole-set": {"plan", "000000.npy", "000000.json", "chip02.png"},
    "sealed": {"faces.parquet", "chip02.png"},
}
"""Some of what each of them must have been killed at."""
ALWAYS = {"run.json", "stages.json", "link.parquet", "metadata.parquet", "SHA256SUMS", "README.md"}


@pytest.mark.parametrize("kind", KINDS)
def test_killed_before_and_after_every_write(tmp_path: Path, kind: str, deid: Deid) -> None:
    """At every place where a file gets its name: the same command ends with the same bytes."""
    folder = chips(tmp_path / "in", 3)
    if kind == "parquet":
        folder = parquet_people(tmp_path / "rows", folder)
    args = ["anonymize", folder, *FAST, *KINDS[kind], "--out"]
    secret = ["--password-file", password_file(tmp_path)] if kind == "sealed" else []
    whole, killed_at_names = tmp_path / "whole", set()
    assert deid(*args, whole, *secret).code == 0
    for step in itertools.count(1):
        names = []
        for after in (False, True):
            torn = tmp_path / f"torn-{step}-{after}"
            names.append(killed_at(step, after, lambda t=torn: deid(*args, t, *secret)))  # type: ignore[misc]
            if names[-1] is None:
                break
            is_done = after and names[-1] == "manifest.json"
            assert (torn / "manifest.json").exists() == is_done
            again = deid(*args, torn, *secret)
            assert again.code == 0, again.stderr
            assert ("already done" in again.stderr) == is_done
            assert tree(torn) == tree(whole), f"killed {'after' if after else 'before'} {names[-1]}"
            assert manifest_without_times(torn).keys() == manifest_without_times(whole).keys()
            left, right = private_folder(torn), private_folder(whole)
            assert (left / "link.parquet").read_bytes() == (right / "link.parquet").read_bytes()
            assert {p.name for p in left.iterdir()} == {p.name for p in right.iterdir()}
            shutil.rmtree(torn)
            shutil.rmtree(left)
        if names[0] is None:
            break
        killed_at_names.add(names[0])
    assert killed_at_names >= WRITTEN[kind] | ALWAYS | {"manifest.json"}, killed_at_names


@pytest.mark.slow
def test_killed_for_real(tmp_path: Path) -> None:
    """SIGKILL while shards are written; the same command ends with the same bytes."""
    folder = chips(tmp_path / "in", 24)
    secret = ["--password-file", str(password_file(tmp_path))]
    args = [sys.executable, "-m", "deidcli", "anonymize", str(folder), "--seal"]
    args += ["--detector", "none", "--no-gate", "--workers", "1", "--seed", "3", *secret]
    args += ["--names", "keep", "--out"]
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    subprocess.run([*args, str(whole)], check=True, capture_output=True)
    process = subprocess.Popen(
        [*args, str(torn)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    parts = private_folder(torn) / "parts"
    while not list(parts.glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (torn / "manifest.json").exists()
    subprocess.run([*args, str(torn)], check=True, capture_output=True)
    assert tree(torn) == tree(whole)
