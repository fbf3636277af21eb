"""What an attacker looks for in an output: every column and every byte, hunted."""

from __future__ import annotations

import base64
import decimal
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deidcli.data.columns import NO_WISH, Wish, fitted
from deidcli.data.images import decode, encode
from deidcli.data.journal import private_folder
from deidcli.data.marks import packet
from deidcli.data.people import names_people
from deidcli.data.reasons import OTHER, published_reason
from tests.conftest import (
    PEOPLE,
    Outcome,
    copy_people,
    picture_bytes,
    private_faces,
    statuses,
    tree,
)
from tests.test_datasets import celeba, portraits, write_shard

Deid = Callable[..., Outcome]
CANARY = "CANARY-7391"
BASIC = ["--workers", 1, "--no-gate"]


def image_column(data: list[bytes], stem: str = CANARY) -> pa.Array:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": d, "path": f"{stem}_{n}.jpg"} for n, d in enumerate(data)], kind)


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


# ---------------------------------------------------------------------------- columns


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


# ---------------------------------------------------------------------------- geometry


def test_where_faces_were_is_private(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    assert deid("anonymize", folder, "--out", out, "--workers", 1).code == 0
    kind = pq.read_schema(out / "metadata.parquet").field("faces").type.value_type
    assert [kind.field(n).name for n in range(kind.num_fields)] == ["method"]
    faces = private_faces(out)
    assert set(faces) == set(pq.read_table(out / "metadata.parquet")["file_name"].to_pylist())
    assert all(len(face["affine"]) == 6 and face["gate_distance"] for (face,) in faces.values())
    assert deid("score", out, "--recognizer", "dlib", "--workers", 1).code == 0
    assert_gone(out, *(repr(face["affine"][2]).encode() for (face,) in faces.values()))


def test_published_boxes_are_rounded_and_all_there_is(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 3), tmp_path / "out"
    assert deid("anonymize", folder, "--out", out, "--publish-geometry", *BASIC).code == 0
    exact = private_faces(out)
    for row in pq.read_table(out / "metadata.parquet").to_pylist():
        (face,) = row["faces"]
        assert set(face) == {"method", "box"} and all(v % 8 == 0 for v in face["box"])
        x0, y0, x1, y1 = exact[row["file_name"]][0]["box"]
        assert all(0 <= a - b < 8 for a, b in zip((x0, y0), face["box"][:2], strict=True))
        assert all(0 <= b - a < 8 for a, b in zip((x1, y1), face["box"][2:], strict=True))


def test_score_without_the_private_folder(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 3)
    for names in ("keep", "random"):
        out = tmp_path / names
        args = ["anonymize", folder, "--out", out, "--method", "blur", "--names", names, *BASIC]
        assert deid(*args).code == 0
        private_folder(out).rename(tmp_path / f"{names}-away")
        score = ["score", out, "--recognizer", "dlib", "--workers", 1]
        missing = deid(*score)
        assert missing.code == 1 and f"{names}.private" in missing.stderr
        assert "--against" in missing.stderr or "bring" in missing.stderr
        found = deid(*score, "--against", folder, "--json")
        if names == "keep":  # as for another tool's output
            assert found.code == 0 and found.json["faces"] == 3
        else:
            assert found.code == 1 and "random.private" in found.stderr


# ---------------------------------------------------------------------------- names and order


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


# ---------------------------------------------------------------------------- people


@pytest.mark.parametrize(
    "key",
    [
        *("Jane Doe/1.jpg", "jane_doe/1.jpg", "Ann_Nobody/Ann_Nobody_0001.jpg", "x/Jane Doe 3.jpg"),
        *("Doe, Jane/a.png", "María José García/1.jpg", "Zhang Wei.jpg", "JaneDoe/1.jpg"),
    ],
)
def test_names_of_people_are_noticed(key: str) -> None:
    assert names_people(key)


@pytest.mark.parametrize(
    "key",
    [
        *("Test Set/1.jpg", "Holiday Pictures/1.jpg", "IMG_0001.jpg", "New York/DSC 0042.JPG"),
        *("img_align_celeba/000001.jpg", "a/b/c.png", "portraits/person_01.jpg", "train-0.parquet"),
        *(
            "team_page.jpg",
            "Screen Shot 2020-01-01.png",
            "patient_name",
            "My Photos/Team Party.jpg",
        ),
    ],
)
def test_other_names_are_not(key: str) -> None:
    assert not names_people(key)


def test_folders_named_after_people_are_warned_of(tmp_path: Path, deid: Deid) -> None:
    copy_people(tmp_path / "in" / "Jane Doe", 1)
    for names, warned in (("keep", True), ("random", False)):
        args = ["anonymize", tmp_path / "in", "--out", tmp_path / names, *BASIC]
        outcome = deid(*args, "--names", names)
        assert outcome.code == 0 and ("named after people" in outcome.stderr) == warned
    assert_gone(tmp_path / "random", b"Jane", b"Doe")


# ---------------------------------------------------------------------------- marks


def xmp_of(data: bytes) -> bytes:
    """The XMP packet of a picture, by Pillow."""
    with Image.open(io.BytesIO(data)) as picture:
        info = picture.info
        found = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
        if not found and picture.format == "TIFF":
            found = picture.tag_v2.get(700, b"")  # type: ignore[attr-defined]
    return found.encode() if isinstance(found, str) else bytes(found)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_a_mark_is_one_packet_and_changes_no_pixel(portrait: np.ndarray, format: Any) -> None:
    plain = encode(portrait, format)
    marked = encode(portrait, format, mark="composite")
    assert encode(portrait, format, mark="composite") == marked and xmp_of(plain) == b""
    assert (decode(plain).pixels == decode(marked).pixels).all()
    if format in ("BMP", "GIF"):
        assert plain == marked
        return
    assert xmp_of(marked) == packet("composite").encode()
    assert marked.count(b"xpacket begin") == 1
    assert abs(len(marked) - len(plain) - len(packet("composite").encode())) < 120


def test_marks_say_how_pictures_were_made(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 3)
    Image.new("RGB", (90, 90), "gray").save(folder / "wall.png")
    for name, extra, term in (
        ("blur", [], "algorithmicallyEnhanced"),
        ("dae", [], "compositeWithTrainedAlgorithmicMedia"),
        ("k-same", ["--set", "k=2"], "composite"),
        ("eae", ["--output", "crops"], "compositeWithTrainedAlgorithmicMedia"),
    ):
        out = tmp_path / name
        args = ["anonymize", folder, "--out", out, *BASIC, "--method", name, *extra]
        assert deid(*args, "--on-no-face", "copy").code == 0
        for row in pq.read_table(out / "metadata.parquet").to_pylist():
            found = xmp_of((out / row["file_name"]).read_bytes())
            # Nothing was replaced in a picture that was copied.
            assert found == (packet(term).encode() if row["status"] != "no_face" else b"")
    write_shard(tmp_path / "rows/a.parquet", [*portraits(2)])
    assert deid("anonymize", tmp_path / "rows", "--out", tmp_path / "r", *BASIC).code == 0
    for row in pq.read_table(next((tmp_path / "r/data").iterdir()))["image"].to_pylist():
        assert xmp_of(row["bytes"]) == packet("algorithmicallyEnhanced").encode()
    bare = tmp_path / "bare"
    assert deid("anonymize", folder, "--out", bare, *BASIC, "--no-mark").code == 0
    assert_gone(bare / "images", b"xpacket")


# ---------------------------------------------------------------------------- reasons


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


def test_columns_of_unreadable_parquet_are_not_published(tmp_path: Path, deid: Deid) -> None:
    write_shard(tmp_path / "in/a.parquet", [*portraits(1)])
    pq.write_table(pa.table({CANARY: [1]}), tmp_path / "in/b.parquet")
    out = tmp_path / "out"
    assert deid("anonymize", tmp_path / "in", "--out", out, *BASIC).code == 3
    assert_gone(out, CANARY.encode())


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 64 64
%%EndComments
0 0 64 64 rectfill
showpage
%%EOF
"""


def test_postscript_is_never_opened(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its name says: Pillow would hand it to Ghostscript."""
    from PIL import EpsImagePlugin

    def never(*args: object, **options: object) -> None:
        raise AssertionError("Ghostscript was asked")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", never)
    opened: list[object] = []
    real = EpsImagePlugin.EpsImageFile._open
    monkeypatch.setattr(
        EpsImagePlugin.EpsImageFile, "_open", lambda self: (opened.append(self), real(self))
    )
    folder, out = copy_people(tmp_path / "in", 1), tmp_path / "out"
    (folder / "sketch.jpg").write_bytes(EPS)
    assert deid("anonymize", folder, "--out", out, *BASIC).code == 3
    assert statuses(out)["sketch.jpg"] == ("failed", "not a picture, or of an unknown format")
    assert not opened


# ---------------------------------------------------------------------------- repeated, killed


def test_a_finished_runs_settings_can_be_used_again(tmp_path: Path) -> None:
    from deidcli.cli.config import read_config
    from deidcli.pipeline.anonymize import run_settings
    from deidcli.pipeline.options import Options

    given = Options(columns='age,"a,b"', no_mark=True, names="keep", publish_geometry=True)
    settings = run_settings(given)
    record = {"settings": settings.published(), "deid_version": "x"}
    (tmp_path / "manifest.json").write_text(json.dumps(record, default=str))
    again = read_config(tmp_path / "manifest.json", {}).values
    assert run_settings(Options(**again)) == settings


def test_what_a_kill_left_in_the_private_folder_spoils_nothing(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 1), tmp_path / "out"
    args = ["anonymize", folder, "--out", out, *BASIC]
    assert deid(*args).code == 0
    left = private_folder(out) / "parts" / "123-faces.parquet"
    left.write_bytes(b"PAR1")
    assert deid("verify", out).code == 0
    assert deid(*args).code == 0 and not left.exists()
