"""`deid anonymize --dry-run`: what a run would do, how long it would take, how much disk it needs.

A sample of the pictures is processed completely in memory. OUT is not written; the parts of a run
that need a folder get a temporary one.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deidcli.crypto.keys import SCRYPT_N, Kdf, derive
from deidcli.data.journal import Journal
from deidcli.data.manifest import read_manifest
from deidcli.data.samples import Sample, read_samples
from deidcli.data.sink import Result
from deidcli.data.source import FolderShard, Source
from deidcli.methods import method_facts, method_weights
from deidcli.pipeline import notices
from deidcli.pipeline.anonymize import (
    listed,
    output_of,
    parts_to_load,
    run_settings,
    wants_password,
)
from deidcli.pipeline.options import Options
from deidcli.pipeline.report import Reporter
from deidcli.pipeline.resume import other_run
from deidcli.pipeline.run import Run, RunKeys
from deidcli.processes import default_workers, limit_threads
from deidcli.settings import RunSettings, differences
from deidcli.weights.inventory import weights_in_use

SAMPLE = 20
"""Number of pictures to try, evenly spaced over the input."""
METADATA_BYTES = 400
"""Approximate bytes of metadata.parquet and SHA256SUMS per published picture."""


@dataclass(frozen=True)
class Tried:
    """The result for the sample."""

    statuses: Counter[str]
    faces: int
    published: int
    bytes: int
    """Bytes of the published pictures and their sealed faces."""
    seconds: float
    """Working time of one process."""
    loading: float
    """Seconds until that process was ready."""


def look(
    roots: Sequence[Path],
    out: Path | None,
    options: Options,
    *,
    reporter: Reporter,
    sample: int = SAMPLE,
) -> dict[str, Any]:
    """Return what `deid anonymize` would do with these arguments, as plain values for JSON.

    Raises:
        DeidError: the run itself would be refused, if that can be known in advance.
    """
    settings = run_settings(options)
    target = output_of(roots, out)
    source = listed(roots, target, settings, reporter)
    state = _state(settings, source, target, options.overwrite)
    workers = options.workers or default_workers()
    limit_threads(max(1, default_workers() // workers))
    reporter.loading(parts_to_load(settings))
    tried = _try(settings, source, options, sample, reporter)
    count = sum(tried.statuses.values())
    pictures = len(_pictures(source))
    share = pictures / count if count else 0.0
    passes = 2 if method_facts(settings.method).whole_set else 1
    seconds = tried.loading + passes * tried.seconds * share / min(workers, len(source.shards))
    filled = (tried.bytes + METADATA_BYTES * tried.published) * share
    return {
        "dry_run": True,
        "output": str(target),
        "state": state,
        "inputs": _inputs(source, pictures),
        "settings": settings.as_dict(),
        "asks_for_password": wants_password(settings),
        "sample": {
            "pictures": count,
            "faces": tried.faces,
            "statuses": dict(tried.statuses),
        },
        "estimate": {
            "faces": round(tried.faces * share),
            "seconds": round(seconds, 1),
            "workers": workers,
            "bytes": round(filled),
        },
        # Rows of parquet files are staged in OUT.private until they are joined.
        "needs_bytes": round(filled * (2 if source.kind == "parquet" else 1)),
        "free_bytes": shutil.disk_usage(_nearest(target)).free,
    }


def _state(settings: RunSettings, source: Source, out: Path, overwrite: bool) -> str:
    """Return what the run would find in OUT: `new`, `begun`, `finished` or `overwritten`."""
    record = Journal(out).read_run()
    if record is None:
        return "new"
    if overwrite:
        return "overwritten"
    own = method_weights(settings.method, settings.method_settings)
    predicted = bool(notices.predicted_attributes(settings.attributes, source))
    weights = weights_in_use(settings.detector, settings.gate is not None, predicted, own)
    now = {"settings": settings.as_dict(), "weights": weights, "inputs": source.signature}
    if found := differences(record["run"], now):
        raise other_run(out, found)
    return "begun" if read_manifest(out) is None else "finished"


def _nearest(path: Path) -> Path:
    """Return the existing folder on whose disk a path would be."""
    while not path.exists():
        path = path.parent
    return path


def _inputs(source: Source, pictures: int) -> dict[str, Any]:
    kinds: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for shard in source.shards:
        if not isinstance(shard, FolderShard):
            kinds["rows of parquet files"] += len(shard)
            continue
        for item in shard.items:
            if item.status:
                others[f"{item.status}: {item.reason}"] += 1
            else:
                kinds[os.path.splitext(item.key)[1].lower() or "without extension"] += 1
    return {
        "total": source.total,
        "pictures": pictures,
        "kinds": dict(kinds.most_common()),
        "not_read": dict(others.most_common()),
    }


def _pictures(source: Source) -> list[tuple[int, int]]:
    """Return (shard, index within it) of everything that would be opened as a picture."""
    places = []
    for number, shard in enumerate(source.shards):
        if isinstance(shard, FolderShard):
            places += [(number, i) for i, item in enumerate(shard.items) if not item.status]
        else:
            places += [(number, i) for i in range(len(shard))]
    return places


def _sampled(source: Source, count: int) -> Iterator[Sample]:
    """Yield at most `count` inputs, evenly spaced, in order."""
    places = _pictures(source)
    count = min(count, len(places))
    for index in range(count):
        number, within = places[(2 * index + 1) * len(places) // (2 * count)]
        shard = source.shards[number]
        if isinstance(shard, FolderShard):
            yield from read_samples(dataclasses.replace(shard, items=(shard.items[within],)), None)
        else:
            yield from itertools.islice(read_samples(shard, None), within, within + 1)


def _try(
    settings: RunSettings, source: Source, options: Options, count: int, reporter: Reporter
) -> Tried:
    """Process a sample completely, in this process."""
    from deidcli.pipeline.batches import deidentify
    from deidcli.pipeline.stages import stages_of

    if method_facts(settings.method).whole_set:  # it needs all faces; a filter is as fast
        settings = dataclasses.replace(settings, method="blackout", method_settings={})
    samples = list(_sampled(source, count))
    statuses: Counter[str] = Counter()
    faces = published = size = 0
    with tempfile.TemporaryDirectory(prefix="deid-dry-run-") as folder:
        run = _run(settings, source, options, Path(folder) / "out")
        Journal(run.out).create()
        begun = time.monotonic()
        loaded = stages_of(run)
        list(deidentify(samples[:1], run, loaded))  # networks load with their first picture
        loading = time.monotonic() - begun
        begun = time.monotonic()
        reporter.progress("trying", 0, len(samples))
        for result in deidentify(samples, run, loaded):
            reporter.progress("trying", 1, len(samples))
            statuses[result.status] += 1
            faces += result.faces
            published += len(result.outputs)
            size += _bytes(result)
        seconds = time.monotonic() - begun
    return Tried(statuses, faces, published, size, seconds, loading)


def _run(settings: RunSettings, source: Source, options: Options, out: Path) -> Run:
    predicted = notices.predicted_attributes(settings.attributes, source)
    keys = None
    if wants_password(settings):  # any keys will do, nothing is kept
        kdf = Kdf(os.urandom(16), SCRYPT_N)
        keys = RunKeys(derive(os.urandom(16).hex().encode(), kdf), kdf, os.urandom(32))
    return Run(
        settings, source, out, "dry run", {}, None, "", options.device, options.batch_size,
        predicted=predicted, password=keys,
    )  # fmt: skip


def _bytes(result: Result) -> int:
    return sum(
        len(output.data) + sum(len(face.data) for face in output.sealed)
        for output in result.outputs
    )
