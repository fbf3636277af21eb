"""Faces through the method, back into their frames, and past the gate."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from torch import Tensor

from deidcli.methods.base import Context
from deidcli.pipeline.replacing import replace_faces
from tests.pipeline.making import (
    LEFT,
    RIGHT,
    FixedGate,
    Grey,
    a_face,
    a_run,
    middle,
    some_stages,
    some_work,
)


class Loud(Grey):
    """What it makes is darker than black, brighter than white, or between two levels."""

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        self.scales = context.scales.tolist()
        self.plan = context.plan
        levels = chips.new_tensor([-0.3, 1.2, 99.6 / 255])
        return levels[: len(chips), None, None, None].expand(chips.shape)


def test_levels_are_rounded_and_clipped_and_the_method_knows_scales_and_plan(
    tmp_path: Path,
) -> None:
    small = (110.0, 70.0, 130.0, 95.0)
    work = some_work([a_face(LEFT), a_face(RIGHT), a_face(small)], [1, 2, 3])
    method = Loud()
    stages = some_stages(method=method)
    stages.plan = {"kept": np.arange(3)}
    replace_faces([work], a_run(tmp_path / "out"), stages)
    levels = [int(face.chip[32, 32, 0]) for face in work.faces if face.chip is not None]
    assert levels == [0, 255, 100]
    assert method.scales[0] == pytest.approx(method.scales[1])
    assert method.scales[2] == pytest.approx(2 * method.scales[0], rel=0.01)
    assert method.plan is stages.plan


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_each_face_gets_what_was_made_for_it(tmp_path: Path, batch_size: int) -> None:
    run, method = a_run(tmp_path / "out", batch_size=batch_size), Grey()
    both = [a_face(LEFT), a_face(RIGHT)]
    works = [some_work(both, [10, 20]), some_work([], []), some_work(both[:1], [30], "other.png")]
    before = [work.frame.copy() for work in works]
    replace_faces(works, run, some_stages(method=method))
    assert (middle(works[0].frame, LEFT) == 10).all() and (
        middle(works[0].frame, RIGHT) == 20
    ).all()
    assert (middle(works[2].frame, LEFT) == 30).all()
    assert (middle(works[2].frame, RIGHT) == middle(before[2], RIGHT)).all()
    assert (works[1].frame == before[1]).all() and (works[0].frame[-5:] == before[0][-5:]).all()
    assert method.batches == {1: [1, 1, 1], 2: [2, 1], 16: [3]}[batch_size]
    assert {face.method for work in works for face in work.faces} == {"blackout"}
    assert [work.status for work in works] == ["ok"] * 3


def test_the_gate_blacks_out_what_is_not_farther_than_its_distance(tmp_path: Path) -> None:
    run, gate = a_run(tmp_path / "out", method="blur"), FixedGate(0.6, [0.6, 0.6001, 0.2])
    faces = [a_face(LEFT), a_face(RIGHT)]
    works = [some_work(faces, [100, 110]), some_work(faces[1:], [120], "b.png")]
    before = [work.frame.copy() for work in works]
    replace_faces(works, run, some_stages(gate=gate))
    assert [f.method for w in works for f in w.faces] == ["blackout", "blur", "blackout"]
    assert [work.status for work in works] == ["fallback", "fallback"]
    assert (middle(works[0].frame, LEFT) == 0).all() and (middle(works[1].frame, RIGHT) == 0).all()
    assert (middle(works[0].frame, RIGHT) == 110).all()
    assert [f.distance for w in works for f in w.faces] == [0.6, 0.6001, 0.2]
    for (original, published), (work, seed) in zip(
        gate.compared, [(0, 100), (0, 110), (1, 120)], strict=True
    ):
        assert (published[50:100, 50:100] == seed).all(), "it sees what would be published"
        assert original.std() > 10 and before[work].min() <= original[50:100, 50:100].min()


def test_the_gate_compares_each_face_with_its_own_original(tmp_path: Path) -> None:
    gate = FixedGate(0.6, [0.9, 0.9, 0.9])
    works = [some_work([a_face(LEFT), a_face(RIGHT)], [1, 2]), some_work([a_face(RIGHT)], [3], "b")]
    works[1].frame[:] = 255 - works[1].frame
    before = [work.frame.copy() for work in works]
    replace_faces(works, a_run(tmp_path / "out", method="blur"), some_stages(gate=gate))
    own = [
        gate.cut(frame, face.unit)
        for work, frame in zip(works, before, strict=True)
        for face in work.faces
    ]
    assert not (own[0] == own[1]).all()
    for (original, _), expected in zip(gate.compared, own, strict=True):
        assert (original == expected).all()


def test_a_face_without_landmarks_never_reaches_the_method(tmp_path: Path) -> None:
    run, method = a_run(tmp_path / "out", method="blur"), Grey()
    work = some_work([a_face(LEFT, fitted=False), a_face(RIGHT)], [10, 20])
    gate = FixedGate(0.6, [0.9])
    replace_faces([work], run, some_stages(method=method, gate=gate))
    assert method.batches == [1] and len(gate.compared) == 1
    assert [face.method for face in work.faces] == ["blackout", "blur"]
    assert (middle(work.frame, LEFT) == 0).all() and (middle(work.frame, RIGHT) == 20).all()
    assert work.status == "ok", "the gate did not do it"


def test_a_blank_method_has_no_fallback(tmp_path: Path) -> None:
    method = Grey()
    method.blank = True
    work = some_work([a_face(LEFT)], [0])
    replace_faces([work], a_run(tmp_path / "out"), some_stages(None, method, FixedGate(0.6, [0.1])))
    assert work.status == "ok" and work.faces[0].distance == 0.1


def test_a_second_try_seals_the_first_original(tmp_path: Path) -> None:
    run = a_run(tmp_path / "out", seal=True)
    work = some_work([a_face(LEFT)], [10])
    first = work.frame.copy()
    for _ in range(2):
        replace_faces([work], run, some_stages())
    assert work.original is not None and (work.original == first).all()
    plain = some_work([a_face(LEFT)], [10])
    replace_faces([plain], a_run(tmp_path / "out"), some_stages())
    assert plain.original is None


def test_crops_show_the_published_frame_around_the_face(tmp_path: Path) -> None:
    """Also the neighbor's face in it is replaced, and a blacked out face is black."""
    near = (LEFT[0] + 55, LEFT[1], LEFT[2] + 55, LEFT[3])
    run, gate = a_run(tmp_path / "out", output="crops"), FixedGate(0.6, [0.9, 0.1])
    work = some_work([a_face(LEFT), a_face(near)], [200, 90])
    work.frame[:] = 255
    replace_faces([work], run, some_stages(gate=gate))
    chips = [face.chip for face in work.faces]
    assert chips[0] is not None and chips[1] is not None
    assert chips[0].shape == (64, 64, 3) and (chips[0][32, 28:32] == 200).all()
    assert chips[0][32, 60].max() == 0, "the blacked out neighbor"
    assert (chips[1][24:40, 24:40] == 0).all()
    assert chips[1][:2, -8:].min() == 255, "where there was no face"


def test_the_edge_of_a_face_is_the_masks(tmp_path: Path) -> None:
    """At each pixel the share of the new face is the mask's there, once."""
    work, method = some_work([a_face(LEFT)], [0]), Grey()
    work.frame[:] = 200
    replace_faces([work], a_run(tmp_path / "out"), some_stages(method=method))
    y, x = np.mgrid[:180, :260].astype(np.float32)
    (a, b, c), (d, e, f) = work.faces[0].affine
    where = (a * x + b * y + c).astype(np.float32), (d * x + e * y + f).astype(np.float32)
    share = cv2.remap(method.mask, *where, cv2.INTER_LINEAR)
    assert ((share > 0.2) & (share < 0.8)).sum() > 100
    assert np.abs(work.frame[:, :, 0] - 200 * (1 - share)).max() < 8
