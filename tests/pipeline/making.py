"""Runs, faces and stages for tests of one step of the pipeline, without a detector or a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from deidcli.data.journal import Journal
from deidcli.data.samples import Sample
from deidcli.data.source import FolderShard, Item, Source
from deidcli.faces.align import Box, Image, chip_from_unit, crop
from deidcli.faces.detect import Detection, Detector, Face
from deidcli.faces.gate import Gate
from deidcli.faces.landmarks import CENTERFACE_BOX, landmarks_from_box
from deidcli.faces.regions import HEAD_PADDING, region_mask
from deidcli.faces.second_look import unit_of_box
from deidcli.methods.base import Chip, Context, Method
from deidcli.pipeline.run import Run
from deidcli.pipeline.stages import FaceAtWork, Stages, Work
from deidcli.settings import RunSettings

SIZE = 64
LEFT, RIGHT = (30.0, 60.0, 70.0, 110.0), (190.0, 60.0, 230.0, 110.0)
"""Boxes of two faces in a frame of (180, 260) px whose heads do not touch."""


def a_run(out: Path, names: Sequence[str] = ("a.png",), **changes: Any) -> Run:
    """A run of blackout without a gate; `changes` are fields of Run or of its settings."""
    Journal(out).create()
    shards = (FolderShard(0, tuple(Item(name, name) for name in names)),)
    source = Source("folder", out, shards, len(names), "")
    of_run = {f.name for f in dataclasses.fields(Run)} - {"settings"}
    settings: dict[str, Any] = {"method": "blackout", "gate": None, "names": "keep"}
    settings.update({key: value for key, value in changes.items() if key not in of_run})
    run = Run(RunSettings(**settings), source, out, "f" * 64, {}, None, "")
    return dataclasses.replace(run, **{key: changes[key] for key in changes.keys() & of_run})


class Grey(Method):
    """Each face becomes the grey of its seed."""

    def __init__(self) -> None:
        self.chip = Chip(SIZE, HEAD_PADDING)
        self.mask = region_mask("head", SIZE, HEAD_PADDING)
        self.batches: list[int] = []

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        self.batches.append(len(chips))
        grey = chips.new_tensor([int(seed) / 255 for seed in context.seeds])
        return grey[:, None, None, None].expand(chips.shape)


class FixedGate(Gate):
    """A gate whose distances are said beforehand; it keeps what it compared."""

    def __init__(self, distance: float, said: Sequence[float]) -> None:
        self.distance = distance
        self.said = np.array(said)
        self.compared: list[tuple[Image, Image]] = []

    def distances(self, originals: Sequence[Image], published: Sequence[Image]) -> Any:
        self.compared += list(zip(originals, published, strict=True))
        return self.said[: len(originals)]


class FixedDetector(Detector):
    """A detector that finds what it was told."""

    def __init__(
        self, faces: Sequence[Face] = (), doubts: Sequence[tuple[Box, float]] = ()
    ) -> None:
        self.name = "fixed"
        self.found = Detection(list(faces), list(doubts))

    def detect(self, frame: Image) -> Detection:
        return self.found


def a_face(box: Box, fitted: bool = True) -> Face:
    return Face(box, 0.9, landmarks_from_box(box, CENTERFACE_BOX), fitted)


def some_stages(
    detector: Detector | None = None, method: Method | None = None, gate: Gate | None = None
) -> Stages:
    return Stages(detector or FixedDetector(), method or Grey(), "blackout", gate, None, "cpu")


def some_work(faces: Sequence[Face], seeds: Sequence[int], key: str = "a.png") -> Work:
    """White noise of (180, 260) px with some faces in it."""
    frame = np.random.default_rng(len(key)).integers(128, 256, (180, 260, 3), dtype=np.uint8)
    at_work = []
    for face, seed in zip(faces, seeds, strict=True):
        unit = unit_of_box(face.box)
        at_work.append(FaceAtWork(face, unit, chip_from_unit(unit, SIZE, HEAD_PADDING), seed))
    sample = Sample(key, name=key, stem=key.rpartition(".")[0], format="PNG")
    return Work(sample, frame, "PNG", (), at_work)


def middle(frame: Image, box: Box) -> Image:
    """The pixels in the middle of a face."""
    x, y = round((box[0] + box[2]) / 2), round((box[1] + box[3]) / 2)
    return frame[y - 10 : y + 10, x - 10 : x + 10]


def chip_of(frame: Image, face: FaceAtWork) -> Image:
    return crop(frame, face.affine, SIZE, extend=False)
