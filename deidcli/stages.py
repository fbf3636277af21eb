"""What happens to pictures within one process: decode, detect, crop, method, paste, gate, encode.

`deidentify` takes inputs one after another and gives results in the same order; faces go through
the method and the gate in batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deidcli import planning
from deidcli.data.attributes import CELEBA_ATTRIBUTES
from deidcli.data.boxes import COLUMN, to_boxes
from deidcli.data.images import BadImage, Decoded, Format, decode, encode, is_large
from deidcli.data.journal import Journal
from deidcli.data.marks import SourceType
from deidcli.data.samples import EXTENSION_OF, Sample, random_name
from deidcli.data.sink import Doubt, FaceRecord, Output, Result
from deidcli.errors import DeidError
from deidcli.faces.align import (
    Affine,
    Image,
    Mask,
    chip_from_unit,
    crop,
    frame_box,
    paste,
    scale_of,
    unit_affine,
)
from deidcli.faces.detect import Detection, Detector, Face, faces_at, joined
from deidcli.faces.regions import HEAD_PADDING, region_mask
from deidcli.faces.second_look import SecondLook
from deidcli.methods import Context, Method, Plan, load_method, source_type
from deidcli.passwords import face_bits, face_nonce
from deidcli.processes import resolve_device
from deidcli.run import Run
from deidcli.sealing import Place, SealedFace, seal, seal_changes
from deidcli.settings import face_seed

FRAME_BUDGET = 24_000_000
"""Pixels of decoded frames that wait for a full batch; bounds memory."""
MOST_WAITING = 64
"""Inputs that wait for a full batch at most."""
BLACK_SIZE = 64
"""Side of the chip that blacks a face out; its mask alone has detail."""


@dataclass
class _Face:
    """A detected face on its way through a batch."""

    face: Face
    unit: Affine
    affine: Affine
    seed: int
    chip: Image | None = None
    original: Image | None = None
    """What the gate compares, cut before the method ran."""
    distance: float | None = None
    method: str = ""
    """What replaced it; blackout where it has no landmarks, whatever the run's method is."""
    nonce: str | None = None
    """Where the method needs a password: what the face's bits are made of."""


@dataclass
class Work:
    """A decoded picture with its faces, waiting for its batch."""

    sample: Sample
    frame: Image
    format: Format
    notes: tuple[str, ...]
    faces: list[_Face]
    status: str = "ok"
    original: Image | None = None
    """With --seal: the frame before its faces were replaced."""
    doubts: tuple[Doubt, ...] = ()
    """Places that may be faces and were left as they are."""

    @property
    def fitted(self) -> list[_Face]:
        """The faces that have landmarks; only those can go through a method."""
        return [face for face in self.faces if face.face.fitted]


@dataclass
class Stages:
    """The loaded parts of the pipeline; one set a process."""

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
        """Whether the method itself leaves a black head: dlib's code of black lies near some
        faces, and blacking out again would change nothing but the count."""
        return bool(getattr(self.method, "blank", False))

    @property
    def needs_password(self) -> bool:
        """Whether each face gets bits of its own."""
        return bool(getattr(self.method, "needs_password", False))

    def cut(self, frame: Image, unit: Affine) -> Image:
        """A face's chip for the method."""
        affine = chip_from_unit(unit, self.method.chip.size, self.method.chip.padding)
        return crop(frame, affine, self.method.chip.size, extend=True)

    def black_out(self, frame: Image, unit: Affine) -> None:
        """Cover a whole head in black, in place."""
        chip = np.zeros((BLACK_SIZE, BLACK_SIZE, 3), np.uint8)
        paste(frame, chip, chip_from_unit(unit, BLACK_SIZE, HEAD_PADDING), self.black)


@lru_cache(maxsize=1)
def _load_stages(
    method: str,
    method_settings: tuple[tuple[str, str], ...],
    detector: str,
    gate: float | None,
    plan: str | None,
    device: str,
) -> Stages:
    device = resolve_device(device)
    loaded_gate = None
    if gate is not None:
        from deidcli.faces.gate import Gate

        loaded_gate = Gate(gate, device)
    return Stages(
        Detector(detector, device),
        load_method(method, dict(method_settings), device),
        method,
        loaded_gate,
        planning.read_plan(Path(plan)) if plan else None,
        device,
    )


