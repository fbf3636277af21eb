"""Reasons for failures: published in words of ours only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from deidcli.data.reasons import OTHER, published_reason
from tests.conftest import (
    Outcome,
    copy_people,
    picture_bytes,
    statuses,
)

Deid = Callable[..., Outcome]
CANARY = "CANARY-7391"
BASIC = ["--workers", 1, "--no-gate"]


def everything_in(out: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of OUT as it is, and its parquet files as they read, uncompressed."""
    for path in sorted(out.rglob("*")):
        if path.is_file():
            name = path.relative_to(out).as_posix()
            yield name, path.name.encode() + path.read_bytes()
            if path.suffix == ".parquet":
                file = pq.ParquetFile(path)
                schema = file.schema_arrow
                yield name, repr((schema, schema.metadata, file.metadata.metadata)).encode()
                for column in file.read().columns:
                    for value in column.to_pylist():
                        yield name, value if isinstance(value, bytes) else repr(value).encode()


def assert_gone(out: Path, *words: bytes) -> None:
    for name, data in everything_in(out):
        for word in words:
            assert word not in data, (name, word)


def test_published_reasons_are_words_of_ours(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 1), tmp_path / "out"
    whole = bytearray(picture_bytes(np.zeros((64, 64, 3), np.uint8), "PNG"))
    whole[37:41] = b"Cy7x"  # a chunk named by the source, which Pillow quotes
    (folder / "bad.png").write_bytes(bytes(whole))
    (folder / "ppm.ppm").write_bytes(b"P6\n" + CANARY.encode() + b"\n" + bytes(99))
    outcome = deid("anonymize", folder, "--out", out, *BASIC, "--json")
    assert outcome.code == 3
    reasons = {entry["reason"] for entry in outcome.json["withheld"]}
    assert reasons <= {"cannot be decoded", "not a picture, or of an unknown format"}
    assert_gone(out, b"Cy7x", CANARY.encode()[:6])
    assert any(CANARY[:4] in reason or "Cy7x" in reason for _, reason in statuses(out).values())


def test_a_reason_that_is_not_listed_is_not_published() -> None:
    assert published_reason("cannot be read: Permission denied").endswith("Permission denied")
    assert published_reason("cannot be read: Jane") == "cannot be read"
    assert (
        published_reason("cannot be read as parquet (ArrowInvalid)") == "cannot be read as parquet"
    )
    assert published_reason("Jane Doe") == published_reason("Jane: x") == OTHER
    assert published_reason("link out of the input (--follow-links follows it)").startswith("link")
