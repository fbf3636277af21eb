"""What every training recipe needs, as plain functions: schedule, averaged weights, checkpoints."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
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


class StoppedError(Exception):
    """The run is to leave here, as a kill would."""


class Recipe(Protocol):
    """The settings of a recipe that `take_steps` needs."""

    @property
    def seed(self) -> int:
        """Of the order of samples and of all that a step draws."""

    @property
    def checkpoint_steps(self) -> int:
        """A kill costs so many steps at most."""


class Progress(Protocol):
    """A run of a recipe."""

    out: Path
    left: int | None
    """Steps until the run leaves; None: never."""

    @property
    def settings(self) -> Recipe:
        """What was asked for."""


StepOf = Callable[[int, Tensor, torch.Generator], dict[str, float]]
"""(step, rows of a batch, generator) -> the losses' values; moves the weights."""


def take_steps(
    name: str,
    parts: Mapping[str, nn.Module | torch.optim.Optimizer],
    count: int,
    batch_size: int,
    steps: int,
    step_of: StepOf,
    run: Progress,
    fixed: dict[str, Any],
    after: Callable[[int], str] = lambda step: "",
) -> None:
    """Train in steps, from the checkpoint `out/name.pt` where there is one.

    Args:
        parts: all that the checkpoint holds. count: samples to draw from; batch_size of them a
            step. fixed: settings that the checkpoint must share.
        after: called at each checkpoint with the step; words for the log line.

    Raises:
        StoppedError: `run.left` steps were taken.
        DeidError: the checkpoint was made with other settings.
    """
    path = run.out / f"{name}.pt"
    batch_size = min(batch_size, count)
    per_epoch = count // batch_size
    step = 0
    if saved := load_checkpoint(path, fixed):
        for key, part in parts.items():
            part.load_state_dict(saved[key])
        step = saved["step"]
        log(f"{name}: " + ("done already" if step == steps else f"going on from step {step}"))
    sums: dict[str, list[float]] = {}
    while step < steps:
        if run.left == 0:
            raise StoppedError
        run.left = None if run.left is None else run.left - 1
        epoch, within = divmod(step, per_epoch)
        order = epoch_order(count, run.settings.seed, epoch)
        rows = order[within * batch_size :][:batch_size].sort().values
        for key, value in step_of(step, rows, seed_step(run.settings.seed, step)).items():
            sums.setdefault(key, []).append(value)
        step += 1
        if step % run.settings.checkpoint_steps == 0 or step == steps:
            states = {key: part.state_dict() for key, part in parts.items()}
            save_checkpoint(path, {"settings": fixed, "step": step, **states})
            words = ", ".join(f"{key} {np.mean(values):.4f}" for key, values in sums.items())
            log(f"{name}: step {step} of {steps}, {words}{after(step)}")
            sums = {}