def stages_of(run: Run) -> Stages:
    """The stages of a run, loaded once a process."""
    settings = run.settings
    journal = Journal(run.out)
    plan = journal.plan
    stages = _load_stages(
        settings.method,
        tuple((key, str(value)) for key, value in settings.method_settings.items()),
        settings.detector,
        settings.gate,
        str(plan) if planning.has_plan(plan) else None,
        run.device,
    )
    journal.note_stages(
        {"chip": dataclasses.asdict(stages.method.chip), "detector": stages.detector.describe()}
    )
    return stages


def deidentify(samples: Iterable[Sample], run: Run, stages: Stages) -> Iterator[Result]:
    """De-identify inputs one after another, faces in batches; results in the inputs' order."""
    waiting: list[Result | Work] = []
    faces = pixels = 0
    for sample in samples:
        if is_large(sample.data):
            yield from _close(waiting, run, stages)
            waiting, faces, pixels = [], 0, 0
            with Journal(run.out).one_at_a_time():
                yield from _close([open_sample(sample, run, stages)], run, stages)
            continue
        work = open_sample(sample, run, stages)
        waiting.append(work)
        if isinstance(work, Work):
            faces += len(work.faces)
            pixels += work.frame.shape[0] * work.frame.shape[1]
        full = faces >= run.batch_size or pixels >= FRAME_BUDGET or len(waiting) >= MOST_WAITING
        if full or run.careful:
            yield from _close(waiting, run, stages)
            waiting, faces, pixels = [], 0, 0
    yield from _close(waiting, run, stages)


def open_sample(sample: Sample, run: Run, stages: Stages) -> Result | Work:
    """Decode and detect. A picture that cannot go on is a Result already."""
    if sample.status:
        return Result(sample, sample.status, sample.reason)
    try:
        decoded = decode(sample.data, run.settings.max_megapixels)
    except BadImage as error:
        return Result(sample, "failed", str(error))
    try:
        found = _find(sample, decoded.pixels, run, stages)
    except Exception as error:  # whatever it was, this picture is withheld and the rest go on
        return Result(sample, "failed", f"detection: {_words(error)}", decoded.notes)
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
    """The faces of a frame: the detector's, the user's, or both.

    Raises:
        DeidError: the user's boxes are none, or lie outside the frame.
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
    if settings.boxes_are == "replace":
        return Detection(faces_at(frame, boxes), [])
    found = stages.detector.detect(frame)
    return dataclasses.replace(found, faces=joined(found.faces, faces_at(frame, boxes)))


def _cell(sample: Sample, column: str) -> Any:
    """What a row's column holds; None where the input has no such column."""
    if sample.row is None or column not in sample.row.schema.names:
        return None
    return sample.row.column(column)[0].as_py()


def _faces(found: Detection, sample: Sample, run: Run, stages: Stages) -> list[_Face]:
    size, padding = stages.method.chip.size, stages.method.chip.padding
    faces = []
    for index, face in enumerate(found.faces):
        unit = unit_affine(face.landmarks)
        affine = chip_from_unit(unit, size, padding)
        seed = face_seed(run.seed, sample.key, index)
        nonce = _nonce(seed, run, stages) if face.fitted else None
        faces.append(_Face(face, unit, affine, seed, nonce=nonce))
    return faces


def _nonce(seed: int, run: Run, stages: Stages) -> str | None:
    if not stages.needs_password:
        return None
    assert run.password is not None, "a run of such a method is prepared with a password"
    return face_nonce(run.password.nonces, seed)


def _labeled(sample: Sample, frame: Image, face: Face, run: Run, stages: Stages) -> Sample:
    """The input with predicted labels. Only of pictures with one face: a label is a picture's."""
    from deidcli.evaluate import attributes

    if stages.classifier is None:
        stages.classifier = attributes.load(stages.device)
    chip = attributes.cut(stages.classifier, frame, face.landmarks)
    said = attributes.predict(stages.classifier, chip[None], batch_size=1)[0]
    predicted = {
        name: 1 if said[CELEBA_ATTRIBUTES.index(name)] >= 0.5 else -1 for name in run.predicted
    }
    return dataclasses.replace(sample, labels={**sample.labels, **predicted})


