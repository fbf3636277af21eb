"""The attribute classifier, from an aligned face chip to CelebA's forty attributes.

Trunk: MobileFaceNet (Chen et al. 2018, "MobileFaceNets: Efficient CNNs for Accurate Real-Time
Face Verification on Mobile Devices", table 1) up to its last 1x1 convolution, with the layer
names of FaceX-Zoo, so that FaceX-Zoo's recognizer can be its initial weights. Head: depthwise
convolutions over the whole map (with a weight per position, as chips are aligned) and one linear
layer. Training: `deid train attributes DATA`, see
`training.attributes`. Scores: docs/attributes.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.faces.align import Image, Points, chip_affine, crop
from deidcli.weights.own import own_weights


@dataclass(frozen=True)
class NetSettings:
    """The network's shape and how its chips are cropped."""

    side: int = 112
    """Side of the chip in px; a multiple of 16."""
    padding: float = 0.5
    """Padding of the chip, see `align.chip_affine`; wide enough to show hair and neck."""
    width: int = 64
    """Channels of the first stage; FaceX-Zoo's weights have 64."""
    blocks: tuple[int, int, int] = (4, 6, 2)
    """Residual blocks at 1/4, 1/8 and 1/16 of the input's resolution."""
    maps: int = 2
    """Whole-map filters per channel of the head."""
    dropout: float = 0.2


