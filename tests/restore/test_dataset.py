"""`deid restore` by a method's network: both inputs, both outputs, wrong passwords, odd files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deidcli.data.journal import private_folder
from deidcli.faces.align import crop, paste
from deidcli.faces.regions import region_mask
from tests.conftest import (
    Outcome,
    copy_people,
    private_faces,
    tree,
)
from tests.datasets import plain_shard
from tests.reversible import (
    PADDING,
    SIZE,
    Cells,
    inner,
    parquet_people,
    password_file,
    pixels,
    png_people,
    published_rows,
    sealed_places,
)

pytestmark = pytest.mark.usefixtures("cheap")

Deid = Callable[..., Outcome]


def test_frames_come_back_from_out_alone(tmp_path: Path, deid: Deid) -> None:
    """Without OUT.private; the names, the tree and the untouched pixels are those of OUT."""
    folder, out, to = png_people(tmp_path / "in", 3), tmp_path / "out", tmp_path / "to"
    secret = ["--password-file", password_file(tmp_path)]
    args = [
        "anonymize",
        folder,
        "--names",
        "keep",
        "--out",
        out,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--no-gate",
    ]
    args += ["--seed", 1]
    assert deid(*args, *secret).code == 0
    known = private_faces(out)
    shutil.rmtree(private_folder(out))
    outcome = deid("restore", out, "--to", to, *secret, "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["counts"]["network"] == outcome.json["counts"]["faces"] == 3
    assert {p.name for p in (to / "images").iterdir()} == {p.name for p in folder.iterdir()}
    assert oct(to.stat().st_mode & 0o777) == "0o700"
    for row in published_rows(out):
        face = known[str(row["file_name"])][0]
        original = pixels(folder / Path(str(row["file_name"])).name)
        published, restored = (
            pixels(out / str(row["file_name"])),
            pixels(to / str(row["file_name"])),
        )
        where = inner(face)
        assert np.abs(published[where] - original[where]).mean() > 25
        assert np.abs(restored[where] - original[where]).mean() < 10
        assert (restored[:5] == published[:5]).all()
    assert [row["restored"] for row in published_rows(to)] == ["network"] * 3
    said = json.loads((to / "restored.json").read_text())
    assert "Not to be published" in said["note"] and said["by"] == "network"


def test_a_wrong_password_is_not_revealed(tmp_path: Path, deid: Deid) -> None:
    folder, out = png_people(tmp_path / "in", 2), tmp_path / "out"
    right, wrong = password_file(tmp_path), password_file(tmp_path, "another one")
    args = [
        "anonymize",
        folder,
        "--names",
        "keep",
        "--out",
        out,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--no-gate",
        "--seed",
        0,
    ]
    assert deid(*args, "--password-file", right).code == 0
    outcomes = [
        deid("restore", out, "--to", tmp_path / name, "--password-file", file, "--json")
        for name, file in (("right", right), ("wrong", wrong))
    ]
    assert [outcome.code for outcome in outcomes] == [0, 0]
    said = [{**outcome.json, "output": ""} for outcome in outcomes]
    assert said[0] == said[1]
    for row in published_rows(out):
        name = str(row["file_name"])
        where = inner(private_faces(out)[name][0])
        original = pixels(folder / Path(name).name)[where]
        assert np.abs(pixels(tmp_path / "wrong" / name)[where] - original).mean() > 25


def test_recompressed_pictures_still_come_back(tmp_path: Path, deid: Deid) -> None:
    """Places are bound to a picture's name, not to its bytes."""
    out, to = sealed_places(tmp_path, deid), tmp_path / "to"
    for path in (out / "images").iterdir():
        Image.open(path).save(path, compress_level=9)
    outcome = deid("restore", out, "--to", to, "--password-file", password_file(tmp_path), "--json")
    assert outcome.code == 0 and outcome.json["counts"]["network"] == 3


