"""dlib's face recognizer and its CNN face detector as torch modules, on dlib's own weight files.

Both give dlib's numbers several times faster than dlib's wheel on a CPU, and the recognizer has
gradients. Architectures: `tools/python/src/face_recognition.cpp` and `cnn_face_detector.cpp`
of dlib 20.0; the detector's loss is King, "Max-Margin Object Detection", 2015 (arXiv 1502.00046).
The tables beside this module give each tensor's position in its file.

The detector is exact only on the input that dlib gives it: dlib tiles an image pyramid into one
picture, and a window near a level's border also sees a piece of its neighbor. This module therefore
builds the same tiling, including the quirks of its arithmetic.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deidcli.weights.files import pip_file
from deidcli.weights.pip_files import DLIB_RECOGNIZER, PipFile

CHIP_SIZE = 150
"""Side of the recognizer's chip in pixels; dlib crops it with padding 0.25."""
EMBEDDING_SIZE = 128

Rect = tuple[int, int, int, int]
"""Left, top, right, bottom, both ends included (dlib's rectangle)."""


def tensor_table(entry: PipFile) -> dict[str, Any]:
    file = resources.files("deidcli.faces") / "tables" / f"{entry.name}.json"
    return cast(dict[str, Any], json.loads(file.read_text(encoding="utf-8")))


def floats(data: bytes, tensor: dict[str, Any]) -> Tensor:
    values = np.frombuffer(data, "<f4", tensor["floats"], tensor["offset"])
    return torch.from_numpy(values.astype(np.float32))


def convolutions(data: bytes, tensors: list[dict[str, Any]]) -> list[nn.Conv2d]:
    """Return the convolutions from input to output, each with the next affine layer folded in."""
    layers: list[nn.Conv2d] = []
    for tensor in tensors:
        if tensor["kind"] == "con":
            out, into, side, _ = tensor["shape"]
            layer = nn.Conv2d(into, out, side, tensor["stride"], tensor["padding"])
            values = floats(data, tensor)
            weight, bias = values[:-out].view(tensor["shape"]), values[-out:]
            layers.append(layer)
        elif tensor["kind"] == "affine_con":
            if "gamma" in tensor:
                gamma, beta = torch.tensor(tensor["gamma"]), torch.tensor(tensor["beta"])
            else:
                gamma, beta = floats(data, tensor).chunk(2)
            weight, bias = weight * gamma[:, None, None, None], bias * gamma + beta
        else:
            continue
        layers[-1].weight = nn.Parameter(weight, requires_grad=False)
        layers[-1].bias = nn.Parameter(bias, requires_grad=False)
    return layers


class Residual(nn.Module):
    """Two convolutions and a shortcut; a stride of 2 in the first halves the picture."""

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W)
        y: Tensor = self.second(F.relu_(self.first(x)))
        if self.first.stride[0] == 2:
            x = F.avg_pool2d(x, 2)
            # dlib adds tensors of different shapes as if they were padded with zeros.
            x = F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
            y = F.pad(y, (0, x.shape[3] - y.shape[3], 0, x.shape[2] - y.shape[2]))
        return F.relu_(x + y)


class DlibRecognizer(nn.Module):
    """dlib's `face_recognition_model_v1`: two faces below a distance of 0.6 are one person.

    Differentiable with respect to the chips; the weights are frozen.
    """

    mean: Tensor

    def __init__(self, weights: Path) -> None:
        super().__init__()
        table = tensor_table(DLIB_RECOGNIZER)
        data = weights.read_bytes()
        stem, *rest = convolutions(data, table["tensors"])
        self.stem = stem
        self.blocks = nn.Sequential(*map(Residual, rest[::2], rest[1::2]))
        projection = floats(data, table["tensors"][-1]).view(-1, EMBEDDING_SIZE)
        self.projection = nn.Parameter(projection, requires_grad=False)
        self.register_buffer("mean", torch.tensor(table["mean_rgb"]).view(1, 3, 1, 1))

    def forward(self, chips: Tensor) -> Tensor:
        """Embed aligned faces.

        Args:
            chips: (N, 3, 150, 150) float32 RGB in [0, 1], dlib's chip with padding 0.25.

        Returns:
            (N, 128) float32, not normalized, like dlib's `compute_face_descriptor(chip)`.
        """
        embeddings: Tensor = self.maps(chips)[-1].mean((2, 3)) @ self.projection
        return embeddings

    def maps(self, chips: Tensor) -> list[Tensor]:
        """What each block makes of chips, see `forward`: (N, 32, 35, 35) to (N, 256, 2, 2)."""
        x = (chips * 255.0 - self.mean) / 256.0
        x = F.relu_(self.stem(x.contiguous(memory_format=torch.channels_last)))
        x = F.max_pool2d(x, 3, 2)
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return found


def load_recognizer(device: str | torch.device = "cpu") -> DlibRecognizer:
    """Load the recognizer in eval mode, with frozen weights.

    Raises:
        DeidError: pip has not installed the weights, or their bytes differ.
    """
    model = DlibRecognizer(pip_file(DLIB_RECOGNIZER)).eval()
    model.to(memory_format=torch.channels_last)
    return model.to(device)


@torch.no_grad()  # not inference_mode: a loss may use the result
def embed(recognizer: DlibRecognizer, chips: Tensor, micro_batch: int = 4) -> Tensor:
    """Embed chips so that a chip's embedding does not depend on the others in its batch.

    The CPU kernels round differently for different batch sizes (by about 4e-7), so every batch has
    the same size, and the last one is padded with zeros. The bits still depend on `micro_batch`,
    the number of threads, the machine, and torch's version.

    Args:
        chips: (N, 3, 150, 150) float32 RGB in [0, 1]; N may be 0.

    Returns:
        (N, 128) float32.
    """
    parts = [chips.new_zeros(0, EMBEDDING_SIZE)]
    for start in range(0, len(chips), micro_batch):
        part = chips[start : start + micro_batch]
        filled = F.pad(part, (0, 0, 0, 0, 0, 0, 0, micro_batch - len(part)))
        parts.append(recognizer(filled)[: len(part)])
    return torch.cat(parts)
