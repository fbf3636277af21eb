"""Pictures of an output, read again."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from deidcli.data.finished_output import read_named


def test_named_pictures_are_read_from_their_row_groups_only(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = [{"bytes": bytes([n]) * 20, "path": None} for n in range(6)]
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
    table = pa.Table.from_pylist([{"image": row} for row in rows], schema=schema)
    pq.write_table(table, tmp_path / "data/a.parquet", row_group_size=2)
    names = ["data/a.parquet#5", "data/a.parquet#0", "data/a.parquet#9", "images/none.png"]
    found = dict(read_named(tmp_path, names))
    assert found["data/a.parquet#5"] == bytes([5]) * 20
    assert found["data/a.parquet#0"] == bytes([0]) * 20
    assert found["data/a.parquet#9"] is None and found["images/none.png"] is None
