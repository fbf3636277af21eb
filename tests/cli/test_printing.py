"""Progress, durations, and a terminal of 80 columns."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from deidcli.cli import printing
from deidcli.cli.printing import Terminal, duration, size
from tests.conftest import PEOPLE, copy_people

LIGHT = ["--no-gate", "--detector", "hog", "--workers", 1, "--names", "keep"]
"""Options of a run that is over in a moment."""
COMMANDS: list[list[object]] = [
    ["--help"],
    ["anonymize", "--help"],
    ["score", "--help"],
    ["train", "--help"],
    ["verify", "--help"],
    ["restore", "--help"],
    ["weights", "list"],
    ["weights", "verify"],
    ["methods"],
    *(["methods", name] for name in ("blur", "dae", "eae", "a3gan", "sdn")),
    ["anonymize", PEOPLE, "--dry-run", *LIGHT],
    ["anonymize", PEOPLE, "--attrs", "Q"],
    ["anonymize", PEOPLE, "--method", "a3gan", "--set", "change=Hat"],
    ["anonymize", PEOPLE, "--method", "eae", "--attrs", "ES"],
    ["score", "/nothing/there", "--recognizer", "zzz"],
]


def command(*args: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """`python -m deidcli` in its own process."""
    line = [sys.executable, "-m", "deidcli", *(str(arg) for arg in args)]
    return subprocess.run(line, capture_output=True, text=True, check=False, **more)


def test_progress_is_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Terminal() as reporter:
        reporter.progress("working", 10, 100)
        for _ in range(90):
            now[0] += 1.0
            reporter.progress("working", 1, 100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 90 / printing.SECONDS_A_LINE and "\r" not in "".join(lines)
    assert lines[0] == "working: 15 of 100, 1.0 a second, 85 s left"
    assert lines[-1] == "working: 100 of 100, 1.0 a second"


def test_words_for_durations_and_sizes() -> None:
    assert [duration(s) for s in (8.4, 200, 7500)] == ["8 s", "3 min", "2 h 5 min"]
    assert [size(n) for n in (12, 3200, 5e12)] == ["12 B", "3.2 kB", "5.0 TB"]


def on_a_terminal(*args: object) -> tuple[int, list[str]]:
    """Run a command on a terminal of 80 columns. Its exit code and the lines it showed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "deidcli", *(str(arg) for arg in args)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            block = os.read(ours, 1 << 16)
        except OSError:  # the terminal's other end is closed
            break
        if not block:
            break
        shown += block
    os.close(ours)
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", shown.decode())
    return process.wait(), re.split(r"[\r\n]+", plain)


@pytest.mark.parametrize("args", COMMANDS, ids=lambda args: " ".join(str(a) for a in args[:4]))
def test_a_terminal_of_80_columns_is_enough(args: list[object]) -> None:
    code, lines = on_a_terminal(*args)
    wrong = {"Q", "change=Hat", "ES", "zzz"} & set(map(str, args))
    assert (code == 2 if wrong else code in (0, 1)) and any(lines)  # 1: weights that are not here
    assert [line for line in lines if len(line) > 80] == []


def test_a_run_fits_80_columns(tmp_path: Path) -> None:
    folder = copy_people(tmp_path / "in", 2)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff" + b"x" * 50)
    code, lines = on_a_terminal("anonymize", folder, "-o", tmp_path / "o", *LIGHT)
    assert code == 3 and any(line.startswith("failed") for line in lines)
    longest = [line for line in lines if len(line) > 80]
    assert all(str(tmp_path) in line for line in longest)  # a path is not broken
    code, lines = on_a_terminal("verify", tmp_path / "o")
    assert code == 0 and [line for line in lines if len(line) > 80] == []


def test_the_score_table_fits_80_columns() -> None:
    from deidcli.evaluate import score
    from deidcli.evaluate.rows import Row

    row = Row("rank-1 after JPEG 90", 1.0, 9, "", "", 1.0, 1.0, "mobilefacenet", "", 1.0, 1.0)
    report = {"rows": [dataclasses.asdict(row)], "faces": 1, "withheld": 0}
    lines = score.table(report).splitlines()
    assert max(len(line) for line in lines) <= 80 and "100.00 - 100.00" in lines[1]
