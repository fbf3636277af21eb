"""Parquet, CelebA's and LFW's layouts, and Hugging Face's own loader on what comes out."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.conftest import PEOPLE, Outcome, copy_people, picture_bytes, statuses

Deid = Callable[..., Outcome]


def portraits(count: int, side: int = 144) -> list[bytes]:
    """Encoded portraits of people who do not exist."""
    out = []
    for number in range(1, count + 1):
        picture = Image.open(PEOPLE / "portraits" / f"person_{number:02d}.jpg").convert("RGB")
        small = picture.resize((side, side), Image.Resampling.LANCZOS)
        out.append(picture_bytes(np.asarray(small), quality=93))
    return out


def write_shard(
    path: Path, images: list[bytes | None], *, struct_first: str = "bytes", group: int = 1000
) -> pa.Table:
    """A shard as `datasets` writes it: image struct, labels, identity, features in the schema."""
    order = ["bytes", "path"] if struct_first == "bytes" else ["path", "bytes"]
    kind = pa.struct([(name, pa.binary() if name == "bytes" else pa.string()) for name in order])
    rows = [
        None if data is None else {"bytes": data, "path": f"../../people/name_{n}.jpg"}
        for n, data in enumerate(images)
    ]
    count = len(images)
    features = {
        "image": {"_type": "Image"},
        "identity": {"dtype": "int32", "_type": "Value"},
        "Male": {"dtype": "int8", "_type": "Value"},
        "Smiling": {"dtype": "int8", "_type": "Value"},
        "note": {"dtype": "string", "_type": "Value"},
    }
    table = pa.table(
        {
            "image": pa.array(rows, type=kind),
            "identity": pa.array(range(count), type=pa.int32()),
            "Male": pa.array([1 if n % 2 else -1 for n in range(count)], type=pa.int8()),
            "Smiling": pa.array([1 if n % 3 else -1 for n in range(count)], type=pa.int8()),
            "note": pa.array([f"row {n}" for n in range(count)]),
        }
    ).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}}), "made_by": "tests"}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return table


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


def test_what_a_method_hides_is_published_in_no_column(tmp_path: Path, deid: Deid) -> None:
    source, out = tmp_path / "a.parquet", tmp_path / "out"
    write_shard(source, list(portraits(2)))
    args = ["--method", "eae", "--attrs", "G", "--output", "crops", "--workers", 1]
    outcome = deid("anonymize", source, "--out", out, *args)
    assert outcome.code == 0, outcome.stderr
    assert pq.read_table(next((out / "data").iterdir())).column_names == ["image", "Male"]
    assert "Smiling" in outcome.stderr and "Smiling" not in (out / "README.md").read_text()


def test_a_blacked_out_crop_of_a_whole_chip_is_black_to_its_edge(
    tmp_path: Path, deid: Deid
) -> None:
    """Around the head there is ground that would tell one person's crop from another's."""
    source, out = tmp_path / "a.parquet", tmp_path / "out"
    write_shard(source, list(portraits(2)))
    args = ["--method", "eae", "--output", "crops", "--workers", 1, "--gate", "2", "--json"]
    assert deid("anonymize", source, "--out", out, *args).json["counts"]["fallback"] == 2
    for row in pq.read_table(next((out / "data").iterdir()))["image"].to_pylist():
        assert np.asarray(Image.open(io.BytesIO(row["bytes"]))).max() == 0


def test_settings_that_do_not_protect_are_noted(tmp_path: Path, deid: Deid) -> None:
    source, out = tmp_path / "a.parquet", tmp_path / "out"
    write_shard(source, list(portraits(1)))
    args = ["--method", "dae", "--set", "target=supervised", "--workers", 1, "--json"]
    outcome = deid("anonymize", source, "--out", out, *args)
    assert "NOT protect" in outcome.stderr
    assert any("NOT protect" in line for line in outcome.json["warnings"])


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


def celeba(root: Path, count: int = 12) -> Path:
    """CelebA's own layout, with generated people."""
    (root / "img_align_celeba").mkdir(parents=True)
    names = [f"{n:06d}.jpg" for n in range(1, count + 1)]
    for name, data in zip(names, portraits(count), strict=True):
        (root / "img_align_celeba" / name).write_bytes(data)
    attributes = ["Eyeglasses", "Male", "Smiling"]
    lines = [str(count), " ".join(attributes)]
    lines += [
        f"{name} {1 if n == 0 else -1:2d} {1 if n % 2 else -1:2d}  1"
        for n, name in enumerate(names)
    ]
    (root / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    parts = "".join(f"{name} {n % 3}\n" for n, name in enumerate(names))
    (root / "list_eval_partition.txt").write_text(parts)
    people = "".join(f"{name} {4000 + n // 2}\n" for n, name in enumerate(names))
    (root / "identity_CelebA.txt").write_text(people)
    return root


def test_celeba_layout(tmp_path: Path, deid: Deid) -> None:
    root = celeba(tmp_path / "celeba")
    outcome = deid("anonymize", root, "--attrs", "GE", "--names", "keep", "--workers", 1)
    assert outcome.code == 0, outcome.stderr
    out = tmp_path / "celeba-deid"
    rows = {row["file_name"]: row for row in pq.read_table(out / "metadata.parquet").to_pylist()}
    row = rows["images/img_align_celeba/000001.jpg"]
    assert (row["Male"], row["Eyeglasses"], row["partition"]) == (-1, 1, "train")
    assert "Smiling" not in row
    assert rows["images/img_align_celeba/000003.jpg"]["partition"] == "test"
    assert statuses(out)["identity_CelebA.txt"] == ("skipped", "label file")
    published = b"".join(
        path.read_bytes() for path in out.rglob("*") if path.suffix != ".jpg" and path.is_file()
    )
    assert b"4003" not in published
    assert not list(out.rglob("*identity*"))


def test_lfw_layout_warns_of_names(tmp_path: Path, deid: Deid) -> None:
    root = tmp_path / "lfw"
    for person, data in zip(("Ann_Nobody", "Bob_Nobody"), portraits(2), strict=True):
        (root / person).mkdir(parents=True)
        (root / person / f"{person}_0001.jpg").write_bytes(data)
    (root / "peopleDevTest.txt").write_text("1\nBob_Nobody\t1\n")
    attributes = "# head\n#\tperson\timagenum\tMale\tSmiling\nAnn Nobody\t1\t-0.4\t1.5\n"
    (root / "lfw_attributes.txt").write_text(attributes)
    keep = ["--names", "keep", "--workers", 1]
    outcome = deid("anonymize", root, "--out", tmp_path / "kept", *keep)
    assert outcome.code == 0 and "--names random" in outcome.stderr
    rows = {
        r["file_name"]: r for r in pq.read_table(tmp_path / "kept/metadata.parquet").to_pylist()
    }
    ann = rows["images/Ann_Nobody/Ann_Nobody_0001.jpg"]
    assert (ann["Male"], ann["Smiling"]) == (-1, 1)
    assert rows["images/Bob_Nobody/Bob_Nobody_0001.jpg"]["partition"] == "test"
    args = ["anonymize", root, "--out", tmp_path / "random", "--names", "random", "--workers", 1]
    assert deid(*args).code == 0
    data = b"".join(p.read_bytes() for p in (tmp_path / "random").rglob("*") if p.is_file())
    assert b"Nobody" not in data
    assert "Nobody" not in "".join(str(p) for p in (tmp_path / "random").rglob("*"))


def test_image_folder_metadata(tmp_path: Path, deid: Deid) -> None:
    root, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    lines = "file_name,Male,name,caption\nperson_01.jpg,1,Ann Nobody,a man\nperson_02.jpg,0,Bo,x\n"
    (root / "metadata.csv").write_text(lines)
    outcome = deid("anonymize", root, "--out", out, "--names", "keep", "--workers", 1, "--json")
    assert outcome.code == 0 and "caption" in outcome.stderr
    assert outcome.json["columns"] == {"kept": ["Male"], "dropped": ["name", "caption"]}
    rows = pq.read_table(out / "metadata.parquet").to_pylist()
    assert [row["Male"] for row in rows] == [1, -1]
    assert "caption" not in rows[0] and "name" not in rows[0]


def load(out: Path, tmp_path: Path) -> Any:
    datasets = pytest.importorskip("datasets", reason="the dev extra brings datasets")
    return datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))


def test_load_dataset_reads_a_folder(tmp_path: Path, deid: Deid) -> None:
    root, out = celeba(tmp_path / "celeba", 4), tmp_path / "out"
    assert deid("anonymize", root, "--out", out, "--workers", 1).code == 0
    loaded = load(out, tmp_path)["train"]
    assert len(loaded) == 4
    row = loaded[0]
    assert row["image"].size == (144, 144) and row["Male"] in (-1, 1) and len(row["faces"]) == 1


def test_load_dataset_reads_parquet(tmp_path: Path, deid: Deid) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write_shard(source / "train-00000-of-00001.parquet", [*portraits(3)])
    write_shard(source / "test-00000-of-00001.parquet", [*portraits(2)])
    assert deid("anonymize", source, "--out", out, "--workers", 1).code == 0
    loaded = load(out, tmp_path)
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 3, "test": 2}
    assert loaded["test"][0]["image"].size == (144, 144)
