"""One run, as every worker knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deidcli.crypto.keys import Kdf, Keys
from deidcli.data.source import Source
from deidcli.settings import RunSettings


@dataclass(frozen=True, repr=False)
class RunKeys:
    """A run's password data beyond its settings. It has no repr, so that it reaches no log."""

    keys: Keys
    kdf: Kdf
    nonces: bytes
    """The run's secret, from which the faces' published nonces are derived."""


@dataclass(frozen=True)
class Run:
    """One run, as every worker knows it."""

    settings: RunSettings
    source: Source
    out: Path
    fingerprint: str
    """The published form, keyed with the run's secret, see `settings.published_print`."""
    weights: dict[str, str]
    secret: bytes | None
    started: str
    device: str = "auto"
    batch_size: int = 16
    threads: int = 1
    predicted: tuple[str, ...] = ()
    """Attributes that the classifier labels because the source does not."""
    careful: bool = False
    """Process one picture at a time, each recorded first, to find one that crashes its worker."""
    poisoned: frozenset[str] = frozenset()
    """Inputs that crashed their worker; they are withheld."""
    seed: int | bytes = 0
    """The base of the faces' random seeds, see `settings.face_seed`."""
    files: Mapping[str, str] = field(default_factory=dict)
    """For parquet: source file -> its published name below OUT/data."""
    password: RunKeys | None = field(default=None, repr=False)
    """Set if the method needs a password or the run is sealed."""
