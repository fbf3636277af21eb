"""The first step of a run: check that no other run is in OUT, and record this one."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from deidcli import __version__
from deidcli.crypto.passwords import Kdf, derive, new_kdf
from deidcli.data.clearing import clear
from deidcli.data.journal import Journal, new_secret, recorded_roots, seeded_secret
from deidcli.data.listing import some
from deidcli.data.order import file_names
from deidcli.data.source import Source, content_signature
from deidcli.errors import DeidError
from deidcli.methods import method_weights
from deidcli.pipeline import notices, output
from deidcli.pipeline.run import Run, RunKeys
from deidcli.settings import RunSettings, differences, fingerprint, published_print
from deidcli.weights.inventory import weights_in_use


def other_run(out: Path, found: Sequence[str]) -> DeidError:
    """Return the error for a second run with different settings or inputs."""
    if any(text.startswith("inputs") for text in found) and len(found) == 1:
        return DeidError(
            f"the input has changed since {out} was begun",
            "choose another --out, or start anew with --overwrite",
        )
    shown = [text for text in found if not text.startswith("inputs")] or ["the version of deid"]
    return DeidError(
        f"{out} was made with other settings: {'; '.join(shown)}",
        "choose another --out, or start anew with --overwrite",
    )


def run_keys(
    out: Path, passphrase: bytes | None, secret: bytes, record: Mapping[str, Any] | None
) -> RunKeys | None:
    """Return the keys of a run with a passphrase.

    Args:
        secret: the run's own secret.
        record: run.json of the run to resume; None: a new run.

    Raises:
        DeidError: the run was started with another passphrase. Faces of two passphrases in one OUT
            could never be restored together.
    """
    if passphrase is None:
        return None
    kdf = new_kdf(secret) if record is None else Kdf.from_dict(record.get("password"))
    keys = derive(passphrase, kdf)
    if record is not None and not hmac.compare_digest(
        keys.verifier.hex(), str(record.get("verifier"))
    ):
        raise DeidError(
            f"{out} was begun with another password",
            "give that one, choose another --out, or start anew with --overwrite",
        )
    return RunKeys(keys, kdf, secret)


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
    plan = _Plan(settings, source, weights)
    if overwrite:
        clear(journal)
    record = journal.read_run()
    if record is not None:
        _check_same(out, record, plan)
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


@dataclass(frozen=True)
class _Plan:
    """What a run is about to do."""

    settings: RunSettings
    source: Source
    weights: dict[str, str]

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.settings, self.weights, self.source.signature)

    @property
    def roots(self) -> list[str]:
        return [str(root.resolve()) for root in self.source.roots]

    @property
    def described(self) -> dict[str, Any]:
        return {
            "settings": self.settings.as_dict(),
            "weights": self.weights,
            "inputs": self.source.signature,
        }


def _check_same(out: Path, record: Mapping[str, Any], plan: _Plan) -> None:
    """Check that an existing run is the requested one.

    Raises:
        DeidError: it was made from a different input or with different settings.
    """
    if recorded_roots(record) != plan.roots:
        raise DeidError(
            f"{out} was made from another input, {some(recorded_roots(record))}",
            "choose another --out, or start anew with --overwrite",
        )
    if record["fingerprint"] != plan.fingerprint:
        raise other_run(out, differences(record["run"], plan.described))


def _new_secret(settings: RunSettings, source: Source, repeatable: bool) -> str:
    """Return the secret of a new run; with kept names and a seed it is reproducible."""
    if repeatable and settings.names == "keep":
        return seeded_secret(settings.seed or 0, content_signature(source))
    return new_secret()


def _new_record(plan: _Plan, secret: str, password: RunKeys | None) -> dict[str, Any]:
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
