"""The settings of a training run of `eae`, and which of them bear on which part."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from deidcli.methods.eae.settings import SizeName

Part = Literal["all", "fsn", "external", "pen", "internal", "sprn"]


@dataclass(frozen=True)
class Recipe:
    """A training run of eae."""

    attrs: str = "GSBE"
    """The attributes that the published picture keeps: letters of G S B E Y or CelebA's names."""
    size: SizeName = "compact"
    """compact: 112 px, on a CPU. paper: 224 px and the paper's widths."""
    part: Part = "all"
    """all: fsn, external, internal (and pen if it is arcface); or one part."""
    fsn_attrs: str = "GSBEY"
    """The attributes that the FSN learns; `attrs` must be among them."""
    targets: str = ""
    """A .npy file of (N, 40) probabilities, one row a picture of DATA: soft labels for the FSN."""
    soft: float = 0.5
    """Share of soft labels in the targets: of `targets` for the FSN, of the FSN's probabilities
    for the internal code."""
    batch_size: int = 64
    """Chips a step, for every part but sprn."""
    fsn_epochs: int = 10
    """Epochs over DATA of the FSN."""
    fsn_initial: str = ""
    """Weights of an FSN to continue from."""
    fsn_rate: float = 2e-3
    """AdamW's highest learning rate for the FSN."""
    external_epochs: int = 3
    """Epochs over DATA of the external autoencoder."""
    external_rate: float = 2e-3
    """AdamW's highest learning rate for the external decoder."""
    encoder_share: float = 0.0
    """Share of `external_rate` for the external encoder, which starts from the FSN's blocks;
    0: it stays as it is."""
    internal_steps: int = 0
    """Steps of `batch_size` of the internal autoencoder; 0: six epochs, and 300 steps at least."""
    internal_rate: float = 1e-3
    """AdamW's highest learning rate for the internal autoencoder."""
    picture_every: int = 8
    """The picture terms of eq. 7 are computed on one batch in so many: 2^m pictures need fewer."""
    internal_initial: str = ""
    """Weights of an internal autoencoder of the same set, to continue from."""
    fine_tune_from: str = ""
    """Weights of an internal autoencoder whose set holds `attrs`: its encoder is kept as it is,
    with the units of `attrs`, and only the decoder learns."""
    a1: float = 1.0
    """Weight of the attribute terms (eq. 7)."""
    a2: float = 1.0
    """Weight of the identity term (eq. 7)."""
    alike: float = 1.0
    """Weight of the term that makes a set's pictures alike to the PEN: losses.likeness_loss."""
    pen: str = "mobilefacenet"
    """The PEN: a recognizer's name, or arcface: one trained here on the persons of DATA."""
    pen_epochs: int = 20
    """Epochs of the ArcFace training."""
    pen_rate: float = 1e-1
    """SGD's highest learning rate in the ArcFace training (sec. IV-B)."""
    sprn_initial: str = ""
    """Weights of an external autoencoder that the ablation starts from, one whose encoder was
    trained to reconstruct (encoder_share above 0); empty: the external autoencoder in OUT."""
    sprn_steps: int = 300
    """Steps of the ablation."""
    sprn_batch: int = 16
    """Chips a step of the ablation."""
    sprn_rate: float = 1e-3
    """AdamW's highest learning rate for the ablation."""
    weight_decay: float = 0.02
    """AdamW's weight decay of matrices and kernels; biases and norms have none."""
    warmup: int = 100
    """Steps of linear warmup, a tenth of a part's steps at most."""
    average: float = 0.998
    """Decay of the averaged weights, which are the ones that are written."""
    seed: int = 0
    """Decides the order of samples, the initial weights and the augmentation."""
    checkpoint_steps: int = 200
    """Steps between checkpoints: a kill costs so many at most."""
    threads: int = 1
    """torch's threads on the CPU."""
    device: str = "cpu"
    """Where the networks train; augmentation stays on the CPU."""

    def parts(self) -> list[str]:
        """Return the parts that this run trains, in order."""
        if self.part != "all":
            return [self.part]
        own_pen = ["pen"] if self.pen == "arcface" else []
        return ["fsn", "external", *own_pen, "internal"]

    def deciding(self, part: str) -> tuple[str, ...]:
        """Return the settings that bear on the weights of one part."""
        names = dict.fromkeys(DECIDES[part])  # in order, each once
        without = set() if self.pen == "arcface" else {"pen_epochs", "pen_rate"}
        return tuple(name for name in names if name not in without)

    def ignored(self) -> frozenset[str]:
        """Return the settings without bearing on what this run trains; giving one is an error."""
        parts = self.parts()
        used = {name for part in parts for name in self.deciding(part)} | set(_ALWAYS)
        unused = {field.name for field in fields(self)} - used
        codes_learn = "internal" in parts and not self.fine_tune_from
        if not codes_learn:
            unused.add("picture_every")
        if not codes_learn and not self.targets:
            unused.add("soft")
        return frozenset(unused)


FILES = ("targets", "fine_tune_from", "fsn_initial", "internal_initial", "sprn_initial")
"""Settings that are paths; of these only the last part is compared and written into cards."""
_ALWAYS = ("part", "checkpoint_steps", "threads", "device")
"""Settings of the run itself; none decides what the weights become."""
_PEN = ("size", "batch_size", "seed", "warmup", "average", "pen", "pen_epochs", "pen_rate")
_FSN = (
    *("size", "batch_size", "seed", "weight_decay", "warmup", "average"),
    *("fsn_attrs", "targets", "soft", "fsn_epochs", "fsn_initial", "fsn_rate"),
)
_EXTERNAL = (*_FSN, "external_epochs", "external_rate", "encoder_share")
_TERMS = ("attrs", "a1", "a2", *_PEN)
DECIDES: dict[str, tuple[str, ...]] = {
    "fsn": _FSN,
    "external": _EXTERNAL,
    "pen": _PEN,
    "internal": (
        *(*_EXTERNAL, *_TERMS, "alike", "internal_steps", "internal_rate"),
        *("picture_every", "internal_initial", "fine_tune_from"),
    ),
    "sprn": (*_EXTERNAL, *_TERMS, "sprn_initial", "sprn_steps", "sprn_batch", "sprn_rate"),
}
"""The settings that bear on each part's weights, with those of the parts that it builds on."""
