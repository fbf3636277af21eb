"""Detectors, and landmarks of boxes that were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deidcli.faces import detect, search
from deidcli.faces.align import MEAN_FACE_5
from deidcli.faces.centerface import Cells
from deidcli.faces.detect import Detector, Face, faces_at, joined, overlap, whole_frame
from tests.conftest import PEOPLE


def test_given_boxes_get_the_landmarks_of_their_face(portrait: np.ndarray) -> None:
    (found, *_) = Detector("auto")(portrait)
    (given,) = faces_at(portrait, [found.box])
    assert given.fitted and np.abs(given.landmarks - found.landmarks).max() < 6
    assert not faces_at(np.full((200, 200, 3), 90, np.uint8), [(50, 50, 120, 150)])[0].fitted


@pytest.mark.parametrize("name", ["auto", "hog", "cnn"])
def test_detectors_find_everybody_in_a_scene(name: str) -> None:
    frame = np.asarray(Image.open(Path(PEOPLE) / "scenes/gallery_wall.jpg").convert("RGB"))
    faces = detect.Detector(name)(frame)
    assert len(faces) >= 7
    for face in faces:
        x0, y0, x1, y1 = face.box
        assert (face.landmarks > [x0 - 20, y0 - 20]).all()
        assert (face.landmarks < [x1 + 20, y1 + 20]).all()


def test_the_overlap_of_two_boxes() -> None:
    one = (0.0, 0.0, 10.0, 10.0)
    assert overlap(one, one) == 1 and overlap(one, (10.0, 0.0, 20.0, 10.0)) == 0
    assert overlap(one, (5.0, 0.0, 15.0, 10.0)) == pytest.approx(1 / 3)


def test_a_given_box_is_a_new_face_unless_it_was_found() -> None:
    def face(x: float) -> Face:
        return Face((x, 0.0, x + 10, 10.0), 1.0, np.zeros((5, 2)))

    found, same, other = face(0), face(3), face(6)
    assert joined([found], [same, other]) == [found, other]
    assert joined([], [same]) == [same]


def test_no_detector_takes_the_whole_picture() -> None:
    frame = np.zeros((90, 150, 3), np.uint8)
    (face,) = Detector("none")(frame)
    assert face.box == (0, 0, 150, 90) and face.fitted and face.score == 1
    assert np.allclose(face.landmarks, (MEAN_FACE_5 - 0.5) * 60 + [75, 45])
    assert np.allclose(whole_frame(frame).landmarks, face.landmarks)


def test_doubts_are_handed_on_beside_the_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    def cells(*boxes: tuple[float, ...]) -> Cells:
        count = len(boxes)
        return Cells(
            np.array(boxes, np.float32).reshape(count, 4),
            np.full(count, 0.125, np.float32),
            np.zeros((count, 5, 2), np.float32),
        )

    asked: list[float] = []

    def found(frame: np.ndarray, threshold: float, doubt: float) -> object:
        asked.extend((threshold, doubt))
        return type("Both", (), {"faces": cells(), "doubts": cells((1, 2, 30, 40), (5, 5, 9, 9))})

    monkeypatch.setattr(search, "search", found)
    said = Detector("auto").detect(np.zeros((60, 60, 3), np.uint8))
    assert said.faces == [] and asked == [0.2, 0.1]
    assert said.doubts == [((1, 2, 30, 40), 0.125), ((5, 5, 9, 9), 0.125)]
