"""`deid anonymize` as a whole: outputs, accounting, determinism, resume, refusals."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
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
    manifest_without_times,
    picture_bytes,
    private_faces,
    statuses,
    tree,
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
        assert far or row["status"] == "fallback" or method == "blackout"
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


def test_output_does_not_depend_on_how_it_is_worked(
    tmp_path: Path, small_portraits: Path, deid: Deid
) -> None:
    """Batch size and worker count change no byte, the gate's distances included."""
    first = tmp_path / "first"
    base = ["anonymize", small_portraits, "--method", "blur", "--names", "keep"]
    assert deid(*base, "--out", first, "--batch-size", 1, "--workers", 1).code == 0
    for name, extra in {"b32": ["--batch-size", 32], "w2": ["--workers", 2]}.items():
        out = tmp_path / name
        assert deid(*base, "--out", out, *extra).code == 0
        assert tree(out) == tree(first)
        assert manifest_without_times(out) == manifest_without_times(first)


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


# ---------------------------------------------------------------------------- resume


def deid_command() -> list[str]:
    return [sys.executable, "-m", "deidcli"]


def test_killed_at_random_moments(tmp_path: Path, small_portraits: Path) -> None:
    """SIGKILL at 20 random points; the same command finishes with the same bytes."""
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    args = [*deid_command(), "anonymize", str(small_portraits), "--workers", "2"]
    args += ["--names", "keep", "--out"]
    begin = time.monotonic()
    subprocess.run([*args, str(whole)], check=True, capture_output=True)
    duration = time.monotonic() - begin
    chance = random.Random(4)
    for _ in range(20):
        process = subprocess.Popen(
            [*args, str(torn)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=chance.uniform(0.1, 1.05) * duration)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        if (torn / "manifest.json").exists():
            break
    done = subprocess.run([*args, str(torn)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert tree(torn) == tree(whole)
    assert manifest_without_times(torn) == manifest_without_times(whole)
    private = [tree(path.with_name(path.name + ".private")) for path in (whole, torn)]
    assert private[0]["link.parquet"] == private[1]["link.parquet"]
    subprocess.run([*deid_command(), "verify", str(torn)], check=True, capture_output=True)


@pytest.mark.parametrize("step", range(1, 21))
def test_killed_between_any_two_writes(
    tmp_path_factory: pytest.TempPathFactory, step: int, deid: Deid
) -> None:
    """A process that dies at its n-th file replacement leaves what the next run completes."""
    folder = copy_people(tmp_path_factory.mktemp("kill") / "in", 4)
    whole, torn = folder.parent / "whole", folder.parent / "torn"
    args = ["anonymize", folder, "--no-gate", "--names", "keep", "--workers", 1, "--out"]
    assert deid(*args, whole).code == 0

    class Killed(BaseException):
        pass

    real, left = os.replace, [step]

    def replace(source: object, target: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        real(source, target)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        try:
            deid(*args, torn)
        except Killed:
            assert not (torn / "manifest.json").exists()
    assert deid(*args, torn).code == 0
    assert tree(torn) == tree(whole)


def test_same_command_again_has_nothing_to_do(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    assert deid("anonymize", folder, "--out", out, "--workers", 1).code == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = deid("anonymize", folder, "--out", out, "--workers", 1)
    assert again.code == 0 and "already done" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_other_settings_are_refused_and_named(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    assert deid("anonymize", folder, "--out", out, "--workers", 1).code == 0
    before = tree(out)
    other = deid("anonymize", folder, "--out", out, "--method", "blur", "--seed", 3)
    assert other.code == 1
    assert "method (blackout -> blur)" in other.stderr and "seed (None -> 3)" in other.stderr
    assert "--overwrite" in other.stderr and tree(out) == before
    (folder / "new.jpg").write_bytes((folder / "person_01.jpg").read_bytes())
    changed = deid("anonymize", folder, "--out", out, "--workers", 1)
    assert changed.code == 1 and "input has changed" in changed.stderr
    over = deid("anonymize", folder, "--out", out, "--method", "blur", "--overwrite")
    assert over.code == 0 and json.loads((out / "manifest.json").read_text())["method"] == "blur"
    assert len(list((out / "images").iterdir())) == 3


def test_two_runs_at_once_are_refused(tmp_path: Path, deid: Deid) -> None:
    from deidcli.data.journal import Journal

    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    journal = Journal(out)
    journal.create()
    with journal.locked():
        outcome = deid("anonymize", folder, "--out", out, "--workers", 1)
    assert outcome.code == 1 and "another run" in outcome.stderr


# ---------------------------------------------------------------------------- refusals


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


def test_verify_notices_every_change(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 3), tmp_path / "out"
    args = ["anonymize", folder, "--out", out, "--names", "keep", "--workers", 1, "--no-gate"]
    assert deid(*args).code == 0
    whole = tmp_path / "kept"
    shutil.copytree(out, whole)

    def tampered(change: Callable[[], object]) -> None:
        shutil.rmtree(out)
        shutil.copytree(whole, out)
        change()
        assert deid("verify", out).code == 1

    picture = out / "images/person_02.jpg"
    manifest = out / "manifest.json"
    tampered(lambda: picture.write_bytes(picture.read_bytes()[:-1] + b"x"))
    tampered(picture.unlink)
    tampered(lambda: shutil.copy(folder / "person_01.jpg", out / "images/extra.jpg"))
    tampered(lambda: (out / "metadata.parquet").write_bytes(b"PAR1"))
    text = manifest.read_text()
    tampered(lambda: manifest.write_text(text.replace('"ok": 3', '"ok": 2')))
    tampered(lambda: (out / "SHA256SUMS").write_text(""))


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    program = (
        "import sys; from deidcli import cli; code = cli.run(['--help']);"
        "heavy = {'torch', 'dlib', 'cv2', 'ray', 'numpy', 'pyarrow', 'PIL'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_attributes_without_labels_are_predicted(tmp_path: Path, deid: Deid) -> None:
    """The example portraits bring no labels; 1 and 4 are men, 2 and 5 women, 4 wears glasses."""
    folder, out = copy_people(tmp_path / "in", 5), tmp_path / "out"
    args = ["anonymize", folder, "--out", out, "--attrs", "GE", "--workers", 1, "--json"]
    outcome = deid(*args, "--names", "keep")
    assert outcome.code == 0 and "predicted" in outcome.stderr
    assert outcome.json["predicted_attributes"] == ["Male", "Eyeglasses"]
    assert "attributes" in outcome.json["weights"]
    rows = {r["file_name"][-6:-4]: r for r in pq.read_table(out / "metadata.parquet").to_pylist()}
    assert [rows[n]["Male"] for n in ("01", "02", "04", "05")] == [1, -1, 1, -1]
    assert [rows[n]["Eyeglasses"] for n in ("01", "02", "04", "05")] == [-1, -1, 1, -1]
