"""The optimizers of `deid train sdn` and their learning rates."""

from __future__ import annotations

import torch
from torch import nn

from deidcli.training.loop import cosine

BETA = 0.99
"""AdamW's second beta."""
WEIGHT_DECAY = 1e-3
WARMUP = 50
"""Steps of warm-up, at most; a tenth of a short training."""
FLOOR = 0.02
"""The learning-rate factor of the last step."""


def adamw(rate: float, *models: nn.Module, beta: float = 0.9) -> torch.optim.Optimizer:
    """Make AdamW over the parameters of some networks; `rate` is the highest learning rate."""
    values = [value for model in models for value in model.parameters()]
    return torch.optim.AdamW(values, rate, betas=(beta, BETA), weight_decay=WEIGHT_DECAY)


def rate_factor(step: int, steps: int) -> float:
    """Return the learning-rate factor at a step: warm-up, then a cosine down to FLOOR."""
    return cosine(step, steps, min(WARMUP, steps // 10), floor=FLOOR)
