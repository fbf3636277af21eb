"""What a hostile tester found once, so that it stays mended."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deidcli.data.labels import is_descriptor_column, is_identity_column
from tests.conftest import PEOPLE, Outcome, copy_people, picture_bytes, statuses
from tests.test_datasets import portraits

Deid = Callable[..., Outcome]


def images(count: int) -> pa.Array:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(portraits(count))]
    return pa.array(rows, type=kind)


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


def test_manifest_names_no_source_file(tmp_path: Path, deid: Deid) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"image": images(1)}), tmp_path / "in/good.parquet")
    (tmp_path / "in/John_Smith.parquet").write_bytes(b"PAR1 broken")
    deid("anonymize", tmp_path / "in", "--out", tmp_path / "out", "--workers", 1)
    assert "John_Smith" not in (tmp_path / "out/manifest.json").read_text()


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


def test_random_names_do_not_tell_the_order(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 3), tmp_path / "out"
    assert deid("anonymize", folder, "--out", out, "--names", "random", "--workers", 1).code == 0
    assert len({path.stat().st_mtime for path in (out / "images").iterdir()}) == 1


def test_overwrite_takes_only_what_is_its_own(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 1)
    precious = tmp_path / "precious"
    (precious / "sub").mkdir(parents=True)
    (precious / "thesis.txt").write_text("x")
    (tmp_path / "precious.private").mkdir()
    (tmp_path / "precious.private/run.json").write_text("{}")
    outcome = deid("anonymize", folder, "--out", precious, "--overwrite", "--workers", 1)
    assert outcome.code == 1 and "not the record" in outcome.stderr
    out = tmp_path / "out"
    assert deid("anonymize", folder, "--out", out, "--workers", 1).code == 0
    (out / "notes.txt").write_text("mine")
    outcome = deid("anonymize", folder, "--out", out, "--overwrite", "--workers", 1)
    assert outcome.code == 1 and "notes.txt" in outcome.stderr
    assert (out / "notes.txt").read_text() == "mine" and (out / "manifest.json").exists()
    (out / "notes.txt").unlink()
    shutil.rmtree(out)
    out.symlink_to(precious)
    outcome = deid("anonymize", folder, "--out", out, "--overwrite", "--workers", 1)
    assert outcome.code == 1 and (precious / "thesis.txt").read_text() == "x"


def test_output_that_is_gone_is_made_again(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    args = ["anonymize", folder, "--out", out, "--names", "keep", "--workers", 1]
    assert deid(*args).code == 0
    (out / "images/person_01.jpg").unlink()
    assert deid("verify", out).code == 1
    assert deid(*args).code == 0 and deid("verify", out).code == 0
    shutil.rmtree(out)
    assert deid(*args).code == 0 and deid("verify", out).code == 0


def test_another_input_with_the_same_names_is_refused(tmp_path: Path, deid: Deid) -> None:
    for name, number in (("a", "01"), ("b", "02")):
        (tmp_path / name).mkdir()
        picture = Image.open(PEOPLE / "portraits" / f"person_{number}.jpg").resize((160, 160))
        picture.save(tmp_path / name / "x.bmp")
    out = tmp_path / "out"
    assert deid("anonymize", tmp_path / "a", "--out", out, "--workers", 1).code == 0
    outcome = deid("anonymize", tmp_path / "b", "--out", out, "--workers", 1)
    assert outcome.code == 1 and "another input" in outcome.stderr


def test_names_that_collide_or_cannot_be_written(
    tmp_path: Path, portrait: np.ndarray, deid: Deid
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    data = picture_bytes(portrait)
    raw = [b"a\xff.jpg", b"a%FF.jpg", b"b.jpg", b"b.png", b"b.jpg.png", b"c\rd.jpg", b"e\\n.jpg"]
    for name in raw:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(data)
    (folder / "b_0.png").mkdir()
    (folder / "b_0.png/p.jpg").write_bytes(data)
    (folder / ("x" * 251 + ".jpg")).write_bytes(data)
    for kind in ("frames", "crops"):
        out = tmp_path / kind
        args = ["anonymize", folder, "--out", out, "--output", kind, "--workers", 1, "--no-gate"]
        outcome = deid(*args, "--names", "keep", "--json")
        counts = outcome.json["counts"]
        assert counts["inputs"] == 9 and counts["ok"] == (9 if kind == "frames" else 8)
        assert deid("verify", out).code == 0, deid("verify", out).stdout


def test_formats_that_cannot_hold_a_picture(
    tmp_path: Path, portrait: np.ndarray, deid: Deid
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    wide = np.full((300, 17_000, 3), 128, np.uint8)
    wide[50:242, 100:292] = portrait
    (folder / "pano.webp").write_bytes(picture_bytes(wide, "PNG"))
    (folder / "pano.png").write_bytes(picture_bytes(wide, "PNG"))
    Image.new("RGB", (65_000, 50)).save(folder / "line.png")
    outcome = deid("anonymize", folder, "--out", out, "--workers", 1)
    assert outcome.code == 3, outcome.stderr
    found = statuses(out)
    assert found["pano.webp"][0] == "failed" and "encoding" in found["pano.webp"][1]
    assert found["line.png"][0] == "no_face"


def test_verify_is_not_fooled(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    args = ["anonymize", folder, "--out", out, "--names", "keep", "--workers", 1]
    assert deid(*args).code == 0
    kept = tmp_path / "kept"
    shutil.copytree(out, kept)

    def fails(change: Callable[[], object]) -> None:
        shutil.rmtree(out)
        shutil.copytree(kept, out)
        change()
        outcome = deid("verify", out)
        assert outcome.code == 1 and "Traceback" not in outcome.stderr

    manifest = out / "manifest.json"
    record = json.loads(manifest.read_text())
    fails(lambda: (out / "images/more").symlink_to(folder))
    fails((out / "images/John_Smith").mkdir)
    fails(lambda: manifest.write_text(json.dumps({**record, "gate": 0.9})))
    fails(lambda: manifest.write_text("{}"))
    fails(lambda: manifest.write_text("{"))
    fails(lambda: (out / "SHA256SUMS").write_bytes(b"\xff"))

    def swap() -> None:
        """An original in place of a published picture, all checksums made to fit."""
        from deidcli.data.manifest import manifest_digest
        from deidcli.weights.files import file_sha256

        target = out / "images/person_01.jpg"
        before = file_sha256(target)
        shutil.copy(folder / "person_01.jpg", target)
        sums = out / "SHA256SUMS"
        sums.write_text(sums.read_text().replace(before, file_sha256(target)))
        forged = {**record, "files": {**record["files"], "SHA256SUMS": file_sha256(sums)}}
        forged["digest"] = manifest_digest(forged)
        manifest.write_text(json.dumps(forged))

    fails(swap)
