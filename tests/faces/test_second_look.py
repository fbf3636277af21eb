"""The second look at what was published."""

from __future__ import annotations

import numpy as np
from PIL import Image

from deidcli.faces import second_look
from tests.conftest import PEOPLE


def test_second_look_leaves_replaced_faces_alone() -> None:
    frame = np.asarray(Image.open(PEOPLE / "scenes/gallery_wall.jpg").convert("RGB"))
    places = second_look.SecondLook()(frame)
    assert len(places) >= 7
    units = [second_look.unit_of_box(place.box) for place in places]
    assert second_look.left_over(places, units) == []
    assert len(second_look.left_over(places, units[1:])) == 1
