"""What every part of `deid train dae` shares: its settings, faces in batches, one training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deidcli.celeba import parse_attributes
from deidcli.methods.blend import PADDING, SIDE
from deidcli.methods.dae.settings import Target
from deidcli.training.checkpoints import load_checkpoint, save_checkpoint
from deidcli.training.chips import Chips, load_all
from deidcli.training.loop import StoppedError, TrainingRun, cosine, epoch_order, log, seed_step

BLOCK = 512
"""Faces that go through a network at once where no gradient is kept."""

SAMPLES = ("batch_size", "rate", "limit", "seed")
BODY = ("network", "widths", "channels", "color", "autoencoder_epochs", *SAMPLES)
GOAL = ("target", "attributes", "together", "k", "alpha", "beta", "clusters", "n", "encoder_epochs")


@dataclass(frozen=True)
class Settings:
    """A training run of `dae`."""

    target: Target = "strangers"
    """What the encoder is to produce; `none`: the autoencoder as it is."""
    network: Literal["fc", "conv"] = "fc"
    """Fully connected or fully convolutional (`cells` needs conv)."""
    widths: str = "1024,768,512"
    """Fully connected: widths of the encoder's layers (table 1)."""
    channels: str = "16,32,64,128,256"
    """Convolutional: channels of the encoder's five layers."""
    color: bool = True
    """Color, or gray as in the paper."""
    attributes: str = "Male,Smiling"
    """Supervised and strangers: CelebA's names or letters, in the order of the shifts (table 4)."""
    together: bool = True
    """Supervised and strangers: one shift for all attributes; false: one after another, as in the
    paper."""
    k: int = 20
    """Supervised and strangers: nearest neighbors that attract and repel (table 3)."""
    alpha: float = 1.0
    """Degree of the shift (eq. 7, 11): 0 leaves the face, 1 replaces it."""
    beta: float = 0.8
    """Degree of the repulsion (eq. 9)."""
    clusters: int = 180
    """Clusters: K (table 5)."""
    n: int = 9
    """Neighbors: how many to choose from (table 6). Cells: which one it is (table 7)."""
    pool: str = ""
    """Strangers: a folder or parquet of the pictures whose faces take the place of others; empty:
    the training pictures."""
    pool_size: int = 2500
    """Strangers: faces kept of the pool; each serves mirrored, too."""
    autoencoder_epochs: int = 8
    encoder_epochs: int = 5
    filter_epochs: int = 2
    """Of the deblurrer and the smoother."""
    matcher_epochs: int = 12
    batch_size: int = 128
    rate: float = 4e-4
    """AdamW's highest learning rate for networks that start as principal components; five times
    that for the others."""
    part: Literal["all", "autoencoder", "encoder", "filters", "matcher"] = "all"
    """Train up to and with this part."""
    limit: int = 0
    """Use only so many faces, evenly spread; 0: all."""
    seed: int = 0
    checkpoint_steps: int = 200
    threads: int = 2
    """torch's threads on the CPU."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.target == "cells" and self.network != "conv":
            raise ValueError("target=cells needs network=conv")
        if self.target == "strangers" and (self.network != "fc" or not self.color):
            raise ValueError("target=strangers needs network=fc and color=true")
        parse_attributes(self.attributes)


Run = TrainingRun[Settings]
"""What every part of the recipe shares."""


def faces_of(paths: Sequence[Path], cache: Path, limit: int) -> tuple[Chips, NDArray[np.int64]]:
    """The faces that were found, and which rows of the data they are."""
    chips = load_all(paths, SIDE, PADDING, cache, extend=True)
    rows = np.flatnonzero(chips.found)
    if 0 < limit < len(rows):
        rows = rows[np.linspace(0, len(rows) - 1, limit).round().astype(np.int64)]
    mask = np.zeros(len(chips), dtype=np.bool_)
    mask[rows] = True
    return chips.keep(mask), rows


def tensor_of(faces: Chips) -> Tensor:
    return torch.from_numpy(faces.chips)


def batch_of(chips: Tensor, rows: Tensor, device: str) -> Tensor:
    """(N, S, S, 3) uint8 -> the (B, 3, S, S) float32 RGB in [0, 1] of some rows.

    Channels stay last in memory, which is how the chips lie and what convolutions like best.
    """
    return chips[rows].to(device).permute(0, 3, 1, 2).float() / 255


def fit(
    name: str,
    model: nn.Module,
    count: int,
    epochs: int,
    rate: float,
    loss_of: Callable[[Tensor, torch.Generator], Tensor],
    run: Run,
    fixed: dict[str, Any],
    after: Callable[[], str] = str,
) -> None:
    """Train `model` in place, from its checkpoint `out/name.pt` where there is one.

    Args:
        count: samples. loss_of: (rows of a batch, generator) -> loss.
        fixed: settings that the checkpoint must share. after: words for an epoch's log line.
    """
    settings, path = run.settings, run.out / f"{name}.pt"
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-3)
    per_epoch = max(1, count // settings.batch_size)
    step, steps = 0, epochs * per_epoch
    if saved := load_checkpoint(path, fixed):
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
        log(f"{name}: " + ("done already" if step == steps else f"going on from step {step}"))
    losses = []
    while step < steps:
        epoch, within = divmod(step, per_epoch)
        if run.left == 0:
            raise StoppedError
        run.left = None if run.left is None else run.left - 1
        order = epoch_order(count, settings.seed, epoch)
        rows = order[within * settings.batch_size :][: settings.batch_size]
        generator = seed_step(settings.seed, step)
        for group in optimizer.param_groups:
            group["lr"] = rate * cosine(step, steps, warmup=min(50, steps // 10), floor=0.02)
        model.train()
        loss = loss_of(rows.sort().values, generator)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        step += 1
        last = within + 1 == per_epoch
        if last or step % settings.checkpoint_steps == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(path, {"settings": fixed, "step": step, **state})
        if last:
            model.eval()
            log(f"{name}: epoch {epoch + 1}, loss {np.mean(losses):.5f}{after()}")
            losses = []
    model.eval()


def mirrored(faces: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the faces as in a mirror."""
    turned = torch.rand(len(faces), generator=generator).to(faces.device) < 0.5
    return torch.where(turned[:, None, None, None], faces.flip(3), faces)


@torch.no_grad()
def in_blocks(of: Callable[[Tensor], Tensor], chips: Tensor, device: str) -> Tensor:
    parts = torch.split(torch.arange(len(chips)), BLOCK)
    return torch.cat([of(batch_of(chips, rows, device)).cpu() for rows in parts])
