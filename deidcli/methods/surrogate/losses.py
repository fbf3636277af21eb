"""The losses of the three networks. Means over a batch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from deidcli.faces.reader import AGE_CENTER, AGE_SCALE

IGNORED = 255
"""The label of pixels of which nobody knows what they show."""


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy over the pixels that have a label; 0 where none has.

    Args:
        logits: (N, 6, H, W). labels: (N, H, W) int64, one of `segmentation`'s classes or IGNORED.
    """
    summed = functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return summed / (labels != IGNORED).sum().clamp(min=1)


def attribute_loss(said: Tensor, labels: Tensor) -> Tensor:
    """Binary cross entropy over the labels that there are; 0 where there are none.

    Args:
        said: (N, 40) log-odds. labels: (N, 40) float, 1 present, -1 absent, 0 not labeled.
    """
    labeled = (labels != 0).to(said)
    each = functional.binary_cross_entropy_with_logits(said, (labels + 1) / 2, reduction="none")
    return (each * labeled).sum() / labeled.sum().clamp(min=1)


def age_loss(said: Tensor, years: Tensor) -> Tensor:
    """Smooth L1 distance of ages.

    Args:
        said: (N,) as `Reader` says it, (years - 35) / 15. years: (N,).
    """
    return functional.smooth_l1_loss(said, (years - AGE_CENTER) / AGE_SCALE)


def predictor_loss(said: Tensor, wanted: Tensor) -> Tensor:
    """Smooth L1 distance of normal numbers, (N, D) both."""
    return functional.smooth_l1_loss(said, wanted)
