"""The way of the data, top to bottom: prepare_run, run_shard, finish_run.

source -> decode -> detect -> crop -> method -> paste -> gate -> encode -> sink -> manifest
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from deidcli import __version__, planning
from deidcli.data import manifest
from deidcli.data.attributes import CELEBA_ATTRIBUTES
from deidcli.data.images import BadImage, Decoded, Format, decode, encode, is_large
from deidcli.data.journal import Journal, new_secret
from deidcli.data.parquet import ParquetShard
from deidcli.data.samples import EXTENSION_OF, Sample, read_samples
from deidcli.data.sink import (
    FaceRecord,
    FolderSink,
    Output,
    ParquetSink,
    Result,
    Sink,
    Unwritable,
    Written,
    staged_name,
)
from deidcli.data.source import Shard, Source
from deidcli.errors import DeidError, UsageError
from deidcli.faces.align import (
    Affine,
    Image,
    Mask,
    chip_from_unit,
    crop,
    paste,
    scale_of,
    unit_affine,
)
from deidcli.faces.detect import Detector, Face
from deidcli.faces.regions import HEAD_PADDING, region_mask
from deidcli.methods import Context, Method, Plan, PlanFace, load_method, needs_prepare
from deidcli.settings import DeviceName, RunSettings, differences, face_seed, fingerprint
from deidcli.weights import weights_in_use

FRAME_BUDGET = 24_000_000
"""Pixels of decoded frames that wait for a full batch; bounds memory."""
MOST_WAITING = 64
"""Inputs that wait for a full batch at most."""
BLACK_SIZE = 64
"""Side of the chip that blacks a face out; its mask alone has detail."""


@dataclass(frozen=True)
class Run:
    """One run, as every worker knows it."""

    settings: RunSettings
    source: Source
    out: Path
    fingerprint: str
    weights: dict[str, str]
    secret: bytes | None
    started: str
    device: str = "auto"
    batch_size: int = 16
    threads: int = 1
    predicted: tuple[str, ...] = ()
    """Attributes that the classifier labels, because the source does not."""
    careful: bool = False
    """One picture at a time, each named in the journal first: to find one that ends its worker."""
    poisoned: frozenset[str] = frozenset()
    """Inputs that ended their worker; they are withheld."""


# ---------------------------------------------------------------------------- before


def prepare_run(
    settings: RunSettings,
    source: Source,
    out: Path,
    *,
    overwrite: bool = False,
    device: str = "auto",
    batch_size: int = 16,
) -> Run:
    """Check that OUT holds no other run, and record what is about to be done.

    Raises:
        DeidError: OUT was made with other settings or inputs, or cannot be written.
    """
    journal = Journal(out)
    predicted = planning.predicted_attributes(settings.attributes, source)
    weights = weights_in_use(settings.detector, settings.gate is not None, bool(predicted))
    print_of_run = fingerprint(settings, weights, source.signature)
    if overwrite:
        journal.clear()
    now = {"settings": settings.as_dict(), "weights": weights, "inputs": source.signature}
    record = journal.read_run()
    if record is not None and record["source"] != str(source.root.resolve()):
        raise DeidError(
            f"{out} was made from another input, {record['source']}",
            "choose another --out, or start anew with --overwrite",
        )
    if record is not None and record["fingerprint"] != print_of_run:
        raise planning.other_run(out, differences(record["run"], now))
    journal.create()
    planning.open_output(out)
    if record is None:
        record = {
            "fingerprint": print_of_run,
            "run": now,
            "deid": __version__,
            "source": str(source.root.resolve()),
            "secret": new_secret(),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        journal.write_run(record)
    return Run(
        settings,
        source,
        out,
        print_of_run,
        weights,
        bytes.fromhex(record["secret"]) if settings.names == "random" else None,
        record["started"],
        device,
        batch_size,
        predicted=predicted,
    )


def is_done(run: Run, shard: Shard) -> bool:
    """Whether a shard was finished and what it wrote is still there."""
    journal = Journal(run.out)
    if not journal.is_done(shard.index):
        return False
    if isinstance(shard, ParquetShard):
        staged = journal.staging / staged_name(shard.index)
        return staged.exists() or (run.out / "data" / shard.key).exists()
    try:
        names = journal.published_names(shard.index)
    except (pa.ArrowException, OSError):
        return False
    return all((run.out / "images" / name).is_file() for name in names)


def needs_scan(run: Run) -> bool:
    """Whether the method has to see all faces first and has not yet."""
    return needs_prepare(run.settings.method) and not planning.has_plan(Journal(run.out).plan)


def scan_shard(run: Run, shard: Shard) -> int:
    """Cut the faces of a shard for `Method.prepare` and keep them in the private folder."""
    stages = stages_of(run)
    faces: list[PlanFace] = []
    for sample in watched(read_samples(shard, run.secret), run):
        opened = _open(sample, run, stages)
        if isinstance(opened, _Work):
            person = sample.identity if len(opened.faces) == 1 else None
            for face in opened.faces:
                faces.append(PlanFace(face.seed, stages.cut(opened.frame, face.unit), person))
    planning.write_scan(Journal(run.out).folder / "scan", shard.index, faces)
    return len(shard)


def make_plan(run: Run) -> None:
    """Let a whole-set method group all faces that `scan_shard` found, and keep its plan."""
    journal = Journal(run.out)
    scans = planning.read_scans(journal.folder / "scan", len(run.source.shards))
    plan = stages_of(run).method.prepare(scans)
    assert plan is not None, "a whole-set method returns a plan"
    planning.write_plan(journal.plan, plan)


# ---------------------------------------------------------------------------- a shard


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


@dataclass
class _Work:
    """A decoded picture with its faces, waiting for its batch."""

    sample: Sample
    frame: Image
    format: Format
    notes: tuple[str, ...]
    faces: list[_Face]
    status: str = "ok"


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
    black: Mask = field(default_factory=lambda: region_mask("head", BLACK_SIZE, HEAD_PADDING))

    @property
    def method_is_blank(self) -> bool:
        """Whether the method itself leaves a black head: dlib's code of black lies near some
        faces, and blacking out again would change nothing but the count."""
        return bool(getattr(self.method, "blank", False))

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


def run_shard(run: Run, shard: Shard) -> int:
    """De-identify one shard: its pictures written, then its journal entry. Returns its inputs."""
    journal = Journal(run.out)
    sink = _open_sink(run, shard, journal)
    rows: list[tuple[Result, Future[tuple[Written, ...]]]] = []
    samples = watched(read_samples(shard, run.secret), run)
    # One thread writes and waits for the disk while this one detects.
    with ThreadPoolExecutor(1) as writer:
        for result in deidentify(samples, run, stages_of(run)):
            rows.append((_without_data(result), writer.submit(sink.write, result)))
        written = [_written(*row) for row in rows]
    sink.close()
    journal.write_part(shard.index, written)
    return len(rows)


def _written(
    result: Result, writing: Future[tuple[Written, ...]]
) -> tuple[Result, tuple[Written, ...]]:
    """A result with what was written of it; failed where its name could not be written."""
    try:
        return result, writing.result()
    except Unwritable as error:
        reason = f"its name cannot be written: {error}"
        return Result(result.sample, "failed", reason, result.notes), ()


def _open_sink(run: Run, shard: Shard, journal: Journal) -> Sink:
    if isinstance(shard, ParquetShard):
        return ParquetSink(shard, journal.staging, run.settings.keep_identity)
    return FolderSink(run.out, run.settings.names == "random")


def _without_data(result: Result) -> Result:
    sample = dataclasses.replace(result.sample, data=b"", row=None)
    return dataclasses.replace(result, sample=sample, outputs=())


def watched(samples: Iterable[Sample], run: Run) -> Iterator[Sample]:
    """The same inputs; those that ended their worker before as failed ones."""
    for sample in samples:
        if sample.key in run.poisoned:
            yield Sample(sample.key, status="failed", reason="ended its worker (crash or memory)")
            continue
        if run.careful:
            Journal(run.out).write_position(sample.key)
        yield sample


def deidentify(samples: Iterable[Sample], run: Run, stages: Stages) -> Iterator[Result]:
    """De-identify inputs one after another, faces in batches; results in the inputs' order."""
    waiting: list[Result | _Work] = []
    faces = pixels = 0
    for sample in samples:
        if is_large(sample.data):
            yield from _close(waiting, run, stages)
            waiting, faces, pixels = [], 0, 0
            with Journal(run.out).one_at_a_time():
                yield from _close([_open(sample, run, stages)], run, stages)
            continue
        work = _open(sample, run, stages)
        waiting.append(work)
        if isinstance(work, _Work):
            faces += len(work.faces)
            pixels += work.frame.shape[0] * work.frame.shape[1]
        full = faces >= run.batch_size or pixels >= FRAME_BUDGET or len(waiting) >= MOST_WAITING
        if full or run.careful:
            yield from _close(waiting, run, stages)
            waiting, faces, pixels = [], 0, 0
    yield from _close(waiting, run, stages)


