"""The default detector: faces of every size, turned ones, crowds, and what it costs."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from deidcli.faces import centerface, search
from deidcli.faces.align import unit_affine
from deidcli.faces.detect import DOUBT, THRESHOLD, Detector
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


@pytest.mark.parametrize("side", [28, 40, 64, 200, 560])
def test_finds_faces_of_every_size(side: int) -> None:
    """From faces of 14 px on."""
    places = [(30, 20, side), (800 - side - 10, 600 - side - 10, side)][: 1 if side > 300 else 2]
    assert all(found(scene(places), places))


def test_finds_small_faces_beside_a_large_one() -> None:
    """The case that `auto` used to miss: it looked again only where it had found nothing."""
    places = [(10, 10, 420), (500, 40, 32), (600, 40, 40), (700, 500, 32), (560, 400, 48)]
    assert all(found(scene(places), places))


def test_finds_a_face_larger_than_the_network_sees() -> None:
    frame = portrait(3, 2400)
    faces = Detector("auto")(frame)
    assert len(faces) >= 1 and faces[0].box[2] - faces[0].box[0] > 700


def test_a_crowd_is_looked_at_from_edge_to_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [(20 + 60 * (n % 12), 20 + 70 * (n // 12), 30) for n in range(60)]
    frame = scene(places)
    assert np.mean(found(frame, places)) >= 0.95
    seen = 0
    look = centerface.look

    def counted(picture: np.ndarray, threshold: float, flip: bool = False) -> centerface.Cells:
        nonlocal seen
        seen += picture.shape[0] * picture.shape[1]
        return look(picture, threshold, flip)

    monkeypatch.setattr(search, "look", counted)
    Detector("auto")(frame)
    everywhere, seen = seen, 0
    assert everywhere >= 8 * 600 * 800  # once as it is, twice at double size
    monkeypatch.setattr(search, "CROWD_MEGAPIXELS", 0.4)
    Detector("auto")(frame)
    assert seen < everywhere


@pytest.mark.parametrize("angle", [0, 60, 90, 180])
def test_finds_turned_faces_and_how_they_are_turned(angle: int) -> None:
    frame = scene([(250, 150, 300)])
    turn = cv2.getRotationMatrix2D((400, 300), angle, 1)
    turned = cv2.warpAffine(frame, turn, (800, 600), borderMode=cv2.BORDER_REFLECT)
    face = Detector("auto")(np.asarray(turned, np.uint8))[0]
    assert face.fitted
    unit = unit_affine(face.landmarks)
    roll = np.degrees(np.arctan2(unit[1, 0], unit[0, 0]))
    assert abs((roll - angle + 180) % 360 - 180) < 25


@pytest.mark.parametrize("gamma", [1.0, 2.5])
def test_small_faces_that_stand_alone_are_found_in_the_dark_too(gamma: float) -> None:
    """A first look at half size lost a tenth of them, and more of those with dark skin."""
    hits = []
    for number in range(12):
        place = (200 + 31 * number, 100 + 23 * number, 34)
        frame = scene([place])
        frame[100 + 23 * number :][:34, 200 + 31 * number :][:, :34] = portrait(number + 1, 34)
        dark = np.asarray(255 * (frame / 255.0) ** gamma, np.uint8)
        hits += found(dark, [place])
    assert np.mean(hits) >= 0.9


def test_a_picture_without_faces_has_none() -> None:
    assert Detector("auto")(scene([])) == []
    assert Detector("auto")(np.full((3, 700, 3), 90, np.uint8)) == []
    assert Detector("auto")(np.zeros((1, 1, 3), np.uint8)) == []


def test_one_look_alone_is_half_a_conviction() -> None:
    """The score is the mean of two looks; what one alone saw is halved, boxes are weighted."""
    points = np.zeros((1, 5, 2), np.float32)

    def cell(x: float, score: float) -> centerface.Cells:
        box = np.array([[x, 0, x + 20, 20]], np.float32)
        return centerface.Cells(box, np.array([score], np.float32), points)

    together = search.both(cell(0, 0.6), cell(2, 0.2))
    assert together.scores == pytest.approx([0.4])
    assert together.boxes[0, 0] == pytest.approx(0.5)
    apart = search.both(cell(0, 0.6), cell(50, 0.2))
    assert sorted(apart.scores) == pytest.approx([0.1, 0.3])


def test_a_box_without_area_is_kept_once_and_does_not_hang() -> None:
    boxes = np.array([[5, 5, 5, 5], [20, 20, 40, 40], [21, 21, 41, 41]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    cells = centerface.Cells(boxes, scores, np.zeros((3, 5, 2), np.float32))
    rounds = iter(range(10))  # a loop without end fails here instead of standing still
    with pytest.MonkeyPatch.context() as patch:
        overlaps = search._overlaps

        def counted(*args: np.ndarray) -> object:
            next(rounds)
            return overlaps(*args)

        patch.setattr(search, "_overlaps", counted)
        assert search.best(cells).scores.tolist() == pytest.approx([0.9, 0.8])


def test_doubts_are_neither_faces_nor_nothing() -> None:
    frame = scene([(30, 20, 14), (300, 300, 300)])
    said = search.search(frame, 0.99, DOUBT)
    assert len(said.faces) == 0 and len(said.doubts) >= 1
    usual = search.search(frame, THRESHOLD, DOUBT)
    assert (usual.faces.scores >= THRESHOLD).all() and (usual.doubts.scores < THRESHOLD).all()


def test_mirror_images_are_told_in_the_picture() -> None:
    frame = scene([(100, 150, 300)])[:, :640]
    plain, flipped = centerface.look(frame, 0.5), centerface.look(frame, 0.5, flip=True)
    one, two = search.best(plain), search.best(flipped)
    assert np.abs(one.boxes - two.boxes).max() < 25
    assert np.abs(one.landmarks - two.landmarks).max() < 25


def test_tiles_hide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A face across the edge of two tiles is found by one of them."""
    places = [(x, 60, 90) for x in (40, 150, 260, 370, 480, 590)]
    frame = scene(places)
    monkeypatch.setattr(search, "TILE", 256)
    monkeypatch.setattr(search, "OVERLAP", 128)
    assert all(found(frame, places))


def test_a_small_face_has_to_convince_both_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the mirrored, widened look does not see keeps half of its score."""
    frame = scene([(300, 200, 34)])
    monkeypatch.setattr(search, "SURE", 2.0)  # the first look alone convinces nobody
    usual = search.search(frame, 0.0, 0.0).faces.scores.max()
    shapes = []
    look = centerface.look

    def blind(picture: np.ndarray, threshold: float, flip: bool = False) -> centerface.Cells:
        shapes.append((flip, *picture.shape[:2]))
        return look(picture, threshold) if not flip else centerface.Cells.join([])

    monkeypatch.setattr(search, "look", blind)
    alone = search.search(frame, 0.0, 0.0).faces.scores.max()
    assert alone < 0.75 * usual
    pairs = [(a, b) for a, b in zip(shapes, shapes[1:], strict=False) if b[0]]
    assert pairs and not any(a[0] for a, _ in pairs)
    assert all(b[2] > a[2] and b[1] < a[1] for a, b in pairs)  # wider and flatter
