"""The way of the data, top to bottom: prepare_run, run_shard, finish_run.

source -> decode -> detect -> crop -> method -> paste -> gate -> encode -> sink -> manifest
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from deidcli import __version__
from deidcli.pipeline import planning, review
from deidcli.pipeline.batches import deidentify
from deidcli.data import geometry, manifest, sealed
from deidcli.pipeline import tables
from deidcli.data.clearing import clear
from deidcli.data.journal import Journal, new_secret, recorded_roots, seeded_secret
from deidcli.data.listing import some
from deidcli.data.order import file_names
from deidcli.data.parquet import ParquetShard
from deidcli.data.reading import Unreadable
from deidcli.data.samples import Sample, failed_rows, read_samples
from deidcli.data.sink import (
    FolderSink,
    ParquetSink,
    Result,
    Sink,
    Unwritable,
    Written,
)
from deidcli.data.source import Shard, Source, content_signature
from deidcli.errors import DeidError
from deidcli.methods import method_warning, method_weights, needs_password, needs_prepare
from deidcli.methods.base import PlanFace
from deidcli.pipeline.opening import open_sample
from deidcli.pipeline.run import Run
from deidcli.crypto.sealing import CIPHER
from deidcli.settings import RunSettings, differences, fingerprint, published_print
from deidcli.pipeline.stages import Work, stages_of
from deidcli.weights.inventory import weights_in_use


def prepare_run(
    settings: RunSettings,
    source: Source,
    out: Path,
    *,
    overwrite: bool = False,
    device: str = "auto",
    batch_size: int = 16,
    passphrase: bytes | None = None,
    repeatable: bool = False,
) -> Run:
    """Check that OUT holds no other run, and record what is about to be done.

    Args:
        passphrase: where the method needs one or the run is sealed.
        repeatable: with a passphrase, derive the salt from the seed, not from the system's
            random source, so that another run of the same command writes the same bytes.

    Raises:
        DeidError: OUT was made with other settings, inputs or another password, or cannot be
            written.
    """
    journal = Journal(out)
    predicted = planning.predicted_attributes(settings.attributes, source)
    own = method_weights(settings.method, settings.method_settings)
    weights = weights_in_use(settings.detector, settings.gate is not None, bool(predicted), own)
    print_of_run = fingerprint(settings, weights, source.signature)
    if overwrite:
        clear(journal)
    now = {"settings": settings.as_dict(), "weights": weights, "inputs": source.signature}
    record = journal.read_run()
    roots = [str(root.resolve()) for root in source.roots]
    if record is not None and recorded_roots(record) != roots:
        raise DeidError(
            f"{out} was made from another input, {some(recorded_roots(record))}",
            "choose another --out, or start anew with --overwrite",
        )
    if record is not None and record["fingerprint"] != print_of_run:
        raise planning.other_run(out, differences(record["run"], now))
    secret = record["secret"] if record is not None else None
    if secret is None:
        fixed = passphrase is not None and repeatable and settings.names == "keep"
        secret = (
            seeded_secret(settings.seed or 0, content_signature(source)) if fixed else new_secret()
        )
    password = planning.run_keys(out, passphrase, bytes.fromhex(secret), record)
    key = bytes.fromhex(secret)
    naming = key if settings.names == "random" else None
    journal.create()
    planning.open_output(out)
    if record is None:
        record = {
            "fingerprint": print_of_run,
            "run": now,
            "deid": __version__,
            "source": roots,
            "secret": secret,
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        if password is not None:
            record["password"] = password.kdf.as_dict()
            record["verifier"] = password.keys.verifier.hex()
        journal.write_run(record)
    return Run(
        settings,
        source,
        out,
        published_print(print_of_run, key),
        weights,
        naming,
        record["started"],
        device,
        batch_size,
        predicted=predicted,
        seed=key if settings.seed is None else settings.seed,
        files=file_names(source.shards, naming),
        password=password,
    )


def needs_scan(run: Run) -> bool:
    """Whether the method has to see all faces first and has not yet."""
    return needs_prepare(run.settings.method) and not planning.has_plan(Journal(run.out).plan)


def scan_shard(run: Run, shard: Shard) -> int:
    """Cut the faces of a shard for `Method.prepare` and keep them in the private folder."""
    stages = stages_of(run)
    faces: list[PlanFace] = []
    for sample in watched(read_samples(shard, run.secret), run):
        opened = open_sample(sample, run, stages)
        if isinstance(opened, Work):
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


def run_shard(run: Run, shard: Shard) -> int:
    """De-identify one shard: its pictures written, then its journal entry. Returns its inputs."""
    journal = Journal(run.out)
    before = _published_before(journal, shard)
    try:
        written = _write_shard(run, shard, journal)
    except (pa.ArrowException, Unreadable) as error:  # of a parquet file, not of a picture
        if not isinstance(shard, ParquetShard):
            raise
        passes = isinstance(error, Unreadable)
        reason = str(error) if passes else f"cannot be copied as parquet ({type(error).__name__})"
        failed = failed_rows(shard, reason, passes=passes)
        written = [(Result(sample, "failed", reason), ()) for sample in failed]
    for name in before - {entry.output.name for _, entries in written for entry in entries}:
        (run.out / "images" / name).unlink(missing_ok=True)
    journal.write_part(shard.index, written)
    return len(written)


def _published_before(journal: Journal, shard: Shard) -> set[str]:
    """What an earlier run published of a shard's pictures: none of it may outlast this one."""
    if isinstance(shard, ParquetShard):
        return set()
    try:
        return set(journal.published_names(shard.index))
    except (pa.ArrowException, OSError):
        return set()


