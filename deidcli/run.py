"""One run, as every worker knows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deidcli.data.source import Source
from deidcli.settings import RunSettings


@dataclass(frozen=True)
class Run:
    """One run, as every worker knows it."""

    settings: RunSettings
    source: Source
    out: Path
    fingerprint: str
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
