"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deidcli.data import sink
from deidcli.data.samples import Sample
from deidcli.data.sink import (
    AtomicParquet,
    FolderSink,
    Output,
    Result,
    Unwritable,
    scratch,
    write_atomic,
)
from deidcli.errors import DeidError

SCHEMA = pa.schema([pa.field("x", pa.int32())])


def two(first: str, second: str) -> Result:
    outputs = (Output(first, b"one", 1, 1), Output(second, b"two", 1, 1))
    return Result(Sample("a"), "ok", outputs=outputs)


def test_a_file_appears_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out" / "a.jpg"
    write_atomic(path, b"before", tmp_path / "scratch", time=86400)
    assert path.read_bytes() == b"before" and path.stat().st_mtime == 86400

    def full(file: object) -> None:
        assert path.read_bytes() == b"before"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sink, "_fsync", full)
    with pytest.raises(DeidError, match="no space left"):
        write_atomic(path, b"after", tmp_path / "scratch")
    assert path.read_bytes() == b"before"


def test_a_name_that_cannot_be_written_is_that_pictures_fault_alone(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    for name in ("folder.jpg", "x" * 300 + ".jpg"):
        with pytest.raises(Unwritable, match="its name cannot be written"):
            write_atomic(tmp_path / name, b"x", tmp_path / "scratch")
    assert not any((tmp_path / "scratch").iterdir())


def test_names_are_noted_before_their_files_are_there(tmp_path: Path) -> None:
    out, noted = tmp_path / "out", []

    def note(names: list[str]) -> None:
        noted.extend((name, (out / name).exists()) for name in names)

    written = FolderSink(out, True, note).write(two("a.jpg", "b/c.jpg"))
    assert noted == [("images/a.jpg", False), ("images/b/c.jpg", False)]
    assert (out / "images/b/c.jpg").read_bytes() == b"two"
    assert (out / "images/a.jpg").stat().st_mtime == sink.SAME_TIME
    assert [w.sha256 for w in written] == [hashlib.sha256(d).hexdigest() for d in (b"one", b"two")]
    assert all(w.output.data == b"" for w in written)


def test_of_a_picture_that_fails_nothing_is_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Unwritable):
        FolderSink(out, False).write(two("a.jpg", "x" * 300 + ".jpg"))
    assert not (out / "images/a.jpg").exists() and not list(scratch(out).iterdir())


def test_a_table_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    rows = pa.table({"x": [1, 2]}, SCHEMA)
    with pytest.raises(ZeroDivisionError), AtomicParquet(path, SCHEMA, tmp_path / "s") as file:
        file.write(rows)
        1 / 0  # noqa: B018
    assert not path.exists() and not list((tmp_path / "s").iterdir())
    with AtomicParquet(path, SCHEMA, tmp_path / "s", time=86400) as file:
        file.write(rows)
        file.write(rows.slice(1))
        assert not path.exists()
    assert pq.read_table(path)["x"].to_pylist() == [1, 2, 2]
    assert pq.ParquetFile(path).num_row_groups == 2 and path.stat().st_mtime == 86400
    assert not list((tmp_path / "s").iterdir()) and sorted(os.listdir(tmp_path)) == [
        "s",
        "t.parquet",
    ]


def test_a_picture_is_replaced_and_never_rewritten(tmp_path: Path) -> None:
    """A second name of the old file still has the old bytes, so no reader saw a part of the new."""
    path, kept = tmp_path / "out" / "a.jpg", tmp_path / "kept.jpg"
    write_atomic(path, b"before", tmp_path / "scratch")
    os.link(path, kept)
    write_atomic(path, b"after", tmp_path / "scratch")
    assert path.read_bytes() == b"after" and kept.read_bytes() == b"before"