def _write_shard(
    run: Run, shard: Shard, journal: Journal
) -> list[tuple[Result, tuple[Written, ...]]]:
    stages = stages_of(run)  # first, for it is recorded even where no row can be read
    sink = _open_sink(run, shard, journal)
    rows: list[tuple[Result, Future[tuple[Written, ...]]]] = []
    samples = watched(read_samples(shard, run.secret), run)
    # One thread writes and waits for the disk while this one detects.
    with ThreadPoolExecutor(1) as writer:
        for result in deidentify(samples, run, stages):
            rows.append((_without_data(result), writer.submit(sink.write, result)))
        written = [_written(*row) for row in rows]
    sink.close()
    return written


def _written(
    result: Result, writing: Future[tuple[Written, ...]]
) -> tuple[Result, tuple[Written, ...]]:
    """A result with what was written of it; failed where its name could not be written."""
    try:
        return result, writing.result()
    except Unwritable as error:
        reason = str(error)
        return Result(result.sample, "failed", reason, result.notes), ()


def _open_sink(run: Run, shard: Shard, journal: Journal) -> Sink:
    sink: Sink
    if isinstance(shard, ParquetShard):
        sink = ParquetSink(shard, journal.staging)
    else:
        note = partial(journal.note_names, f"{shard.index:06d}")
        sink = FolderSink(run.out, run.settings.names == "random", note)
    if run.settings.seal:
        return sealed.SealingSink(sink, shard.index, journal.staging)
    return sink


def _without_data(result: Result) -> Result:
    sample = dataclasses.replace(result.sample, data=b"", row=None)
    return dataclasses.replace(result, sample=sample, outputs=())


def watched(samples: Iterable[Sample], run: Run) -> Iterator[Sample]:
    """The same inputs; those that ended their worker before as failed ones."""
    for sample in samples:
        if sample.key in run.poisoned:
            reason = "ended its worker (crash or memory)"
            yield Sample(sample.key, b"", "failed", reason, True, sample.print)
            continue
        if run.careful:
            Journal(run.out).write_position(sample.key)
        yield sample


def finish_run(run: Run) -> dict[str, Any]:
    """Put the parts together: tables, checksums, card, and the manifest last. Returns it."""
    settings, source = run.settings, run.source
    joined = [f"data/{name}" for name in sorted(run.files.values())]
    Journal(run.out).note_names("finish", [*joined, sealed.FILE, geometry.SEALED])
    attributes = source.label_names if settings.attributes is None else settings.attributes
    tally, shards = tables.write_tables(run, attributes, needs_password(settings.method))
    stages = Journal(run.out).read_stages()
    unsafe = method_warning(settings.method, settings.method_settings)
    record: dict[str, Any] = {
        "method": settings.method,
        "settings": settings.published(),
        "attributes": list(attributes),
        "columns": source.columns.record(),
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
        "warnings": [*source.warnings, *([unsafe] if unsafe else [])],
        "environment": manifest.environment(),
        "fingerprint": run.fingerprint,
        "started": run.started,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if run.password is not None:
        record["password"] = run.password.kdf.as_dict()
    if settings.seal:
        record["seal"] = {"file": sealed.FILE, "cipher": CIPHER}
    manifest.write_card(run.out, source, record, shards)
    keys = run.password.keys if run.password is not None and settings.seal else None
    review.write_review(run.out, review.spots_of(tally.doubts))
    manifest.write_manifest(run.out, record, keys)
    Journal(run.out).clean()
    return record