def test_crops_come_back_exactly(tmp_path: Path, deid: Deid) -> None:
    folder, out, to = png_people(tmp_path / "in", 3), tmp_path / "out", tmp_path / "to"
    secret = ["--password-file", password_file(tmp_path)]
    args = ["anonymize", folder, "--out", out, "--method", "whole-cells", "--output", "crops"]
    args += ["--names", "keep"]
    assert deid(*args, "--workers", 1, "--no-gate", *secret).code == 0
    assert deid("restore", out, "--to", to, *secret).code == 0
    for row in published_rows(out):
        name = Path(str(row["file_name"])).name
        frame = pixels(folder / (name[: -len("_0.png")] + ".png")).astype(np.uint8)
        affine = np.array(private_faces(out)[str(row["file_name"])][0]["affine"]).reshape(2, 3)
        chip = crop(frame, affine, SIZE, extend=True)
        assert (pixels(to / "images" / name) == chip).all()
        assert (pixels(out / "images" / name) != chip).mean() > 0.2


@pytest.mark.parametrize("output", ["frames", "crops"])
@pytest.mark.parametrize("names", ["keep", "random"])
def test_parquet_comes_back(tmp_path: Path, deid: Deid, output: str, names: str) -> None:
    source = png_people(tmp_path / "png", 4)
    folder, out, to = parquet_people(tmp_path / "in", source), tmp_path / "out", tmp_path / "to"
    secret = ["--password-file", password_file(tmp_path)]
    args = [
        "anonymize",
        folder,
        "--out",
        out,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--no-gate",
        "--columns",
        "note",
    ]
    assert deid(*args, "--output", output, "--names", names, *secret).code == 0
    outcome = deid("restore", out, "--to", to, *secret)
    assert outcome.code == 0, outcome.stderr
    file = "train-00000.parquet" if names == "keep" else "train-00000-of-00001.parquet"
    before = pq.read_table(out / "data" / file)
    after = pq.read_table(to / "data" / file)
    assert after.schema == before.schema and after["note"] == before["note"]
    faces = private_faces(out)
    for number, entry in enumerate(after["image"].to_pylist()):
        face = faces[f"data/{file}#{number}"][0]
        person = int(str(after["note"][number]).removeprefix("n")) + 1
        original = pixels(source / f"person_{person:02d}.png")
        where = inner(face)
        if output == "crops":
            affine = np.array(face["affine"]).reshape(2, 3)
            original = crop(original.astype(np.uint8), affine, SIZE).astype(int)
            where = (slice(40, 88), slice(40, 88))
        assert np.abs(pixels(entry["bytes"])[where] - original[where]).mean() < 10
        assert entry["path"] == before["image"][number].as_py()["path"]


def test_blacked_out_faces_stay_and_are_counted(tmp_path: Path, deid: Deid) -> None:
    """At --gate 2 every face still matches its original."""
    folder, out, to = png_people(tmp_path / "in", 2), tmp_path / "out", tmp_path / "to"
    secret = ["--password-file", password_file(tmp_path)]
    args = [
        "anonymize",
        folder,
        "--names",
        "keep",
        "--out",
        out,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--gate",
        2,
    ]
    assert deid(*args, *secret, "--json").json["counts"]["fallback"] == 2
    counts = deid("restore", out, "--to", to, *secret, "--json").json["counts"]
    assert (counts["copied"], counts["blacked_out"], counts["faces"]) == (2, 2, 0)
    assert tree(to / "images") == tree(out / "images")


def test_odd_files_do_not_end_the_batch(tmp_path: Path, deid: Deid) -> None:
    folder, out, to = png_people(tmp_path / "in", 4), tmp_path / "out", tmp_path / "to"
    secret = ["--password-file", password_file(tmp_path)]
    args = [
        "anonymize",
        folder,
        "--names",
        "keep",
        "--out",
        out,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--no-gate",
    ]
    assert deid(*args, *secret).code == 0
    (out / "images/person_01.png").write_bytes(b"no picture")
    (out / "images/person_02.png").unlink()
    (out / "images/person_02.png").symlink_to(folder / "person_02.png")
    (out / "images/person_03.png").unlink()
    outcome = deid("restore", out, "--to", to, *secret, "--json")
    assert outcome.code == 3, outcome.stderr
    counts = outcome.json["counts"]
    assert (counts["network"], counts["failed"], counts["pictures"]) == (1, 3, 4)
    assert [path.name for path in (to / "images").iterdir()] == ["person_04.png"]


