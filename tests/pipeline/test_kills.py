"""A run that is killed at any write is finished by the same command, to the same bytes."""

from __future__ import annotations

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
    copy_people,
    manifest_without_times,
    tree,
)
from tests.reversible import chips, parquet_people, password_file, restored, sealed_run

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


@pytest.mark.parametrize("step", range(1, 21))
def test_killed_between_any_two_writes(
    tmp_path_factory: pytest.TempPathFactory, step: int, deid: Deid
) -> None:
    """A process that dies at its n-th file replacement leaves what the next run completes."""
    folder = copy_people(tmp_path_factory.mktemp("kill") / "in", 4)
    whole, torn = folder.parent / "whole", folder.parent / "torn"
    args = ["anonymize", folder, "--no-gate", "--names", "keep", "--workers", 1, "--out"]
    assert deid(*args, whole).code == 0

    class Killed(BaseException):
        pass

    real, left = os.replace, [step]

    def replace(source: object, target: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        real(source, target)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        try:
            deid(*args, torn)
        except Killed:
            assert not (torn / "manifest.json").exists()
    assert deid(*args, torn).code == 0
    assert tree(torn) == tree(whole)


@pytest.mark.parametrize("kind", ["folder", pytest.param("parquet", marks=pytest.mark.slow)])
def test_killed_between_any_two_writes_sealing(
    tmp_path_factory: pytest.TempPathFactory, kind: str, deid: Deid
) -> None:
    """Every place where a file gets its name, one after another."""
    base = tmp_path_factory.mktemp("kill")
    folder = chips(base / "in", 3)
    if kind == "parquet":
        folder = parquet_people(base / "rows", folder)
    whole = base / "whole"
    extra = ["--detector", "none", "--no-gate"]
    sealed_run(deid, folder, whole, *extra)

    class Killed(BaseException):
        pass

    real, step, finished = os.replace, 0, False
    while not finished:
        step += 1
        torn, left = base / f"torn{step}", [step]

        def replace(source: object, target: object, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            real(source, target)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", replace)
            try:
                sealed_run(deid, folder, torn, *extra)
                finished = True
            except Killed:
                assert not (torn / "manifest.json").exists()
        sealed_run(deid, folder, torn, *extra)
        assert tree(torn) == tree(whole)
        assert manifest_without_times(torn)["seal"] == manifest_without_times(whole)["seal"]
        shutil.rmtree(torn)
        shutil.rmtree(private_folder(torn))
    assert step > 8
    restored_to = base / "to"
    assert restored(deid, whole, restored_to).code == 0


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
