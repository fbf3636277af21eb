"""Ctrl-C at any moment leaves one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PEOPLE, Outcome

Deid = Callable[..., Outcome]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("sign", ["listing", "loading", "de-identifying"])
def test_ctrl_c_leaves_one_line(tmp_path: Path, workers: int, sign: str) -> None:
    """All processes of the terminal get it, as soon as a line with this sign is there."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(150):
        os.link(PEOPLE / "portraits" / "person_01.jpg", folder / f"{number}.jpg")
    args = ["anonymize", folder, "--workers", workers, "--out", tmp_path / "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "deidcli", *(str(arg) for arg in args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A suite that runs in the background ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stderr is not None and process.stdout is not None
    said = ""
    while sign not in said:
        line = process.stderr.readline()
        assert line, f"ended by itself: {said}"
        said += line
    os.killpg(process.pid, signal.SIGINT)
    rest = process.stderr.read()  # until the last worker has closed it
    assert process.wait() == 130, said + rest
    assert "Traceback" not in rest and "Warning" not in rest, rest
    assert "deid: stopped" in rest and "resumes" in rest
    assert process.stdout.read() == ""


def test_ctrl_c_while_the_command_is_loaded() -> None:
    program = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
from deidcli.__main__ import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "deid: stopped\n")


def test_an_interrupted_import_of_a_c_module_is_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, deid: Deid
) -> None:
    from deidcli import methods

    def interrupted(name: str) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    monkeypatch.setattr(methods, "method_facts", interrupted)
    outcome = deid("methods", "blur")
    assert outcome.code == 130 and outcome.stderr == "deid: stopped\n"
