"""Detectors, and landmarks of boxes that were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deidcli.faces import detect
from deidcli.faces.detect import Detector, faces_at
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