def _no_face(
    sample: Sample, decoded: Decoded, doubts: tuple[Doubt, ...], run: Run, stages: Stages
) -> Result:
    choice = run.settings.on_no_face
    if choice == "withhold" or run.settings.output == "crops":
        reason = "no face found, withheld"
        return Result(sample, "no_face", reason, decoded.notes, doubts=doubts)
    pixels = decoded.pixels if choice == "copy" else np.zeros_like(decoded.pixels)
    if choice == "copy" and not run.settings.yes and stages.second_look(decoded.pixels):
        reason = "a second look found a face, withheld (--yes copies it)"
        return Result(sample, "no_face", reason, decoded.notes, doubts=doubts)
    reason = "no face found, copied" if choice == "copy" else "no face found, all black"
    work = Work(sample, pixels, decoded.format, decoded.notes, [], "no_face", doubts=doubts)
    result = _encoded(work, run)
    return result if result.status == "failed" else dataclasses.replace(result, reason=reason)


def _close(waiting: list[Result | Work], run: Run, stages: Stages) -> list[Result]:
    """Replace, gate and encode all faces of some pictures."""
    works = [work for work in waiting if isinstance(work, Work)]
    errors: dict[int, str] = {}
    try:
        _replace_faces(works, run, stages)
    except Exception:  # find the picture that did it: each on its own
        for work in works:
            try:
                _replace_faces([work], run, stages)
            except Exception as error:
                errors[id(work)] = f"method: {_words(error)}"
    results = []
    for entry in waiting:
        if isinstance(entry, Result):
            results.append(entry)
        elif id(entry) in errors:
            results.append(Result(entry.sample, "failed", errors[id(entry)], entry.notes))
        else:
            results.append(_encoded(entry, run))
    return results


def _encoded(work: Work, run: Run) -> Result:
    """`_encode`, or a failed result where the format cannot hold the picture."""
    try:
        return _encode(work, run)
    except Exception as error:  # Pillow's encoders raise several kinds
        return Result(work.sample, "failed", f"encoding: {_words(error)}", work.notes)


def _words(error: Exception) -> str:
    if isinstance(error, DeidError):
        return error.message
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def _replace_faces(works: list[Work], run: Run, stages: Stages) -> None:
    """Method, paste and gate; frames change only once the method has given all its chips."""
    pairs = [(work, face) for work in works for face in work.fitted]
    chips = [stages.cut(work.frame, face.unit) for work, face in pairs]
    if stages.gate is not None:
        for work, face in pairs:
            face.original = stages.gate.cut(work.frame, face.unit)
    for work in works:
        if run.settings.seal and work.original is None:  # a second try finds the frame changed
            work.original = work.frame.copy()
    faces = [face for _, face in pairs]
    replaced = list(_apply(np.stack(chips), faces, run, stages)) if pairs else []
    for (work, face), chip in zip(pairs, replaced, strict=True):
        paste(work.frame, chip, face.affine, stages.method.mask)
        face.chip, face.method = chip, run.settings.method
    for work in works:
        for face in work.faces:
            if not face.face.fitted:
                stages.black_out(work.frame, face.unit)
                face.method = "blackout"
    if stages.gate is not None and pairs:
        _pass_gate(pairs, stages)
    if run.settings.output == "crops":
        for work, face in pairs:
            face.chip = _published_chip(work.frame, face, stages)


def _apply(chips: Image, faces: list[_Face], run: Run, stages: Stages) -> Image:
    """(N, S, S, 3) uint8 chips through the method, batch by batch."""
    import torch  # here, so that the process that only hands out shards starts without it

    out = np.empty_like(chips)
    for start in range(0, len(chips), run.batch_size):
        rows = slice(start, start + run.batch_size)
        context = Context(
            seeds=np.array([face.seed for face in faces[rows]], dtype=np.uint64),
            scales=np.array([scale_of(face.affine) for face in faces[rows]]),
            plan=stages.plan,
            bits=_bits(faces[rows], run),
        )
        with torch.inference_mode():
            batch = torch.from_numpy(chips[rows]).to(stages.device)
            given = batch.permute(0, 3, 1, 2).float() / 255
            new = stages.method(given, context)
            scaled = (new.clamp(0, 1) * 255).round().to(torch.uint8)
        out[rows] = scaled.permute(0, 2, 3, 1).cpu().numpy()
    return out


