"""Pairs of original and published picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import Outcome
from tests.datasets import portraits

Deid = Callable[..., Outcome]


def rows_of(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(r["metric"], r["recognizer"]): r for r in report["rows"] if not r["group"]}


def score(deid: Deid, *args: object) -> dict[tuple[str, str], dict[str, Any]]:
    outcome = deid("score", *args, "--recognizer", "dlib", "--workers", 1, "--json")
    assert outcome.code == 0, outcome.stderr
    return rows_of(outcome.json)


def test_withheld_pictures_are_in_the_denominator(tmp_path: Path, deid: Deid) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number, data in enumerate(portraits(3, 160)):
        (folder / f"{number}.jpg").write_bytes(data)
    Image.new("RGB", (90, 90), "gray").save(folder / "wall.png")
    args = ["anonymize", folder, "--out", out, "--method", "blur", "--set", "kernel_px=3"]
    assert deid(*args, "--no-gate", "--workers", 1).code == 0
    rows = score(deid, out)
    assert rows["FCNS", ""]["value"] == 1
    assert rows["FCNS", ""]["with_withheld"] == pytest.approx(3 / 4)
    assert rows["DEID", "dlib"]["with_withheld"] == pytest.approx((0 + 1) / 4)
    assert rows["verification", "dlib"]["with_withheld"] == pytest.approx(3 / 4)
