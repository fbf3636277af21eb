"""Closed streams and readers that are gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, copy_people

LIGHT = ("--names", "keep", "--no-gate", "--detector", "hog", "--workers", 1)


def command(*args: object, **more: object) -> subprocess.CompletedProcess[str]:
    """`python -m deidcli` in a process of its own, for a minute or two at most."""
    line = [sys.executable, "-m", "deidcli", *(str(arg) for arg in args)]
    options: dict[str, object] = {"capture_output": True, "text": True, "timeout": 240, "cwd": ROOT}
    return subprocess.run(line, check=False, **{**options, **more})  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-", ">/dev/null | true"])
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    """No traceback, the same exit code; and nothing that is printed lands in a file of OUT."""
    folder = copy_people(tmp_path / "in", 2)
    out = tmp_path / "out"
    light = " ".join(str(arg) for arg in LIGHT)
    line = f"{sys.executable} -m deidcli anonymize {folder} --out {out} {light} {closed}"
    shell = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, cwd=ROOT, timeout=240
    )
    assert shell.returncode == 0 and "Traceback" not in shell.stderr, shell.stderr
    assert command("verify", out).returncode == 0


def test_a_reader_that_is_gone(tmp_path: Path) -> None:
    line = f"{sys.executable} -m deidcli methods | true; echo ${{PIPESTATUS[0]}}"
    shell = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, cwd=ROOT, timeout=240
    )
    assert shell.stdout.strip() in ("0", "1") and shell.stderr == ""
