"""`--boxes`: tables and columns of boxes, in every form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deidcli.data.boxes import read_boxes, to_box, to_boxes
from deidcli.errors import DeidError
from tests.conftest import Outcome, picture_bytes, statuses

Deid = Callable[..., Outcome]
PLAIN = ("--no-gate", "--workers", 1, "--names", "keep", "--json")


@pytest.fixture
def pictures(tmp_path: Path, portrait: np.ndarray) -> Path:
    """A face, and a picture without one."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "face.png").write_bytes(picture_bytes(portrait, "PNG"))
    wall = np.full((200, 300, 3), 140, np.uint8)
    wall[50:150, 100:200] = 90
    (folder / "wall.png").write_bytes(picture_bytes(wall, "PNG"))
    return folder


def black_share(path: Path, box: tuple[int, int, int, int]) -> float:
    x0, y0, x1, y1 = box
    pixels = np.asarray(Image.open(path).convert("RGB"))[y0:y1, x0:x1]
    return float((pixels < 8).all(2).mean())


@pytest.mark.parametrize(
    "form", ["corners.csv", "sides.csv", "list.jsonl", "one.json", "t.parquet"]
)
def test_a_marked_place_is_covered(tmp_path: Path, pictures: Path, form: str, deid: Deid) -> None:
    table, box = tmp_path / form, [120, 60, 180, 140]
    if form == "corners.csv":
        table.write_text("file_name,x0,y0,x1,y1\nwall.png,120,60,180,140\n")
    elif form == "sides.csv":
        table.write_text("file_name,x,y,width,height\nwall.png,120,60,60,80\n")
    elif form == "list.jsonl":
        table.write_text(json.dumps({"file_name": "wall.png", "boxes": [box]}) + "\n")
    elif form == "one.json":
        table.write_text(json.dumps({"wall.png": [box]}))
    else:
        pq.write_table(pa.table({"file_name": ["wall.png"], "boxes": [[box]]}), table)
    out = tmp_path / "out"
    outcome = deid("anonymize", pictures, "--out", out, "--boxes", table, *PLAIN)
    assert outcome.code == 0, outcome.stderr
    assert statuses(out)["wall.png"][0] == "ok"
    assert black_share(out / "images/wall.png", (120, 60, 180, 140)) == 1.0
    assert outcome.json["counts"]["faces"] == 2  # the other picture's face is still found
    assert outcome.json["settings"]["boxes"] == "table"  # a hash would confirm a guessed one
    assert str(table) not in (out / "manifest.json").read_text()


def test_boxes_can_replace_what_is_found(tmp_path: Path, pictures: Path, deid: Deid) -> None:
    table, out = tmp_path / "boxes.csv", tmp_path / "out"
    table.write_text("file_name,x0,y0,x1,y1\nwall.png,120,60,180,140\n")
    outcome = deid(
        "anonymize", pictures, "--out", out, "--boxes", table, "--boxes-are", "replace", *PLAIN
    )
    assert {name: status for name, (status, _) in statuses(out).items()} == {
        "wall.png": "ok",
        "face.png": "no_face",
    }
    assert outcome.json["counts"]["faces"] == 1


def test_another_table_is_another_run(tmp_path: Path, pictures: Path, deid: Deid) -> None:
    table, out = tmp_path / "boxes.csv", tmp_path / "out"
    table.write_text("file_name,x0,y0,x1,y1\nwall.png,120,60,180,140\n")
    assert deid("anonymize", pictures, "--out", out, "--boxes", table, *PLAIN).code == 0
    table.write_text("file_name,x0,y0,x1,y1\nwall.png,10,60,80,140\n")
    assert deid("anonymize", pictures, "--out", out, "--boxes", table, *PLAIN).code == 1


def test_a_column_of_boxes(tmp_path: Path, portrait: np.ndarray, deid: Deid) -> None:
    wall = np.full((200, 300, 3), 140, np.uint8)
    data = [picture_bytes(wall, "PNG"), picture_bytes(portrait, "PNG")]
    boxes = [[[120.0, 60.0, 60.0, 80.0]], None]
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    pq.write_table(pa.table({"image": data, "bbox": boxes}), folder / "a.parquet")
    outcome = deid(
        *("anonymize", folder, "--out", out, "--boxes", "column:bbox", "--box-format", "xywh"),
        *PLAIN,
    )
    assert outcome.code == 0, outcome.stderr
    assert [status for status, _ in statuses(out).values()] == ["ok", "ok"]


def test_a_box_outside_its_picture_withholds_it(tmp_path: Path, pictures: Path, deid: Deid) -> None:
    table, out = tmp_path / "boxes.csv", tmp_path / "out"
    table.write_text("file_name,x0,y0,x1,y1\nwall.png,1200,60,1300,140\nnowhere.png,1,2,3,4\n")
    outcome = deid("anonymize", pictures, "--out", out, "--boxes", table, *PLAIN)
    assert outcome.code == 3
    assert statuses(out)["wall.png"][0] == "failed"
    assert "1 picture not in the input" in outcome.stderr


