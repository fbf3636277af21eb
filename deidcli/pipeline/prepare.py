"""The first step of a run: check that no other run is in OUT, and record this one."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from deidcli.data.clearing import clear
from deidcli.data.journal import Journal, new_secret, seeded_secret
from deidcli.data.order import file_names
from deidcli.data.source import Source, content_signature
from deidcli.methods import method_weights
from deidcli.pipeline import notices, output
from deidcli.pipeline.resume import Planned, check_same, run_keys
from deidcli.pipeline.run import Run, RunKeys
from deidcli.settings import RunSettings, published_print
from deidcli.version import __version__
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
    """Check that OUT contains no other run, and record this one.

    Args:
        passphrase: if the method needs one or the run is sealed.
        repeatable: with a passphrase, derive the salt from the seed instead of the system's random
            source, so that another run of the same command writes the same bytes.

    Raises:
        DeidError: OUT was made with different settings, inputs or password, or cannot be written.
    """
    journal = Journal(out)
    predicted = notices.predicted_attributes(settings.attributes, source)
    own = method_weights(settings.method, settings.method_settings)
    weights = weights_in_use(settings.detector, settings.gate is not None, bool(predicted), own)
    plan = Planned(settings, source, weights)
    if overwrite:
        clear(journal)
    record = journal.read_run()
    if record is not None:
        check_same(out, record, plan)
        secret = str(record["secret"])
    else:
        secret = _new_secret(settings, source, passphrase is not None and repeatable)
    key = bytes.fromhex(secret)
    password = run_keys(out, passphrase, key, record)
    journal.create()
    output.open_output(out)
    if record is None:
        record = _new_record(plan, secret, password)
        journal.write_run(record)
    naming = key if settings.names == "random" else None
    return Run(
        settings,
        source,
        out,
        published_print(plan.fingerprint, key),
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


def _new_secret(settings: RunSettings, source: Source, repeatable: bool) -> str:
    """Return the secret of a new run; with kept names and a seed it is reproducible."""
    if repeatable and settings.names == "keep":
        return seeded_secret(settings.seed or 0, content_signature(source))
    return new_secret()


def _new_record(plan: Planned, secret: str, password: RunKeys | None) -> dict[str, Any]:
    """Return the content of run.json for a new run."""
    record: dict[str, Any] = {
        "fingerprint": plan.fingerprint,
        "run": plan.described,
        "deid": __version__,
        "source": plan.roots,
        "secret": secret,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if password is not None:
        record["password"] = password.kdf.as_dict()
        record["verifier"] = password.keys.verifier.hex()
    return record
