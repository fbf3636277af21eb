"""Landmarks: where none fit, none are used."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from deidcli.faces import detect, landmarks
from deidcli.faces.align import unit_affine
from deidcli.faces.detect import Detector
from deidcli.faces.landmarks import (
    CENTERFACE_BOX,
    COVERED,
    covering,
    find_landmarks,
    head_share,
    landmarks_from_box,
)
from tests.conftest import PEOPLE


def portrait(number: int, side: int) -> np.ndarray:
    """A face of about half of `side` px."""
    picture = Image.open(PEOPLE / "portraits" / f"person_{number:02d}.jpg").convert("RGB")
    return np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS))


def scene(places: list[tuple[int, int, int]], height: int = 600, width: int = 800) -> np.ndarray:
    """Portraits (x, y, side) on a plain ground with some texture."""
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.integers(90, 160, (30, 40, 3), np.uint8), (width, height))
    for number, (x, y, side) in enumerate(places):
        ground[y : y + side, x : x + side] = portrait(number % 12 + 1, side)
    return np.asarray(ground, np.uint8)


def found(frame: np.ndarray, places: list[tuple[int, int, int]]) -> list[bool]:
    """For each place, whether a face was found whose middle lies where the portrait's is."""
    faces = Detector("auto")(frame)
    middles = [((f.box[0] + f.box[2]) / 2, (f.box[1] + f.box[3]) / 2) for f in faces]
    return [
        any(abs(x + 0.5 * s - a) < 0.2 * s and abs(y + 0.5 * s - b) < 0.25 * s for a, b in middles)
        for x, y, s in places
    ]


def test_no_landmarks_where_none_fit() -> None:
    gray = np.zeros((100, 100), np.uint8)
    box = (20.0, 20.0, 60.0, 70.0)
    heap = np.full((5, 2), 40.0)
    assert find_landmarks(gray, box, CENTERFACE_BOX, heap + np.eye(5, 2)) is None


@pytest.mark.parametrize("stretch", [0.6, 1.0, 1.5])
def test_the_head_region_holds_the_detected_box(stretch: float) -> None:
    """Also of squeezed pictures, whose faces are narrower or wider than a head."""
    frame = scene([(40, 40, 200), (420, 200, 300), (60, 320, 80)])
    squeezed = np.asarray(cv2.resize(frame, (round(800 * stretch), 600)), np.uint8)
    faces = Detector("auto")(squeezed)
    assert len(faces) >= 3
    for face in faces:
        assert head_share(unit_affine(face.landmarks), face.box) >= COVERED


def test_landmarks_are_spread_only_where_they_must_be() -> None:
    box = (100.0, 100.0, 220.0, 260.0)
    good = landmarks_from_box(box, CENTERFACE_BOX)
    assert covering(good, box, CENTERFACE_BOX) is good
    small = good.mean(0) + 0.7 * (good - good.mean(0)) + [8, 12]
    assert head_share(unit_affine(small), box) < COVERED
    spread = unit_affine(covering(small, box, CENTERFACE_BOX))
    assert head_share(spread, box) >= COVERED


def test_found_landmarks_cover_their_box(monkeypatch: pytest.MonkeyPatch) -> None:
    box = (100.0, 100.0, 220.0, 260.0)
    good = landmarks_from_box(box, CENTERFACE_BOX)
    small = good.mean(0) + 0.7 * (good - good.mean(0)) + [8, 12]
    monkeypatch.setattr("deidcli.faces.landmarks._find", lambda *_: small)
    found = find_landmarks(np.zeros((400, 400), np.uint8), box, CENTERFACE_BOX)
    assert found is not None and head_share(unit_affine(found), box) >= COVERED


def test_landmarks_that_do_not_fit_their_box_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    box = (10.0, 10.0, 110.0, 110.0)
    good = landmarks.landmarks_from_box(box)
    assert landmarks.fits(good, box)
    assert not landmarks.fits(np.full((5, 2), 30.0), box)
    assert not landmarks.fits(good * 0.2, box)
    monkeypatch.setattr(landmarks, "landmarks", lambda frame, box: good * 0.2)
    face = detect.to_face(np.zeros((120, 120), np.uint8), box, 1.0, landmarks.DLIB_BOX)
    assert np.array_equal(face.landmarks, good) and not face.fitted