def test_boxes_that_are_none_are_refused(tmp_path: Path, pictures: Path, deid: Deid) -> None:
    for text in ("file_name,left\nwall.png,3\n", "file_name,x0,y0,x1,y1\nwall.png,9,9,3,3\n", ""):
        table = tmp_path / "boxes.csv"
        table.write_text(text or "no,columns\n1,2\n")
        outcome = deid(
            "anonymize", pictures, "--out", tmp_path / "out", "--boxes", table, "--no-gate"
        )
        assert outcome.code == 1 and "Traceback" not in outcome.stderr
        assert not (tmp_path / "out").exists()
    missing = deid("anonymize", pictures, "--boxes", tmp_path / "none.csv")
    assert missing.code == 2


def test_the_forms_of_a_box() -> None:
    assert to_box([1, 2, 3, 4], "xyxy") == (1, 2, 3, 4)
    assert to_box([1, 2, 3, 4], "xywh") == (1, 2, 4, 6)
    assert to_boxes(None, "xyxy") == [] and to_boxes("", "xyxy") == []
    assert to_boxes({"bbox": [[1, 2, 3, 4]]}, "xyxy") == [(1, 2, 3, 4)]
    assert to_boxes([1, 2, 3, 4], "xyxy") == to_boxes("[[1,2,3,4]]", "xyxy")
    for wrong in ([1, 2, 3], [1, 2, 1, 4], [1, 2, float("nan"), 4], "x"):
        with pytest.raises(DeidError):
            to_box(wrong, "xyxy")


def test_csv_with_a_byte_order_mark(tmp_path: Path) -> None:
    table = tmp_path / "b.csv"
    table.write_bytes(b"\xef\xbb\xbffile_name,x0,y0,x1,y1\na.jpg,1,2,3,4\na.jpg,5,6,7,8\n")
    assert read_boxes(table, "xyxy") == {"a.jpg": [(1, 2, 3, 4), (5, 6, 7, 8)]}


@pytest.mark.parametrize("numbers", [(0.2, 0.15, 0.8, 0.95), (10, 10, 11.5, 90), (10, 10, 90, 11)])
def test_boxes_in_shares_of_the_picture_are_refused(numbers: tuple[float, ...]) -> None:
    """They would cover a pixel of each face, and the picture would count as ok."""
    with pytest.raises(DeidError, match="shares"):
        to_box(numbers, "xyxy")
    assert to_box((10, 10, 12, 12), "xyxy") == (10, 10, 12, 12)


@pytest.mark.parametrize(
    "box",
    [
        (20, 180, 280, 195),
        (180, 5, 195, 195),
        (-5000, 20, 150, 180),
        (0, 0, 1e19, 1e19),
        (100, 60, 200, 140),
    ],
    ids=["wide", "tall", "far outside", "huge", "plain"],
)
def test_all_of_a_given_box_is_covered(
    tmp_path: Path, pictures: Path, deid: Deid, box: tuple[float, ...]
) -> None:
    """No face is found there, so the place is blacked out: the box, whatever its shape."""
    (tmp_path / "b.json").write_text(json.dumps({"wall.png": [box]}))
    args = ["anonymize", pictures, "--out", tmp_path / "out", "--boxes", tmp_path / "b.json"]
    outcome = deid(*args, "--boxes-are", "replace", "--method", "blur", *PLAIN)
    assert outcome.code == 0, outcome.stderr
    x0, y0, x1, y1 = (
        int(min(max(v, 0), most)) for v, most in zip(box, (300, 200) * 2, strict=True)
    )
    assert black_share(tmp_path / "out" / "images" / "wall.png", (x0, y0, x1, y1)) == 1.0


def test_what_a_given_box_covered_comes_back_exactly(
    tmp_path: Path, pictures: Path, deid: Deid
) -> None:
    (tmp_path / "b.json").write_text(json.dumps({"wall.png": [[20, 180, 280, 195]]}))
    password = tmp_path / "password"
    password.write_text("velvet harbor sixteen lanterns")
    password.chmod(0o600)
    out, back = tmp_path / "out", tmp_path / "back"
    args = ["anonymize", pictures, "--out", out, "--boxes", tmp_path / "b.json", "--seal"]
    args += ["--boxes-are", "replace", "--method", "blur", "--password-file", password]
    assert deid(*args, *PLAIN).code == 0
    assert deid("restore", out, "--to", back, "--password-file", password).code == 0
    original, restored = (
        np.asarray(Image.open(path).convert("RGB"))
        for path in (pictures / "wall.png", back / "images" / "wall.png")
    )
    assert np.array_equal(original, restored)


def test_boxes_that_replace_have_to_be_there(tmp_path: Path, pictures: Path, deid: Deid) -> None:
    outcome = deid("anonymize", pictures, "--out", tmp_path / "out", "--boxes-are", "replace")
    assert outcome.code == 2 and "--boxes FILE" in outcome.stderr
    assert not (tmp_path / "out").exists()
