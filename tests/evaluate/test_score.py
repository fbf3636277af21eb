"""`deid score` as a whole: controls of known answer, parity with dlib, caching, other tools."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dlib
import numpy as np
import pyarrow.parquet as pq
import pytest

from deidcli.data.images import decode
from deidcli.data.journal import private_folder
from deidcli.evaluate import features
from deidcli.evaluate.pairs import collect, open_pairs
from deidcli.faces.align import chip_affine, crop
from deidcli.weights.files import pip_file
from deidcli.weights.pip_files import DLIB_DETECTOR, DLIB_RECOGNIZER
from tests.conftest import (
    PEOPLE,
    Outcome,
    copy_people,
)
from tests.datasets import celeba, portraits, write_shard

Deid = Callable[..., Outcome]
BASIC = ["--workers", 1, "--no-gate"]


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


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten portraits of 160 px."""
    folder = tmp_path_factory.mktemp("originals") / "in"
    folder.mkdir()
    for number, data in enumerate(portraits(10, 160)):
        (folder / f"p{number}.jpg").write_bytes(data)
    return folder


def rows_of(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(r["metric"], r["recognizer"]): r for r in report["rows"] if not r["group"]}


def score(deid: Deid, *args: object) -> dict[tuple[str, str], dict[str, Any]]:
    outcome = deid("score", *args, "--recognizer", "dlib", "--workers", 1, "--json")
    assert outcome.code == 0, outcome.stderr
    return rows_of(outcome.json)


def test_originals_against_themselves(originals: Path, tmp_path: Path, deid: Deid) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(originals, copy)
    rows = score(deid, copy, "--against", originals)
    assert rows["DEID", "dlib"]["value"] == 0
    assert rows["SPR", "dlib"]["value"] == 0
    assert rows["rank-1", "dlib"]["value"] == 1
    assert rows["verification", "dlib"]["value"] == 1
    assert rows["ID-distance", "dlib"]["value"] == pytest.approx(0, abs=1e-6)
    assert rows["FCNS", ""]["value"] == rows["FCNS", ""]["original"] == 1
    assert rows["DIV", "dlib"]["value"] == rows["DIV", "dlib"]["original"]
    assert rows["DIV", "dlib"]["n"] == 10_000


def test_other_peoples_pictures(originals: Path, tmp_path: Path, deid: Deid) -> None:
    """Every published picture shows somebody else: DEID high, nobody is recognized."""
    folder = tmp_path / "other"
    folder.mkdir()
    names = sorted(path.name for path in originals.iterdir())
    for name, taken in zip(names, [*names[1:], names[0]], strict=True):
        shutil.copy(originals / taken, folder / name)
    rows = score(deid, folder, "--against", originals)
    assert rows["DEID", "dlib"]["value"] >= 0.7
    assert rows["rank-1", "dlib"]["value"] == 0
    assert rows["FCNS", ""]["value"] == 1


def test_blackout(originals: Path, tmp_path: Path, deid: Deid) -> None:
    out = tmp_path / "out"
    assert deid("anonymize", originals, "--out", out, "--workers", 1, "--no-gate").code == 0
    rows = score(deid, out)
    assert rows["FCNS", ""]["value"] == 0
    assert rows["detection HOG", ""]["value"] == 0
    # dlib's code of a black chip lies within 0.6 of a few faces: that is no recognition.
    assert rows["DEID", "dlib"]["value"] >= 0.7
    # All probes are the same, so that one original is the nearest to each: a draw by lot.
    assert rows["rank-1", "dlib"]["value"] == pytest.approx(0.1)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["scores"]["faces"] == 10 and manifest["method"] == "blackout"
    table = pq.read_table(tmp_path / "out.private/scores.parquet")
    assert table.num_rows == 10 and "distance_dlib" in table.column_names
    assert deid("verify", out).code == 0


