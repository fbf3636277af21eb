"""Chips: dlib's convention, and paste as the inverse of crop."""

from __future__ import annotations

import cv2
import dlib
import numpy as np
import pytest
from PIL import Image

from deidcli.faces import align, dlib_hog, landmarks
from deidcli.faces.align import chip_from_unit, unit_from_chip
from tests.conftest import PEOPLE


def test_unit_from_chip_is_the_inverse() -> None:
    unit = np.array([[0.02, 0.003, -1.0], [-0.003, 0.02, 0.4]])
    assert np.allclose(unit_from_chip(chip_from_unit(unit, 150, 0.25), 150, 0.25), unit)


def frames() -> list[np.ndarray]:
    paths = sorted((PEOPLE / "portraits").glob("*.jpg"))[:6]
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def test_chips_are_dlibs() -> None:
    """Against dlib.get_face_chip, which scales through its own pyramid: a few gray levels."""
    for frame in frames():
        (box, _), *_ = dlib_hog.detect_hog(frame)
        points = landmarks.landmarks(frame, box)
        ours = align.crop(frame, align.chip_affine(points, 150, 0.25), 150)
        rect = dlib.rectangle(*(round(v) for v in box[:2]), round(box[2]) - 1, round(box[3]) - 1)
        theirs = dlib.get_face_chip(frame, landmarks._predictor()(frame, rect), 150, 0.25)
        assert np.abs(ours.astype(int) - theirs).mean() < 4
        shifted = np.roll(theirs, 1, axis=1)
        assert (
            np.abs(ours.astype(int) - theirs).mean() < np.abs(shifted.astype(int) - theirs).mean()
        )


def test_similarity_recovers_a_known_transform() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(5, 2))
    angle, scale = 0.7, 2.5
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = align.similarity(points, points @ matrix.T + [3, -4])
    assert np.allclose(found, np.hstack([matrix, [[3], [-4]]]))
    with pytest.raises(ValueError):
        align.similarity(np.ones((5, 2)), points)


@pytest.mark.parametrize("scale", [0.3, 0.8, 1.0, 2.7])
@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_paste_puts_a_chip_back_where_it_was(scale: float, angle: float) -> None:
    """Cut and pasted unchanged, a smooth frame stays what it was, to a few gray levels."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    frame = np.asarray(cv2.GaussianBlur(noise, (0, 0), 9), dtype=np.uint8)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    size = 128
    shift = np.array([size / 2, size / 2]) - turn @ np.array([150, 150])
    affine = np.hstack([turn, shift[:, None]])
    chip = align.crop(frame, affine, size, extend=True)
    out = frame.copy()
    mask = np.zeros((size, size), np.float32)
    mask[10:-10, 10:-10] = 1
    align.paste(out, chip, affine, mask)
    assert np.abs(out.astype(int) - frame).max() <= 6
    empty = frame.copy()
    align.paste(empty, np.zeros_like(chip), affine, mask)
    assert (empty == 0).all(axis=2).sum() > 0.9 * (108 / scale) ** 2 * (1 if scale >= 0.8 else 0.1)


def test_a_face_half_outside_the_frame() -> None:
    frame = np.full((100, 100, 3), 50, np.uint8)
    affine = np.array([[1.0, 0, 40], [0, 1.0, 40]])
    chip = align.crop(frame, affine, 128)
    assert (chip[:39] == 0).all() and (chip[41:, 41:] == 50).all()
    assert (align.crop(frame, affine, 128, extend=True) == 50).all()
    align.paste(frame, np.zeros((128, 128, 3), np.uint8), affine, np.ones((128, 128), np.float32))
    assert (frame[:87, :87] == 0).all() and (frame[90:, 90:] == 50).all()
