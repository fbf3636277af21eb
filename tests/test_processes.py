"""Worker processes: where their sockets are."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from deidcli.errors import DeidError
from tests.conftest import ROOT, copy_people

LIGHT = ("--names", "keep", "--no-gate", "--detector", "hog", "--workers", 1)


def command(*args: object, **more: object) -> subprocess.CompletedProcess[str]:
    """`python -m deidcli` in a process of its own, for a minute or two at most."""
    line = [sys.executable, "-m", "deidcli", *(str(arg) for arg in args)]
    options: dict[str, object] = {"capture_output": True, "text": True, "timeout": 240, "cwd": ROOT}
    return subprocess.run(line, check=False, **{**options, **more})  # type: ignore[call-overload, no-any-return]


def test_a_long_tmpdir(tmp_path: Path) -> None:
    folder = copy_people(tmp_path / "in", 4)
    long = tmp_path / ("x" * 120)
    long.mkdir()
    environment = {**os.environ, "TMPDIR": str(long), "PYTHONPATH": str(ROOT)}
    args = ["anonymize", folder, "--out", tmp_path / "out", *LIGHT[:-1], 2]
    before = set(Path(tempfile.gettempdir()).glob("pymp-*"))
    done = command(*args, env=environment)
    assert done.returncode == 0, done.stderr
    mine = {p for p in set(Path("/tmp").glob("pymp-*")) - before if p.stat().st_uid == os.getuid()}
    assert "Traceback" not in done.stderr and not list(long.glob("pymp-*"))
    assert not [p for p in mine if not list(p.glob("listener-*"))]


def test_no_folder_for_sockets_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from deidcli import processes

    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * 200)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(processes.multiprocessing, "current_process", object)
    with pytest.raises(DeidError, match="TMPDIR is too long") as caught:
        processes._shorten_temporary_folder()
    assert "--workers 1" in caught.value.hint
