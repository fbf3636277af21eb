"""Decode, detect and label: from an input to a picture with its faces, or a reason for none."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.crypto.keys import face_nonce
from deidcli.data.boxes import COLUMN, to_boxes
from deidcli.data.images import BadImage, Decoded, decode
from deidcli.data.samples import Sample
from deidcli.data.sink import Doubt, Result
from deidcli.errors import DeidError, words
from deidcli.faces.align import Image, chip_from_unit, unit_affine
from deidcli.faces.detect import Detection, Face, faces_at, joined
from deidcli.methods import one_seed_a_person
from deidcli.pipeline.encoding import encoded
from deidcli.pipeline.run import Run
from deidcli.pipeline.stages import FaceAtWork, Stages, Work
from deidcli.processes import resolve_device
from deidcli.settings import face_seed


def open_sample(sample: Sample, run: Run, stages: Stages) -> Result | Work:
    """Decode and detect. If processing ends here, the return value is a Result."""
    if sample.status:
        return Result(sample, sample.status, sample.reason)
    try:
        decoded = decode(sample.data, run.settings.max_megapixels)
    except BadImage as error:
        return Result(sample, "failed", str(error))
    opened = open_decoded(sample, decoded, run, stages)
    if isinstance(opened, Result) or opened.status != "no_face":
        return opened
    result = encoded(opened, run)  # there is nothing to wait for
    failed = result.status == "failed"
    return result if failed else dataclasses.replace(result, reason=opened.reason)


def open_decoded(sample: Sample, decoded: Decoded, run: Run, stages: Stages) -> Result | Work:
    """Detect faces. The sample's key, labels, boxes and row are used, but not its bytes.

    Returns:
        Work with the faces that were found; if there are none, with status `no_face` and the pixels
        to publish instead. A Result, `failed` or `no_face`, if nothing is published.
    """
    try:
        found = _find(sample, decoded.pixels, run, stages)
    except Exception as error:  # any error withholds this picture; the rest continue
        return Result(sample, "failed", f"detection: {words(error)}", decoded.notes)
    doubts = tuple(Doubt(box, score) for box, score in found.doubts)
    if not found.faces:
        return _no_face(sample, decoded, doubts, run, stages)
    if run.settings.output == "crops" and not any(face.fitted for face in found.faces):
        reason = "no face with landmarks, nothing to crop"
        return Result(sample, "no_face", reason, decoded.notes, doubts=doubts)
    if run.predicted and len(found.faces) == 1:
        sample = _labeled(sample, decoded.pixels, found.faces[0], run, stages)
    faces = _faces(found, sample, run, stages)
    return Work(sample, decoded.pixels, decoded.format, decoded.notes, faces, doubts=doubts)


def _find(sample: Sample, frame: Image, run: Run, stages: Stages) -> Detection:
    """Return the faces of a frame: the detector's, the user's, or both.

    Raises:
        DeidError: the user's boxes are invalid or lie outside the frame.
    """
    settings = run.settings
    if settings.boxes is None:
        return stages.detector.detect(frame)
    boxes = list(sample.boxes)
    if settings.boxes.startswith(COLUMN):
        boxes = to_boxes(_cell(sample, settings.boxes[len(COLUMN) :]), settings.box_format)
    height, width = frame.shape[:2]
    for box in boxes:
        if min(box[2], width) <= max(box[0], 0) or min(box[3], height) <= max(box[1], 0):
            raise DeidError("a given box lies outside the picture", "see --box-format")
    # Far outside, numbers only lose their digits.
    low, high = (-float(width), -float(height)), (2.0 * width, 2.0 * height)
    boxes = [
        (max(b[0], low[0]), max(b[1], low[1]), min(b[2], high[0]), min(b[3], high[1]))
        for b in boxes
    ]
    if settings.boxes_are == "replace":
        return Detection(faces_at(frame, boxes), [])
    found = stages.detector.detect(frame)
    return dataclasses.replace(found, faces=joined(found.faces, faces_at(frame, boxes)))


def _cell(sample: Sample, column: str) -> Any:
    """Return a row's value of a column; None if the input has no such column."""
    if sample.row is None or column not in sample.row.schema.names:
        return None
    return sample.row.column(column)[0].as_py()


def _faces(found: Detection, sample: Sample, run: Run, stages: Stages) -> list[FaceAtWork]:
    size, padding = stages.method.chip.size, stages.method.chip.padding
    of_person = _seed_of_person(found, sample, run)
    faces = []
    for index, face in enumerate(found.faces):
        unit = unit_affine(face.landmarks)
        affine = chip_from_unit(unit, size, padding)
        own = face_seed(run.seed, sample.key, index)
        # Nonces are published, so they stay different where the seed tells a person.
        nonce = _nonce(own, run, stages) if face.fitted else None
        seed = own if of_person is None else of_person
        faces.append(FaceAtWork(face, unit, affine, seed, nonce=nonce))
    return faces


def _seed_of_person(found: Detection, sample: Sample, run: Run) -> int | None:
    """Return the seed that all pictures of the person share; None: each face has its own."""
    settings = run.settings
    if sample.identity is None or len(found.faces) != 1:
        return None
    if not one_seed_a_person(settings.method, settings.method_settings):
        return None
    return face_seed(run.seed, f"person\0{sample.identity}", 0)  # no path has a \0 in it


def _nonce(seed: int, run: Run, stages: Stages) -> str | None:
    if not stages.needs_password:
        return None
    assert run.password is not None, "a run of such a method is prepared with a password"
    return face_nonce(run.password.nonces, seed)


def _labeled(sample: Sample, frame: Image, face: Face, run: Run, stages: Stages) -> Sample:
    """Return the input with predicted labels; only pictures with one face get them."""
    from deidcli.faces import attributes

    if stages.classifier is None:
        stages.classifier = attributes.load(resolve_device(stages.device))
    chip = attributes.cut(stages.classifier, frame, face.landmarks)
    said = attributes.predict(stages.classifier, chip[None], batch_size=1)[0]
    predicted = {
        name: 1 if said[CELEBA_ATTRIBUTES.index(name)] >= 0.5 else -1 for name in run.predicted
    }
    return dataclasses.replace(sample, labels={**sample.labels, **predicted})


def _no_face(
    sample: Sample, decoded: Decoded, doubts: tuple[Doubt, ...], run: Run, stages: Stages
) -> Result | Work:
    choice = run.settings.on_no_face
    if choice == "withhold" or run.settings.output == "crops":
        reason = "no face found, withheld"
        return Result(sample, "no_face", reason, decoded.notes, doubts=doubts)
    pixels = decoded.pixels if choice == "copy" else np.zeros_like(decoded.pixels)
    if choice == "copy" and not run.settings.yes:
        try:
            places = stages.second_look(decoded.pixels)
        except Exception as error:  # a picture that cannot be searched again is not copied
            return Result(sample, "failed", f"detection: {words(error)}", decoded.notes)
        if places:
            reason = "a second look found a face, withheld (--yes copies it)"
            return Result(sample, "no_face", reason, decoded.notes, doubts=doubts)
    reason = "no face found, copied" if choice == "copy" else "no face found, all black"
    return Work(
        sample, pixels, decoded.format, decoded.notes, [], "no_face", doubts=doubts, reason=reason
    )
