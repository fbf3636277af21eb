"""manifest.json names no source file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.conftest import Outcome
from tests.datasets import portraits

Deid = Callable[..., Outcome]


def images(count: int) -> pa.Array:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(portraits(count))]
    return pa.array(rows, type=kind)


def test_manifest_names_no_source_file(tmp_path: Path, deid: Deid) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"image": images(1)}), tmp_path / "in/good.parquet")
    (tmp_path / "in/John_Smith.parquet").write_bytes(b"PAR1 broken")
    deid("anonymize", tmp_path / "in", "--out", tmp_path / "out", "--workers", 1)
    assert "John_Smith" not in (tmp_path / "out/manifest.json").read_text()
