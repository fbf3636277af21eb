"""What is encoded and published: pixels, and none of the source's metadata."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from deidcli.data.images import decode
from deidcli.methods import parse_settings
from deidcli.pipeline.encoding import encoded
from tests.conftest import Outcome, picture_bytes
from tests.datasets import portraits, write_shard
from tests.pipeline.making import LEFT, RIGHT, a_face, a_run, some_work

Deid = Callable[..., Outcome]


def test_exif_gps_and_thumbnail_are_gone(tmp_path: Path, portrait: np.ndarray, deid: Deid) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x010E] = "CANARY description"
    exif[0x9286] = b"CANARY comment"
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 15.0)
    thumbnail = picture_bytes(portrait[::4, ::4])
    blob = exif.tobytes() + b"CANARY thumbnail" + thumbnail
    for format in ("jpg", "png", "webp", "tif"):
        name = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tif": "TIFF"}[format]
        extra = {"comment": b"CANARY"} if name == "JPEG" else {}
        data = picture_bytes(portrait, name, exif=exif if name == "TIFF" else blob, **extra)
        assert b"CANARY" in data
        (folder / f"p.{format}").write_bytes(data)
    assert deid("anonymize", folder, "--out", out, "--workers", 1).code == 0
    for path in (out / "images").iterdir():
        data = path.read_bytes()
        assert b"CANARY" not in data and thumbnail[:64] not in data, path
        with Image.open(path) as picture:
            tags = set(picture.getexif())
        # 700 is the mark's XMP; the others say how the pixels of a TIFF are laid out.
        layout = {256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 339, 700}
        assert tags <= layout if path.suffix == ".tif" else not tags, (path, tags)


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


def test_a_crop_a_face_numbered_as_they_were_found(tmp_path: Path) -> None:
    """A face without landmarks has no crop, and keeps its number."""
    chip = np.full((64, 64, 3), 9, np.uint8)
    work = some_work(
        [a_face(LEFT, fitted=False), a_face(RIGHT), a_face(LEFT)], [1, 2, 3], "x/a.png"
    )
    for face in work.fitted:
        face.chip, face.method = chip, "blur"
    result = encoded(work, a_run(tmp_path / "out", output="crops", method="blur"))
    assert [output.name for output in result.outputs] == ["x/a_1.png", "x/a_2.png"]
    assert (result.faces, result.covered) == (3, 1)
    assert [output.faces[0].box for output in result.outputs] == [RIGHT, LEFT]
    assert (decode(result.outputs[0].data).pixels == 9).all()
    hidden = encoded(work, a_run(tmp_path / "out", output="crops", secret=b"s"))
    names = [output.name for output in hidden.outputs]
    assert len(set(names)) == 2 and not any(n[0] == "a" or "_" in n for n in names)


def test_the_mark_says_what_was_done_to_this_picture(tmp_path: Path) -> None:
    given = {"method": "eae", "method_settings": dataclasses.asdict(parse_settings("eae", {}))}
    run = a_run(tmp_path / "out", **given)
    trained, plain = b"compositeWithTrainedAlgorithmicMedia", b"algorithmicallyEnhanced"
    for methods, said in (
        (("eae", "blackout"), trained),
        (("blackout", "blackout"), plain),
        ((), None),
    ):
        work = some_work([a_face(LEFT), a_face(RIGHT)][: len(methods)], range(len(methods)))
        for face, method in zip(work.faces, methods, strict=True):
            face.method = method
        data = encoded(work, run).outputs[0].data
        assert (trained in data, plain in data) == (said == trained, said == plain)
        unmarked = encoded(work, a_run(tmp_path / "out", **given, mark=False)).outputs[0].data
        assert b"DigitalSourceType" not in unmarked


def test_a_jpeg_has_the_quality_that_was_asked_for_and_the_frames_sides(tmp_path: Path) -> None:
    work = some_work([a_face(LEFT)], [1])
    work.sample = dataclasses.replace(work.sample, format="JPEG")
    made = [
        encoded(work, a_run(tmp_path / "out", jpeg_quality=quality)).outputs[0]
        for quality in (20, 60, 100)
    ]
    assert len(made[0].data) < len(made[1].data) < len(made[2].data)
    assert all(output.data[:2] == b"\xff\xd8" for output in made)
    assert [(output.width, output.height) for output in made] == [(260, 180)] * 3


def test_a_format_that_cannot_hold_it_fails_that_picture_alone(tmp_path: Path) -> None:
    work = some_work([a_face(LEFT)], [1])
    work.frame = np.zeros((1, 70_000, 3), np.uint8)
    work.sample = dataclasses.replace(work.sample, format="JPEG")
    result = encoded(work, a_run(tmp_path / "out"))
    assert result.status == "failed" and result.reason.startswith("encoding: ")
    assert not result.outputs
