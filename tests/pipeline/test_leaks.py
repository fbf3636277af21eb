"""What an attacker looks for in an output: every column and every byte, hunted."""

from __future__ import annotations

import base64
import decimal
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deidcli.data.images import decode
from tests.conftest import (
    PEOPLE,
    Outcome,
    assert_gone,
    copy_people,
    everything_in,
    tree,
)
from tests.datasets import image_column, portraits, write_shard

Deid = Callable[..., Outcome]
CANARY = "CANARY-7391"
BASIC = ["--workers", 1, "--no-gate"]


def vectors(count: int) -> np.ndarray:
    """(N, 128) float32 with values that are found again by their text."""
    return np.random.default_rng(7).random((count, 128), np.float32) * 3


def hidden_columns(data: list[bytes]) -> dict[str, Any]:
    """Columns in which faces, embeddings or names have been found to come out."""
    count, rows = len(data), vectors(len(data))
    texts = [base64.b64encode(d).decode() for d in data]
    pixels = [decode(d).pixels[::8, ::8] for d in data]
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(np.stack(pixels)))
    number = decimal.Decimal("0.7391739173917391")
    late: list[list[float] | None] = [None] * (count - 1) + [rows[0].tolist()]
    people = [f"Jane {CANARY}"] * count
    columns = {
        "base64": texts,
        "uri": [f"data:image/jpeg;base64,{text}" for text in texts],
        "pixels": [" ".join(map(str, p.ravel().tolist())) for p in pixels],
        "nested": [p.tolist() for p in pixels],
        "tensor": tensor,
        "vector_tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(rows.copy()),
        "vector": rows.tolist(),
        "vector_nested": [[row] for row in rows.tolist()],
        "vector_int16": pa.array((rows * 9999).astype(np.int16).tolist(), pa.list_(pa.int16())),
        "vector_decimal": pa.array([[number] * 128] * count, pa.list_(pa.decimal128(20, 16))),
        "vector_map": pa.array(
            [[(f"k{n}", value) for n, value in enumerate(row)] for row in rows.tolist()],
            pa.map_(pa.string(), pa.float32()),
        ),
        "vector_struct": [{f"k{n}": v for n, v in enumerate(row)} for row in rows.tolist()],
        "vector_json": [json.dumps(row) for row in rows.tolist()],
        "vector_late": late,
        "binary": data,
    }
    columns |= {f"f{n}": rows[:, n] for n in range(128)}
    for name in ("subjectid", "userid", "actor_name", "label", "__index_level_0__", "mrn"):
        columns[name] = people
    for name in ("caption", "image_url", "patient_name", "dob", CANARY):
        columns[name] = people
    return columns


def hostile_shard(path: Path, data: list[bytes]) -> pa.Table:
    columns = hidden_columns(data)
    labels = pa.array([1] * len(data), pa.int8())
    arrays = {"image": image_column(data), "Male": labels, **columns}
    table = pa.table(arrays)
    fields = [field.with_metadata({"photographer": CANARY}) for field in table.schema]
    features = {
        "image": {"_type": "Image"},
        "Male": {"names": [CANARY, "x"], "_type": "ClassLabel"},
        "gone": {"names": [CANARY], "_type": "ClassLabel"},
    }
    info = {"info": {"features": features, "description": CANARY}}
    metadata = {"huggingface": json.dumps(info), "photographer": CANARY, "pandas": CANARY}
    table = table.cast(pa.schema(fields, metadata=metadata))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return table


def sought(data: list[bytes]) -> list[bytes]:
    """What each of those columns would bring into an output."""
    words = [CANARY.encode(), b"0.739173917391", b"photographer"]
    words += [repr(value).encode() for value in vectors(1)[0, :3].tolist()]
    whole = (vectors(1) * 9999).astype(np.int16)[0].tolist()
    words.append(str(whole[:4]).strip("[]").encode())
    for picture in data:
        words += [base64.b64encode(picture)[-400:-360], picture[-400:-360]]
        pixels = decode(picture).pixels[::8, ::8].ravel().tolist()
        words += [" ".join(map(str, pixels[:12])).encode(), str(pixels[:3]).encode()]
    return words


def test_nothing_comes_out_of_columns_that_were_not_listed(tmp_path: Path, deid: Deid) -> None:
    data, out = portraits(10), tmp_path / "out"
    table = hostile_shard(tmp_path / f"in/{CANARY}.parquet", data)
    outcome = deid("anonymize", tmp_path / "in", "--out", out, *BASIC, "--json")
    assert outcome.code == 0, outcome.stderr
    assert pq.read_schema(next((out / "data").iterdir())).names == ["image", "Male"]
    record = outcome.json["columns"]
    assert record["kept"] == ["Male"]
    assert {"base64", "tensor", "actor_name", "__index_level_0__"} <= set(record["dropped"])
    assert len(record["dropped"]) + record["dropped_unnamed"] == table.num_columns - 2
    assert CANARY not in json.dumps(record)  # a column's name can be data, too
    assert_gone(out, *sought(data))
    assert "base64" in outcome.stderr and " more" in outcome.stderr
    assert max(map(len, outcome.stderr.splitlines())) < 120


