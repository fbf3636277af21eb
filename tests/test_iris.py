"""Where the eyes look: it follows the iris, and neither the head's turn nor the picture's size."""

from __future__ import annotations

from importlib import metadata

import cv2
import numpy as np
import pytest
from PIL import Image

from deidcli.errors import DeidError
from deidcli.faces import iris
from deidcli.faces.detect import Detector
from deidcli.faces.iris import LEFT_CORNERS, RIGHT_CORNERS, gaze
from deidcli.faces.mesh import Mesh, find_mesh
from deidcli.weights.files import pip_file
from deidcli.weights.pip_files import FACE_MESH, IRIS
from tests.conftest import PEOPLE

SIDE = 384
DETECTOR = Detector("auto")
NUMBERS = (2, 5, 8, 13, 17, 20)


@pytest.fixture(scope="module", autouse=True)
def package() -> None:
    try:
        for entry in (FACE_MESH, IRIS):
            pip_file(entry)
    except DeidError as error:
        pytest.skip(f"{error.message}: {error.hint}")


def portrait(number: int) -> np.ndarray:
    """(384, 384, 3) uint8 RGB."""
    path = PEOPLE / "portraits" / f"person_{number:02d}.jpg"
    return np.asarray(Image.open(path).convert("RGB"))


def mesh_of(frame: np.ndarray) -> Mesh:
    face, *_ = DETECTOR(frame)
    found = find_mesh(frame, face.landmarks)
    assert found is not None
    return found


def with_shifted_irises(frame: np.ndarray, mesh: Mesh, x: float, y: float) -> np.ndarray:
    """Drag what lies in the middle of both eyes by a share of their widths; lids' corners stay."""
    ys, xs = np.mgrid[: frame.shape[0], : frame.shape[1]].astype(np.float32)
    map_x, map_y = xs.copy(), ys.copy()
    for corners in (LEFT_CORNERS, RIGHT_CORNERS):
        left, right = mesh.plane[list(corners)]
        width = float(np.hypot(*(right - left)))
        middle = (left + right) / 2
        far = np.hypot(xs - middle[0], ys - middle[1]) / width
        bump = np.clip(1.6 - 3.2 * far, 0, 1)  # 1 within a fifth of the width, 0 at the corners
        map_x -= np.float32(x * width) * bump
        map_y -= np.float32(y * width) * bump
    return cv2.remap(frame, map_x, map_y, cv2.INTER_LINEAR)


@pytest.mark.parametrize("number", NUMBERS)
def test_portraits_look_about_into_the_camera(number: int) -> None:
    frame = portrait(number)
    found = gaze(frame, mesh_of(frame))
    assert found.shape == (2,) and np.abs(found).max() < 0.2


@pytest.mark.parametrize("number", NUMBERS)
def test_a_mirrored_picture_looks_the_other_way(number: int) -> None:
    frame = portrait(number)
    mesh = mesh_of(frame)
    points = mesh.points.copy()
    swapped = [*RIGHT_CORNERS[::-1], *LEFT_CORNERS[::-1]]
    points[[*LEFT_CORNERS, *RIGHT_CORNERS]] = mesh.points[swapped]
    points[:, 0] = SIDE - 1 - points[:, 0]
    x, y = gaze(frame, mesh)
    other_x, other_y = gaze(np.ascontiguousarray(frame[:, ::-1]), Mesh(points, 1.0))
    assert other_x == pytest.approx(-x, abs=0.005)
    assert other_y == pytest.approx(y, abs=0.005)


def test_who_looks_aside_looks_to_the_other_side_in_the_mirror() -> None:
    """With the mesh found anew; zeros would pass the test above."""
    found = []
    for path in sorted((PEOPLE / "portraits").glob("*.jpg")):
        frame = np.asarray(Image.open(path).convert("RGB"))
        mirrored = np.ascontiguousarray(frame[:, ::-1])
        found.append((gaze(frame, mesh_of(frame)), gaze(mirrored, mesh_of(mirrored))))
    before, after = np.array(found).transpose(1, 2, 0)
    assert before[0].std() > 0.02
    assert np.corrcoef(before[0], after[0])[0, 1] < -0.7
    assert np.corrcoef(before[1], after[1])[0, 1] > 0.5
    # Half the sum is what the corners' places and the network are off by.
    assert np.abs(before[0] + after[0]).max() / 2 < 0.08
    assert abs(np.mean(before[0] + after[0])) / 2 < 0.02


@pytest.mark.parametrize("number", NUMBERS)
def test_the_gaze_follows_a_shifted_iris(number: int) -> None:
    """To the right and down are positive."""
    frame = portrait(number)
    mesh = mesh_of(frame)
    shifts = {
        shift: gaze(with_shifted_irises(frame, mesh, *shift), mesh)
        for shift in ((-0.08, 0.0), (0.0, 0.0), (0.08, 0.0), (0.0, 0.06))
    }
    still = shifts[0.0, 0.0]
    assert 0.03 < shifts[0.08, 0.0][0] - still[0] < 0.13
    assert -0.13 < shifts[-0.08, 0.0][0] - still[0] < -0.03
    assert 0.01 < shifts[0.0, 0.06][1] - still[1] < 0.11


@pytest.mark.parametrize("eye", [LEFT_CORNERS, RIGHT_CORNERS])
def test_both_eyes_count(eye: tuple[int, int]) -> None:
    """Each by half: corners that lie elsewhere move the gaze of that eye alone."""
    frame = portrait(2)
    mesh = mesh_of(frame)
    x, y = gaze(frame, mesh)
    left, right = mesh.plane[list(eye)]
    points = mesh.points.copy()
    points[list(eye), :2] += 0.1 * (right - left)
    moved_x, moved_y = gaze(frame, Mesh(points, 1.0))
    assert moved_x - x == pytest.approx(-0.05, abs=0.02)
    assert moved_y - y == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    "angle,scale", [(65.0, 1.0), (-90.0, 1.0), (180.0, 1.0), (0.0, 0.6), (0.0, 1.7)]
)
def test_turn_and_size_change_nothing(angle: float, scale: float) -> None:
    mesh = mesh_of(portrait(2))
    frame = with_shifted_irises(portrait(2), mesh, 0.08, 0.0)
    assert gaze(frame, mesh)[0] > 0.12
    middle = (SIDE - 1) / 2
    affine = cv2.getRotationMatrix2D((middle, middle), angle, scale)
    size = (SIDE, SIDE)
    turned = cv2.warpAffine(frame, affine, size, flags=cv2.INTER_AREA)
    points = mesh.points.copy()
    points[:, :2] = mesh.plane @ affine[:, :2].T + affine[:, 2]
    assert gaze(turned, Mesh(points, 1.0)) == pytest.approx(gaze(frame, mesh), abs=0.03)


def test_same_pixels_same_gaze() -> None:
    frame = portrait(2)
    mesh = mesh_of(frame)
    first = gaze(frame, mesh)
    gaze(portrait(3), mesh)
    assert np.array_equal(gaze(frame, mesh), first)


def test_corners_on_one_spot_are_no_error() -> None:
    frame = portrait(2)
    points = np.zeros((468, 3))
    assert np.isfinite(gaze(frame, Mesh(points, 1.0))).all()


def test_without_the_package_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    frame = portrait(2)
    mesh = mesh_of(frame)
    monkeypatch.setattr(metadata, "distribution", missing)
    pip_file.cache_clear()
    iris._network.cache_clear()
    try:
        with pytest.raises(DeidError, match="iris_landmark") as caught:
            gaze(frame, mesh)
    finally:
        pip_file.cache_clear()
    assert caught.value.hint == IRIS.command
