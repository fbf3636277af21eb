"""The parts of the pipeline that a process loads once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from deidcli.data.journal import Journal
from deidcli.faces.align import apply_affine
from deidcli.faces.regions import REGIONS
from deidcli.faces.second_look import unit_of_box
from deidcli.pipeline import plans, stages
from tests.pipeline.making import LEFT, SIZE, a_face, a_run, chip_of, some_stages, some_work


def test_black_out_covers_the_whole_head_and_no_more() -> None:
    frame = np.full((180, 260, 3), 255, np.uint8)
    unit = unit_of_box(LEFT)
    some_stages().black_out(frame, unit)
    y, x = np.mgrid[:180, :260]
    at = apply_affine(unit, np.stack([x.ravel(), y.ravel()], 1).astype(float))
    head = REGIONS["head"]
    far = np.hypot((at[:, 0] - head.x) / head.half_width, (at[:, 1] - head.y) / head.half_height)
    far = far.reshape(180, 260)
    assert (far <= 0.92).sum() > 3000 and (frame[far <= 0.92] == 0).all()
    assert (frame[far >= 1.25] == 255).all()


def test_a_methods_chip_has_its_size_and_its_place() -> None:
    work = some_work([a_face(LEFT)], [1])
    chip = some_stages().cut(work.frame, work.faces[0].unit)
    assert chip.shape == (SIZE, SIZE, 3)
    inner = slice(24, 40)
    assert (chip[inner, inner] == chip_of(work.frame, work.faces[0])[inner, inner]).all()


def test_stages_are_loaded_once_and_recorded(tmp_path: Path) -> None:
    run = a_run(tmp_path / "out", detector="hog")
    loaded = stages.stages_of(run)
    assert stages.stages_of(run) is loaded and loaded.gate is None and loaded.plan is None
    said = json.loads((Journal(run.out).folder / "stages.json").read_text())
    assert said == {
        "chip": dataclasses.asdict(loaded.method.chip),
        "detector": loaded.detector.describe(),
    }
    assert said["detector"]["name"] == "hog"
    gated = stages.stages_of(
        dataclasses.replace(run, settings=dataclasses.replace(run.settings, gate=0.7))
    )
    assert gated is not loaded and gated.gate.distance == 0.7


def test_a_kept_plan_reaches_the_method(tmp_path: Path) -> None:
    run = a_run(tmp_path / "out", detector="hog")
    assert stages.stages_of(run).plan is None
    plans.write_plan(Journal(run.out).plan, {"averages": np.arange(3)})
    plan = stages.stages_of(run).plan
    assert plan is not None and np.asarray(plan["averages"]).tolist() == [0, 1, 2]
