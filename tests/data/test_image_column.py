"""Which column holds the pictures, and pixels in columns that are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Outcome
from tests.datasets import images, portraits, struct_of

Deid = Callable[..., Outcome]


def test_plain_binary_column_and_hidden_pictures(tmp_path: Path, deid: Deid) -> None:
    """Other columns that hold pictures or embeddings never come out."""
    source, out = tmp_path / "x.parquet", tmp_path / "out"
    data = portraits(3)
    table = pa.table(
        {
            "jpg": pa.array(data, type=pa.binary()),
            "thumbnail": pa.array(data, type=pa.large_binary()),
            "crops": pa.array([[{"bytes": d, "path": ""}] for d in data]),
            "face_embedding": pa.array([[0.1, 0.2]] * 3),
            "person_id": pa.array(["ann", "bob", "cy"]),
            "age": pa.array([30, 40, 50]),
        }
    )
    pq.write_table(table, source)
    args = ["anonymize", source, "--out", out, "--names", "keep", "--columns", "all"]
    outcome = deid(*args, "--workers", 1)
    assert outcome.code == 0, outcome.stderr
    after = pq.read_table(out / "data/x.parquet")
    assert after.column_names == ["jpg", "age"] and after.schema.field("jpg").type == pa.binary()
    assert "face_embedding" in outcome.stderr
    everything = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert not any(picture[-400:-200] in everything for picture in data)


@pytest.mark.parametrize("path", [pa.null(), pa.int64()])
def test_paths_that_are_no_text(tmp_path: Path, deid: Deid, path: pa.DataType) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    value = None if path == pa.null() else 7
    odd = struct_of([{"bytes": d, "path": value} for d in portraits(2)], path)
    plain = struct_of([{"bytes": d, "path": "p.jpg"} for d in portraits(2)], pa.string())
    pq.write_table(pa.table({"image": odd}), folder / "a.parquet")
    pq.write_table(pa.table({"image": plain}), folder / "b.parquet")
    outcome = deid("anonymize", folder, "--out", out, "--workers", 1, "--names", "keep")
    assert outcome.code == 0, outcome.stderr
    assert pq.read_metadata(out / "data/a.parquet").num_rows == 2
    assert pq.read_metadata(out / "data/b.parquet").num_rows == 2
    assert deid("verify", out).code == 0


def test_audio_before_the_picture_is_not_the_picture(tmp_path: Path, deid: Deid) -> None:
    data = portraits(2)
    sounds = struct_of([{"bytes": b"RIFF....WAVEfmt ", "path": "a.wav"}] * 2, pa.string())
    pictures = struct_of([{"bytes": d, "path": None} for d in data], pa.string())
    nothing_first = struct_of([{"bytes": None, "path": None}] * 20, pa.string())
    late = pa.concat_arrays([nothing_first, pictures])
    tables = {
        "sound": pa.table({"audio": sounds, "face": pictures}),
        "late": pa.table({"audio": pa.concat_arrays([sounds] * 11), "face": late}),
        "binary": pa.table({"audio": sounds, "scan": pa.array(data, pa.binary())}),
    }
    for name, table in tables.items():
        path, out = tmp_path / f"{name}.parquet", tmp_path / name
        pq.write_table(table, path)
        outcome = deid("anonymize", path, "--out", out, "--workers", 1, "--names", "keep", "--json")
        assert outcome.code == 0, (name, outcome.stderr)
        assert outcome.json["counts"]["ok"] == 2, name
        assert "audio" not in pq.read_schema(out / f"data/{name}.parquet").names
    pq.write_table(pa.table({"audio": sounds}), tmp_path / "alone.parquet")
    outcome = deid("anonymize", tmp_path / "alone.parquet", "--workers", 1, "--names", "keep")
    assert outcome.code == 1 and "no image column" in outcome.stderr


def test_pixels_in_unusual_columns_are_not_published(tmp_path: Path, deid: Deid) -> None:
    (tmp_path / "in").mkdir()
    data = portraits(2)
    storage = pa.array(data, type=pa.binary())
    table = pa.table(
        {
            "image": images(2),
            "dictionary": pa.array(data).dictionary_encode(),
            "numbers": pa.array([list(d) for d in data], pa.list_(pa.uint8())),
            "extension": pa.ExtensionArray.from_storage(pa.opaque(pa.binary(), "t", "v"), storage),
            "vec": pa.array([[0.5] * 128] * 2),
            "points": pa.array([[0.5] * 10] * 2),
            "celebName": ["Ann", "Bob"],
            "id_person": ["1", "2"],
            "meta": pa.array([{"surname": "Nobody"}] * 2),
        }
    )
    pq.write_table(table, tmp_path / "in/x.parquet")
    args = ["anonymize", tmp_path / "in", "--columns", "all", "--names", "keep", "--workers", 1]
    assert deid(*args, "--out", tmp_path / "out").code == 0
    assert pq.read_schema(tmp_path / "out/data/x.parquet").names == ["image"]
