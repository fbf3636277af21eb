"""The Privacy Evaluation Network of `eae`: a recognizer that looks at published pictures.

Training alone needs it. By default it is a recognizer of the table; `--set pen=arcface` trains
one here, as the paper does: ResNet50, 512 dimensions, the ArcFace loss (Deng, Guo, Xue, Zafeiriou,
"ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019).
"""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from deidcli.faces.recognizers import Recognizer
from deidcli.methods.eae.networks import PADDING, Size

EMBEDDING = 512
"""Dimensions of the PEN's embeddings (sec. III-C)."""


class Embedder(nn.Module):
    """A PEN of our own: (N, 3, 112, 112) in [0, 1] -> (N, 512), ResNet50 in the paper's size."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.net = getattr(torchvision.models, size.embedder)(num_classes=EMBEDDING)

    def forward(self, chips: Tensor) -> Tensor:
        out: Tensor = self.net(chips * 2 - 1)
        return out


class Classified(nn.Module):
    """A PEN with a center for each person of its training."""

    def __init__(self, embedder: nn.Module, persons: int) -> None:
        super().__init__()
        self.embedder = embedder
        self.centers = nn.Parameter(torch.randn(persons, EMBEDDING) * 0.01)


def arcface_loss(
    embeddings: Tensor, centers: Tensor, persons: Tensor, scale: float = 64, margin: float = 0.5
) -> Tensor:
    """Deng et al. 2019 (ArcFace), eq. 3: softmax over angles, the right one widened by `margin`.

    Args:
        embeddings: (N, D). centers: (P, D), one a person. persons: (N,) int64.
    """
    cosines = functional.normalize(embeddings) @ functional.normalize(centers).T
    angles = torch.acos(cosines.clamp(-1 + 1e-6, 1 - 1e-6))
    right = functional.one_hot(persons, len(centers)).bool()
    widened = torch.where(right, torch.cos((angles + margin).clamp(max=torch.pi)), cosines)
    return functional.cross_entropy(scale * widened, persons)


def likeness_loss(published: Tensor) -> Tensor:
    """(C, D) embeddings of a set's pictures -> 1 - their mean cosine to their common direction.

    Ours, not the paper's: at 0 a recognizer sees no difference between the pictures, so it cannot
    tell by one which faces have its attributes.
    """
    directions = functional.normalize(published)
    return 1 - functional.cosine_similarity(directions, directions.mean(0)[None]).mean()


def recognizer_view(chips: Tensor, recognizer: Recognizer) -> Tensor:
    """What a recognizer sees of our chips, differentiable.

    Args:
        chips: (N, 3, S, S) in [0, 1] with PADDING.

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