def test_second_score_reads_what_the_first_computed(
    originals: Path, tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    args = ["anonymize", originals, "--out", out, "--method", "pixelate", "--workers", 1]
    assert deid(*args).code == 0
    first = score(deid, out)

    def never(*args: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(features, "compute", never)
    assert score(deid, out) == first


def test_workers_and_chunks_change_nothing(originals: Path, tmp_path: Path, deid: Deid) -> None:
    out = tmp_path / "out"
    args = ["anonymize", originals, "--out", out, "--method", "blur", "--workers", 1]
    assert deid(*args).code == 0
    pair_set = collect(out, None)
    whole = features.compute(pair_set, pair_set.pairs, ["dlib"], "cpu")
    parts = [features.compute(pair_set, pair_set.pairs[n : n + 3], ["dlib"], "cpu") for n in (0, 3)]
    for key in ("dlib/published", "dlib/original_blurred", "cnn_original", "attributes_published"):
        if key in whole:
            in_parts = np.concatenate([p[key] for p in parts])
            if key.startswith("attributes"):  # only cut at 0.5, so not held to the last bit
                assert np.allclose(whole[key][:6], in_parts, atol=1e-4)
            else:
                assert np.array_equal(whole[key][:6], in_parts), key


def test_crops_and_parquet_and_frames_agree(tmp_path: Path, deid: Deid) -> None:
    """The same faces, published in three ways, have nearly the same distances."""
    folder, shards = tmp_path / "in", tmp_path / "shards"
    folder.mkdir()
    data = portraits(4, 160)
    for number, picture in enumerate(data):
        (folder / f"{number}.jpg").write_bytes(picture)
    write_shard(shards / "train-0.parquet", [*data])
    found = {}
    for name, source, extra in (
        ("frames", folder, []),
        ("crops", folder, ["--output", "crops"]),
        ("parquet", shards, []),
    ):
        out = tmp_path / name
        args = ["anonymize", source, "--out", out, "--method", "pixelate", "--workers", 1]
        args += ["--names", "keep", "--set", "blocks=6", "--no-gate"]
        assert deid(*args, *extra).code == 0
        score(deid, out)
        table = pq.read_table(tmp_path / f"{name}.private/scores.parquet")
        found[name] = np.array(table["distance_dlib"].to_pylist())
    assert np.allclose(found["frames"], found["parquet"], atol=1e-6)
    assert np.abs(found["frames"] - found["crops"]).max() < 0.08


def test_parity_with_dlibs_own_calls(originals: Path, tmp_path: Path, deid: Deid) -> None:
    """FCNS and DEID against dlib's own Python functions on the same chips."""
    out = tmp_path / "out"
    args = ["anonymize", originals, "--out", out, "--method", "blur", "--workers", 1]
    assert deid(*args, "--set", "kernel_px=9", "--no-gate").code == 0
    detector = dlib.cnn_face_detection_model_v1(str(pip_file(DLIB_DETECTOR)))
    recognizer = dlib.face_recognition_model_v1(str(pip_file(DLIB_RECOGNIZER)))
    pair_set = collect(out, None)
    ours = features.compute(pair_set, pair_set.pairs, ["dlib"], "cpu")
    for row, pair in enumerate(open_pairs(pair_set, pair_set.pairs, "cpu")):
        before, after = pair.faces[0]
        size, padding = features.DETECT_SIZE, features.DETECT_PADDING
        chip = crop(pair.published, chip_affine(after, size, padding), size, extend=True)
        boxes = [d.rect for d in detector(chip, 0)]
        near = [
            features.iou(
                (b.left(), b.top(), b.right() + 1, b.bottom() + 1), features.expected_box()
            )
            for b in boxes
        ]
        assert any(v >= features.SAME_BOX for v in near) == ours["cnn_published"][row]
        codes = [
            np.array(recognizer.compute_face_descriptor(crop(f, chip_affine(p, 150, 0.25), 150)))
            for f, p in ((pair.original, before), (pair.published, after))
        ]
        theirs = float(np.linalg.norm(codes[0] - codes[1]))
        mine = float(np.linalg.norm(ours["dlib/original"][row] - ours["dlib/published"][row]))
        assert mine == pytest.approx(theirs, abs=1e-4)


def test_people_attributes_groups_and_linkability(tmp_path: Path, deid: Deid) -> None:
    root, out = celeba(tmp_path / "celeba"), tmp_path / "out"
    assert deid("anonymize", root, "--attrs", "GS", "--out", out, "--workers", 1).code == 0
    outcome = deid("score", out, "--recognizer", "dlib", "--workers", 1, "--json")
    rows = rows_of(outcome.json)
    assert rows["rank-1 by person", "dlib"]["chance"] == pytest.approx(2 / 12)
    assert rows["linkability", "dlib"]["n"] == 6
    assert rows["rank-1 by kept attributes alone", ""]["value"] == pytest.approx(2 / 12)
    assert {r["group"] for r in outcome.json["rows"]} >= {"Male", "not Male"}
    shown = deid("score", out, "--recognizer", "dlib", "--workers", 1, "--groups").stdout
    assert "worst group" in shown and "[not Male]" in shown


def test_refusals(tmp_path: Path, originals: Path, deid: Deid) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(PEOPLE / "portraits/person_01.jpg", other / "nobody.jpg")
    for args, code, words in (
        (["score", tmp_path / "missing"], 1, "not a folder"),
        (["score", originals], 1, "--against"),
        (["score", other, "--against", originals], 1, "no picture of"),
        (["score", originals, "--recognizer", "nobody"], 2, "no recognizer"),
        (["score", originals, "--device", "tpu"], 2, "--device"),
    ):
        outcome = deid(*args)
        assert outcome.code == code and words in outcome.stderr, outcome.stderr
        assert "Traceback" not in outcome.stderr


def test_jpeg_is_jpeg() -> None:
    pixels = decode((PEOPLE / "portraits/person_01.jpg").read_bytes()).pixels
    again = features.jpeg(pixels)
    assert again.shape == pixels.shape
    assert 0 < np.abs(again.astype(int) - pixels).mean() < 5
