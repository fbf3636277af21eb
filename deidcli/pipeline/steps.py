"""The data flow from top to bottom: prepare_run, run_shard, finish_run.

source -> decode -> detect -> crop -> method -> paste -> gate -> encode -> sink -> manifest
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pyarrow as pa

from deidcli.data import sealed
from deidcli.data.journal import Journal
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
from deidcli.data.source import Shard
from deidcli.methods import method_facts
from deidcli.methods.base import PlanFace
from deidcli.pipeline import plans
from deidcli.pipeline.batches import deidentify
from deidcli.pipeline.opening import open_sample
from deidcli.pipeline.run import Run
from deidcli.pipeline.stages import Work, stages_of


def needs_scan(run: Run) -> bool:
    """Return whether the method has to see all faces first and has not done so yet."""
    return method_facts(run.settings.method).whole_set and not plans.has_plan(Journal(run.out).plan)


def scan_shard(run: Run, shard: Shard) -> int:
    """Crop the faces of a shard for `Method.prepare` and store them in the private folder."""
    stages = stages_of(run)
    faces: list[PlanFace] = []
    for sample in watched(read_samples(shard, run.secret), run):
        opened = open_sample(sample, run, stages)
        if isinstance(opened, Work):
            person = sample.identity if len(opened.faces) == 1 else None
            for face in opened.faces:
                faces.append(PlanFace(face.seed, stages.cut(opened.frame, face.unit), person))
    plans.write_scan(Journal(run.out).folder / "scan", shard.index, faces)
    return len(shard)


def make_plan(run: Run) -> None:
    """Let a whole-set method group all faces that `scan_shard` found, and store its plan."""
    journal = Journal(run.out)
    scans = plans.read_scans(journal.folder / "scan", len(run.source.shards))
    plan = stages_of(run).method.prepare(scans)
    assert plan is not None, "a whole-set method returns a plan"
    plans.write_plan(journal.plan, plan)


def run_shard(run: Run, shard: Shard) -> int:
    """De-identify one shard, write its pictures, then its journal entry; return its input count."""
    journal = Journal(run.out)
    before = _published_before(journal, shard)
    try:
        written = _write_shard(run, shard, journal)
    except (pa.ArrowException, Unreadable) as error:  # in a parquet file, not in a picture
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
    """Return what an earlier run published of a shard; none of it may outlast this run."""
    if isinstance(shard, ParquetShard):
        return set()
    try:
        return set(journal.published_names(shard.index))
    except (pa.ArrowException, OSError):
        return set()


def _write_shard(
    run: Run, shard: Shard, journal: Journal
) -> list[tuple[Result, tuple[Written, ...]]]:
    stages = stages_of(run)  # first, as it is recorded even if no row can be read
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
    """Return a result with its written pictures; failed if its name cannot be written."""
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
    """Yield the same inputs; those that crashed their worker before are failed."""
    for sample in samples:
        if sample.key in run.poisoned:
            reason = "ended its worker (crash or memory)"
            yield Sample(sample.key, b"", "failed", reason, True, sample.print)
            continue
        if run.careful:
            Journal(run.out).write_position(sample.key)
        yield sample