def _open(sample: Sample, run: Run, stages: Stages) -> Result | _Work:
    """Decode and detect. A picture that cannot go on is a Result already."""
    if sample.status:
        return Result(sample, sample.status, sample.reason)
    try:
        decoded = decode(sample.data, run.settings.max_megapixels)
    except BadImage as error:
        return Result(sample, "failed", str(error))
    try:
        found = stages.detector(decoded.pixels)
    except Exception as error:  # whatever it was, this picture is withheld and the rest go on
        return Result(sample, "failed", f"detection: {_words(error)}", decoded.notes)
    if not found:
        return _no_face(sample, decoded, run)
    if run.predicted and len(found) == 1:
        sample = _labeled(sample, decoded.pixels, found[0], run, stages)
    size, padding = stages.method.chip.size, stages.method.chip.padding
    faces = []
    for index, face in enumerate(found):
        unit = unit_affine(face.landmarks)
        affine = chip_from_unit(unit, size, padding)
        faces.append(_Face(face, unit, affine, face_seed(run.settings.seed, sample.key, index)))
    return _Work(sample, decoded.pixels, decoded.format, decoded.notes, faces)


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


def _no_face(sample: Sample, decoded: Decoded, run: Run) -> Result:
    choice = run.settings.on_no_face
    if choice == "withhold" or run.settings.output == "crops":
        return Result(sample, "no_face", "no face found, withheld", decoded.notes)
    pixels = decoded.pixels if choice == "copy" else np.zeros_like(decoded.pixels)
    reason = "no face found, copied" if choice == "copy" else "no face found, all black"
    work = _Work(sample, pixels, decoded.format, decoded.notes, [], "no_face")
    result = _encoded(work, run)
    return result if result.status == "failed" else dataclasses.replace(result, reason=reason)


