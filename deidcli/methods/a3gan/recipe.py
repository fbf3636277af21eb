"""The recipe of `a3gan`: the settings of `deid train a3gan`, and which of them bear on what."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from deidcli.errors import UsageError
from deidcli.methods.a3gan.networks import VARIANTS, Inject, Skip, Variant
from deidcli.methods.a3gan.settings import SizeName, weights_name
from deidcli.training.loop import TrainingRun, cosine

POOL_TRAINING = "training"
"""The value of `pool` by which real people's faces are used on purpose."""
POOL_HINT = (
    "--set pool=PORTRAITS names portraits of people who do not exist; examples/make_people.py "
    "--pool draws them. --set pool=training publishes the training faces, of real people"
)

HEAD_FLOOR, GENERATOR_FLOOR = 0.02, 0.1
"""The learning-rate factor at the end of a part: the attribute head's, the generator's two."""


@dataclass(frozen=True)
class Recipe:
    """A training run of `a3gan`."""

    size: SizeName = "compact"
    """compact: an eighth of the paper's widths and a canvas, for CPUs. paper: tables 2 to 4."""
    pool: str = ""
    """Required: a folder or parquet of computer-made portraits. They are what published faces are
    made of, and the weights hold them. `training` takes the training faces: those of real people
    are then published."""
    pool_labels: str = ""
    """A .npy file of (N, 40) probabilities, one row a face of the pool, not a number where the face
    is to be left out; empty: what the attribute head reads."""
    more: str = ""
    """Labeled pictures for the attribute head alone, separated by commas."""
    skip: Skip = "scu"
    """scu, or an ablation: stu, none."""
    masked: bool = True
    """Whether AINet is given the mask; false is an ablation."""
    inject: Inject = "adain"
    """adain, or an ablation: concat."""
    attribute_epochs: int = 2
    """Epochs of the attribute head alone (eq. 9), which then describes faces."""
    teacher_steps: int = 200
    """Steps of the generator under the teacher alone."""
    steps: int = 500
    """Steps with the losses of eq. 13."""
    batch_size: int = 16
    """Faces in a batch of the generator, at least 2."""
    attribute_batch: int = 64
    """Faces in a batch of the attribute head."""
    rate: float = 1e-3
    """AdamW's highest learning rate for the attribute head and under the teacher."""
    gan_rate: float = 1e-4
    """Adam's highest learning rate for generator and discriminator; its betas are (0, 0.9)."""
    penalty_every: int = 2
    """The gradient penalty is computed on every so many steps, with so many times its weight."""
    recognizer_faces: int = 4
    """Faces of a batch that the frozen recognizer sees; 0: neither L_deid nor diversity."""
    recognizer: str = "mobilefacenet"
    """The frozen recognizer of eq. 12."""
    lambda1: float = 1.0
    """Weight of L_att1 (eq. 13)."""
    lambda2: float = 0.5
    """Weight of L_att2."""
    lambda3: float = 0.05
    """Weight of L_deid."""
    lambda4: float = 0.008
    """Weight of L_adv."""
    lambda_teacher: float = 8.0
    """Weight of the teacher's loss beside eq. 13. Ours."""
    lambda_diversity: float = 0.02
    """Weight of the diversity loss. Ours."""
    limit: int = 0
    """Use only so many faces, evenly spread; 0: all."""
    average: float = 0.995
    """Decay of the averaged weights, which are the ones that are kept."""
    part: Literal["all", "attribute_head", "teacher"] = "all"
    """Train up to and with this part."""
    seed: int = 0
    """Seed of the order of faces and of all that a step draws."""
    checkpoint_steps: int = 100
    """Steps between checkpoints, hence the most that a kill costs; also between sample sheets."""
    threads: int = 2
    """torch's threads on the CPU."""
    device: str = "cpu"
    """cpu or cuda."""

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS.values():
            raise ValueError("of skip, masked and inject only one may differ: table 1 has no more")
        if self.batch_size < 2:
            raise ValueError("batch_size is at least 2: half of a batch has the canvas' own faces")
        if self.penalty_every < 1:
            raise ValueError("penalty_every is at least 1")

    @property
    def variant(self) -> Variant:
        """The generator's variant."""
        return Variant(self.skip, self.masked, self.inject)

    @property
    def weights_name(self) -> str:
        """The name of the weight file that is written: `a3gan-compact` or `a3gan-compact-stu`."""
        names = (name for name, variant in VARIANTS.items() if variant == self.variant)
        return weights_name(self.size, next(names))

    def ignored(self) -> frozenset[str]:
        """Return the settings that have no bearing on what this run makes."""
        used = {"all": GAN, "teacher": TEACHER, "attribute_head": ATTRIBUTE_HEAD}[self.part]
        bearing = {*used, *ALWAYS}
        if self.recognizer_faces == 0:
            bearing -= {"recognizer", "lambda3", "lambda_diversity"}
        return frozenset(field.name for field in fields(self)) - bearing

    def require_pool(self) -> None:
        """Make sure that it was said whose faces will be published.

        Raises:
            UsageError: `pool` is empty, or not there.
        """
        if self.part == "attribute_head":
            return
        if not self.pool:
            raise UsageError("a3gan needs a pool: published faces are made of its faces", POOL_HINT)
        if self.pool != POOL_TRAINING and not Path(self.pool).exists():
            raise UsageError(f"there is no pool {self.pool}", POOL_HINT)


ALWAYS = ("part", "checkpoint_steps", "threads", "device")
"""Settings that bear on every run, but not on its weights."""
ATTRIBUTE_HEAD = ("size", "more", "attribute_epochs", "attribute_batch", "rate", "limit", "seed")
MATERIAL = (*ATTRIBUTE_HEAD, "pool", "pool_labels")
TEACHER = (*MATERIAL, "skip", "masked", "inject", "teacher_steps", "batch_size")
LAMBDAS = ("lambda1", "lambda2", "lambda3", "lambda4", "lambda_teacher", "lambda_diversity")
GAN = (
    *TEACHER,
    *LAMBDAS,
    *("steps", "gan_rate", "penalty_every", "recognizer_faces", "recognizer", "average"),
)
"""The settings that bear on the weights of each part, and so on its checkpoint."""

Run = TrainingRun[Recipe]
"""What every part of the recipe shares."""


def learning_rate_factor(step: int, steps: int, floor: float) -> float:
    """Return the schedule of all parts: a short warmup, then a half cosine down to `floor`."""
    return cosine(step, steps, warmup=min(50, steps // 10), floor=floor)
