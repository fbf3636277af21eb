"""`deid anonymize`: its inputs, its options, and what it says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deidcli.cli.parameters import pairs
from tests.conftest import Outcome, copy_people, everything

Deid = Callable[..., Outcome]
LIGHT = ["--no-gate", "--detector", "hog", "--workers", 1, "--names", "keep"]
"""Options of a run that is over in a moment."""


def command(*args: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """`python -m deidcli` in its own process."""
    line = [sys.executable, "-m", "deidcli", *(str(arg) for arg in args)]
    return subprocess.run(line, capture_output=True, text=True, check=False, **more)


def test_one_picture_is_an_input(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path, 1)
    outcome = deid("anonymize", folder / "person_01.jpg", *LIGHT)
    assert outcome.code == 0, outcome.stderr
    assert (tmp_path / "person_01-deid/images/person_01.jpg").is_file()


def test_several_inputs_make_one_output(tmp_path: Path, deid: Deid) -> None:
    first, second = copy_people(tmp_path / "a", 1), copy_people(tmp_path / "b", 2)
    (first / "person_01.jpg").rename(first / "other.jpg")
    files = [first, *second.glob("*.jpg")]  # as a shell's glob gives them
    outcome = deid("anonymize", *files, "--out", tmp_path / "out", *LIGHT, "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["counts"]["ok"] == 3
    assert deid("verify", tmp_path / "out").code == 0


@pytest.mark.parametrize("separator", ["\n", "\0", "\r\n"])
def test_a_list_on_stdin(tmp_path: Path, separator: str) -> None:
    folder = copy_people(tmp_path / "a", 2)
    names = separator.join(str(path) for path in sorted(folder.iterdir())) + separator
    args = ["anonymize", "-", "--out", tmp_path / "out", *LIGHT, "--json"]
    done = command(*args, input=names)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["ok"] == 2


@pytest.mark.parametrize("address", ["s3://bucket/x", "https://host/a.jpg", "hf://datasets/a/b"])
def test_an_address_gets_a_sentence(address: str, tmp_path: Path, deid: Deid) -> None:
    outcome = deid("anonymize", address, "--out", tmp_path / "out")
    assert outcome.code in (1, 2) and f"{address} is an address" in outcome.stderr
    assert "download it" in outcome.stderr and not everything(tmp_path)


def test_a_setting_given_twice_is_refused(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 1)
    outcome = deid("anonymize", folder, "-m", "blur", "--set", "sigma=1", "--set", "sigma=0.1")
    assert outcome.code == 2 and "--set sigma is given twice" in outcome.stderr
    assert pairs(["a=1", "b = 2"]) == {"a": "1", "b": "2"}


def test_quiet(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 1)
    outcome = deid("anonymize", folder, *LIGHT, "--quiet")
    assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "", "")
    assert deid("verify", tmp_path / "in-deid", "--quiet").stdout == ""
    wrong = deid("anonymize", folder, "--attrs", "Q", "--quiet")
    assert wrong.code == 2 and "--attrs" in wrong.stderr


def test_what_is_loaded_is_said_first(tmp_path: Path, deid: Deid) -> None:
    lines = deid("anonymize", copy_people(tmp_path / "in", 1), *LIGHT).stderr.splitlines()
    assert lines[0].startswith("listing the inputs")
    assert lines[1].startswith("loading the face detector (hog) and the method blackout")
    assert re.fullmatch(r"de-identifying: 1 of 1, [0-9.]+ a second", lines[-1])
