"""Tables of labels beside pictures, CelebA's layout, and columns that name a person."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from deidcli.data.identifying import is_descriptor_column, is_identity_column
from tests.conftest import Outcome, copy_people, statuses
from tests.datasets import celeba

Deid = Callable[..., Outcome]


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


@pytest.mark.parametrize("name", ["celebName", "id_person", "Person Id", "surname", "patient-id"])
def test_identity_columns_are_known(name: str) -> None:
    assert is_identity_column(name)


def test_innocent_columns_are_not() -> None:
    for name in ("file_name", "Male", "age", "caption", "image", "label", "width"):
        assert not is_identity_column(name) and not is_descriptor_column(name)
    assert is_descriptor_column("face_embedding") and is_descriptor_column("emb")


def test_broken_label_files_cost_labels_only(tmp_path: Path, deid: Deid) -> None:
    contents = {
        "more_values": b"file_name,Male\nperson_01.jpg,1,extra\n",
        "bom": "\ufefffile_name,Male\nperson_01.jpg,1\n".encode(),
        "binary": b"\xff\xfe\x00",
        "long": b'file_name\n"' + b"x" * 200_000 + b'"\n',
    }
    for name, data in contents.items():
        folder = copy_people(tmp_path / name, 1)
        (folder / "metadata.csv").write_bytes(data)
        out = tmp_path / f"{name}-out"
        outcome = deid("anonymize", folder, "--out", out, "--workers", 1)
        assert outcome.code == 0, (name, outcome.stderr)
        rows = pq.read_table(out / "metadata.parquet").to_pylist()
        assert rows[0].get("Male") == (1 if name in ("more_values", "bom") else None)
        assert str(tmp_path) not in (out / "manifest.json").read_text()
    folder = copy_people(tmp_path / "jsonl", 1)
    (folder / "metadata.jsonl").write_text('[1, 2]\nnull\n"x"\n')
    assert deid("anonymize", folder, "--out", tmp_path / "j-out", "--workers", 1).code == 0
