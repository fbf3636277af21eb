"""The front door for Python: `anonymize`, `score`, `Deidentifier`, and the examples of them."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import deidcli
from deidcli.api import anonymize, score
from deidcli.deidentifier import Deidentifier, Done
from deidcli.errors import DeidError, Stopped, UsageError
from deidcli.pipeline import anonymize as pipeline
from deidcli.pipeline import opening, replacing, stages
from tests.conftest import PEOPLE, ROOT, copy_people, tree

PASSWORD = "orbit velvet lantern 41"


def run_python(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python program in a process of its own, with the `deidcli` of this checkout."""
    own = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, *args], env=own, capture_output=True, text=True, timeout=240, check=False
    )


def small_pngs(folder: Path, count: int = 2) -> Path:
    """Some example portraits of 160 px as PNG, so that what is published can be compared."""
    folder.mkdir()
    for number in range(1, count + 1):
        picture = Image.open(PEOPLE / "portraits" / f"person_{number:02d}.jpg").convert("RGB")
        picture.resize((160, 160), Image.Resampling.LANCZOS).save(folder / f"p{number}.png")
    return folder


def pixels_of(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"))


# ---------------------------------------------------------------------------- import


def test_import_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "pyarrow", "cv2", "PIL", "typer", "deidcli.pipeline.anonymize")
    code = (
        "import sys, deidcli; deidcli.__version__; deidcli.__all__; "
        f"print([name for name in {heavy} if name in sys.modules]); "
        "from deidcli import anonymize, score, Deidentifier, DeidError; "
        "print([name for name in ('torch', 'numpy', 'pyarrow') if name in sys.modules])"
    )
    assert run_python("-c", code).stdout.split("\n")[:2] == ["[]", "[]"]


def test_public_names_are_there_and_no_others() -> None:
    for name in deidcli.__all__:
        assert getattr(deidcli, name).__name__ == name and name in dir(deidcli)
    with pytest.raises(AttributeError, match="anonymise"):
        _ = deidcli.anonymise  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------- anonymize


def test_anonymize_does_what_the_command_does(tmp_path: Path, deid: Any) -> None:
    source = small_pngs(tmp_path / "in")
    record = anonymize(
        source, "pixelate", tmp_path / "a", blocks=3, seed=1, names="keep", workers=1
    )
    args = ("--set", "blocks=3", "--seed", 1, "--names", "keep", "--workers", 1, "--json")
    told = deid("anonymize", source, "--out", tmp_path / "b", "-m", "pixelate", *args).json
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert record["output"] == str(tmp_path / "a")
    assert record["counts"] == told["counts"] and record["counts"]["ok"] == 2
    assert record["settings"]["method_settings"]["blocks"] == 3.0
    written = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert {key: record[key] for key in written} == written


def test_anonymize_blurs_unless_told_otherwise(tmp_path: Path) -> None:
    record = anonymize(str(small_pngs(tmp_path / "in", 1)), workers=1)
    assert record["settings"]["method"] == "blur"
    assert record["output"] == str(tmp_path / "in-deid")


def test_unknown_settings_are_refused_by_name_before_anything_is_written(tmp_path: Path) -> None:
    source = small_pngs(tmp_path / "in", 1)
    with pytest.raises(UsageError, match=r"'simga'.*blur has: sigma, .*a run has: attrs, output"):
        anonymize(source, simga=0.3)
    with pytest.raises(UsageError, match="blocks"):  # of another method
        anonymize(source, method="blur", blocks=3)
    with pytest.raises(UsageError, match="no setting 'settings'"):
        anonymize(source, settings={"sigma": 3})
    with pytest.raises(UsageError, match=r"no method 'blurr' \(one of: surrogate"):
        anonymize(source, "blurr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("seed", "3", "a whole number or None"),
        ("seed", True, "a whole number or None"),
        ("seal", 1, "True or False"),
        ("gate", False, "a number or None"),
        ("output", 3, "text"),
        ("output", "chips", "frames, crops"),
    ],
)
def test_settings_of_the_wrong_type_are_refused(name: str, value: Any, wanted: str) -> None:
    with pytest.raises(UsageError, match=f"{name}.*{wanted}"):
        anonymize("nowhere", **{name: value})


