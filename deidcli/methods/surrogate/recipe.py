"""The settings of a training run of `surrogate`, known before torch loads."""

from __future__ import annotations

from dataclasses import dataclass

SEGMENTER = (
    "seed", "segmenter_faces", "segmenter_steps", "segmenter_batch", "segmenter_rate",
    "segmenter_decay", "segmenter_warmup", "average",
)  # fmt: skip
"""Settings that bear on the segmenter."""
READER = (
    *SEGMENTER, "bank_faces", "reader_epochs", "reader_batch", "reader_rate", "reader_decay",
    "reader_drop", "reader_noise", "age_weight",
)  # fmt: skip
"""Settings that bear on the reader."""
PREDICTOR = (
    *READER, "predictor_epochs", "predictor_batch", "predictor_rate", "predictor_decay",
    "predictor_warmup", "predictor_drop", "predictor_noise",
)  # fmt: skip
"""Settings that bear on the predictor."""


@dataclass(frozen=True)
class Recipe:
    """A training run of `surrogate`: segmenter, reader and predictor, one after the other."""

    segmenter_faces: int = 2000
    """Drawn faces with label maps that the segmenter learns from."""
    segmenter_steps: int = 1250
    """Steps of the segmenter."""
    segmenter_batch: int = 24
    """Pictures a step of the segmenter."""
    segmenter_rate: float = 3e-3
    """AdamW's highest learning rate for the segmenter."""
    segmenter_decay: float = 1e-4
    """AdamW's weight decay for the segmenter."""
    segmenter_warmup: int = 50
    """Steps of linear warmup of the segmenter."""
    average: float = 0.99
    """Decay of the segmenter's averaged weights, which are the ones that are kept."""
    bank_faces: int = 12_000
    """Drawn faces that are read: the reader learns ages from them, the predictor everything."""
    reader_epochs: int = 15
    """Epochs of the reader over the faces of DATA and the drawn ones."""
    reader_batch: int = 128
    """Faces a step of the reader."""
    reader_rate: float = 1e-3
    """AdamW's first learning rate for the reader; it falls to 0 in a straight line."""
    reader_decay: float = 0.05
    """AdamW's weight decay for the reader."""
    reader_drop: float = 0.35
    """Share of inputs and of hidden numbers that the reader does without in a step."""
    reader_noise: float = 0.15
    """Noise on the reader's inputs, in their deviations."""
    age_weight: float = 0.3
    """Weight of the age beside the attributes."""
    predictor_epochs: int = 40
    """Epochs of the predictor over the drawn faces."""
    predictor_batch: int = 128
    """Faces a step of the predictor."""
    predictor_rate: float = 1e-3
    """AdamW's highest learning rate for the predictor; it falls to 0 in a straight line."""
    predictor_decay: float = 0.02
    """AdamW's weight decay for the predictor."""
    predictor_warmup: int = 100
    """Steps of linear warmup of the predictor."""
    predictor_drop: float = 0.1
    """Share of hidden numbers that the predictor does without in a step."""
    predictor_noise: float = 0.05
    """Noise on w, in its deviations."""
    seed: int = 0
    """Of the drawn faces, of the order that all faces come in and of all that a step draws."""
    checkpoint_steps: int = 50
    """A kill costs so many steps at most."""
    threads: int = 2
    """torch's threads on the CPU."""
    device: str = "cpu"
    """Where faces are drawn and networks are trained, as torch names it."""
