"""The settings of a training run of `dae`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deidcli.celeba import parse_attributes
from deidcli.errors import UsageError
from deidcli.methods.dae.settings import Target
from deidcli.training.loop import TrainingRun

SAMPLING = ("batch_size", "rate", "limit", "seed")
SHIFT = ("attributes", "together", "k", "alpha", "beta", "clusters", "n")
"""Settings of the target codes."""

AUTOENCODER_FIXED = ("network", "widths", "channels", "color", "autoencoder_epochs", *SAMPLING)
ENCODER_FIXED = (*AUTOENCODER_FIXED, "target", *SHIFT, "encoder_epochs")
FILTERS_FIXED = ("filter_epochs", *SAMPLING)
MATCHER_FIXED = ("matcher_epochs", *SAMPLING)
"""For each part the settings that its checkpoint depends on: another value is refused."""

TRAINING_POOL = "training"
"""The value of `pool` by which the user asks for the training faces."""
POOL_WARNING = (
    "pool=training: the faces that get published are those of the people in the training data"
)

_SUPERVISED = frozenset({"attributes", "together", "k", "alpha", "beta"})
_POOL = frozenset({"pool", "pool_size", "matcher_epochs"})
USED: dict[Target, frozenset[str]] = {
    "strangers": _SUPERVISED | _POOL,
    "supervised": _SUPERVISED,
    "clusters": frozenset({"alpha", "clusters"}),
    "neighbors": frozenset({"alpha", "n"}),
    "cells": frozenset({"alpha", "n"}),
    "none": frozenset(),
}
"""Target -> those of SHIFT and of the pool's settings that have a bearing on it."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a training run of `dae`."""

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
    """Supervised and strangers: degree of the repulsion (eq. 9)."""
    clusters: int = 180
    """Clusters: K (table 5)."""
    n: int = 9
    """Neighbors: how many to choose from (table 6). Cells: which one it is (table 7)."""
    pool: str = ""
    """Strangers, required: a folder or parquet of computer-made portraits, whose faces take the
    place of others. `training` takes the training faces: then real people's faces are published."""
    pool_size: int = 2500
    """Strangers: faces kept from the pool; each serves flipped, too."""
    autoencoder_epochs: int = 8
    """Epochs of the autoencoder."""
    encoder_epochs: int = 5
    """Epochs of the encoder's fine-tuning."""
    filter_epochs: int = 2
    """Epochs of the deblurrer; the smoother takes six times as many."""
    matcher_epochs: int = 12
    """Strangers: epochs of the network that says which strangers fit a face."""
    batch_size: int = 128
    """Faces a step."""
    rate: float = 4e-4
    """AdamW's highest learning rate for networks that start as principal components; five times
    that for the others, four times for the matcher."""
    part: Literal["all", "autoencoder", "encoder", "filters"] = "all"
    """Train up to and including this part; only `all` writes weights."""
    limit: int = 0
    """Use only so many faces, evenly spread; 0: all."""
    seed: int = 0
    """Seed of the order of the faces and of all that a step draws."""
    checkpoint_steps: int = 200
    """Steps between two checkpoints: a kill costs at most so many."""
    threads: int = 2
    """torch's threads on the CPU."""
    device: str = "cpu"
    """`cpu` or `cuda`."""

    def __post_init__(self) -> None:
        if self.target == "cells" and self.network != "conv":
            raise ValueError("target=cells needs network=conv")
        if self.target == "strangers" and (self.network != "fc" or not self.color):
            raise ValueError("target=strangers needs network=fc and color=true")
        parse_attributes(self.attributes)
        for name in ("widths", "channels"):
            parts = getattr(self, name).split(",")
            if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
                raise ValueError(f"{name} are whole numbers above 0, with commas between them")

    def ignored(self) -> frozenset[str]:
        """Return the settings that have no bearing on the weights under this target and network.

        To give one of them is a mistake: `part` does not matter here, for a run that stops early
        is meant to be continued with the same settings.
        """
        unused = (frozenset(SHIFT) | _POOL) - USED[self.target]
        if self.target == "none":
            unused |= {"encoder_epochs"}
        return unused | {"channels" if self.network == "fc" else "widths"}

    def uses_pool(self) -> bool:
        """Return whether this run gets as far as needing a pool."""
        return self.target == "strangers" and self.part == "all"

    def require_pool(self) -> None:
        """Make sure that the user said whose faces are to be published.

        Raises:
            UsageError: the run needs a pool, and `pool` is empty.
        """
        if self.uses_pool() and not self.pool:
            raise UsageError(
                "target=strangers needs a pool: the portraits whose faces are published",
                "--set pool=FOLDER of computer-made portraits, or --set pool=training to publish "
                "the faces of the people in DATA",
            )


DaeRun = TrainingRun[Recipe]
"""What every part of the recipe shares."""