def test_what_was_sought_is_found_where_it_is(tmp_path: Path) -> None:
    """The hunt above finds all of it in the input."""
    data = portraits(10)
    hostile_shard(tmp_path / "in/a.parquet", data)
    found = list(everything_in(tmp_path / "in"))
    missing = [w for w in sought(data[:2]) if not any(w in text for _, text in found)]
    assert not missing


def test_all_is_what_cannot_hide_a_picture(tmp_path: Path, deid: Deid) -> None:
    data, out = portraits(10), tmp_path / "out"
    hostile_shard(tmp_path / "in/a.parquet", data)
    args = ["anonymize", tmp_path / "in", "--out", out, *BASIC, "--columns", "all"]
    assert deid(*args).code == 0
    names = pq.read_schema(next((out / "data").iterdir())).names
    assert names == [
        "image", "Male", "label", "__index_level_0__", "caption", "image_url", CANARY
    ]  # fmt: skip


def test_what_is_listed_is_published_as_it_is(tmp_path: Path, deid: Deid) -> None:
    data, out = portraits(3), tmp_path / "out"
    table = pa.table(
        {
            "image": image_column(data, "x"),
            "vector": vectors(3).tolist(),
            "person_id": ["ann", "bob", "cy"],
            "kind": pa.array(["x", "y", CANARY]).dictionary_encode(),
            "label": [0, 1, 0],
        }
    ).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": {
            "image": {"_type": "Image"}, "label": {"names": ["no", "yes"], "_type": "ClassLabel"},
        }}})}
    )  # fmt: skip
    pq.write_table(table.slice(0, 2), tmp_path / "a.parquet")
    args = ["anonymize", tmp_path / "a.parquet", "--out", out, *BASIC, "--names", "keep"]
    outcome = deid(*args, "--columns", "label, vector,person_id,kind")
    assert outcome.code == 0, outcome.stderr
    after = pq.read_table(out / "data/a.parquet")
    assert after.column_names == table.column_names
    assert after["person_id"].to_pylist() == ["ann", "bob"]
    assert np.allclose(after["vector"].to_pylist(), vectors(3)[:2])
    assert after.schema.field("kind").type == pa.string()  # no words of rows that are not there
    features = json.loads(after.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["label"] == {"names": ["no", "yes"], "_type": "ClassLabel"}
    assert features["image"] == {"_type": "Image"}
    assert_gone(out, CANARY.encode())


def test_crops_of_one_picture_are_not_told_by_their_names(tmp_path: Path, deid: Deid) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "team.jpg").write_bytes((PEOPLE / "scenes/team_page.jpg").read_bytes())
    assert deid("anonymize", folder, "--out", out, "--output", "crops", *BASIC).code == 0
    names = [path.name for path in (out / "images").iterdir()]
    assert len(names) >= 7 and len({name[:16] for name in names}) == len(names)
    assert all(re.fullmatch(r"[0-9a-f]{16}\.png", name) for name in names)


def test_the_fingerprint_confirms_no_guessed_source(tmp_path: Path, deid: Deid) -> None:
    from deidcli.data.source import open_source
    from deidcli.settings import RunSettings, fingerprint

    folder = copy_people(tmp_path / "in", 2)
    found = []
    for name in ("one", "two"):
        args = ["anonymize", folder, "--out", tmp_path / name, *BASIC, "--names", "keep"]
        record = deid(*args, "--json").json
        signature = open_source(folder).signature
        given = {**record["settings"], "columns": (), "attributes": None}
        guess = fingerprint(RunSettings(**given), record["weights"], signature)
        run = json.loads((tmp_path / f"{name}.private/run.json").read_text())
        assert run["fingerprint"] == guess  # the guess is right, but OUT does not say so
        assert_gone(tmp_path / name, guess.encode(), signature.encode())
        found.append(record["fingerprint"])
    assert found[0] != found[1]


def test_strangers_cannot_be_told_from_the_sources_names(tmp_path: Path, deid: Deid) -> None:
    """Without --seed every run draws its own; with it the pictures are the same again."""
    folder = copy_people(tmp_path / "in", 3)
    pictures = {}
    for name, extra in (("a", []), ("b", []), ("c", ["--seed", 4]), ("d", ["--seed", 4])):
        args = ["anonymize", folder, "--out", tmp_path / name, *BASIC, "--names", "keep"]
        assert deid(*args, "--method", "dae", *extra).code == 0
        pictures[name] = tree(tmp_path / name / "images")
    assert pictures["a"] != pictures["b"] and pictures["c"] == pictures["d"]


def test_columns_of_unreadable_parquet_are_not_published(tmp_path: Path, deid: Deid) -> None:
    write_shard(tmp_path / "in/a.parquet", [*portraits(1)])
    pq.write_table(pa.table({CANARY: [1]}), tmp_path / "in/b.parquet")
    out = tmp_path / "out"
    assert deid("anonymize", tmp_path / "in", "--out", out, *BASIC).code == 3
    assert_gone(out, CANARY.encode())
