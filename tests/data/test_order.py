"""Rows and names tell nothing of the order of the input, and stay the same on resume."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deidcli.data import order
from deidcli.data.journal import Journal, private_folder
from deidcli.data.parquet import Layout, ParquetShard
from deidcli.data.samples import Sample
from deidcli.data.sink import Output, Result, Written
from tests.conftest import (
    Outcome,
    assert_gone,
    copy_people,
    tree,
)
from tests.datasets import image_column, portraits

Deid = Callable[..., Outcome]
CANARY = "CANARY-7391"
BASIC = ["--workers", 1, "--no-gate"]


def test_random_names_do_not_tell_the_order(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 3), tmp_path / "out"
    assert deid("anonymize", folder, "--out", out, "--names", "random", "--workers", 1).code == 0
    assert len({path.stat().st_mtime for path in (out / "images").iterdir()}) == 1


def test_random_names_are_the_default_and_unlink_parquet(tmp_path: Path, deid: Deid) -> None:
    data = portraits(12)
    for file, rows in (("Jane_Doe-test.parquet", data[:10]), ("zoe.parquet", data[10:])):
        table = pa.table({"image": image_column(rows), "at": range(len(rows))})
        (tmp_path / "in").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "in" / file, row_group_size=3)
    args = ["anonymize", tmp_path / "in", *BASIC, "--columns", "at"]
    orders = []
    for name in ("one", "two"):
        out = tmp_path / name
        assert deid(*args, "--out", out).code == 0
        files = sorted(path.name for path in (out / "data").iterdir())
        assert files == ["test-00000-of-00001.parquet", "train-00000-of-00001.parquet"]
        after = pq.read_table(out / "data" / files[0])
        orders.append(after["at"].to_pylist())
        assert sorted(orders[-1]) == list(range(10)) and orders[-1] != list(range(10))
        assert all(
            re.fullmatch(r"[0-9a-f]{16}\.jpg", row["path"]) for row in after["image"].to_pylist()
        )
        assert_gone(out, b"Doe", b"zoe", CANARY.encode())
        assert len({path.stat().st_mtime for path in (out / "data").iterdir()}) == 1
        link = pq.read_table(private_folder(out) / "link.parquet").to_pylist()
        at = {row["outputs"][0]: int(row["source"].split("#")[1]) for row in link}
        rows = pq.read_table(out / "metadata.parquet")["file_name"].to_pylist()
        assert [at[f"data/{files[0]}#{n}"] for n in range(10)] == orders[-1]
        assert rows == [
            f"data/{f}#{n}" for f, c in zip(files, (10, 2), strict=True) for n in range(c)
        ]
        assert deid("verify", out).code == 0
    assert orders[0] != orders[1]  # another run, another order


def test_a_resumed_parquet_run_has_the_same_bytes(tmp_path: Path, deid: Deid) -> None:
    table = pa.table({"image": image_column(portraits(6))})
    for n in range(2):
        (tmp_path / "in").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / f"in/{n}.parquet")
    out = tmp_path / "out"
    args = ["anonymize", tmp_path / "in", "--out", out, *BASIC]
    assert deid(*args).code == 0
    before = tree(out)
    (out / "manifest.json").unlink()
    (out / "data/train-00001-of-00002.parquet").unlink()
    assert deid(*args).code == 0 and tree(out) == before
    assert deid("verify", out).code == 0


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(("data/test-0.parquet", "test"), ("x/dev_1.parquet", "validation")),
        *(("val.parquet", "validation"), ("test/a.parquet", "train"), ("latest.parquet", "train")),
    ],
)
def test_splits_by_words_of_the_name(name: str, split: str) -> None:
    assert order.split_of(name) == split


def shard(number: int, key: str, rows: int = 2) -> ParquetShard:
    return ParquetShard(
        number, f"/{key}", key, (0,), 0, rows, Layout("image", False, (), None, None)
    )


def test_random_file_names_follow_a_secret_and_no_order() -> None:
    keys = ["b/zebra.parquet", "test-ant.parquet", "mouse.parquet", "cow.parquet"]
    shards = [shard(n, key) for n, key in enumerate([*keys, keys[0]])]
    assert order.file_names(shards, None) == {key: key for key in keys}
    named = order.file_names(shards, b"secret")
    assert sorted(named.values()) == [
        "test-00000-of-00001.parquet",
        *(f"train-{n:05d}-of-00003.parquet" for n in range(3)),
    ]
    assert named["test-ant.parquet"].startswith("test") and named == order.file_names(
        shards[::-1], b"secret"
    )
    others = {tuple(order.file_names(shards, bytes([n])).values()) for n in range(20)}
    assert len(others) > 1


def test_rows_are_in_the_sources_order_or_in_that_of_their_names(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out")
    journal.create()
    (journal.folder / "run.json").write_text("{}")
    names = {0: ["m", "z"], 1: ["a"], 2: ["q", "b"]}
    for number, found in names.items():
        rows = [(Result(Sample(n), "ok"), (Written(Output(n, b"", 1, 1), "0"),)) for n in found]
        journal.write_part(number, rows)
    shards = [shard(0, "x"), shard(1, "x"), shard(2, "y")]
    assert order.row_orders(journal, shards, False) == {
        "x": [(0, 0), (0, 1), (1, 0)],
        "y": [(2, 0), (2, 1)],
    }
    assert order.row_orders(journal, shards, True) == {
        "x": [(1, 0), (0, 0), (0, 1)],
        "y": [(2, 1), (2, 0)],
    }
