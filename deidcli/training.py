"""What every training recipe needs, as plain functions: schedule, averaged weights, checkpoints."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deidcli.errors import DeidError


def log(text: str) -> None:
    """One line with the time on stderr; stdout is for results."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def cosine(step: int, steps: int, warmup: int = 0, floor: float = 0.0) -> float:
    """The learning rate's factor: linear from 0 to 1 over `warmup`, then a half cosine to `floor`.

    Source: Loshchilov and Hutter 2017 (SGDR), eq. 5, without restarts.
    """
    if step < warmup:
        return (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share))


def seed_step(seed: int, step: int) -> torch.Generator:
    """Seed torch and a generator for one training step.

    Random numbers depend on (seed, step) alone, so a resumed run draws what an unbroken one draws
    and a checkpoint holds no generator state.
    """
    mixed = (seed * 1_000_003 + step) % (1 << 62)
    torch.manual_seed(mixed)
    return torch.Generator().manual_seed(mixed + 1)


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """(count,) int64: the order of the samples in one epoch."""
    return torch.randperm(count, generator=seed_step(seed + 7919, epoch))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights (and batch-norm statistics) a share 1 - decay towards `model`."""
    source = model.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(source[name], 1 - decay)
        else:
            value.copy_(source[name])


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old one or the new one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load_checkpoint(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The checkpoint at `path`, or None when there is none.

    Args:
        settings: must equal the checkpoint's own `settings`, for a run that changes its settings
            half way is no run that can be repeated.
    """
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    saved = state["settings"]
    names = sorted({*saved, *settings})
    changed = [name for name in names if saved.get(name) != settings.get(name)]
    if changed:
        raise DeidError(
            f"{path} was made with other settings: {', '.join(changed)}",
            "train with the same settings, or into another folder",
        )
    return state
