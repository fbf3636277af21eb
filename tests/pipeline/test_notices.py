"""What a user is told about the inputs and settings before a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from tests.conftest import Outcome
from tests.datasets import portraits, write_shard

Deid = Callable[..., Outcome]


def test_settings_that_do_not_protect_are_noted(tmp_path: Path, deid: Deid) -> None:
    source, out = tmp_path / "a.parquet", tmp_path / "out"
    write_shard(source, list(portraits(1)))
    args = ["--method", "dae", "--set", "target=supervised", "--workers", 1, "--json"]
    outcome = deid("anonymize", source, "--out", out, *args)
    assert "NOT protect" in outcome.stderr
    assert any("NOT protect" in line for line in outcome.json["warnings"])


def test_lfw_layout_warns_of_names(tmp_path: Path, deid: Deid) -> None:
    root = tmp_path / "lfw"
    for person, data in zip(("Ann_Nobody", "Bob_Nobody"), portraits(2), strict=True):
        (root / person).mkdir(parents=True)
        (root / person / f"{person}_0001.jpg").write_bytes(data)
    (root / "peopleDevTest.txt").write_text("1\nBob_Nobody\t1\n")
    attributes = "# head\n#\tperson\timagenum\tMale\tSmiling\nAnn Nobody\t1\t-0.4\t1.5\n"
    (root / "lfw_attributes.txt").write_text(attributes)
    keep = ["--names", "keep", "--workers", 1]
    outcome = deid("anonymize", root, "--out", tmp_path / "kept", *keep)
    assert outcome.code == 0 and "--names random" in outcome.stderr
    rows = {
        r["file_name"]: r for r in pq.read_table(tmp_path / "kept/metadata.parquet").to_pylist()
    }
    ann = rows["images/Ann_Nobody/Ann_Nobody_0001.jpg"]
    assert (ann["Male"], ann["Smiling"]) == (-1, 1)
    assert rows["images/Bob_Nobody/Bob_Nobody_0001.jpg"]["partition"] == "test"
    args = ["anonymize", root, "--out", tmp_path / "random", "--names", "random", "--workers", 1]
    assert deid(*args).code == 0
    data = b"".join(p.read_bytes() for p in (tmp_path / "random").rglob("*") if p.is_file())
    assert b"Nobody" not in data
    assert "Nobody" not in "".join(str(p) for p in (tmp_path / "random").rglob("*"))