def test_no_setting_of_a_method_is_called_as_an_option() -> None:
    import dataclasses

    from deidcli.api import every_option
    from deidcli.methods import METHODS, settings_class

    for method in METHODS:
        own = {field.name for field in dataclasses.fields(settings_class(method))}
        assert own & {*every_option(), "method", "out", "password", "reporter"} <= {"attrs"}


def test_a_password_is_wanted_where_one_is_needed_and_nowhere_else(tmp_path: Path) -> None:
    source = small_pngs(tmp_path / "in", 1)
    with pytest.raises(UsageError, match="sdn needs a password"):
        anonymize(source, "sdn")
    with pytest.raises(UsageError, match="blur needs a password"):
        anonymize(source, seal=True)
    with pytest.raises(UsageError, match="blur takes no password"):
        anonymize(source, password=PASSWORD)
    with pytest.raises(UsageError, match="most common"):
        anonymize(source, "sdn", password="password1234")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_what_is_sealed_here_comes_back_with_the_command(tmp_path: Path, deid: Any) -> None:
    source, out = small_pngs(tmp_path / "in"), tmp_path / "out"
    anonymize(source, out=out, seal=True, password="u\u0308" + PASSWORD, names="keep", workers=1)
    file = tmp_path / "password"
    file.write_text("\u00fc" + PASSWORD)  # the same text, composed
    file.chmod(0o600)
    assert deid("restore", out, "--to", tmp_path / "back", "--password-file", file).code == 0
    for path in source.iterdir():
        original = pixels_of(path)
        assert not np.array_equal(original, pixels_of(out / "images" / path.name))
        assert np.array_equal(original, pixels_of(tmp_path / "back" / "images" / path.name))


def test_what_the_user_should_know_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = small_pngs(tmp_path / "in", 1)
    with caplog.at_level(logging.INFO, "deidcli"):
        anonymize(source, workers=1)
        anonymize(source, workers=1)
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert ("WARNING", "already done, nothing was left to do") in told
    assert any(level == "INFO" and text.startswith("loading") for level, text in told)


def test_ctrl_c_is_what_python_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise Stopped("the same command again resumes")

    monkeypatch.setattr(pipeline, "anonymize", stop)
    with pytest.raises(KeyboardInterrupt):
        anonymize("somewhere")


def test_a_script_without_a_main_guard_is_run_once(tmp_path: Path) -> None:
    source = copy_people(tmp_path / "in", 2)
    copy_people(source / "more", 2)
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom deidcli import anonymize\nprint('begun')\n"
        "record = anonymize(sys.argv[1], workers=2)\nprint(record['counts']['ok'])\n"
    )
    said = run_python(str(script), str(source))
    assert said.stdout.split() == ["begun", "4"], said.stderr


# ---------------------------------------------------------------------------- score


def test_score_returns_what_the_command_prints(tmp_path: Path, deid: Any) -> None:
    source, out = small_pngs(tmp_path / "in"), tmp_path / "out"
    anonymize(source, out=out, workers=1)
    report = score(out, recognizers=["dlib"], device="cpu", workers=1)
    told = deid("score", out, "--recognizer", "dlib", "--device", "cpu", "--workers", 1, "--json")
    assert json.loads(json.dumps(report)) == told.json
    assert report["faces"] == 2 and set(report["recognizers"]) == {"dlib"}
    # Pictures of another tool: the originals are given.
    other = tmp_path / "other"
    other.mkdir()
    for path in source.iterdir():
        Image.open(path).save(other / path.name)
    same = score(other, source, recognizers="dlib", device="cpu", workers=1)
    values = {row["metric"]: row["value"] for row in same["rows"] if not row["group"]}
    assert values["rank-1"] == 1.0 and values["ID-distance"] < 1e-6