def _close(waiting: list[Result | _Work], run: Run, stages: Stages) -> list[Result]:
    """Replace, gate and encode all faces of some pictures."""
    works = [work for work in waiting if isinstance(work, _Work)]
    errors: dict[int, str] = {}
    try:
        _replace_faces(works, run, stages)
    except Exception:  # find the picture that did it: each on its own
        for work in works:
            try:
                _replace_faces([work], run, stages)
            except Exception as error:
                errors[id(work)] = f"{run.settings.method}: {_words(error)}"
    results = []
    for entry in waiting:
        if isinstance(entry, Result):
            results.append(entry)
        elif id(entry) in errors:
            results.append(Result(entry.sample, "failed", errors[id(entry)], entry.notes))
        else:
            results.append(_encoded(entry, run))
    return results


def _encoded(work: _Work, run: Run) -> Result:
    """`_encode`, or a failed result where the format cannot hold the picture."""
    try:
        return _encode(work, run)
    except Exception as error:  # Pillow's encoders raise several kinds
        return Result(work.sample, "failed", f"encoding: {_words(error)}", work.notes)


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def _replace_faces(works: list[_Work], run: Run, stages: Stages) -> None:
    """Method, paste and gate; frames change only once the method has given all its chips."""
    pairs = [(work, face) for work in works for face in work.faces]
    if not pairs:
        return
    chips = np.stack([stages.cut(work.frame, face.unit) for work, face in pairs])
    if stages.gate is not None:
        for work, face in pairs:
            face.original = stages.gate.cut(work.frame, face.unit)
    replaced = _apply(chips, [face for _, face in pairs], run, stages)
    for (work, face), chip in zip(pairs, replaced, strict=True):
        paste(work.frame, chip, face.affine, stages.method.mask)
        face.chip, face.method = chip, run.settings.method
    if stages.gate is not None:
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
        )
        with torch.inference_mode():
            batch = torch.from_numpy(chips[rows]).to(stages.device)
            given = batch.permute(0, 3, 1, 2).float() / 255
            new = stages.method(given, context)
            scaled = (new.clamp(0, 1) * 255).round().to(torch.uint8)
        out[rows] = scaled.permute(0, 2, 3, 1).cpu().numpy()
    return out


