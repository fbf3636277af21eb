"""The end of a run: its record, and labels that are predicted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from tests.conftest import (
    Outcome,
    copy_people,
)

Deid = Callable[..., Outcome]


def test_attributes_without_labels_are_predicted(tmp_path: Path, deid: Deid) -> None:
    """The example portraits bring no labels; 1 and 4 are men, 2 and 5 women, 4 wears glasses."""
    folder, out = copy_people(tmp_path / "in", 5), tmp_path / "out"
    args = ["anonymize", folder, "--out", out, "--attrs", "GE", "--workers", 1, "--json"]
    outcome = deid(*args, "--names", "keep")
    assert outcome.code == 0 and "predicted" in outcome.stderr
    assert outcome.json["predicted_attributes"] == ["Male", "Eyeglasses"]
    assert "attributes" in outcome.json["weights"]
    rows = {r["file_name"][-6:-4]: r for r in pq.read_table(out / "metadata.parquet").to_pylist()}
    assert [rows[n]["Male"] for n in ("01", "02", "04", "05")] == [1, -1, 1, -1]
    assert [rows[n]["Eyeglasses"] for n in ("01", "02", "04", "05")] == [-1, -1, 1, -1]
