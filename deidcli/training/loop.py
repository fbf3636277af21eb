"""The one training loop and what its steps are made of: schedule, optimizer step, average."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from deidcli.training.checkpoints import load_checkpoint, save_checkpoint


def log(text: str) -> None:
    """Print one line with the time on stderr; stdout is for results."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def cosine(step: int, steps: int, warmup: int = 0, floor: float = 0.0) -> float:
    """Return the learning rate's factor: linear from 0 to 1 over `warmup` steps, then a half cosine
    to `floor`.

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
    """Draw the order of the samples in one epoch, (count,) int64."""
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


def average_decay(step: int, decay: float) -> float:
    """Return the decay of `update_average` at a step, which grows to its full value: a young
    average would remember the initial weights."""
    return min(decay, (1 + step) / (10 + step))


def optimizer_step(
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    factor: float = 1.0,
    clip: float = 5.0,
    each_group: bool = False,
) -> float:
    """Take one step of an optimizer.

    Args:
        loss: scalar.
        factor: of the learning rate that each parameter group was made with.
        clip: highest norm of the gradient over all of the optimizer's parameters.
        each_group: clip each parameter group on its own instead.

    Returns:
        The loss.
    """
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
    groups = [group["params"] for group in optimizer.param_groups]
    for values in groups if each_group else [[value for some in groups for value in some]]:
        nn.utils.clip_grad_norm_(values, clip)
    optimizer.step()
    return float(loss.detach())


class StoppedError(Exception):
    """The run is to leave here, as a kill would."""


class Recipe(Protocol):
    """The settings of a training run: a frozen dataclass, a docstring under each field."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def seed(self) -> int:
        """Decides the order of samples and all that a step draws."""

    @property
    def checkpoint_steps(self) -> int:
        """A kill costs so many steps at most."""


PATHS = ("pool", "pool_labels")
"""Settings that are paths: a folder may have moved between two parts of a run."""

Settings = TypeVar("Settings", bound=Recipe)


@dataclass
class TrainingRun(Generic[Settings]):
    """What every part of a recipe shares."""

    settings: Settings
    out: Path
    left: int | None = None
    """Steps until the run leaves as a kill would, for tests; None: never."""

    def fixed(self, names: Iterable[str]) -> dict[str, Any]:
        """The settings that a part's checkpoint must share; of paths the last name."""
        every = asdict(self.settings)
        return {name: Path(every[name]).name if name in PATHS else every[name] for name in names}


StepOf = Callable[[int, Tensor, torch.Generator], dict[str, float]]
"""(step, rows of a batch, generator) -> the losses' values; moves the weights."""


def take_steps(
    name: str,
    parts: Mapping[str, nn.Module | torch.optim.Optimizer],
    count: int,
    batch_size: int,
    steps: int,
    step_of: StepOf,
    run: TrainingRun[Any],
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
    fixed = fixed | {"samples": count}  # other data would be seen in another order, under one name
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
