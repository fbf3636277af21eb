"""What the parts of `deid train sdn` share: settings, faces with their labels, one loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deidcli.errors import DeidError
from deidcli.faces.align import MEAN_FACE_5
from deidcli.methods.sdn.networks import PADDING, SIZES
from deidcli.training.chips import load_all, load_landmarks, require_labels
from deidcli.training.loop import StepOf, TrainingRun, cosine, take_steps

KNOWN_PICTURES = 8
"""Pictures of a person, at least, for the person to be a class of the classifier."""
MIRRORED = (2, 3, 0, 1, 4)
"""Which landmark each becomes in a mirror; see MEAN_FACE_5."""


@dataclass(frozen=True)
class Settings:
    """A training run of `sdn`."""

    size: Literal["compact", "paper"] = "compact"
    """compact: 64 px. paper: 128 px, near the paper's 13.09 G multiply-accumulates."""
    pool: str = ""
    """A folder or parquet of the pictures whose faces take the place of others; empty: the
    training pictures themselves, which then are in the weights."""
    pool_size: int = 3000
    """Faces kept of the pool; each serves mirrored, too."""
    strength: float = 2.0
    """Root mean square of the hidden pattern, gray levels of 255."""
    extractor_steps: int = 2600
    """Steps of the feature extractor/classifier alone."""
    steps: int = 1500
    """Steps of the painters, by algorithm 1."""
    adversarial_from: float = 0.35
    """Share of the steps after which the discriminators take part."""
    adversarial: float = 0.25
    """Weight of what the discriminators say of the surrogates."""
    alike: float = 1.0
    """Weight of what the discriminator of right and wrong restorations says."""
    attributes: float = 0.01
    """Weight of eq. 7 within eq. 8."""
    wrong: float = 0.005
    """Weight of eq. 13 within eq. 14."""
    information: float = 0.01
    """lambda_1 and lambda_2 of eq. 16 and 19, the terms of mutual information; 0: without."""
    classifier_every: int = 10
    """The classifier learns every so many steps (algorithm 1)."""
    batch_size: int = 16
    """Faces a step of the painters."""
    extractor_batch: int = 24
    """Faces a step of the extractor alone."""
    rate: float = 1e-3
    """AdamW's highest learning rate."""
    part: Literal["all", "extractor", "bottleneck"] = "all"
    """Train up to and with this part."""
    limit: int = 0
    """Use only so many faces, evenly spread; 0: all."""
    seed: int = 0
    checkpoint_steps: int = 100
    """A kill costs so many steps at most."""
    threads: int = 1
    """torch's threads on the CPU."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"no size is called {self.size}")


Run = TrainingRun[Settings]
"""What every part of the recipe shares."""
COMMON = ("size", "limit", "seed", "rate")
"""Settings that bear on every part."""


@dataclass
class Faces:
    """Faces with what is known of them, on the CPU."""

    chips: Tensor
    """(N, S, S, 3) uint8 RGB."""
    labels: Tensor
    """(N, 40) float32: 1 present, 0 absent, -1 not labeled."""
    landmarks: Tensor
    """(N, 10) float32: less the mean face, in sides of it."""
    persons: Tensor
    """(N,) int64: number of the person, -1 for one with few pictures."""

    def __len__(self) -> int:
        return len(self.chips)

    @property
    def people(self) -> int:
        """Persons that are classes."""
        return max(1, int(self.persons.max()) + 1)


def faces_of(
    paths: Sequence[Path], side: int, cache: Path, limit: int, labeled: bool = False
) -> Faces:
    """The faces of some data sets that the detector found.

    Args:
        labeled: make sure that they have labels.
    """
    found = load_all(paths, side, PADDING, cache, extend=True)
    if labeled:
        require_labels(found)
    rows = np.flatnonzero(found.found)
    if 0 < limit < len(rows):
        rows = rows[np.linspace(0, len(rows) - 1, limit).round().astype(np.int64)]
    if not len(rows):
        raise DeidError("no face was found in the data", "is it a set of faces?")
    labels = found.labels[rows].astype(np.float32)
    points = load_landmarks(paths, cache)[rows] - MEAN_FACE_5.astype(np.float32)
    return Faces(
        torch.from_numpy(np.ascontiguousarray(found.chips[rows])),
        torch.from_numpy(np.where(labels == 0, -1, (labels + 1) / 2).astype(np.float32)),
        torch.from_numpy(points.reshape(len(rows), 10)),
        torch.from_numpy(_numbered(found.persons[rows])),
    )


def _numbered(persons: NDArray[np.object_]) -> NDArray[np.int64]:
    _, numbers, counts = np.unique(persons.astype(str), return_inverse=True, return_counts=True)
    known = np.flatnonzero(counts >= KNOWN_PICTURES)
    places = np.full(len(counts), -1, np.int64)
    places[known] = np.arange(len(known))
    return np.asarray(places[numbers])


def mirrored_landmarks(points: Tensor) -> Tensor:
    """(N, 10) of faces -> those of their mirror images."""
    turned = points.view(-1, 5, 2)[:, list(MIRRORED)]
    return (turned * torch.tensor([-1.0, 1.0])).flatten(1)


def fit(
    name: str,
    models: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    count: int,
    steps: int,
    batch: int,
    step_of: StepOf,
    run: Run,
    fixed: dict[str, Any],
    after: Callable[[int], str] = lambda step: "",
) -> None:
    """`take_steps`, with the learning rates of all optimizers falling along a cosine."""

    def step_at_rate(step: int, rows: Tensor, generator: torch.Generator) -> dict[str, float]:
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                highest = group.setdefault("highest", group["lr"])
                group["lr"] = highest * cosine(step, steps, min(50, steps // 10), floor=0.02)
        return step_of(step, rows, generator)

    parts: dict[str, nn.Module | torch.optim.Optimizer] = {
        **models,
        **{f"{key} rate": o for key, o in optimizers.items()},
    }
    fixed = {**fixed, "steps of it": steps}
    take_steps(name, parts, count, batch, steps, step_at_rate, run, fixed, after)


def adamw(rate: float, *models: nn.Module, beta: float = 0.9) -> torch.optim.Optimizer:
    """AdamW over the parameters of some networks."""
    values = [value for model in models for value in model.parameters()]
    return torch.optim.AdamW(values, rate, betas=(beta, 0.99), weight_decay=1e-3)


def descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step down."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for group in optimizer.param_groups:
        nn.utils.clip_grad_norm_(group["params"], 5.0)
    optimizer.step()
