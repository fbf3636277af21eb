"""`deid anonymize` as a whole: outputs, accounting, refusals."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deidcli.methods import METHODS
from tests.conftest import (
    PEOPLE,
    Outcome,
    copy_people,
    picture_bytes,
    private_faces,
    statuses,
)

Deid = Callable[..., Outcome]


def test_examples_come_out_whole(tmp_path: Path, deid: Deid) -> None:
    out = tmp_path / "out"
    outcome = deid("anonymize", PEOPLE, "--out", out, "--names", "keep", "--no-gate")
    assert outcome.code == 0, outcome.stderr
    pictures = {p.relative_to(PEOPLE).as_posix() for p in PEOPLE.rglob("*.jpg")}
    rows = pq.read_table(out / "metadata.parquet").to_pylist()
    assert {row["file_name"] for row in rows} == {f"images/{name}" for name in pictures}
    for row in rows:
        with Image.open(out / row["file_name"]) as picture:
            assert picture.size == (row["width"], row["height"])
        faces = row["faces"]
        assert len(faces) == (1 if "portraits" in row["file_name"] else len(faces)) >= 1
    assert sum(len(row["faces"]) for row in rows if "scenes" in row["file_name"]) >= 26
    assert oct(out.with_name("out.private").stat().st_mode & 0o777) == oct(stat.S_IRWXU)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_replaces_every_face(
    tmp_path: Path, method: str, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEID_PASSWORD", "four gray herons wait")  # for the methods that need one
    folder, out = copy_people(tmp_path / "in", 4), tmp_path / "out"
    extra: list[object] = ["--set", "k=2"] if method == "k-same" else []
    extra += ["--names", "keep", "--workers", 1]
    outcome = deid("anonymize", folder, "--out", out, "--method", method, *extra)
    assert outcome.code == 0, outcome.stderr
    faces = private_faces(out)
    for row in pq.read_table(out / "metadata.parquet").to_pylist():
        face = faces[row["file_name"]][0]
        before = np.asarray(Image.open(folder / Path(row["file_name"]).name)).astype(int)
        after = np.asarray(Image.open(out / row["file_name"])).astype(int)
        x0, y0, x1, y1 = (round(v) for v in face["box"])
        inner = (slice(y0 + 10, y1 - 10), slice(x0 + 10, x1 - 10))
        assert np.abs(before[inner] - after[inner]).mean() > 8
        far = face["gate_distance"] > 0.6
        assert far or face["method"] == "blackout"
        assert (row["status"] == "fallback") == (not far and method != "blackout")
    assert deid("verify", out).code == 0


def test_nothing_but_the_region_changes(tmp_path: Path, portrait: np.ndarray, deid: Deid) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    canvas = np.full((500, 700, 3), 200, np.uint8)
    canvas[150:342, 250:442] = portrait
    (folder / "p.png").write_bytes(picture_bytes(canvas, "PNG"))
    args = ["anonymize", folder, "--out", out, "--names", "keep", "--workers", 1]
    assert deid(*args).code == 0
    after = np.asarray(Image.open(out / "images/p.png"))
    changed = np.argwhere((after != canvas).any(axis=2))
    (y0, x0), (y1, x1) = changed.min(0), changed.max(0)
    assert y0 > 60 and x0 > 160 and y1 < 430 and x1 < 530
    assert (after[200:300, 300:390] == 0).all()


def test_gate_blacks_out_a_face_that_still_matches(tmp_path: Path, deid: Deid) -> None:
    """A 3x3 blur hides nothing; without the gate it would be published."""
    folder = copy_people(tmp_path / "in", 3)
    weak = ["--method", "blur", "--set", "kernel_px=3", "--workers", 1, "--json"]
    gated = deid("anonymize", folder, "--out", tmp_path / "gated", *weak)
    assert gated.json["counts"]["fallback"] == 3
    rows = pq.read_table(tmp_path / "gated/metadata.parquet").to_pylist()
    assert all(row["faces"][0]["method"] == "blackout" for row in rows)
    faces = private_faces(tmp_path / "gated")
    assert all(face["gate_distance"] < 0.6 for (face,) in faces.values())
    for row in rows:
        after = np.asarray(Image.open(tmp_path / "gated" / row["file_name"]))
        x0, y0, x1, y1 = (round(v) for v in faces[row["file_name"]][0]["box"])
        rim = (x1 - x0) // 8  # the region is an ellipse: a box's corners may lie outside it
        assert after[y0 + rim : y1 - rim, x0 + rim : x1 - rim].max() <= 12
    # The distance would help to find the original among suspects.
    assert all(set(row["faces"][0]) == {"method"} for row in rows)
    free = deid("anonymize", folder, "--out", tmp_path / "free", *weak, "--no-gate")
    assert free.json["counts"]["ok"] == 3


def test_no_face_is_withheld_unless_asked(tmp_path: Path, deid: Deid) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    flat = np.full((120, 160, 3), 130, np.uint8)
    (folder / "wall.png").write_bytes(picture_bytes(flat, "PNG"))
    for choice, value in (("withhold", None), ("copy", 130), ("blackout", 0)):
        out = tmp_path / choice
        args = ["anonymize", folder, "--out", out, "--on-no-face", choice, "--workers", 1]
        assert deid(*args, "--names", "keep").code == 0
        assert statuses(out)["wall.png"][0] == "no_face"
        if value is None:
            assert not (out / "images").exists()
        else:
            assert (np.asarray(Image.open(out / "images/wall.png")) == value).all()
        assert deid("verify", out).code == 0


def test_detector_none_takes_each_picture_as_a_face(tmp_path: Path, deid: Deid) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    noise = np.random.default_rng(1).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    (folder / "chip.png").write_bytes(picture_bytes(noise, "PNG"))
    args = ["anonymize", folder, "--out", out, "--detector", "none", "--workers", 1]
    assert deid(*args, "--names", "keep").code == 0
    assert (np.asarray(Image.open(out / "images/chip.png"))[8:-8, 8:-8] == 0).all()


def test_random_names_hide_the_source(tmp_path: Path, small_portraits: Path, deid: Deid) -> None:
    out = tmp_path / "out"
    assert deid("anonymize", small_portraits, "--out", out).code == 0
    names = [path.name for path in (out / "images").rglob("*") if path.is_file()]
    assert len(names) == 12 and not any(name.startswith("p") for name in names)
    published = b"".join(
        path.read_bytes() for path in out.rglob("*") if path.suffix != ".jpg" and path.is_file()
    )
    for number in range(1, 13):
        assert f"p{number:02d}.jpg".encode() not in published
    listed = pq.read_table(out / "metadata.parquet")["file_name"].to_pylist()
    assert listed == sorted(listed)


def test_nothing_of_the_source_is_published(
    tmp_path: Path, small_portraits: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, machine = tmp_path / "out", "a-machine-of-this-name"
    monkeypatch.setattr("platform.node", lambda: machine)  # "vm" may stand in any picture's bytes
    monkeypatch.setattr("socket.gethostname", lambda: machine)
    assert deid("anonymize", small_portraits, "--out", out).code == 0
    everything = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert str(tmp_path).encode() not in everything
    assert machine.encode() not in everything
    for text in (out / "manifest.json", out / "README.md"):
        assert f'"{os.uname().nodename}"' not in text.read_text()


def test_clear_errors(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 2)
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "file.txt").write_text("x")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("precious")
    cases: list[tuple[list[object], int, str]] = [
        (["anonymize", tmp_path / "missing"], 1, "does not exist"),
        (["anonymize", empty], 1, "holds no picture"),
        (["anonymize", tmp_path / "file.txt"], 1, "neither a picture nor a parquet"),
        (["anonymize", folder, "--out", folder / "out"], 1, "one in the other"),
        (["anonymize", folder, "--out", folder], 1, "one in the other"),
        (["anonymize", folder, "--out", tmp_path], 1, "one in the other"),
        (["anonymize", folder, "--out", tmp_path / "file.txt"], 1, "is a file"),
        (["anonymize", folder, "--out", tmp_path / "file.txt/x"], 1, ""),
        (["anonymize", folder, "--out", "/proc/deid-out"], 1, "cannot be written"),
        (["anonymize", folder, "--out", foreign], 1, "did not write"),
        (["anonymize", folder, "--out", foreign, "--overwrite"], 1, "did not write"),
        (["anonymize", folder, "--method", "nonsense"], 2, "no method"),
        (["anonymize", folder, "--set", "k=3"], 2, "no setting"),
        (["anonymize", folder, "--set", "k"], 2, "key=value"),
        (["anonymize", folder, "--method", "k-same", "--set", "k=x"], 2, "whole number"),
        (["anonymize", folder, "--method", "k-same", "--set", "k=1"], 2, "between 2 and"),
        (["anonymize", folder, "--detector", "eyes"], 2, "--detector"),
        (["anonymize", folder, "--attrs", "Q"], 2, "knows no attribute"),
        (["anonymize", folder, "--attrs", ""], 2, "names no attribute"),
        (["anonymize", folder, "--gate", "0.9", "--no-gate"], 2, "contradict"),
        (["anonymize", folder, "--gate", "9"], 2, "--gate"),
        (["anonymize", folder, "--method", "k-same", "--workers", 1], 1, "at least k = 10"),
        (["anonymize", folder, "--no-such-option"], 2, "no-such-option"),
        (["verify", tmp_path / "missing"], 1, "not a finished output"),
    ]
    for args, code, words in cases:
        outcome = deid(*args)
        assert outcome.code == code, (args, outcome.stderr)
        assert words in outcome.stderr, (args, outcome.stderr)
        assert "Traceback" not in outcome.stderr and outcome.stdout == ""
        if code == 1:
            lines = [line for line in outcome.stderr.splitlines() if "img/s" not in line]
            assert len([line for line in lines if line.startswith("deid: ")]) == 1
            shutil.rmtree(tmp_path / "in-deid", ignore_errors=True)
            shutil.rmtree(tmp_path / "in-deid.private", ignore_errors=True)
    assert (foreign / "thesis.txt").read_text() == "precious"
    assert sorted(p.name for p in folder.iterdir()) == ["person_01.jpg", "person_02.jpg"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_full_disk(tmp_path: Path, small_portraits: Path, deid: Deid) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        args = ["anonymize", small_portraits, "--out", disk / "out", "--workers", 1, "--no-gate"]
        outcome = deid(*args)
        assert outcome.code == 1 and "no space left" in outcome.stderr
        assert not (disk / "out/manifest.json").exists()
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        again = deid(*args)
        assert again.code == 0, again.stderr
        assert deid("verify", disk / "out").code == 0
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
