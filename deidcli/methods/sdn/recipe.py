"""The settings of a training run of `sdn`, known before torch loads."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

from deidcli.errors import UsageError
from deidcli.methods.sdn.settings import SizeName

TRAINING = "training"
"""`pool=training`: the training pictures themselves take the place of others."""
APART = ("threads", "device", "checkpoint_steps", "part")
"""Settings that decide nothing about the weights."""
COMMON = ("size", "limit", "seed", "rate")
"""Settings that bear on every part."""
EXTRACTOR = (*COMMON, "extractor_steps", "extractor_batch")
"""Settings that bear on the feature extractor."""
BOTTLENECK = (*COMMON, "strength", "pool", "pool_size")
"""Settings that bear on the bottleneck."""
IDENTITY = (*COMMON, "pool", "pool_size", "extractor_steps")
"""Settings that bear on the identity network."""


@dataclass(frozen=True)
class Recipe:
    """A training run of `sdn`."""

    size: SizeName = "compact"
    """compact: 64 px. paper: 128 px, near the paper's 13.09 G multiply-accumulates."""
    pool: str = ""
    """A folder or parquet file of pictures of people who do not exist: their faces take the place
    of others, are stored in the weights and are published. Required; `training` takes the
    training pictures, whose people are then in the weights and in what is published."""
    pool_size: int = 3000
    """Faces kept of the pool; each serves flipped, too."""
    strength: float = 2.0
    """Root mean square of the hidden pattern, gray levels of 255."""
    extractor_steps: int = 2600
    """Steps of the feature extractor with its classifiers alone."""
    steps: int = 1500
    """Steps of the refinement networks, by algorithm 1."""
    adversarial_from: float = 0.35
    """Share of the steps after which the discriminators take part."""
    adversarial: float = 0.25
    """Weight of the discriminator of the surrogates."""
    alike: float = 1.0
    """Weight of the discriminator that compares wrong restorations with right ones."""
    attributes: float = 0.01
    """Weight of eq. 7 within eq. 8."""
    wrong: float = 0.005
    """Weight of eq. 13 within eq. 14."""
    information: float = 0.01
    """lambda_1 and lambda_2 of eq. 16 and 19, the terms of mutual information; 0: without."""
    classifier_every: int = 10
    """The classifier learns every so many steps (algorithm 1)."""
    batch_size: int = 16
    """Faces a step of the refinement networks."""
    extractor_batch: int = 24
    """Faces a step of the extractor alone."""
    rate: float = 1e-3
    """AdamW's highest learning rate."""
    part: Literal["all", "extractor", "bottleneck"] = "all"
    """Train up to and including this part."""
    limit: int = 0
    """Use only so many faces, evenly spread; 0: all."""
    seed: int = 0
    """Decides the initial weights, the order of the faces and all that a step draws."""
    checkpoint_steps: int = 100
    """A kill costs so many steps at most."""
    threads: int = 1
    """torch's threads on the CPU."""
    device: str = "cpu"
    """Where the networks train, as torch names it."""

    def __post_init__(self) -> None:
        if self.size not in get_args(SizeName):
            raise ValueError(f"no size is called {self.size}")

    def ignored(self) -> frozenset[str]:
        """Return the settings without bearing under the chosen part."""
        if self.part == "all":
            return frozenset()
        used = {*EXTRACTOR, *APART, *(BOTTLENECK if self.part == "bottleneck" else ())}
        return frozenset(field.name for field in fields(self)) - used

    def require_pool(self) -> None:
        """Make sure that faces of real people are published only where that was asked for.

        Raises:
            UsageError: the chosen part needs a pool and none is named.
        """
        if self.part != "extractor" and not self.pool:
            raise UsageError(
                "sdn: no pool is named, and the faces of a pool are in the weights and published",
                "name pictures of people who do not exist, --set pool=PORTRAITS; or, if the "
                "training pictures' own people may be published, --set pool=training",
            )
