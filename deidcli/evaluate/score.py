"""`deid score`: compute features and metrics; write a table, a manifest entry, a row per face."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deidcli.data.journal import private_folder
from deidcli.data.manifest import read_manifest
from deidcli.data.sink import write_atomic
from deidcli.errors import DeidError
from deidcli.evaluate import features, missed, quality
from deidcli.evaluate.figures import all_rows
from deidcli.evaluate.group_figures import worst_group
from deidcli.evaluate.pairs import CHUNK, PairRef, PairSet, collect
from deidcli.evaluate.rows import Faces, Row
from deidcli.faces import recognizers
from deidcli.processes import limit_threads, worker_pool
from deidcli.weights.own import own_cards

Progress = Callable[[str, int, int], None]
"""Called as (phase, pictures done now, pictures in all)."""


def score(
    published: Path,
    against: Path | None,
    names: Sequence[str] | None,
    device: str,
    workers: int,
    progress: Progress,
) -> dict[str, Any]:
    """Score published pictures against their originals.

    Args:
        names: recognizers; None: all that are installed.

    Returns:
        `rows` (as `Row`), `faces`, `withheld`, `unmatched`, `recognizers`.

    Raises:
        DeidError: there is nothing to score.
    """
    chosen = list(names) if names else recognizers.installed_recognizers()
    pair_set = collect(published, against)
    faces = measure(pair_set, chosen, device, workers, progress)
    if len(faces) == 0:
        raise DeidError(
            f"{published} has no face to score", "were all pictures withheld? see manifest.json"
        )
    rows = [*all_rows(faces, chosen), *_missed_rows(pair_set, device, workers, progress)]
    report = {
        "faces": len(faces),
        "pictures": len(pair_set.pairs),
        "withheld": pair_set.withheld,
        "unmatched": pair_set.unmatched,
        "recognizers": {name: recognizers.RECOGNIZERS[name].file.sha256 for name in chosen},
        "rows": [asdict(row) for row in rows],
    }
    write_report(pair_set, faces, chosen, report)
    return report


def _missed_rows(pair_set: PairSet, device: str, workers: int, progress: Progress) -> list[Row]:
    """Return rows for faces that a second search finds in a sample (docs/score.md)."""
    record = read_manifest(pair_set.published)
    if record is None or not (private_folder(pair_set.published) / "faces.parquet").exists():
        return []
    said = missed.kept_or_new(pair_set.published, record, missed.SAMPLE, device, workers, progress)
    if not said.looked:
        return []
    low, high = said.interval
    told = (
        f"share of {said.looked} published pictures in which a second, slower look sees a face "
        f"that was not replaced ({said.faces} places; false alarms are among them)"
    )
    share = len(said.found) / said.looked
    return [Row("missed faces", share, said.looked, told, "lower", low, high)]


def measure(
    pair_set: PairSet, names: Sequence[str], device: str, workers: int, progress: Progress
) -> Faces:
    """Compute features that are not on disk yet, and load all."""
    folder = private_folder(pair_set.published) / "features" / _cache_key(pair_set, names, device)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    chunks = [
        pair_set.pairs[start : start + CHUNK] for start in range(0, len(pair_set.pairs), CHUNK)
    ]
    paths = [folder / f"{number:06d}.npz" for number in range(len(chunks))]
    left = [n for n, path in enumerate(paths) if not path.exists()]
    total = len(pair_set.pairs)
    progress("measuring", total - sum(len(chunks[n]) for n in left), total)
    light = replace(pair_set, pairs=())
    if min(workers, len(left)) <= 1:
        limit_threads(workers)
        for n in left:
            done = features.compute_to_file(light, chunks[n], names, device, paths[n])
            progress("measuring", done, total)
    else:
        with worker_pool(min(workers, len(left)), 1) as pool:
            step = partial(_compute, light, names, device)
            for done in pool.map(step, [chunks[n] for n in left], [paths[n] for n in left]):
                progress("measuring", done, total)
    data = features.load_features(paths)
    where = data.get("pair", np.empty(0, np.int64))
    refs = tuple(
        chunks[int(p) // features.CHUNK_STRIDE][int(p) % features.CHUNK_STRIDE] for p in where
    )
    return Faces(data, refs, pair_set.withheld, pair_set.attributes)


def _compute(
    pair_set: PairSet, names: Sequence[str], device: str, refs: Sequence[PairRef], path: Path
) -> int:
    return features.compute_to_file(pair_set, refs, names, device, path)


def _cache_key(pair_set: PairSet, names: Sequence[str], device: str) -> str:
    values = {
        "version": features.VERSION,
        "pairs": pair_set.signature,
        "count": len(pair_set.pairs),
        "originals": [str(path.resolve()) for path in pair_set.originals],
        "recognizers": {n: recognizers.RECOGNIZERS[n].file.sha256 for n in names},
        "classifier": {name: card.sha256 for name, card in own_cards().items()},
        "quality": sorted(k for k, why in quality.available().items() if not why),
        "device": device,
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


# ---------------------------------------------------------------------------- out


def write_report(
    pair_set: PairSet, faces: Faces, names: Sequence[str], report: dict[str, Any]
) -> None:
    """Write scores to manifest.json or scores.json, and a row per face to scores.parquet."""
    private = private_folder(pair_set.published)
    private.mkdir(mode=0o700, exist_ok=True)
    columns: dict[str, Any] = {
        "source": [ref.source for ref in faces.refs],
        "output": [ref.output for ref in faces.refs],
        "face": faces.data["face"],
    }
    for name in names:
        originals, published = faces.data[f"{name}/original"], faces.data[f"{name}/published"]
        columns[f"distance_{name}"] = recognizers.pair_distances(name, published, originals)
    for key in ("cnn", "hog"):
        columns[f"found_{key}"] = faces.data[f"{key}_published"]
    for key in ("ssim", "psnr", "lpips", "brisque_published"):
        if key in faces.data:
            columns[key] = faces.data[key]
    unfinished = private / ".scores.parquet"
    pq.write_table(pa.table(columns), unfinished)
    unfinished.replace(private / "scores.parquet")
    record = read_manifest(pair_set.published)
    target = private / "scores.json"
    content: dict[str, Any] = report
    if record is not None:
        target = pair_set.published / "manifest.json"
        content = {**record, "scores": report}
    data = json.dumps(content, indent=2, default=str, ensure_ascii=False).encode() + b"\n"
    write_atomic(target, data, private)


def table(report: dict[str, Any], groups: bool = False) -> str:
    """Format the report as text, with shares in percent."""
    rows = [Row(**row) for row in report["rows"]]
    lines = [_line("metric", "by", "value", "95 % interval", "originals", "chance")]
    for row in rows:
        if row.group and not groups:
            continue
        label = f"{row.metric} [{row.group}]" if row.group else row.metric
        if len(label) > LABEL_COLUMNS:
            lines.append(label)
            label = ""
        if row.value is None:
            lines.append(f"{_line(label, row.recognizer, '-')}  {row.definition}")
            continue
        interval = "" if row.low is None else f"{_shown(row, row.low)} - {_shown(row, row.high)}"
        shown = [_shown(row, value) for value in (row.value, row.original, row.chance)]
        lines.append(_line(label, row.recognizer, shown[0], interval, *shown[1:]))
    lines.append(f"{report['faces']} faces; {report['withheld']} pictures withheld")
    worst = worst_group(rows)
    if worst:
        lines.append(f"worst group: {worst}")
    return "\n".join(lines)


LABEL_COLUMNS, TEXT_COLUMN = 22, 45
"""Width of the first column; column where the text of a row without a figure begins."""


def _line(
    label: str, by: str, value: str, interval: str = "", original: str = "", chance: str = ""
) -> str:
    """Format a row of the table, at most 79 columns wide."""
    lead = f"{label:<{LABEL_COLUMNS}} {by:<13}{value:>7}"
    return f"{lead}  {interval:<16}{original:>10}{chance:>8}".rstrip()


_PLAIN = ("ANON", "ANON median", "ID-distance", "PSNR", "BRISQUE", "FID", "SSIM", "LPIPS",
          "linkability")  # fmt: skip


def _shown(row: Row, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:.3f}" if row.metric in _PLAIN else f"{100 * value:.2f}"
