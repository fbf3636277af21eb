"""One run, as every worker knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deidcli.crypto.passwords import Kdf, Keys
from deidcli.data.source import Source
from deidcli.settings import RunSettings


@dataclass(frozen=True, repr=False)
class RunKeys:
    """What a run with a password knows beyond its settings. No repr: it may reach no log."""

    keys: Keys
    kdf: Kdf
    nonces: bytes
    """The run's secret, from which the faces' published nonces follow."""


@dataclass(frozen=True)
class Run:
    """One run, as every worker knows it."""

    settings: RunSettings
    source: Source
    out: Path
    fingerprint: str
    """As it is published: keyed with the run's secret, see `settings.published_print`."""
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
    seed: int | bytes = 0
    """What faces' random numbers are made of, see `settings.face_seed`."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Parquet: source file -> its published name below OUT/data."""
    password: RunKeys | None = field(default=None, repr=False)
    """Where the method needs a password or the run is sealed."""
