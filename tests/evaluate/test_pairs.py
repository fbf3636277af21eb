"""Pairs of original and published picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deidcli.errors import DeidError
from deidcli.evaluate.pairs import FaceRef, PairRef, PairSet, collect, open_pairs
from deidcli.faces.align import MEAN_FACE_5
from tests.conftest import Outcome
from tests.datasets import celeba, portraits

Deid = Callable[..., Outcome]


def rows_of(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(r["metric"], r["recognizer"]): r for r in report["rows"] if not r["group"]}


def score(deid: Deid, *args: object) -> dict[tuple[str, str], dict[str, Any]]:
    outcome = deid("score", *args, "--recognizer", "dlib", "--workers", 1, "--json")
    assert outcome.code == 0, outcome.stderr
    return rows_of(outcome.json)


def test_withheld_pictures_are_in_the_denominator(tmp_path: Path, deid: Deid) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number, data in enumerate(portraits(3, 160)):
        (folder / f"{number}.jpg").write_bytes(data)
    Image.new("RGB", (90, 90), "gray").save(folder / "wall.png")
    args = ["anonymize", folder, "--out", out, "--method", "blur", "--set", "kernel_px=3"]
    assert deid(*args, "--no-gate", "--workers", 1).code == 0
    rows = score(deid, out)
    assert rows["FCNS", ""]["value"] == 1
    assert rows["FCNS", ""]["with_withheld"] == pytest.approx(3 / 4)
    assert rows["DEID", "dlib"]["with_withheld"] == pytest.approx((0 + 1) / 4)
    assert rows["verification", "dlib"]["with_withheld"] == pytest.approx(3 / 4)


def test_failed_inputs_are_withheld_and_copied_ones_are_not(tmp_path: Path, deid: Deid) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "face.jpg").write_bytes(portraits(1, 160)[0])
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    Image.new("RGB", (90, 90), "gray").save(folder / "wall.png")
    args = ["anonymize", folder, "--no-gate", "--workers", 1, "--on-no-face"]
    for choice, withheld in (("withhold", 2), ("copy", 1)):
        out = tmp_path / choice
        assert deid(*args, choice, "--out", out).code == 3
        assert collect(out, None).withheld == withheld


def flat(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (60, 40), grey).save(path)


def test_pictures_of_another_tool_are_paired_by_name(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    for name in ("a/one.jpg", "two.jpg", "left.jpg"):
        flat(before / name, 10)
    for name in ("a/one.jpg", "two.png", "stranger.png"):
        flat(after / name, 20)
    found = collect(after, before)
    assert sorted((p.source, p.output) for p in found.pairs) == [
        ("a/one.jpg", "a/one.jpg"),
        ("two.jpg", "two.png"),
    ]
    assert (found.withheld, found.unmatched, found.kind) == (1, 1, "folder")
    flat(tmp_path / "none" / "other.jpg", 5)
    with pytest.raises(DeidError, match="has the name of one in"):
        collect(tmp_path / "none", before)


def test_our_pictures_are_paired_by_the_link_table(
    tmp_path: Path, deid: Callable[..., Outcome]
) -> None:
    root, out = celeba(tmp_path / "celeba", 4), tmp_path / "out"
    args = ["anonymize", root, "--out", out, "--detector", "none", "--no-gate", "--workers", 1]
    assert deid(*args, "--attrs", "G").code == 0
    found = collect(out, None)
    assert sorted(p.source for p in found.pairs) == [
        f"img_align_celeba/{n:06d}.jpg" for n in range(1, 5)
    ]
    assert [p.output for p in found.pairs] == sorted(p.output for p in found.pairs)
    for pair in found.pairs:
        number = int(pair.source[-10:-4])
        assert pair.labels["Male"] == (1 if number % 2 == 0 else -1)
        assert pair.person == str(4000 + (number - 1) // 2)
        (opened,) = open_pairs(found, [pair], "cpu")
        assert opened.original.shape == opened.published.shape
        assert (opened.original[60:80, 60:80].max() > 0) and opened.published[
            60:80, 60:80
        ].max() == 0


def test_landmarks_of_a_recorded_face(tmp_path: Path) -> None:
    """In a chip they are the mean face's; in a frame, where the affine took them from."""
    flat(tmp_path / "in/a.png", 9)
    flat(tmp_path / "out/a.png", 9)
    affine = (2.0, 0.0, -4.0, 0.0, 2.0, -6.0)
    points = (0.5 + MEAN_FACE_5) / 2 * 64 - 0.5
    in_frame = (points + np.array([4, 6])) / 2
    for is_crop, after in ((False, in_frame), (True, points)):
        ref = PairRef("a.png", "a.png", (FaceRef(affine, 64, 0.5, is_crop),), {}, None)
        pairs = PairSet("ours", tmp_path / "out", (tmp_path / "in",), (ref,), 0, (), "")
        (pair,) = open_pairs(pairs, [ref], "cpu")
        (said,) = pair.faces
        assert np.allclose(said[0], in_frame) and np.allclose(said[1], after)


def test_a_pair_that_cannot_be_opened_is_left_out(tmp_path: Path) -> None:
    flat(tmp_path / "in/a.png", 9)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.png").write_bytes(b"no picture")
    refs = (PairRef("a.png", "a.png", (), {}, None), PairRef("a.png", "gone.png", (), {}, None))
    pairs = PairSet("ours", tmp_path / "out", (tmp_path / "in",), refs, 0, (), "")
    assert list(open_pairs(pairs, refs, "cpu")) == []