def test_score_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no recognizer is called arcface .*dlib"):
        score(tmp_path, recognizers=["arcface"])
    with pytest.raises(UsageError, match="cpu, cuda"):
        score(tmp_path, device="tpu")
    with pytest.raises(DeidError):
        score(tmp_path / "nothing")


# ---------------------------------------------------------------------------- Deidentifier


@pytest.mark.parametrize(
    ("method", "settings"), [("pixelate", {"blocks": 2}), ("dae", {}), ("eae", {"attrs": "GS"})]
)
def test_a_picture_in_memory_is_replaced_as_one_of_a_data_set(
    method: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    source, out = small_pngs(tmp_path / "in"), tmp_path / "out"
    common = {"seed": 3, "device": "cpu", **settings}
    anonymize(source, method, out, names="keep", workers=1, **common)
    deidentify = Deidentifier(method, **common)
    for path in sorted(source.iterdir()):
        picture, done = deidentify(pixels_of(path), key=path.name)
        assert done.status == "ok" and [face.method for face in done.faces] == [method]
        np.testing.assert_array_equal(picture, pixels_of(out / "images" / path.name))


def test_what_was_done_is_told(portrait: NDArray[np.uint8]) -> None:
    before = portrait.copy()
    picture, done = Deidentifier("blackout")(portrait)
    assert isinstance(done, Done) and isinstance(picture, np.ndarray)
    (face,) = done.faces
    assert done.status == "ok" and face.method == "blackout" and face.score > 0.2
    assert face.gate_distance is not None
    x0, y0, x1, y1 = (round(value) for value in face.box)
    assert 0 < x0 < x1 < 192 and 0 < y0 < y1 < 192
    assert picture[(y0 + y1) // 2, (x0 + x1) // 2].max() == 0
    np.testing.assert_array_equal(portrait, before)  # the caller's own is as it was
    np.testing.assert_array_equal(picture[:4, :4], portrait[:4, :4])


def test_a_face_that_still_matches_is_blacked_out(portrait: NDArray[np.uint8]) -> None:
    picture, done = Deidentifier("pixelate", block_px=1)(portrait)
    assert done.status == "fallback" and [face.method for face in done.faces] == ["blackout"]
    distance = done.faces[0].gate_distance
    assert distance is not None and distance <= 0.6
    assert picture is not None and picture[96, 96].max() == 0
    _, without = Deidentifier("pixelate", block_px=1, no_gate=True)(portrait)
    assert without.status == "ok" and without.faces[0].gate_distance is None


def test_the_seed_and_the_picture_choose_the_face(portrait: NDArray[np.uint8]) -> None:
    def face(deidentify: Deidentifier, key: str | None = None) -> NDArray[np.uint8]:
        picture, _ = deidentify(portrait, key=key)
        assert picture is not None
        return picture

    def faces(deidentify: Deidentifier) -> list[bytes]:
        return [face(deidentify, key).tobytes() for key in "abcde"]

    first = Deidentifier("dae", seed=0)
    assert faces(first) == faces(Deidentifier("dae", seed=0))
    assert len(set(faces(first))) > 1
    assert faces(first) != faces(Deidentifier("dae", seed=1))
    own, other = Deidentifier("dae"), Deidentifier("dae")
    assert faces(own) == faces(pickle.loads(pickle.dumps(own)))
    assert faces(own) != faces(other)  # each draws its own secret
    # Without a key the pixels are it; so other pixels far from the face choose another face.
    made = []
    for shade in range(5):
        pixels = portrait.copy()
        pixels[0, 0] = shade
        picture, _ = first(pixels)
        assert picture is not None
        made.append(picture[1:].tobytes())
    assert len(set(made)) > 1


def test_without_a_face_nothing_comes_back_unless_asked_for() -> None:
    wall = np.full((120, 160, 3), 90, np.uint8)
    picture, done = Deidentifier("blur")(wall)
    assert picture is None and done.status == "no_face" and "withheld" in done.reason
    picture, done = Deidentifier("blur", on_no_face="blackout")(wall)
    assert picture is not None and picture.shape == wall.shape and picture.max() == 0
    assert done.status == "no_face" and done.faces == () and "black" in done.reason
    picture, done = Deidentifier("blur", on_no_face="copy")(wall)
    np.testing.assert_array_equal(picture, wall)
    assert done.status == "no_face"


def test_given_boxes_are_covered_whatever_the_detector_finds(
    portrait: NDArray[np.uint8],
) -> None:
    wall = np.full((120, 160, 3), 90, np.uint8)
    for boxes in ([(20, 30, 60, 80)], np.array([[20, 30, 60, 80]]), [[20, 30, 60, 80]]):
        picture, done = Deidentifier("blur")(wall, boxes)
        assert done.status == "ok" and done.faces[0].method == "blackout"  # there is no face
        assert picture is not None and picture[30:80, 20:60].max() == 0
        assert picture[:, 100:].min() == 90
    both = np.concatenate([portrait, np.full_like(portrait, 90)], 1)
    box = [(260, 60, 320, 140)]
    _, added = Deidentifier("blur")(both, box)
    _, alone = Deidentifier("blur", boxes_are="replace")(both, box)
    assert [len(done.faces) for done in (added, alone)] == [2, 1]
    _, none = Deidentifier("blur", boxes_are="replace")(both, [])
    assert none.status == "no_face"
    _, sides = Deidentifier("blur", box_format="xywh")(wall, [(20, 30, 40, 50)])
    assert sides.faces[0].box == (20, 30, 60, 80)
    for wrong in ([(200, 30, 260, 80)], [(60, 30, 20, 80)], [(1, 2, 3)], 7):
        with pytest.raises(DeidError):
            Deidentifier("blur")(wall, wrong)  # type: ignore[call-overload]


def test_pillow_pictures_come_back_upright_and_bare(tmp_path: Path) -> None:
    upright = Image.open(PEOPLE / "portraits" / "person_01.jpg").convert("RGB")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    path = tmp_path / "turned.png"
    upright.rotate(90, expand=True).save(path, exif=exif)
    deidentify = Deidentifier("blur", seed=0)
    picture, done = deidentify(Image.open(path))
    expected, _ = deidentify(np.asarray(upright))
    assert isinstance(picture, Image.Image) and picture.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(picture), expected)
    assert not picture.getexif() and "exif" not in picture.info
    assert "EXIF orientation applied" in done.notes
    gray, done = deidentify(upright.convert("L"))
    assert isinstance(gray, Image.Image) and gray.mode == "RGB" and done.status == "ok"


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((40, 40, 3), np.float32),
        np.zeros((40, 40), np.uint8),
        np.zeros((3, 40, 40), np.uint8),
        np.zeros((40, 40, 4), np.uint8),
        np.zeros((0, 40, 3), np.uint8),
        "portrait.jpg",
        None,
    ],
)
def test_what_is_no_picture_is_refused(picture: Any) -> None:
    with pytest.raises(UsageError, match="no picture"):
        Deidentifier("blackout")(picture)


