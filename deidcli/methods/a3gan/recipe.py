"""What the parts of `deid train a3gan` share: settings, faces in batches, one loop, the sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import DeidError
from deidcli.faces import align, recognizers
from deidcli.methods.a3gan.networks import SIZES, Inject, Skip, Variant
from deidcli.methods.a3gan.settings import ALSO, ATTRIBUTES
from deidcli.methods.blend import PADDING
from deidcli.training.chips import Chips, load_all, load_landmarks, require_labels
from deidcli.training.loop import TrainingRun, cosine, log

BLOCK = 256
"""Faces that go through a network at once where no gradient is kept."""
NAMES = (*ATTRIBUTES, *ALSO)


@dataclass(frozen=True)
class Settings:
    """A training run of `a3gan`."""

    size: Literal["compact", "paper", "tiny"] = "compact"
    """compact: an eighth of the paper's widths and a canvas, for CPUs. paper: tables 2 to 4."""
    pool: str = ""
    """A folder or parquet of computer-made portraits: the latents and the teacher's faces. Empty:
    the training pictures, which then are what published faces are made of."""
    pool_labels: str = ""
    """A .npy file of (N, 40) probabilities, one row a face of the pool, not a number where it is to
    be left out; empty: the reader's."""
    more: str = ""
    """Labeled pictures for the reader alone, separated by commas."""
    skip: Skip = "scu"
    """scu, or an ablation: stu, none."""
    masked: bool = True
    """Whether AINet gets the mask; false is an ablation."""
    inject: Inject = "adain"
    """adain, or an ablation: concat."""
    reader_epochs: int = 2
    """Of the discriminator's attribute head alone (eq. 9), which then reads faces."""
    teacher_steps: int = 200
    """Steps of the generator on the teacher's faces alone."""
    steps: int = 500
    """Steps with the losses of eq. 13."""
    batch_size: int = 16
    reader_batch: int = 64
    rate: float = 1e-3
    """AdamW's highest learning rate for the reader and under the teacher."""
    gan_rate: float = 1e-4
    """Adam's (0, 0.9) for generator and discriminator."""
    penalty_every: int = 2
    """The gradient penalty is computed every so many steps, with so many times its weight."""
    watched: int = 4
    """Faces of a batch that the frozen recognizer sees."""
    recognizer: str = "mobilefacenet"
    """The frozen recognizer of eq. 12."""
    lambda1: float = 1.0
    """Of L_att1 (eq. 13)."""
    lambda2: float = 0.5
    """Of L_att2."""
    lambda3: float = 0.05
    """Of L_deid."""
    lambda4: float = 0.008
    """Of L_adv."""
    lambda_teacher: float = 8.0
    """Ours: of the teacher's loss, once the others are on."""
    lambda_diversity: float = 0.02
    """Ours: of the diversity loss."""
    limit: int = 0
    """Use only so many faces, evenly spread; 0: all."""
    average: float = 0.995
    """Decay of the averaged weights, which are the ones that are kept."""
    part: Literal["all", "reader", "teacher"] = "all"
    """Train up to and with this part."""
    seed: int = 0
    checkpoint_steps: int = 100
    """A kill costs so many steps at most; a sample sheet is written as often."""
    threads: int = 2
    """torch's threads on the CPU."""
    device: str = "cpu"

    @property
    def variant(self) -> Variant:
        """The generator's."""
        return Variant(self.skip, self.masked, self.inject)


READER = ("size", "more", "reader_epochs", "reader_batch", "rate", "limit", "seed")
MATERIAL = (*READER, "pool", "pool_labels")
TEACHER = (*MATERIAL, "skip", "masked", "inject", "teacher_steps", "batch_size")
LAMBDAS = ("lambda1", "lambda2", "lambda3", "lambda4", "lambda_teacher", "lambda_diversity")
GAN = (*TEACHER, *LAMBDAS, "steps", "gan_rate", "penalty_every", "watched", "recognizer", "average")
"""The settings that bear on each part's weights."""


Run = TrainingRun[Settings]
"""What every part of the recipe shares."""


