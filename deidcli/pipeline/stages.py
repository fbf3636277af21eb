"""The parts of the pipeline that a process loads once, and a picture being processed by them."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from deidcli.data.images import Format
from deidcli.data.journal import Journal
from deidcli.data.samples import Sample
from deidcli.data.sink import Doubt
from deidcli.faces.align import Affine, Image, Mask, box_pixels, chip_from_unit, crop, paste
from deidcli.faces.detect import Detector, Face
from deidcli.faces.regions import HEAD_PADDING, region_mask
from deidcli.faces.second_look import SecondLook
from deidcli.methods import load_method, method_class
from deidcli.methods.base import Method, OnPixels, Plan
from deidcli.pipeline import plans
from deidcli.pipeline.run import Run
from deidcli.processes import resolve_device
from deidcli.settings import RunSettings

BLACK_SIZE = 64
"""Side of the chip that blacks out a face; only its mask has detail."""


@dataclass
class FaceAtWork:
    """A detected face being processed in a batch."""

    face: Face
    unit: Affine
    affine: Affine
    seed: int
    chip: Image | None = None
    original: Image | None = None
    """The chip that the gate compares, cropped before the method ran."""
    distance: float | None = None
    method: str = ""
    """The method that replaced it; blackout if it has no landmarks or the run's method could not
    replace it."""
    nonce: str | None = None
    """If the method needs a password: the nonce from which the face's bits are derived."""
    touched: list[tuple[int, int, int, int]] = field(default_factory=list)
    """Of an InFrames method: the boxes (x0, y0, x1, y1) of frame pixels, upper bounds excluded,
    outside of which its patches wrote nothing. On a retry there may be two."""


@dataclass
class Work:
    """A decoded picture with its faces, waiting for its batch."""

    sample: Sample
    frame: Image
    format: Format
    notes: tuple[str, ...]
    faces: list[FaceAtWork]
    status: str = "ok"
    original: Image | None = None
    """With --seal: the frame before its faces were replaced."""
    doubts: tuple[Doubt, ...] = ()
    """Places that may be faces and were left unchanged."""
    reason: str = ""
    """If no face was found: what happened to the picture."""

    @property
    def fitted(self) -> list[FaceAtWork]:
        """The faces with landmarks; only those can go through a method."""
        return [face for face in self.faces if face.face.fitted]


@dataclass
class Stages:
    """The loaded parts of the pipeline, one set per process."""

    detector: Detector
    method: Method
    name: str
    gate: Any
    """faces.gate.Gate, or None."""
    plan: Plan | None
    device: str
    classifier: Any = None
    """evaluate.attributes.AttributeNet, loaded when a label has to be predicted."""
    second_look: SecondLook = field(default_factory=SecondLook)
    black: Mask = field(default_factory=lambda: region_mask("head", BLACK_SIZE, HEAD_PADDING))

    @property
    def method_is_blank(self) -> bool:
        """Whether the method itself leaves a black head. dlib's embedding of black is close to some
        faces, and blacking out again would only change the count."""
        return self.method.blank

    @property
    def needs_password(self) -> bool:
        """Whether each face gets its own bits."""
        return self.method.needs_password

    def cut(self, frame: Image, unit: Affine) -> Image:
        """Crop a face's chip for the method."""
        affine = chip_from_unit(unit, self.method.chip.size, self.method.chip.padding)
        return crop(frame, affine, self.method.chip.size, extend=True)

    def black_out(self, frame: Image, unit: Affine) -> None:
        """Cover a whole head in black, in place."""
        chip = np.zeros((BLACK_SIZE, BLACK_SIZE, 3), np.uint8)
        paste(frame, chip, chip_from_unit(unit, BLACK_SIZE, HEAD_PADDING), self.black)

    def cover(self, frame: Image, face: Face, unit: Affine) -> None:
        """Cover a face without landmarks in black, in place: the head that its box stands for, and
        the box itself, which a head may not fill where it is wide, flat or reaches outside."""
        self.black_out(frame, unit)
        x0, y0, x1, y1 = box_pixels(face.box, frame.shape)
        frame[y0:y1, x0:x1] = 0


@lru_cache(maxsize=1)
def _load_stages(
    process: int,
    method: str,
    method_settings: tuple[tuple[str, str], ...],
    detector: str,
    gate: float | None,
    plan: str | None,
    device: str,
) -> Stages:
    if gate is not None or not issubclass(method_class(method), OnPixels):
        device = resolve_device(device)  # asks torch, which is only loaded if needed
    loaded_gate = None
    if gate is not None:
        from deidcli.faces.gate import Gate

        loaded_gate = Gate(gate, device)
    return Stages(
        Detector(detector, device),
        load_method(method, dict(method_settings), device),
        method,
        loaded_gate,
        plans.read_plan(Path(plan)) if plan else None,
        device,
    )


def load_stages(settings: RunSettings, device: str, plan: Path | None = None) -> Stages:
    """Return the stages for some settings, loaded once per process.

    A process forked from one that had loaded them loads its own, because CUDA and threads do not
    survive a fork.

    Args:
        plan: the folder of a whole-set method's plan.
    """
    return _load_stages(
        os.getpid(),
        settings.method,
        tuple((key, str(value)) for key, value in settings.method_settings.items()),
        settings.detector,
        settings.gate,
        None if plan is None else str(plan),
        device,
    )


def stages_of(run: Run) -> Stages:
    """Return the stages of a run, loaded once per process."""
    journal = Journal(run.out)
    plan = journal.plan if plans.has_plan(journal.plan) else None
    stages = load_stages(run.settings, run.device, plan)
    journal.note_stages(
        {"chip": dataclasses.asdict(stages.method.chip), "detector": stages.detector.describe()}
    )
    return stages