def _pass_gate(pairs: list[tuple[_Work, _Face]], stages: Stages) -> None:
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
    """What `--output crops` publishes: the method's chip, around it the published frame."""
    around = crop(frame, face.affine, stages.method.chip.size, extend=False)
    if face.method == "blackout" or face.chip is None:
        return around
    share = stages.method.mask[:, :, None]
    mixed = share * face.chip + (1 - share) * around
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def _encode(work: _Work, run: Run) -> Result:
    """The published pictures of one input."""
    settings, sample = run.settings, work.sample
    records = [_record(face) for face in work.faces]
    if settings.output == "crops":
        outputs = []
        for index, (face, record) in enumerate(zip(work.faces, records, strict=True)):
            assert face.chip is not None
            side = len(face.chip)
            name, data = f"{sample.stem}_{index}.png", encode(face.chip, "PNG")
            outputs.append(Output(name, data, side, side, (record,)))
    else:
        format = sample.format or work.format
        name = sample.name if sample.format else sample.name + EXTENSION_OF[format]
        data = encode(work.frame, format, settings.jpeg_quality)
        height, width = work.frame.shape[:2]
        outputs = [Output(name, data, width, height, tuple(records))]
    return Result(sample, work.status, "", work.notes, tuple(outputs), len(work.faces))


def _record(face: _Face) -> FaceRecord:
    affine = tuple(float(value) for value in face.affine.ravel())
    return FaceRecord(face.face.box, face.face.score, affine, face.method, face.distance)


# ---------------------------------------------------------------------------- after


def finish_run(run: Run) -> dict[str, Any]:
    """Put the parts together: tables, checksums, card, and the manifest last. Returns it."""
    settings, source = run.settings, run.source
    attributes = source.label_names if settings.attributes is None else settings.attributes
    tally, shards = manifest.write_tables(run.out, source, attributes, settings.names == "random")
    stages = Journal(run.out).read_stages()
    record: dict[str, Any] = {
        "method": settings.method,
        "settings": settings.as_dict(),
        "attributes": list(attributes),
        "predicted_attributes": list(run.predicted),
        "weights": run.weights,
        "chip": stages["chip"],
        "detector": stages["detector"],
        "gate": settings.gate,
        "seed": settings.seed,
        "input": {"kind": source.kind},
        "counts": tally.counts(source.total),
        "conversions": dict(sorted(tally.notes.items())),
        "withheld": [
            {"status": status, "reason": reason, "count": count}
            for (status, reason), count in sorted(tally.reasons.items())
        ],
        "warnings": list(source.warnings),
        "environment": manifest.environment(),
        "fingerprint": run.fingerprint,
        "started": run.started,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    manifest.write_card(run.out, source, record, shards)
    manifest.write_manifest(run.out, record)
    Journal(run.out).clean()
    return record


def check_device(name: str) -> None:
    """Refuse a device that is not known or not there.

    Raises:
        UsageError: another name than `auto`, `cpu`, `cuda`.
        DeidError: `cuda` where there is none.
    """
    if name not in get_args(DeviceName):
        raise UsageError(f"--device {name} is not known", "one of: auto, cpu, cuda")
    if name == "cuda" and resolve_device(name) != "cuda":
        raise DeidError("torch sees no CUDA device", "use --device cpu, or install its CUDA build")


def resolve_device(name: str) -> str:
    """`auto` to what torch has: `cpu` or `cuda`."""
    if name == "cpu":
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
