"""From an input to a picture with its faces, or to why it has none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.data.images import decode
from deidcli.data.samples import Sample
from deidcli.data.sink import Doubt, Result
from deidcli.pipeline.opening import open_sample
from deidcli.pipeline.stages import Work
from deidcli.settings import face_seed
from tests.conftest import picture_bytes
from tests.pipeline.making import LEFT, RIGHT, FixedDetector, a_face, a_run, some_stages

FRAME = np.random.default_rng(3).integers(0, 256, (180, 260, 3), dtype=np.uint8)
SAMPLE = Sample("a.png", picture_bytes(FRAME, "PNG"), name="a.png", stem="a", format="PNG")
MAYBE = ((1.0, 2.0, 30.0, 40.0), 0.15)


def test_faces_keep_their_order_and_have_seeds_of_their_own(tmp_path: Path) -> None:
    run = a_run(tmp_path / "out", seed=7)
    faces = [a_face(RIGHT), a_face(LEFT, fitted=False)]
    work = open_sample(SAMPLE, run, some_stages(FixedDetector(faces, [MAYBE])))
    assert isinstance(work, Work) and [face.face for face in work.faces] == faces
    assert [face.seed for face in work.faces] == [face_seed(7, "a.png", n) for n in (0, 1)]
    assert work.fitted == work.faces[:1] and work.doubts == (Doubt(*MAYBE),)
    assert (work.frame == FRAME).all()


def test_what_cannot_go_on_is_a_result_with_its_reason(tmp_path: Path) -> None:
    run, stages = a_run(tmp_path / "out"), some_stages(FixedDetector([a_face(LEFT)]))
    listed = dataclasses.replace(SAMPLE, status="skipped", reason="hidden file")
    broken = dataclasses.replace(SAMPLE, data=SAMPLE.data[:200])
    for sample, status, reason in (
        (listed, "skipped", "hidden file"),
        (broken, "failed", "cannot be decoded"),
    ):
        result = open_sample(sample, run, stages)
        assert isinstance(result, Result) and not result.outputs
        assert result.status == status and result.reason.startswith(reason)
    small = a_run(tmp_path / "out", max_megapixels=0.01)
    result = open_sample(SAMPLE, small, stages)
    assert isinstance(result, Result) and result.reason.startswith("more megapixels")


def test_a_detector_that_breaks_withholds_one_picture(tmp_path: Path) -> None:
    class Broken(FixedDetector):
        def detect(self, frame: np.ndarray) -> None:  # type: ignore[override]
            raise RuntimeError("no memory")

    result = open_sample(SAMPLE, a_run(tmp_path / "out"), some_stages(Broken()))
    assert isinstance(result, Result) and result.status == "failed" and not result.outputs
    assert result.reason.startswith("detection: ")


@pytest.mark.parametrize(("choice", "published"), [("withhold", None), ("blackout", 0)])
def test_a_picture_without_a_face(tmp_path: Path, choice: str, published: int | None) -> None:
    run = a_run(tmp_path / "out", on_no_face=choice)
    result = open_sample(SAMPLE, run, some_stages(FixedDetector([], [MAYBE])))
    assert isinstance(result, Result) and result.status == "no_face"
    assert result.doubts == (Doubt(*MAYBE),)
    assert len(result.outputs) == (published is not None)
    for output in result.outputs:
        assert (decode(output.data).pixels == published).all() and output.name == "a.png"


def test_a_copy_is_looked_at_again_unless_told_otherwise(tmp_path: Path) -> None:
    looked: list[int] = []
    stages = some_stages()
    stages.second_look = lambda frame: looked.append(1) or ["a place"]  # type: ignore
    withheld = open_sample(SAMPLE, a_run(tmp_path / "out", on_no_face="copy"), stages)
    assert isinstance(withheld, Result) and not withheld.outputs and looked == [1]
    told = open_sample(SAMPLE, a_run(tmp_path / "out", on_no_face="copy", yes=True), stages)
    assert isinstance(told, Result) and looked == [1]
    assert (decode(told.outputs[0].data).pixels == FRAME).all()


def test_a_second_look_that_breaks_copies_nothing(tmp_path: Path) -> None:
    def broken(frame: np.ndarray) -> list[object]:
        raise RuntimeError("no memory")

    stages = some_stages()
    stages.second_look = broken  # type: ignore
    result = open_sample(SAMPLE, a_run(tmp_path / "out", on_no_face="copy"), stages)
    assert isinstance(result, Result) and result.status == "failed" and not result.outputs
    assert result.reason.startswith("detection: ")


def test_given_boxes_are_joined_or_replace_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "deidcli.pipeline.opening.faces_at", lambda frame, boxes: [a_face(b) for b in boxes]
    )
    stages = some_stages(FixedDetector([a_face(LEFT)]))
    sample = dataclasses.replace(SAMPLE, boxes=(RIGHT, LEFT))
    for choice, expected in (("add", [LEFT, RIGHT]), ("replace", [RIGHT, LEFT])):
        run = a_run(tmp_path / "out", boxes="sha256:0", boxes_are=choice)
        work = open_sample(sample, run, stages)
        assert isinstance(work, Work) and [f.face.box for f in work.faces] == expected
    outside = dataclasses.replace(SAMPLE, boxes=((260.0, 0.0, 300.0, 50.0),))
    result = open_sample(outside, run, stages)
    assert isinstance(result, Result) and "outside the picture" in result.reason


def test_crops_need_a_face_with_landmarks(tmp_path: Path) -> None:
    run = a_run(tmp_path / "out", output="crops")
    result = open_sample(SAMPLE, run, some_stages(FixedDetector([a_face(LEFT, fitted=False)])))
    assert isinstance(result, Result) and (result.status, result.outputs) == ("no_face", ())


def test_labels_are_predicted_for_pictures_of_one_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def labeled(sample: Sample, *_: object) -> Sample:
        return dataclasses.replace(sample, labels={"Male": 1})

    monkeypatch.setattr("deidcli.pipeline.opening._labeled", labeled)
    one, two = [a_face(LEFT)], [a_face(LEFT), a_face(RIGHT)]
    cases = ((one, ("Male",), {"Male": 1}), (two, ("Male",), {}), (one, (), {}))
    for faces, predicted, labels in cases:
        run = a_run(tmp_path / "out", predicted=predicted)
        work = open_sample(SAMPLE, run, some_stages(FixedDetector(faces)))
        assert isinstance(work, Work) and work.sample.labels == labels


def test_predicted_labels_stand_beside_those_of_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = np.zeros((1, 40), np.float32)
    said[0, CELEBA_ATTRIBUTES.index("Male")] = 0.5
    monkeypatch.setattr("deidcli.faces.attributes.cut", lambda *_: np.zeros((2, 2, 3), np.uint8))
    monkeypatch.setattr("deidcli.faces.attributes.predict", lambda *_, **__: said)
    stages = some_stages(FixedDetector([a_face(LEFT)]))
    stages.classifier = "a classifier"  # type: ignore[assignment]
    sample = dataclasses.replace(SAMPLE, labels={"Young": 1, "Smiling": 1})
    run = a_run(tmp_path / "out", predicted=("Male", "Smiling"))
    work = open_sample(sample, run, stages)
    assert isinstance(work, Work)
    assert work.sample.labels == {"Young": 1, "Smiling": -1, "Male": 1}