class _FastPrelu(torch.autograd.Function):
    """PReLU with a backward of three vectorized passes; torch's takes a third of training time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.slope_dtype = slope.dtype
        slope = slope.to(x.dtype)
        ctx.save_for_backward(x, slope)
        return torch.prelu(x, slope)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        positive = torch.ops.aten.threshold_backward(grad, x, 0)
        negative = grad - positive
        slope_grad = (negative * x).sum((0, 2, 3))
        return torch.addcmul(positive, negative, slope[:, None, None]), slope_grad.to(
            ctx.slope_dtype
        )


class Prelu(nn.Module):
    """PReLU with one slope per channel, on (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _FastPrelu.apply(x, self.weight)
        return out


class ConvBlock(nn.Module):
    """Convolution, batch norm and, unless `linear`, PReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(outputs)
        self.prelu = nn.Identity() if linear else Prelu(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.prelu(self.bn(self.conv(x)))
        return out


class Bottleneck(nn.Module):
    """1x1 to `inner` channels, 3x3 depthwise, 1x1 back; with a shortcut if shapes agree."""

    def __init__(self, inputs: int, outputs: int, inner: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = ConvBlock(inputs, inner)
        self.conv_dw = ConvBlock(inner, inner, 3, stride, groups=inner)
        self.project = ConvBlock(inner, outputs, linear=True)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.conv_dw(self.conv(x)))
        return x + out if self.residual else out


class Stage(nn.Module):
    """A sequence of residual bottlenecks, named as in FaceX-Zoo."""

    def __init__(self, channels: int, count: int, inner: int) -> None:
        super().__init__()
        blocks = [Bottleneck(channels, channels, inner) for _ in range(count)]
        self.model = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


class AttributeNet(nn.Module):
    """(N, 3, S, S) float32 RGB in [0, 255] -> (N, 40) float32 logits, in the order
    of CELEBA_ATTRIBUTES."""

    def __init__(self, settings: NetSettings) -> None:
        super().__init__()
        self.settings = settings
        w, (first, second, third) = settings.width, settings.blocks
        self.conv1 = ConvBlock(3, w, 3, 2)
        self.conv2_dw = ConvBlock(w, w, 3, groups=w)
        self.conv_23 = Bottleneck(w, w, 2 * w, 2)
        self.conv_3 = Stage(w, first, 2 * w)
        self.conv_34 = Bottleneck(w, 2 * w, 4 * w, 2)
        self.conv_4 = Stage(2 * w, second, 4 * w)
        self.conv_45 = Bottleneck(2 * w, 2 * w, 8 * w, 2)
        self.conv_5 = Stage(2 * w, third, 4 * w)
        self.conv_6_sep = ConvBlock(2 * w, 8 * w)
        features = 8 * w * settings.maps
        places = (settings.side // 16) ** 2
        self.pool = nn.Parameter(torch.randn(8 * w, settings.maps, places) / places**0.5)
        self.pool_bn = nn.BatchNorm1d(features)
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(features, len(CELEBA_ATTRIBUTES))

    def lower(self, x: Tensor) -> Tensor:
        """Run the stages that training may freeze: -> (N, 2w, S/8, S/8)."""
        # BGR, because FaceX-Zoo trained its recognizer so.
        x = (x.flip(1) - 127.5) / 128
        x = self.conv_23(self.conv2_dw(self.conv1(x)))  # (N, w, S/4, S/4)
        out: Tensor = self.conv_34(self.conv_3(x))
        return out

    def upper(self, x: Tensor) -> Tensor:
        """Map the output of `lower` to (N, 40) logits."""
        x = self.conv_45(self.conv_4(x))  # (N, 2w, S/16, S/16)
        x = self.conv_6_sep(self.conv_5(x))  # (N, 8w, S/16, S/16)
        pooled = torch.einsum("ncp,cmp->ncm", x.flatten(2), self.pool)  # (N, 8w, maps)
        x = self.pool_bn(pooled.flatten(1))
        logits: Tensor = self.head(self.dropout(x))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.upper(self.lower(x))


def load(device: str | torch.device = "cpu") -> AttributeNet:
    """Load the shipped classifier, ready for `predict`.

    Raises:
        DeidError: its weights are missing or modified.
    """
    tensors, card = own_weights("attributes")
    net = AttributeNet(NetSettings(side=card.input["side"], padding=card.input["padding"]))
    # Batch norm's counters are only used in training and are not shipped.
    counters = {k: v for k, v in net.state_dict().items() if k.endswith("num_batches_tracked")}
    net.load_state_dict({**counters, **tensors})
    return net.to(memory_format=torch.channels_last).to(device).eval()


def cut(model: AttributeNet, frame: Image, landmarks: Points) -> Image:
    """Crop one face's chip for `predict`: (S, S, 3) uint8 RGB.

    Args:
        frame: (H, W, 3) uint8 RGB.
        landmarks: (5, 2), from `detect.landmarks`.
    """
    side, padding = model.settings.side, model.settings.padding
    return crop(frame, chip_affine(landmarks, side, padding), side)


@torch.inference_mode()
def predict(
    model: AttributeNet, chips: NDArray[np.uint8], batch_size: int = 16, flip: bool = True
) -> NDArray[np.float32]:
    """Return the probability of every attribute.

    Args:
        model: in eval mode, on any device.
        chips: (N, S, S, 3) uint8 RGB, cropped by the network's settings.
        flip: average the logits with those of the mirrored chip.

    Returns:
        (N, 40) float32 in [0, 1], in the order of CELEBA_ATTRIBUTES.
    """
    device = model.head.weight.device
    parts = [np.zeros((0, len(CELEBA_ATTRIBUTES)), np.float32)]
    for start in range(0, len(chips), batch_size):
        some = chips[start : start + batch_size]
        # Always a full batch: a convolution's rounding depends on the batch size.
        batch = np.zeros((batch_size, *chips.shape[1:]), np.uint8)
        batch[: len(some)] = some
        images = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float()  # channels-last
        logits = model(images)
        if flip:
            logits = (logits + model(images.flip(3))) / 2
        parts.append(torch.sigmoid(logits[: len(some)]).cpu().numpy())
    return np.concatenate(parts)


@dataclass(frozen=True)
class Accuracy:
    """Accuracies in percent, one for each of CELEBA_ATTRIBUTES; nan if nothing is labeled."""

    accuracy: NDArray[np.float64]
    """Correct answers over all answers."""
    balanced: NDArray[np.float64]
    """The mean of the accuracies of the rows with and those without the attribute."""
    majority: NDArray[np.float64]
    """The score of always giving the more frequent answer."""


def accuracy(probabilities: NDArray[np.float32], labels: NDArray[np.int8]) -> Accuracy:
    """Compare (N, 40) probabilities, split at 0.5, with (N, 40) labels: 1, -1, or 0 (unlabeled)."""
    present, absent = labels == 1, labels == -1
    said = probabilities > 0.5
    hits, rejects = (said & present).sum(0), (~said & absent).sum(0)
    positives, negatives = present.sum(0), absent.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = positives + negatives
        return Accuracy(
            100 * (hits + rejects) / total,
            50 * (hits / positives + rejects / negatives),
            100 * np.maximum(positives, negatives) / total,
        )


def table(score: Accuracy) -> str:
    """Format the labeled attributes' scores as rows of a Markdown table."""
    lines = ["| attribute | accuracy | balanced | majority |", "| --- | --- | --- | --- |"]
    columns = np.stack([score.accuracy, score.balanced, score.majority], 1)
    for name, values in zip(CELEBA_ATTRIBUTES, columns, strict=True):
        if not np.isnan(values[0]):
            lines.append(f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + " |")
    means = " | ".join(f"{value:.2f}" for value in np.nanmean(columns, axis=0))
    return "\n".join([*lines, f"| **mean** | {means} |"])
