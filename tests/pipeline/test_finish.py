"""The end of a run: its record, and labels that are predicted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from deidcli.data import manifest
from deidcli.data.journal import private_folder
from deidcli.data.manifest import read_manifest
from tests.conftest import (
    Outcome,
    copy_people,
)
from tests.datasets import plain_shard

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


def test_the_manifest_is_written_last_and_once(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    args = ["anonymize", folder, "--out", out, "--detector", "none", "--no-gate", "--workers", 1]
    seen: list[set[str]] = []
    real = manifest.write_manifest

    def write(*given: object) -> None:
        seen.append({path.name for path in out.iterdir()})
        real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(manifest, "write_manifest", write)
    assert deid(*args).code == 0
    finished = {"images", "metadata.parquet", "README.md", "SHA256SUMS", ".incomplete"}
    assert seen == [finished], "all else is there by then"
    assert not (out / ".incomplete").exists() and not (private_folder(out) / "begun").exists()


def test_a_record_accounts_for_every_input(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff secret words of the file")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n other words")
    (folder / "notes.txt").write_text("x")
    plain_shard(folder / "rows.parquet", 3)
    args = ["anonymize", folder, "--out", out, "--detector", "none", "--no-gate", "--workers", 1]
    outcome = deid(*args, "--seed", 4, "--json")
    assert outcome.code == 3
    record = read_manifest(out)
    assert record is not None and outcome.json.items() >= {"seed": 4, "method": "blackout"}.items()
    counts = record["counts"]
    assert {k: counts[k] for k in ("inputs", "ok", "failed", "skipped", "no_face", "fallback")} == {
        "inputs": 8,
        "ok": 5,
        "failed": 2,
        "skipped": 1,
        "no_face": 0,
        "fallback": 0,
    }
    assert counts["published"] == counts["faces"] == 5 and counts["covered"] == 0
    withheld = {(w["status"], w["reason"]): w["count"] for w in record["withheld"]}
    assert sum(withheld.values()) == 3 and withheld["skipped", "not a picture"] == 1
    assert not any("words" in reason for _, reason in withheld)
    assert record["input"] == {"kind": "mixed"} and record["gate"] is None