def test_what_cannot_be_restored_is_said(tmp_path: Path, deid: Deid) -> None:
    folder, out = png_people(tmp_path / "in", 1), tmp_path / "out"
    secret = ["--password-file", password_file(tmp_path)]
    assert deid("anonymize", folder, "--out", out, "--workers", 1, "--no-gate").code == 0
    plain = deid("restore", out, "--to", tmp_path / "to", *secret)
    assert plain.code == 1 and "no way back" in plain.stderr
    missing = deid("restore", tmp_path / "nothing", "--to", tmp_path / "to", *secret)
    assert missing.code == 1 and "not a finished output" in missing.stderr
    assert not (tmp_path / "to").exists()


def test_other_weights_are_refused(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would give other faces, and nothing would tell."""
    monkeypatch.setattr(Cells, "weights", lambda settings: ("attributes",), raising=False)
    folder, out = png_people(tmp_path / "in", 1), tmp_path / "out"
    secret = ["--password-file", password_file(tmp_path)]
    args = [
        "anonymize",
        folder,
        "--names",
        "keep",
        "--out",
        out,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--no-gate",
    ]
    assert deid(*args, *secret).code == 0
    assert deid("restore", out, "--to", tmp_path / "fine", *secret).code == 0
    record = json.loads((out / "manifest.json").read_text())
    record["weights"]["attributes"] = "0" * 64
    (out / "manifest.json").write_text(json.dumps(record))
    outcome = deid("restore", out, "--to", tmp_path / "to", *secret)
    assert outcome.code == 1 and "other weights" in outcome.stderr


def test_a_mixed_output_is_restored_whole(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out, to = copy_people(tmp_path / "in", 1), tmp_path / "out", tmp_path / "to"
    plain_shard(folder / "train.parquet", 2)
    args = ["anonymize", folder, "--out", out, "--seal", "--names", "keep", "--workers", 1]
    monkeypatch.setenv("DEID_PASSWORD", "four gray herons wait")
    assert deid(*args).code == 0
    assert deid("verify", out).code == 0
    monkeypatch.setenv("DEID_PASSWORD", "four gray herons wait")
    outcome = deid("restore", out, "--to", to, "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["counts"]["exact"] == 3
    assert len(list((to / "images").iterdir())) == 1
    assert pq.read_metadata(to / "data/train.parquet").num_rows == 2


def test_faces_that_overlap_come_back(tmp_path: Path, deid: Deid) -> None:
    """What lies in both of them was published by the last, and only that one can undo it."""
    folder, out, to = png_people(tmp_path / "in", 3), tmp_path / "out", tmp_path / "to"
    left, right = (pixels(folder / f"person_{n:02d}.png") for n in (2, 3))
    both = np.concatenate([left[:, :115], right[:, 40:]], axis=1).astype(np.uint8)
    shutil.rmtree(folder)
    folder.mkdir()
    Image.fromarray(both).resize((470, 320)).save(folder / "two.png")
    args = ["anonymize", folder, "--names", "keep", "--out", out, "--method", "cells"]
    args += ["--detector", "hog", "--workers", 1, "--no-gate", "--seed", 1]
    secret = ["--password-file", password_file(tmp_path)]
    assert deid(*args, *secret).code == 0
    assert deid("restore", out, "--to", to, *secret).code == 0
    frame = np.zeros((320, 470, 3), np.uint8)
    shares = []
    for face in private_faces(out)["images/two.png"]:
        share, white = frame.copy(), np.full((SIZE, SIZE, 3), 255, np.uint8)
        paste(share, white, np.reshape(face["affine"], (2, 3)), region_mask("face", SIZE, PADDING))
        shares.append(share[..., 0] == 255)
    where = np.logical_and(*shares)
    assert where.sum() > 1000
    original, published, restored = (
        pixels(path / "two.png")[where] for path in (folder, out / "images", to / "images")
    )
    assert np.abs(published - original).mean() > 25
    assert np.abs(restored - original).mean() < 10