@dataclass
class Faces:
    """Faces for training, as arrays."""

    chips: Tensor
    """(N, S, S, 3) uint8."""
    labels: Tensor
    """(N, 12) float32: NAMES; 1 present, 0 absent, -1 not labeled."""
    every: Tensor
    """(N, 40) float32: the same for all of CelebA's."""
    shape: Tensor
    """(N, 10) float32: landmarks less the mean face, unit square."""

    def __len__(self) -> int:
        return len(self.chips)


def faces_of(
    paths: Sequence[Path], run: Run, cache: Path, limit: int = 0, labeled: bool = False
) -> Faces:
    """The faces that the detector found.

    Args:
        labeled: make sure that they have labels.
    """
    side = SIZES[run.settings.size].side
    chips = load_all(paths, side, PADDING, cache, extend=True)
    if labeled:
        require_labels(chips)
    rows = np.flatnonzero(chips.found)
    if 0 < limit < len(rows):
        rows = rows[np.linspace(0, len(rows) - 1, limit).round().astype(np.int64)]
    shape = load_landmarks(paths, cache)[rows] - align.MEAN_FACE_5.astype(np.float32)
    return Faces(
        torch.from_numpy(chips.chips[rows]),
        torch.from_numpy(labels_of(chips, NAMES)[rows]),
        torch.from_numpy(labels_of(chips, CELEBA_ATTRIBUTES)[rows]),
        torch.from_numpy(shape).flatten(1),
    )


def labels_of(chips: Chips, names: Sequence[str]) -> NDArray[np.float32]:
    """(N, names): 1, 0, or -1 where there is no label."""
    columns = [CELEBA_ATTRIBUTES.index(name) for name in names]
    labels = chips.labels[:, columns].astype(np.float32)
    return np.where(labels == 0, -1, (labels + 1) / 2).astype(np.float32)


def batch_of(chips: Tensor, rows: Tensor, device: str) -> Tensor:
    """(N, S, S, 3) uint8 -> (B, 3, S, S) float32 in [0, 1], channels last in memory."""
    return chips[rows].to(device).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def in_blocks(of: Callable[[Tensor], Tensor], chips: Tensor, device: str) -> Tensor:
    """`of` batches of all the chips, joined, on the CPU."""
    parts = torch.split(torch.arange(len(chips)), BLOCK)
    return torch.cat([of(batch_of(chips, rows, device)).cpu() for rows in parts])


def embeddings_of(chips: Tensor, path: Path) -> Tensor:
    """dlib's descriptors of (N, S, S, 3) chips, kept at `path`: (N, 128) float32."""
    if path.is_file():
        kept = np.load(path)
        if len(kept) == len(chips):
            return torch.from_numpy(kept)
    log(f"descriptors of {len(chips)} faces")
    unit = align.chip_from_unit(np.eye(2, 3), chips.shape[1], PADDING)
    points = align.apply_affine(unit, align.MEAN_FACE_5)
    parts = [
        recognizers.embed("dlib", [recognizers.cut("dlib", chip, points) for chip in block])
        for block in np.array_split(chips.numpy(), max(1, len(chips) // BLOCK))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.concatenate(parts))
    return torch.from_numpy(np.concatenate(parts))


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> float:
    """One step of an optimizer at a learning rate; returns the loss."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for group in optimizer.param_groups:
        group["lr"] = rate
        nn.utils.clip_grad_norm_(group["params"], 5.0)
    optimizer.step()
    return float(loss.detach())


def warm(step: int, steps: int, floor: float = 0.02) -> float:
    """The learning rate's factor."""
    return cosine(step, steps, warmup=min(50, steps // 10), floor=floor)


def write_sheet(path: Path, rows: Sequence[Tensor]) -> None:
    """A picture of rows of chips, each (N, 3, S, S) in [0, 1]."""
    lines = [torch.cat(list(row.detach().cpu().clamp(0, 1)), 2) for row in rows]
    picture = (torch.cat(lines, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), picture[..., ::-1]):
        raise DeidError(f"{path} could not be written", "is the folder writable?")
