"""The second look at what was published."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from deidcli.faces import second_look
from deidcli.faces.detect import Face
from deidcli.faces.second_look import Place, left_over, side, unit_of_box, within
from tests.conftest import PEOPLE


def test_second_look_leaves_replaced_faces_alone() -> None:
    frame = np.asarray(Image.open(PEOPLE / "scenes/gallery_wall.jpg").convert("RGB"))
    places = second_look.SecondLook()(frame)
    assert len(places) >= 7
    units = [second_look.unit_of_box(place.box) for place in places]
    assert second_look.left_over(places, units) == []
    assert len(second_look.left_over(places, units[1:])) == 1


def test_how_much_two_places_share() -> None:
    one = (0.0, 0.0, 10.0, 20.0)
    assert within(one, (5.0, 10.0, 15.0, 30.0)) == pytest.approx(0.25)
    assert within(one, (0.0, 0.0, 5.0, 5.0)) == within((0.0, 0.0, 5.0, 5.0), one) == 1
    assert within(one, (10.0, 0.0, 20.0, 20.0)) == within(one, (3.0, 3.0, 3.0, 3.0)) == 0
    assert side((0, 0, 4.0, 9.0)) == 6 and side((5.0, 5.0, 4.0, 9.0)) == 0


def test_a_place_belongs_to_the_face_whose_head_holds_its_middle() -> None:
    box = (100.0, 100.0, 140.0, 150.0)
    unit = unit_of_box(box)

    def moved(x: float, y: float) -> Place:
        return Place((box[0] + x, box[1] + y, box[2] + x, box[3] + y), 0.9, "hog")

    inside = [moved(0, 0), moved(20, 0), moved(0, -30)]
    outside = [moved(60, 0), moved(0, 80), moved(0, -80)]
    assert left_over([*inside, *outside], [unit]) == outside
    assert left_over(inside, []) == inside
    assert left_over(outside[:1], [unit, unit_of_box(outside[0].box)]) == []


def test_places_of_all_three_detectors_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same place is counted once, tiny ones not at all."""

    class Found:
        boxes = np.array([[0, 0, 40, 40], [200, 200, 209, 209]], np.float32)
        scores = np.array([0.5, 0.9], np.float32)

    asked: dict[str, object] = {}

    def search(frame: object, *given: float, **more: bool) -> object:
        asked.update(given=given, **more)
        return type("Both", (), {"faces": Found})

    monkeypatch.setattr(second_look, "search", search)
    look = second_look.SecondLook()
    points = np.zeros((5, 2))
    said = {
        "cnn": [Face((1, 1, 41, 41), 2.0, points), Face((100, 0, 140, 40), 1.5, points)],
        "hog": [Face((100, 2, 140, 42), 0.3, points), Face((0, 100, 40, 140), 0.2, points)],
    }
    look._others = {name: lambda frame, n=name: said[n] for name in ("cnn", "hog")}  # type: ignore
    places = look(np.zeros((300, 300, 3), np.uint8))
    assert [(p.by, p.box[:2]) for p in places] == [
        ("centerface", (0.0, 0.0)),
        ("cnn", (100, 0)),
        ("hog", (0, 100)),
    ]
    assert asked["everywhere"] is True and asked["given"] == (0.25, 0.25)
