"""The recipe of `a3gan`: the settings of `deid train a3gan`, and which of them bear on what."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch

from deidcli.methods.a3gan.networks import VARIANTS, Inject, Skip, Variant
from deidcli.methods.a3gan.settings import SizeName, weights_name
from deidcli.training.loop import TrainingRun, cosine

HEAD_FLOOR, GENERATOR_FLOOR = 0.02, 0.05
"""The learning-rate factor at the end of a part: the attribute head's, the generator's two."""


@dataclass(frozen=True)
class Recipe:
    """A training run of `a3gan`."""

    size: SizeName = "compact"
    """compact: half of the paper's widths or less, for CPUs. paper: tables 2 to 4."""
    skip: Skip = "scu"
    """scu, or an ablation: stu, none."""
    masked: bool = True
    """Whether AINet is given the mask; false is an ablation."""
    inject: Inject = "adain"
    """adain, or an ablation: concat."""
    blocks: int = 64
    """Blocks of pairs that are drawn, 256 pictures each, for 768 pairs."""
    warm: bool = False
    """Start from the weights that are there, shipped ones or those in $DEID_WEIGHTS."""
    supervised_steps: int = 3000
    """Steps on pairs alone."""
    veiled_until: float = 1.0
    """In which share of those steps all sources are veiled; in the others, fewer and fewer. With 1
    they are under eq. 13, too."""
    coarse: float = 0.5
    """In which share of the veiled sources cells are twice as wide as when the method is used."""
    attribute_steps: int = 500
    """Steps of the discriminator's attribute head alone (eq. 9)."""
    steps: int = 500
    """Steps with the losses of eq. 13."""
    batch_size: int = 16
    """Pairs in a batch; under eq. 13 half of them are photographs, at least 2."""
    attribute_batch: int = 64
    """Faces in a batch of the attribute head."""
    rate: float = 8e-4
    """Adam's highest learning rate on pairs; its betas are (0.5, 0.99)."""
    patch_rate: float = 4e-4
    """Adam's learning rate for the patch critic."""
    attribute_rate: float = 1e-3
    """AdamW's highest learning rate for the attribute head."""
    gan_rate: float = 2e-4
    """Adam's highest learning rate for generator and discriminator; its betas are (0, 0.9)."""
    penalty_every: int = 2
    """The gradient penalty is computed on every so many steps, with so many times its weight."""
    lambda1: float = 1.0
    """Weight of L_att1 (eq. 13)."""
    lambda2: float = 0.5
    """Weight of L_att2."""
    lambda3: float = 1.0
    """Weight of L_deid."""
    lambda4: float = 0.02
    """Weight of L_adv."""
    lambda_picture: float = 3.0
    """Weight of the L1 distance to the target of a pair. Ours, as the next four."""
    lambda_perceptual: float = 1.0
    """Weight of the distance of dlib's lower maps."""
    lambda_person: float = 8.0
    """Weight of the distance to the wanted person."""
    lambda_attributes: float = 2.0
    """Weight of the distance to the target's attributes, by the reader."""
    lambda_patch: float = 0.1
    """Weight of the patch critic."""
    limit: int = 0
    """Use only so many faces, evenly spread; 0: all."""
    average: float = 0.998
    """Decay of the averaged weights, which are the ones that are kept."""
    part: Literal["all", "supervised"] = "all"
    """Train up to and with this part."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the convolutions in training; sums and weights are float32."""
    seed: int = 0
    """Seed of the pairs, of the order of faces and of all that a step draws."""
    checkpoint_steps: int = 250
    """Steps between checkpoints, hence the most that a kill costs; also between sample sheets."""
    threads: int = 2
    """torch's threads on the CPU."""
    device: str = "cpu"
    """cpu or cuda."""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS.values():
            raise ValueError("of skip, masked and inject only one may differ: table 1 has no more")
        if self.batch_size < 2:
            raise ValueError("batch_size is at least 2: half of a batch are photographs")
        if self.penalty_every < 1:
            raise ValueError("penalty_every is at least 1")
        if not 0 <= self.veiled_until <= 1:
            raise ValueError("veiled_until is in [0, 1]")
        if not 0 <= self.coarse <= 1:
            raise ValueError("coarse is in [0, 1]")
        if self.blocks < 1:
            raise ValueError("blocks is at least 1")

    @property
    def variant(self) -> Variant:
        """The generator's variant."""
        return Variant(self.skip, self.masked, self.inject)

    @property
    def weights_name(self) -> str:
        """The name of the weight file that is written: `a3gan-compact` or `a3gan-compact-stu`."""
        names = (name for name, variant in VARIANTS.items() if variant == self.variant)
        return weights_name(self.size, next(names))

    @property
    def stays_veiled(self) -> bool:
        """Whether sources are veiled to the end of the part on pairs, and so under eq. 13."""
        return self.veiled_until == 1

    def autocast(self) -> torch.autocast:
        """Let convolutions run in this run's precision."""
        on = self.precision == "bfloat16"
        return torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=on)

    def ignored(self) -> frozenset[str]:
        """Return the settings that have no bearing on what this run makes."""
        bearing = {*(GAN if self.part == "all" else SUPERVISED), *ALWAYS}
        return frozenset(field.name for field in fields(self)) - bearing


ALWAYS = ("part", "checkpoint_steps", "threads", "device")
"""Settings that bear on every run, but not on its weights."""
PAIRS = ("size", "blocks", "seed")
SUPERVISED = (
    *PAIRS,
    *("skip", "masked", "inject", "warm", "supervised_steps", "batch_size", "rate", "patch_rate"),
    *("veiled_until", "coarse"),
    *("lambda_picture", "lambda_perceptual", "lambda_person"),
    *("lambda_attributes", "lambda_patch"),
    *("average", "precision"),
)
ATTRIBUTES = ("size", "attribute_steps", "attribute_batch", "attribute_rate", "limit", "seed")
GAN = (
    *SUPERVISED,
    *ATTRIBUTES,
    *("steps", "gan_rate", "penalty_every", "lambda1", "lambda2", "lambda3", "lambda4"),
)
"""The settings that bear on the weights of each part, and so on its checkpoint."""

Run = TrainingRun[Recipe]
"""What every part of the recipe shares."""


def learning_rate_factor(step: int, steps: int, floor: float) -> float:
    """Return the schedule of all parts: a short warmup, then a half cosine down to `floor`."""
    return cosine(step, steps, warmup=min(100, steps // 10), floor=floor)


def veiled_share(step: int, steps: int, until: float) -> float:
    """Return which share of sources is veiled at a step on pairs: 1 up to a share `until` of the
    steps, then falling to 0 at the last."""
    left, falling = 1 - step / steps, 1 - until
    return 1.0 if left >= falling else left / falling