def test_a_cut_picture_is_refused(tmp_path: Path) -> None:
    data = (PEOPLE / "portraits" / "person_01.jpg").read_bytes()
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DeidError, match="cannot be decoded"):
        Deidentifier("blackout")(Image.open(path))


def test_methods_that_do_not_fit_are_refused(portrait: NDArray[np.uint8]) -> None:
    with pytest.raises(UsageError, match="k-same looks at all faces"):
        Deidentifier("k-same")
    with pytest.raises(UsageError, match="sdn needs a password"):
        Deidentifier("sdn")
    with pytest.raises(UsageError, match="blur takes no password"):
        Deidentifier("blur", password=PASSWORD)
    with pytest.raises(UsageError, match=r"'names'.*blur has: sigma.*on_no_face"):
        Deidentifier("blur", names="keep")
    with pytest.raises(UsageError, match="'attrs'"):  # blur keeps none
        Deidentifier("blur", attrs="GS")
    with pytest.raises(UsageError, match="detector"):
        Deidentifier("blur", detector="best")
    deidentify = Deidentifier("sdn", password=PASSWORD, seed=0)
    _, done = deidentify(portrait)
    assert done.status == "ok" and done.faces[0].method == "sdn"
    assert PASSWORD.encode() not in pickle.dumps(deidentify)