def _bits(faces: list[_Face], run: Run) -> NDArray[np.uint8] | None:
    nonces = [face.nonce for face in faces if face.nonce is not None]
    if run.password is None or not nonces:
        return None
    return face_bits(run.password.keys, nonces)


def _pass_gate(pairs: list[tuple[Work, _Face]], stages: Stages) -> None:
    """Black out each face that still matches its original in the published frame."""
    originals = [face.original for _, face in pairs if face.original is not None]
    published = [stages.gate.cut(work.frame, face.unit) for work, face in pairs]
    distances = stages.gate.distances(originals, published)
    for (work, face), distance in zip(pairs, distances, strict=True):
        face.distance = round(float(distance), 4)
        if not stages.gate.holds(face.distance) and not stages.method_is_blank:
            stages.black_out(work.frame, face.unit)
            face.method, work.status = "blackout", "fallback"


def _published_chip(frame: Image, face: _Face, stages: Stages) -> Image:
    """What `--output crops` publishes: the method's chip, around it the published frame.

    A method whose `whole_chips` holds gives chips that are publishable to their edges.
    """
    whole = getattr(stages.method, "whole_chips", False)
    if whole and face.chip is not None:
        # What surrounds the head would be all that tells one black crop from another.
        return np.zeros_like(face.chip) if face.method == "blackout" else face.chip
    around = crop(frame, face.affine, stages.method.chip.size, extend=False)
    if face.method == "blackout" or face.chip is None:
        return around
    share = stages.method.mask[:, :, None]
    mixed = share * face.chip + (1 - share) * around
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def _encode(work: Work, run: Run) -> Result:
    """The published pictures of one input."""
    settings, sample = run.settings, work.sample
    records = [_record(face) for face in work.faces]
    if settings.output == "crops":
        outputs = []
        for index, (face, record) in enumerate(zip(work.faces, records, strict=True)):
            if face.chip is None:  # no landmarks to cut it by; in its neighbors' crops it is black
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


def _mark(faces: Sequence[_Face], run: Run) -> SourceType | None:
    """How a picture was made, by what covers its faces. One in which nothing was replaced has no
    mark."""
    if not run.settings.mark or not faces:
        return None
    settings = run.settings
    if any(face.method == settings.method for face in faces):
        return source_type(settings.method, settings.method_settings)
    return source_type("blackout", {})


def _crop_name(sample: Sample, index: int, run: Run) -> str:
    """With random names, one that does not tell which crops are of one picture."""
    if run.secret is not None:
        return random_name(f"{sample.key}\0{index}", run.secret) + ".png"
    return f"{sample.stem}_{index}.png"


def _record(face: _Face) -> FaceRecord:
    affine = tuple(float(value) for value in face.affine.ravel())
    return FaceRecord(
        *(face.face.box, face.face.score, affine, face.method, face.distance, face.nonce),
        fitted=face.face.fitted,
    )


def _sealed_frame(work: Work, data: bytes, run: Run) -> tuple[SealedFace, ...]:
    """With --seal: for each face, the original of all pixels that its replacement changed."""
    if run.password is None or work.original is None:
        return ()
    areas = []
    for face in work.faces:
        # Nothing beyond these two was written to: the method's chip, and a black one.
        black = chip_from_unit(face.unit, BLACK_SIZE, HEAD_PADDING)
        area = [frame_box(black, BLACK_SIZE, work.frame.shape)]
        if face.chip is not None:
            area.insert(0, frame_box(face.affine, len(face.chip), work.frame.shape))
        areas.append(area)
    return seal_changes(run.password.keys, run.fingerprint, data, work.original, work.frame, areas)


def _sealed_crop(work: Work, face: _Face, data: bytes, run: Run) -> tuple[SealedFace, ...]:
    """With --seal: the crop as it would be published if its face were not replaced."""
    if run.password is None or work.original is None:
        return ()
    assert face.chip is not None
    side = len(face.chip)
    pixels = crop(work.original, face.affine, side, extend=False)
    place = Place.of(run.fingerprint, data, 0)
    return (seal(run.password.keys, place, (0, 0, side, side), pixels),)
