"""The last step of a run: write tables, checksums, card and manifest from the parts."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from deidcli.crypto.sealing import CIPHER
from deidcli.data import geometry, manifest, sealed
from deidcli.data.journal import Journal
from deidcli.methods import method_facts, method_warning
from deidcli.pipeline import review, tables
from deidcli.pipeline.run import Run


def finish_run(run: Run) -> dict[str, Any]:
    """Write tables, checksums, card and, last, the manifest from the parts; return the manifest."""
    settings, source = run.settings, run.source
    joined = [f"data/{name}" for name in sorted(run.files.values())]
    Journal(run.out).note_names("finish", [*joined, sealed.FILE, geometry.SEALED])
    attributes = source.label_names if settings.attributes is None else settings.attributes
    tally, shards = tables.write_tables(
        run, attributes, method_facts(settings.method).needs_password
    )
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