def test_whatever_goes_wrong_no_picture_comes_back(
    portrait: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> Any:
        raise ValueError("broken")

    deidentify = Deidentifier("blur")
    with monkeypatch.context() as patched:
        patched.setattr(opening, "_find", broken)
        with pytest.raises(DeidError, match="detection: ValueError: broken"):
            deidentify(portrait)
    with monkeypatch.context() as patched:
        patched.setattr(replacing, "_apply", broken)
        with pytest.raises(ValueError, match="broken"):
            deidentify(portrait)
    with monkeypatch.context() as patched:
        patched.setattr(replacing, "replace_faces", lambda works, run, stages: None)
        with pytest.raises(DeidError, match="a face was not replaced"):
            deidentify(portrait)


def test_settings_travel_and_networks_do_not(portrait: NDArray[np.uint8]) -> None:
    deidentify = Deidentifier("dae", seed=0)
    fresh = pickle.dumps(deidentify)
    deidentify(portrait)
    assert pickle.dumps(deidentify) == fresh and len(fresh) < 4000
    loaded = stages._load_stages.cache_info().misses
    pickle.loads(fresh)(portrait)
    assert stages._load_stages.cache_info().misses == loaded  # once a process


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
def test_a_forked_process_loads_its_own_and_does_not_wait_for_lost_threads(
    tmp_path: Path, portrait: NDArray[np.uint8]
) -> None:
    """As workers of `datasets.map` and of a DataLoader are made."""
    Image.fromarray(portrait).save(tmp_path / "p.png")
    code = f"""
import os, sys
import cv2, numpy as np
from PIL import Image
from deidcli import Deidentifier
from deidcli.pipeline import stages
cv2.setNumThreads(4)
for _ in range(8):
    cv2.GaussianBlur(np.zeros((3000, 3000, 3), np.uint8), (9, 9), 3)
pixels = np.asarray(Image.open({str(tmp_path / "p.png")!r}))
deidentify = Deidentifier("dae", seed=0)
first, _ = deidentify(pixels)
child = os.fork()
if child == 0:
    again, _ = deidentify(pixels)
    import torch
    print(np.array_equal(first, again), cv2.getNumThreads() <= 1, torch.get_num_threads(),
          stages._load_stages.cache_info().misses, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    said = run_python("-c", code)
    assert said.stdout.split() == ["True", "True", "1", "2"], said.stderr


# ---------------------------------------------------------------------------- examples


def test_example_of_anonymize_and_score(tmp_path: Path) -> None:
    source = small_pngs(tmp_path / "in", 3)
    script = ROOT / "examples" / "python_anonymize.py"
    said = run_python(str(script), str(source), str(tmp_path / "out"))
    lines = said.stdout.splitlines()
    assert lines[0] == "3 of 3 inputs published, 3 faces", said.stderr
    assert [line.split(":")[0] for line in lines[1:]] == ["rank-1", "SSIM"]
    assert len(list((tmp_path / "out" / "images").iterdir())) == 3


def test_example_of_a_deidentifier_in_datasets_and_in_a_data_loader(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    source = copy_people(tmp_path / "in", 3)
    blank = np.full((384, 384, 3), 90, np.uint8)
    cv2.imwrite(str(source / "wall.jpg"), blank)
    said = run_python(
        str(ROOT / "examples" / "python_deidentifier.py"), str(source), HF_HOME=str(tmp_path / "hf")
    )
    assert said.stdout.splitlines() == [
        "one picture: ok ['dae']",
        "datasets.map: ['ok', 'ok', 'ok', 'no_face']",
        "DataLoader: (2, 384, 384, 3)",
        "DataLoader: (2, 384, 384, 3)",
    ], said.stderr
