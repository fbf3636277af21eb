"""Convert a finished frame to published bytes, with names, marks, records and seals."""

from __future__ import annotations

from collections.abc import Sequence

from deidcli.crypto.sealing import Place, SealedFace, seal, seal_changes
from deidcli.data.images import encode
from deidcli.data.marks import SourceType
from deidcli.data.samples import EXTENSION_OF, Sample, random_name
from deidcli.data.sink import FaceRecord, Output, Result
from deidcli.errors import words
from deidcli.faces.align import box_pixels, chip_from_unit, crop, frame_box
from deidcli.faces.regions import HEAD_PADDING
from deidcli.methods import source_type
from deidcli.pipeline.run import Run
from deidcli.pipeline.stages import BLACK_SIZE, FaceAtWork, Work


def encoded(work: Work, run: Run) -> Result:
    """Return the result of `_encode`, or a failed one if the format cannot store the picture."""
    try:
        return _encode(work, run)
    except Exception as error:  # Pillow's encoders raise several kinds
        return Result(work.sample, "failed", f"encoding: {words(error)}", work.notes)


def _encode(work: Work, run: Run) -> Result:
    """Return the published pictures of one input."""
    settings, sample = run.settings, work.sample
    records = [_record(face) for face in work.faces]
    if settings.output == "crops":
        outputs = []
        for index, (face, record) in enumerate(zip(work.faces, records, strict=True)):
            if face.chip is None:  # no landmarks to crop it by; black in its neighbors' crops
                continue
            side = len(face.chip)
            name = _crop_name(sample, index, run)
            data = encode(face.chip, "PNG", mark=_mark([face], run))
            hidden = _sealed_crop(work, face, data, run)
            outputs.append(Output(name, data, side, side, (record,), hidden))
    else:
        format = sample.format or work.format
        name = sample.name if sample.format else sample.name + EXTENSION_OF[format]
        mark = _mark(work.faces, run)
        data = encode(work.frame, format, settings.jpeg_quality, mark)
        height, width = work.frame.shape[:2]
        hidden = _sealed_frame(work, data, run)
        outputs = [Output(name, data, width, height, tuple(records), hidden)]
    covered = len(work.faces) - len(work.fitted)
    return Result(
        sample, work.status, "", work.notes, tuple(outputs), len(work.faces), covered, work.doubts
    )


def _mark(faces: Sequence[FaceAtWork], run: Run) -> SourceType | None:
    """Return how a picture was made, from what covers its faces; None if nothing was replaced."""
    if not run.settings.mark or not faces:
        return None
    settings = run.settings
    if any(face.method == settings.method for face in faces):
        return source_type(settings.method, settings.method_settings)
    return source_type("blackout", {})


def _crop_name(sample: Sample, index: int, run: Run) -> str:
    """Return a crop's name; random names do not reveal which crops share a picture."""
    if run.secret is not None:
        return random_name(f"{sample.key}\0{index}", run.secret) + ".png"
    return f"{sample.stem}_{index}.png"


def _record(face: FaceAtWork) -> FaceRecord:
    affine = tuple(float(value) for value in face.affine.ravel())
    return FaceRecord(
        *(face.face.box, face.face.score, affine, face.method, face.distance, face.nonce),
        fitted=face.face.fitted,
    )


def _sealed_frame(work: Work, data: bytes, run: Run) -> tuple[SealedFace, ...]:
    """Seal, with --seal, each face's original pixels that its replacement changed."""
    if run.password is None or work.original is None:
        return ()
    areas = []
    for face in work.faces:
        # Nothing outside of these was written: the method's chip or patch, and a black one; the
        # box of a face without landmarks.
        black = chip_from_unit(face.unit, BLACK_SIZE, HEAD_PADDING)
        area = [frame_box(black, BLACK_SIZE, work.frame.shape), *face.touched]
        if face.chip is not None:
            area.insert(0, frame_box(face.affine, len(face.chip), work.frame.shape))
        if not face.face.fitted:
            area.append(box_pixels(face.face.box, work.frame.shape))
        areas.append(area)
    return seal_changes(run.password.keys, run.fingerprint, data, work.original, work.frame, areas)


def _sealed_crop(work: Work, face: FaceAtWork, data: bytes, run: Run) -> tuple[SealedFace, ...]:
    """Seal, with --seal, the crop as it would be published if its face were not replaced."""
    if run.password is None or work.original is None:
        return ()
    assert face.chip is not None
    side = len(face.chip)
    pixels = crop(work.original, face.affine, side, extend=False)
    place = Place.of(run.fingerprint, data, 0)
    return (seal(run.password.keys, place, (0, 0, side, side), pixels),)
