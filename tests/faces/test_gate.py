"""The gate: which published face still matches its original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deidcli.faces.dlib_nets import CHIP_SIZE
from deidcli.faces.gate import Gate
from deidcli.faces.second_look import unit_of_box
from tests.conftest import PEOPLE


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate(0.6, "cpu")


def chips(gate: Gate, *numbers: int) -> list[np.ndarray]:
    """Aligned chips of portraits."""
    from deidcli.faces.align import unit_affine
    from deidcli.faces.detect import Detector

    found = []
    for number in numbers:
        path = PEOPLE / f"portraits/person_{number:02d}.jpg"
        frame = np.asarray(Image.open(Path(path)).convert("RGB"))
        found.append(gate.cut(frame, unit_affine(Detector("hog")(frame)[0].landmarks)))
    return found


def test_each_face_is_compared_with_its_own_original(gate: Gate) -> None:
    one, two = chips(gate, 1, 2)
    same, other, back, black = gate.distances([one, one, two, one], [one, two, one, one * 0])
    assert same < 1e-6 and other == back > 0.6
    assert gate.distances([one], [two])[0] == pytest.approx(other, abs=1e-5)
    assert black > 0.6


def test_a_face_at_the_distance_itself_still_matches(gate: Gate) -> None:
    assert not gate.holds(0.6) and not gate.holds(0.0) and gate.holds(0.6001)


def test_the_gate_sees_the_face_itself(gate: Gate) -> None:
    frame = np.zeros((180, 260, 3), np.uint8)
    frame[60:110, 30:70] = 255
    chip = gate.cut(frame, unit_of_box((30.0, 60.0, 70.0, 110.0)))
    assert chip.shape == (CHIP_SIZE, CHIP_SIZE, 3) and (chip[60:90, 60:90] == 255).all()
