"""Parquet shards: what is kept, and what a damaged file costs."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.conftest import PEOPLE, Outcome, statuses
from tests.datasets import images, plain_shard, portraits, struct_of, write_shard

Deid = Callable[..., Outcome]


@pytest.mark.parametrize("struct_first", ["bytes", "path"])
def test_parquet_keeps_all_but_faces_and_identity(
    tmp_path: Path, struct_first: str, deid: Deid
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    images: list[bytes | None] = [*portraits(5)]
    images[2] = None
    before = write_shard(source / "sub/test-00000.parquet", images, struct_first=struct_first)
    keep = ["--names", "keep", "--workers", 1]
    outcome = deid("anonymize", source, "--out", out, *keep, "--columns", "note", "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["columns"] == {
        "kept": ["Male", "Smiling", "note"],
        "dropped": ["identity"],
    }
    after = pq.read_table(out / "data/sub/test-00000.parquet")
    assert after.column_names == ["image", "Male", "Smiling", "note"]
    assert after.schema.field("image").type == before.schema.field("image").type
    assert after["note"].to_pylist() == ["row 0", "row 1", "row 3", "row 4"]
    assert after["Male"].to_pylist() == [-1, 1, 1, -1]
    metadata = after.schema.metadata
    assert list(metadata) == [b"huggingface"] and b"identity" not in metadata[b"huggingface"]
    for row, data in zip(
        after["image"].to_pylist(), (images[n] for n in (0, 1, 3, 4)), strict=True
    ):
        assert row["bytes"] != data and "/" not in row["path"]
        assert Image.open(io.BytesIO(row["bytes"])).size == (144, 144)
    assert statuses(out)["sub/test-00000.parquet#2"][0] == "skipped"
    rows = pq.read_table(out / "metadata.parquet").to_pylist()
    assert [row["file_name"] for row in rows][-1] == "data/sub/test-00000.parquet#3"
    assert [row["Male"] for row in rows] == [-1, 1, 1, -1]
    assert deid("verify", out).code == 0
    kept = deid("anonymize", source, "--out", tmp_path / "id", "--keep-identity", *keep)
    assert kept.code == 0
    again = pq.read_table(tmp_path / "id/data/sub/test-00000.parquet")
    assert again["identity"].to_pylist() == [0, 1, 3, 4]


def test_parquet_row_groups_and_workers_change_nothing(tmp_path: Path, deid: Deid) -> None:
    images: list[bytes | None] = [*portraits(6)] * 15
    tables = {}
    for name, group, workers in (("one", 1000, 1), ("many", 7, 2)):
        source, out = tmp_path / name, tmp_path / f"{name}-out"
        write_shard(source / "a.parquet", images, group=group)
        args = ["anonymize", source / "a.parquet", "--out", out, "--workers", workers]
        assert deid(*args, "--no-gate", "--names", "keep", "--columns", "all").code == 0
        tables[name] = pq.read_table(out / "data/a.parquet")
    assert tables["one"].num_rows == 90
    assert tables["one"].equals(tables["many"])


def test_damaged_parquet(tmp_path: Path, deid: Deid) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    images: list[bytes | None] = [*portraits(4)]
    write_shard(source / "good.parquet", images)
    whole = (source / "good.parquet").read_bytes()
    (source / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    spoiled = bytearray(whole)
    spoiled[200:4000] = b"\xff" * 3800
    (source / "spoiled.parquet").write_bytes(bytes(spoiled))
    pq.write_table(pa.table({"age": [1, 2]}), source / "no_image.parquet")
    (source / "README.md").write_text("a card")
    outcome = deid("anonymize", source, "--out", out, "--workers", 1, "--json")
    assert outcome.code == 3
    found = statuses(out)
    assert found["cut.parquet"][0] == "failed" and "parquet" in found["cut.parquet"][1]
    assert (
        found["no_image.parquet"][0] == "failed"
        and "no image column" in found["no_image.parquet"][1]
    )
    assert found["README.md"][0] == "skipped"
    assert all(found[f"good.parquet#{n}"][0] == "ok" for n in range(4))
    assert all(f"spoiled.parquet#{n}" in found for n in range(4))
    counts = outcome.json["counts"]
    assert counts["inputs"] == len(found) == 4 + 4 + 3
    assert deid("verify", out).code == 0
    alone = deid("anonymize", source / "no_image.parquet", "--out", tmp_path / "alone")
    assert alone.code == 1 and "no image column" in alone.stderr


def test_parquet_crops(tmp_path: Path, deid: Deid) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    scene = (PEOPLE / "scenes/team_page.jpg").read_bytes()
    write_shard(source / "a.parquet", [scene, portraits(1)[0]])
    args = ["anonymize", source, "--out", out, "--output", "crops", "--workers", 1]
    assert deid(*args, "--names", "keep", "--columns", "note").code == 0
    after = pq.read_table(out / "data/a.parquet").to_pylist()
    assert len(after) >= 8 and after[-1]["note"] == "row 1" and after[0]["note"] == "row 0"
    assert deid("verify", out).code == 0


def test_a_file_that_cannot_be_written_stops_no_other(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deidcli.data import parquet

    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    rows = struct_of([{"bytes": d, "path": "p.jpg"} for d in portraits(2)], pa.string())
    for name in ("a", "b"):
        pq.write_table(pa.table({"image": rows, name: [1, 2]}), folder / f"{name}.parquet")
    real = parquet.published_schema

    def published_schema(schema: pa.Schema, *args: object, **more: object) -> pa.Schema:
        if "a" in schema.names:
            raise pa.ArrowInvalid("no such cast")
        return real(schema, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(parquet, "published_schema", published_schema)
    outcome = deid("anonymize", folder, "--out", out, "--workers", 1, "--names", "keep")
    assert outcome.code == 3, outcome.stderr
    found = statuses(out)
    assert found["a.parquet#0"] == ("failed", "cannot be copied as parquet (ArrowInvalid)")
    assert found["b.parquet#1"][0] == "ok" and deid("verify", out).code == 0
    assert (
        "already done"
        in deid("anonymize", folder, "--out", out, "--workers", 1, "--names", "keep").stderr
    )


def test_a_parquet_file_that_is_gone_by_now_stops_no_other(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deidcli.pipeline import steps

    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    rows = struct_of([{"bytes": d, "path": "p.jpg"} for d in portraits(1)], pa.string())
    for name in ("a", "b"):
        pq.write_table(pa.table({"image": rows}), folder / f"{name}.parquet")
    data = (folder / "a.parquet").read_bytes()
    real = steps.run_shard

    def run_shard(*args: object) -> int:
        (folder / "a.parquet").unlink(missing_ok=True)
        return real(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(steps, "run_shard", run_shard)
        outcome = deid("anonymize", folder, "--out", out, "--workers", 1, "--names", "keep")
    assert outcome.code == 3, outcome.stderr
    assert statuses(out)["a.parquet#0"] == (
        "failed",
        "cannot be read: No such file or directory",
    )
    (folder / "a.parquet").write_bytes(data)
    assert deid("anonymize", folder, "--out", out, "--workers", 1, "--names", "keep").code == 0
    assert deid("verify", out).code == 0


def test_odd_parquet_costs_its_rows_only(tmp_path: Path, deid: Deid) -> None:
    (tmp_path / "in").mkdir()
    good = pa.table({"image": images(1)})
    pq.write_table(good, tmp_path / "in/a.parquet")
    for number, text in enumerate(("{not json", "[]", '{"info": []}')):
        odd = good.replace_schema_metadata({"huggingface": text})
        pq.write_table(odd, tmp_path / f"in/b{number}.parquet")
    double = pa.Table.from_arrays([images(1), pa.array([1]), pa.array([2])], ["image", "a", "a"])
    pq.write_table(double, tmp_path / "in/c.parquet")
    outcome = deid(
        "anonymize", tmp_path / "in", "--out", tmp_path / "out", "--workers", 1, "--json"
    )
    assert outcome.code == 3, outcome.stderr
    assert outcome.json["counts"]["ok"] == 4 and outcome.json["counts"]["failed"] == 1


def test_one_bad_parquet_file_stops_no_other(tmp_path: Path, deid: Deid) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    plain_shard(folder / "b.parquet")
    (folder / "a.parquet").write_bytes(b"PAR1 broken")
    empty = pq.read_table(folder / "b.parquet").slice(0, 0)
    pq.write_table(empty, folder / "c.parquet")
    pq.ParquetWriter(folder / "d.parquet", empty.schema).close()  # no row group at all
    outcome = deid("anonymize", folder, "--out", out, "--names", "keep", "--workers", 1)
    assert outcome.code == 3, outcome.stderr
    found = statuses(out)
    assert found["a.parquet"][0] == "failed"
    for name in ("c.parquet", "d.parquet"):
        assert found[name] == ("skipped", "a parquet file without rows")
    assert pq.read_metadata(out / "data/b.parquet").num_rows == 2


def test_parquet_without_rows_alone(tmp_path: Path, deid: Deid) -> None:
    path = plain_shard(tmp_path / "in/x.parquet")
    pq.ParquetWriter(tmp_path / "y.parquet", pq.read_schema(path)).close()
    outcome = deid("anonymize", tmp_path / "y.parquet", "--workers", 1)
    assert outcome.code == 1 and "without rows" in outcome.stderr
    assert not (tmp_path / "y-deid").exists()
