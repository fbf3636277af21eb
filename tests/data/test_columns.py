"""`--columns` and `--attrs`: what is published of the tables of the input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deidcli.data.columns import NO_WISH, Columns, Wish, fitted, hiding, parse_columns
from deidcli.errors import UsageError
from tests.conftest import (
    Outcome,
    assert_gone,
    copy_people,
)
from tests.datasets import celeba, image_column, plain_shard, portraits, write_shard

Deid = Callable[..., Outcome]
CANARY = "CANARY-7391"
BASIC = ["--workers", 1, "--no-gate"]


def test_what_a_method_hides_is_published_in_no_column(tmp_path: Path, deid: Deid) -> None:
    source, out = tmp_path / "a.parquet", tmp_path / "out"
    write_shard(source, list(portraits(2)))
    args = ["--method", "eae", "--attrs", "G", "--output", "crops", "--workers", 1]
    outcome = deid("anonymize", source, "--out", out, *args)
    assert outcome.code == 0, outcome.stderr
    assert pq.read_table(next((out / "data").iterdir())).column_names == ["image", "Male"]
    assert "Smiling" in outcome.stderr and "Smiling" not in (out / "README.md").read_text()


def test_attrs_hold_for_every_file(tmp_path: Path, deid: Deid) -> None:
    write_shard(tmp_path / "in/a.parquet", [*portraits(2)])
    for number, extra in enumerate((["--method", "pixelate"], ["--columns", "all"])):
        out = tmp_path / f"out{number}"
        args = ["anonymize", tmp_path / "in", "--out", out, "--attrs", "G", *BASIC, *extra]
        assert deid(*args).code == 0
        for path in out.rglob("*.parquet"):
            assert "Smiling" not in pq.read_schema(path).names
        assert "Male" in pq.read_schema(out / "metadata.parquet").names
        assert_gone(out / "data", b"Smiling")
    folder = celeba(tmp_path / "celeba", 2)
    assert deid("anonymize", folder, "--out", tmp_path / "f", "--attrs", "G", *BASIC).code == 0
    names = pq.read_schema(tmp_path / "f/metadata.parquet").names
    assert "Smiling" not in names and "Male" in names


def test_attrs_hold_where_a_method_keeps_more(tmp_path: Path, deid: Deid) -> None:
    """a3gan keeps what it is not told to change; the labels are those that were asked for."""
    write_shard(tmp_path / "in/a.parquet", [*portraits(2)])
    args = ["anonymize", tmp_path / "in", "--out", tmp_path / "out", "--attrs", "S", *BASIC]
    outcome = deid(*args, "--method", "a3gan", "--set", "change=Young", "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["attributes"] == ["Smiling"]
    assert outcome.json["columns"]["kept"] == ["Smiling"]


def test_a_label_column_holds_labels_only(tmp_path: Path, deid: Deid) -> None:
    """CelebA's names and `split` are published unasked, so nothing else may stand in them."""
    table = pa.table(
        {
            "image": image_column(portraits(3), "x"),
            "Male": pa.array([1, 7391, -1], pa.int64()),
            "Young": [CANARY, "1", "-1"],
            "split": ["train", CANARY, "test"],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    out = tmp_path / "out"
    args = ["anonymize", tmp_path / "a.parquet", "--out", out, *BASIC, "--names", "keep"]
    assert deid(*args).code == 0
    after = pq.read_table(out / "data/a.parquet")
    assert after.column_names == ["image", "Male", "split"]
    assert after["Male"].to_pylist() == [1, None, -1]
    assert after["split"].to_pylist() == ["train", None, "test"]
    rows = pq.read_table(out / "metadata.parquet").to_pylist()
    assert [row["partition"] for row in rows] == ["train", None, "test"]
    assert_gone(out, CANARY.encode())


def test_columns_of_folders_keep_fitting_types(tmp_path: Path, deid: Deid) -> None:
    root, out = copy_people(tmp_path / "in", 3), tmp_path / "out"
    lines = ["file_name,age,score,ok,code,caption,name,width"]
    lines += ["person_01.jpg,30,0.5,true,007,a man,Ann,1", "person_02.jpg,,2,false,010,x,Bo,2"]
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    args = ["anonymize", root, "--out", out, *BASIC, "--names", "keep", "--columns"]
    assert deid(*args, "age,score,ok,code").code == 0
    schema = pq.read_schema(out / "metadata.parquet")
    kinds = [schema.field(name).type for name in ("age", "score", "ok", "code")]
    assert kinds == [pa.int64(), pa.float64(), pa.bool_(), pa.string()]
    rows = pq.read_table(out / "metadata.parquet").to_pylist()
    assert [(r["age"], r["score"], r["ok"], r["code"]) for r in rows] == [
        (30, 0.5, True, "007"), (None, 2.0, False, "010"), (None, None, None, None)
    ]  # fmt: skip
    assert "caption" not in schema.names and "name" not in schema.names
    everything = tmp_path / "all"
    assert deid(*args, "all", "--out", everything).code == 0
    names = pq.read_schema(everything / "metadata.parquet").names
    assert {"age", "caption"} <= set(names) and "name" not in names and names.count("width") == 1
    named = tmp_path / "named"
    assert deid(*args, "name", "--out", named).code == 0
    assert pq.read_table(named / "metadata.parquet")["name"].to_pylist() == ["Ann", "Bo", None]


def test_tables_of_folders_bring_their_own_types() -> None:
    cells: dict[str, dict[str, object]] = {
        "age": {"a": 3, "b": None},
        "mixed": {"a": 1, "b": "x"},
        "nested": {"a": [1.0] * 128},
        "long": {"a": "x" * 9000},
        **{f"f{n}": {"a": 0.5} for n in range(128)},
    }
    table = fitted(Wish(("all",)), cells)
    assert table.fields == (("age", pa.int64()), ("mixed", pa.string()))
    assert fitted(Wish(("nested",)), cells).row("a") == {"nested": [1.0] * 128}
    assert fitted(NO_WISH, cells).fields == ()


def test_columns_that_cannot_be_had_are_errors(tmp_path: Path, deid: Deid) -> None:
    write_shard(tmp_path / "in/a.parquet", [*portraits(1)])
    folder = copy_people(tmp_path / "folder", 1)
    (folder / "metadata.csv").write_text("file_name,age,width\nperson_01.jpg,3,9\n")
    for source, columns, extra, words in (
        ("in", "nothing", [], "no input has such a column"),
        ("in", "image", [], "the picture itself"),
        ("in", "", [], "names no column"),
        ("in", "all,note", [], "stands alone"),
        ("in", "Smiling", ["--attrs", "G"], "not kept"),
        ("folder", "note", [], "no input has such a column"),
        ("folder", "width", [], "column of its own"),
    ):
        args = ["anonymize", tmp_path / source, "--out", tmp_path / "out", "--columns", columns]
        outcome = deid(*args, *extra, "--workers", 1)
        assert outcome.code == 2 and words in outcome.stderr, (columns, outcome.stderr)
        assert not (tmp_path / "out").exists()


def test_columns_of_pictures_and_of_parquet_shards(tmp_path: Path, deid: Deid) -> None:
    """One rule for both halves, and each keeps its values beside its own pictures."""
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    shard = plain_shard(folder / "train.parquet", 2)
    table = pq.read_table(shard).append_column("note", pa.array(["n0", "n1"]))
    pq.write_table(table.append_column("mrn", pa.array(["m0", "m1"])), shard)
    lines = "file_name,caption,age,width\nperson_01.jpg,a man,30,7\nperson_02.jpg,a woman,40,7\n"
    (folder / "metadata.csv").write_text(lines)
    base = ["anonymize", folder, "--workers", 1, "--json"]
    outcome = deid(*base, "--out", out, "--columns", "note,age")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["columns"] == {
        "kept": ["age", "note"], "dropped": ["caption", "width", "mrn"]
    }  # fmt: skip
    links = pq.read_table(tmp_path / "out.private/link.parquet").to_pylist()
    sources = {name: row["source"] for row in links for name in row["outputs"]}
    ages = pq.read_table(out / "metadata.parquet").to_pylist()
    assert {sources[row["file_name"]]: row["age"] for row in ages} == {
        "person_01.jpg": 30, "person_02.jpg": 40, "train.parquet#0": None, "train.parquet#1": None
    }  # fmt: skip
    after = pq.read_table(next((out / "data").iterdir()))
    assert after.column_names == ["image", "note"]
    assert sorted(after["note"].to_pylist()) == ["n0", "n1"]
    assert deid("verify", out).code == 0
    for name, words in {"weight": "no input has such", "width": "column of its own"}.items():
        refused = deid(*base, "--out", tmp_path / "no", "--columns", name)
        assert refused.code == 2 and words in refused.stderr
    assert not (tmp_path / "no").exists()


def test_columns_of_a_table_that_describes_no_picture(tmp_path: Path, deid: Deid) -> None:
    shard, out = plain_shard(tmp_path / "in/train.parquet", 1), tmp_path / "out"
    (shard.parent / "metadata.csv").write_text("file_name,caption\nperson_01.jpg,a man\n")
    base = ["anonymize", shard.parent, "--out", out, "--workers", 1, "--json"]
    refused = deid(*base, "--columns", "caption")
    assert refused.code == 2 and "no input has such" in refused.stderr
    outcome = deid(*base)
    assert outcome.json["columns"] == {"kept": [], "dropped": ["caption"]}
    assert "caption" not in pq.read_schema(out / "metadata.parquet").names


def test_what_a_wish_takes() -> None:
    plain, text = pa.int32(), pa.string()

    def takes(wish: Wish, name: str, kind: pa.DataType, hides: bool = False) -> bool:
        return wish.takes(name, kind, hides)

    assert takes(NO_WISH, "Male", pa.int8()) and not takes(NO_WISH, "age", plain)
    assert not takes(Wish(labels=("Smiling",)), "Male", pa.int8())
    assert not takes(Wish(names=("all",), labels=("Smiling",)), "Male", pa.int8())
    assert takes(Wish(names=("age",)), "age", plain) and not takes(Wish(names=("age",)), "b", plain)
    everything = Wish(names=("all",))
    assert takes(everything, "age", plain) and not takes(everything, "age", plain, hides=True)
    assert not takes(everything, "identity", text) and not takes(everything, "embedding", plain)
    assert not takes(everything, "x", pa.binary())
    both = Wish(names=("all",), identities=True)
    assert takes(both, "identity", text) and not takes(Wish(identities=True), "age", plain)


def test_columns_that_could_hide_a_picture() -> None:
    kinds = {**{f"e{n}": pa.float32() for n in range(16)}, "age": pa.int8(), "e_last": pa.int8()}
    assert hiding(kinds, {"note": 512.0, "pixels": 512.1}) == {
        "pixels", *(f"e{n}" for n in range(16))
    }  # fmt: skip
    del kinds["e15"]
    assert hiding(kinds, {}) == set()


def test_the_record_of_columns_counts_what_may_be_data() -> None:
    said = Columns.of(["b"], ["a", "b", "Jane Doe", "a"]).record()
    assert said == {"kept": ["b"], "dropped": ["a"], "dropped_unnamed": 1}


def test_a_list_of_columns() -> None:
    assert parse_columns('a,"b, c"') == ("a", "b, c") and parse_columns("all") == ("all",)
    with pytest.raises(UsageError):
        parse_columns("")


def test_a_column_called_split_is_published_by_itself_only_as_text_or_a_number() -> None:
    text = pa.dictionary(pa.int8(), pa.string())
    for kind in (pa.string(), pa.large_string(), pa.int8(), text):
        assert NO_WISH.takes("split", kind, hides=False)
    hidden = pa.dictionary(pa.int8(), pa.binary())
    for other in (pa.binary(), pa.list_(pa.uint8()), pa.float32(), hidden):
        assert not NO_WISH.takes("split", other, hides=False)


def test_true_and_false_are_read_however_they_are_written() -> None:
    cells = {"glasses": {"a": "True", "b": "FALSE", "c": "true", "d": ""}}
    table = fitted(Wish(("glasses",)), cells)
    assert table.fields == (("glasses", pa.bool_()),)
    assert [table.row(key)["glasses"] for key in "abcd"] == [True, False, True, None]
