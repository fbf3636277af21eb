"""The command as a whole: `python -m deidcli`, and errors as one JSON object."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deidcli.version import __version__
from tests.conftest import Outcome, copy_people

Deid = Callable[..., Outcome]
LIGHT = ["--no-gate", "--detector", "hog", "--workers", 1, "--names", "keep"]
"""Options of a run that is over in a moment."""


def command(*args: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """`python -m deidcli` in its own process."""
    line = [sys.executable, "-m", "deidcli", *(str(arg) for arg in args)]
    return subprocess.run(line, capture_output=True, text=True, check=False, **more)


def test_python_m_deidcli() -> None:
    done = command("--version")
    assert (done.returncode, done.stdout) == (0, f"deid {__version__}\n")


def test_every_error_has_one_schema(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 1)
    nothing = tmp_path / "nothing"
    cases: list[tuple[list[object], int]] = [
        (["anonymize", nothing], 1),
        (["anonymize", folder, "--attrs", "Q"], 2),
        (["anonymize", folder, "--no-such-option"], 2),
        (["anonymize", folder, "--workers", "many"], 2),
        (["anonymize"], 2),
        (["methods", "zzz"], 2),
        (["verify", nothing], 1),
        (["restore", nothing, "--to", tmp_path / "to"], 1),
        (["score", nothing, "--recognizer", "zzz"], 2),
        (["no-such-command"], 2),
    ]
    for args, code in cases:
        outcome = deid(*args, "--json")
        assert outcome.code == code, (args, outcome)
        told = outcome.json
        assert set(told) == {"error"} and set(told["error"]) == {"message", "hint", "code"}
        assert told["error"]["code"] == code
        assert f"deid: {told['error']['message']}" in outcome.stderr


def test_a_failed_check_is_one_object_too(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 1)
    assert deid("anonymize", folder, *LIGHT).code == 0
    assert set(deid("verify", tmp_path / "in-deid", "--json").json) == {"ok", "checks"}
    (tmp_path / "in-deid/images/person_01.jpg").unlink()
    outcome = deid("verify", tmp_path / "in-deid", "--json")
    assert outcome.code == 1 and not outcome.json["ok"]
    assert outcome.json["error"]["code"] == 1 and outcome.json["checks"]
