"""One part of `eae` in training: the network, the average of its weights, its optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Tensor, nn

from deidcli.methods.eae.recipe import Recipe
from deidcli.methods.eae.run import EaeRun
from deidcli.methods.loading import Module
from deidcli.training.loop import (
    StepOf,
    average_decay,
    cosine,
    log,
    optimizer_step,
    take_steps,
    update_average,
)


@dataclass
class Learner(Generic[Module]):
    """A network in training, its average and its optimizer."""

    model: Module
    average: Module
    optimizer: torch.optim.Optimizer
    steps: int
    recipe: Recipe

    def descend(self, step: int, loss: Tensor) -> dict[str, float]:
        """Take one step down a loss, move the average, and return the loss to log."""
        factor = cosine(step, self.steps, min(self.recipe.warmup, self.steps // 10))
        value = optimizer_step(self.optimizer, loss, factor)
        update_average(self.average, self.model, average_decay(step, self.recipe.average))
        return {"loss": value}


def learner_of(
    run: EaeRun,
    model: Module,
    optimizer_of: Callable[[Module], torch.optim.Optimizer],
    steps: int,
) -> Learner[Module]:
    """Return a network as it is trained: on the run's device, with an average of its weights."""
    model.to(memory_format=torch.channels_last).to(run.settings.device)
    return Learner(model, deepcopy(model).eval(), optimizer_of(model), steps, run.settings)


def adamw(recipe: Recipe, rates: Sequence[tuple[nn.Module, float]]) -> torch.optim.Optimizer:
    """Return AdamW over (module, highest learning rate); vectors (biases, norms) do not decay.

    Each parameter has a group of its own, in the modules' order: clipping sums their norms in it.
    """
    groups = [
        {
            "params": [value],
            "lr": rate,
            "weight_decay": recipe.weight_decay if value.ndim > 1 else 0.0,
        }
        for module, rate in rates
        for value in module.parameters()
        if value.requires_grad
    ]
    return torch.optim.AdamW(groups)


def train_part(
    run: EaeRun,
    part: str,
    learner: Learner[Module],
    batch_size: int,
    step_of: StepOf,
    scores_of: Callable[[Module], dict[str, float]] = lambda average: {},
) -> None:
    """Train one part and write its averaged weights and card.

    Args:
        scores_of: what validation says of the average: logged at checkpoints, kept in the card.

    Raises:
        StoppedError: the run is to leave here.
    """

    def after(step: int) -> str:
        scores = {} if step == learner.steps else scores_of(learner.average)
        return _words(scores)

    trained: dict[str, nn.Module | torch.optim.Optimizer] = {
        "model": learner.model,
        "average": learner.average,
        "optimizer": learner.optimizer,
    }
    checkpoint = run.checkpoint(part)
    log(f"{part}: {len(run.chips)} chips, {learner.steps} steps of {batch_size}")
    take_steps(
        checkpoint.stem,
        trained,
        len(run.chips),
        batch_size,
        learner.steps,
        step_of,
        run,
        run.fixed_of(part),
        after,
    )
    scores = scores_of(learner.average)
    if scores:
        log(f"{part}: validation{_words(scores)}")
    run.write(part, learner.average, scores)
    checkpoint.unlink()


def _words(scores: dict[str, float]) -> str:
    return "".join(f", {name} {value:.2f}" for name, value in scores.items())
