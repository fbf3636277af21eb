"""The Privacy Evaluation Network (PEN) of `eae`: a recognizer that looks at published pictures.

Only training needs it. By default it is one of `faces.recognizers`; `--set pen=arcface` trains one
here, as the paper does: ResNet50, 512 dimensions, the ArcFace loss (sec. III-C).
"""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from deidcli.faces.recognizers import Recognizer
from deidcli.methods.eae.networks import PADDING, Size

EMBEDDING = 512
"""Dimensions of the embeddings of a PEN that is trained here (sec. III-C)."""


class Embedder(nn.Module):
    """A PEN of our own: (N, 3, 112, 112) in [0, 1] -> (N, 512); ResNet50 in the paper's size."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        network = {"resnet18": torchvision.models.resnet18, "resnet50": torchvision.models.resnet50}
        self.net = network[size.embedder](num_classes=EMBEDDING)

    def forward(self, chips: Tensor) -> Tensor:
        out: Tensor = self.net(chips * 2 - 1)
        return out


class PersonClassifier(nn.Module):
    """An embedder with a center for each person of its training."""

    def __init__(self, embedder: nn.Module, persons: int) -> None:
        super().__init__()
        self.embedder = embedder
        self.centers = nn.Parameter(torch.randn(persons, EMBEDDING) * 0.01)


def recognizer_view(chips: Tensor, recognizer: Recognizer) -> Tensor:
    """Return what a recognizer sees of eae's chips; differentiable.

    Args:
        chips: (N, 3, S, S) in [0, 1], cut with PADDING.

    Returns:
        (N, 3, R, R) in [0, 1], black outside the chip.
    """
    unit = chips.shape[-1] / (1 + 2 * PADDING)
    pixels = torch.arange(recognizer.size, device=chips.device, dtype=torch.float32)
    axes = []
    for origin in recognizer.origin:
        place = (pixels - origin) / recognizer.scale  # in the mean face's unit square
        axes.append((place + PADDING) * unit / chips.shape[-1] * 2 - 1)
    rows, columns = torch.meshgrid(axes[1], axes[0], indexing="ij")
    grid = torch.stack([columns, rows], 2).expand(len(chips), -1, -1, -1)
    return functional.grid_sample(chips, grid, align_corners=False)
