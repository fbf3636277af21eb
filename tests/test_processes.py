"""Worker processes: where their sockets are."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from deidcli import processes
from deidcli.errors import DeidError, UsageError
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


def test_workers_import_what_they_need_and_no_more() -> None:
    filters = "deidcli.methods.filters:Blur"
    least = ("deidcli.pipeline.steps", "deidcli.methods.filters")
    assert processes.modules_of(filters, False, "hog") == least
    assert processes.modules_of(filters, True, "hog") == (*least, "deidcli.faces.gate")
    assert processes.modules_of(filters, False, "auto") == (*least, "onnxruntime")
    assert "deidcli.faces.dlib_detector" in processes.modules_of(filters, False, "cnn")


def test_threads_are_limited_where_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    monkeypatch.setenv("MKL_NUM_THREADS", "9")
    before = cv2.getNumThreads(), torch.get_num_threads()
    try:
        processes.limit_threads(1)
        assert (cv2.getNumThreads(), torch.get_num_threads()) == (1, 1)
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "1"
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    with pytest.raises(UsageError, match="--device tpu"):
        processes.check_device("tpu")
    for there, found in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert processes.resolve_device("auto") == found
        assert processes.resolve_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeidError, match="no CUDA device"):
        processes.check_device("cuda")


def test_workers_are_as_many_as_cores_up_to_sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, workers in ((1, 1), (3, 3), (64, 16)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert processes.default_workers() == workers
