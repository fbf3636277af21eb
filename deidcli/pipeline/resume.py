"""May this command resume the run in OUT? Only with the same input, settings and password."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deidcli.crypto.keys import Kdf, derive, new_kdf
from deidcli.data.journal import recorded_roots
from deidcli.data.listing import some
from deidcli.data.source import Source
from deidcli.errors import DeidError
from deidcli.pipeline.run import RunKeys
from deidcli.settings import RunSettings, differences, fingerprint


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


@dataclass(frozen=True)
class Planned:
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


def check_same(out: Path, record: Mapping[str, Any], plan: Planned) -> None:
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
