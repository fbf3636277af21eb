"""Face recognizers: face -> embedding, all in torch, so that they batch and differentiate.

`dlib` is part of every installation. `mobilefacenet`, `w600k_mbf` and `facenet` are optional: their
weight files are opened by path, and their packages are never imported. RECOGNIZERS has everything
needed to use one; docs/recognizers.md has the measurements behind the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from deidcli.errors import DeidError
from deidcli.faces.align import MEAN_FACE_5, Affine, Image, Points, crop, similarity
from deidcli.faces.dlib_nets import load_recognizer
from deidcli.faces.keras_file import read_keras
from deidcli.faces.mobilefacenet import load_mobilefacenet
from deidcli.faces.onnx_file import read_onnx
from deidcli.weights.files import pip_file
from deidcli.weights.pip_files import DLIB_RECOGNIZER, FACENET, MOBILEFACENET, W600K_MBF, PipFile

MICRO_BATCH = {"cpu": 4, "cuda": 64}
"""Batch size by device type. It is always exactly this (the last batch is padded with black): a
convolution's rounding depends on the batch size, and a face's embedding must not depend on how many
other faces there are."""

Normalization = tuple[float, float] | Literal["none", "whiten"]
Embeddings = NDArray[np.float32]
"""(N, D) float32; unit length if the recognizer's metric is cosine."""


@dataclass(frozen=True)
class Recognizer:
    """A face recognizer and everything needed to use it."""

    name: str
    file: PipFile
    size: int
    """Side of the chip, px."""
    dimensions: int
    metric: Literal["l2", "cosine"]
    """l2: Euclidean distance. cosine: 1 - cosine of the angle. Smaller is more alike for both."""
    threshold: float
    """Two faces verify as one person if their distance is at most this. Calibrated at a false
    accept rate of 1e-3 on the 6,000 pairs of LFW (benchmarks/lfw.py)."""
    scale: float
    """Chip pixels per side of align.MEAN_FACE_5's unit square."""
    origin: tuple[float, float]
    """Position of that unit square's corner (0, 0) in chip px, with pixel centers at integers."""
    color: Literal["RGB", "BGR"] = "RGB"
    """The network's channel order. Chips are always RGB."""
    normalization: Normalization = "none"
    """(mean, deviation) in the range [0, 255]; whiten: each picture by its own; none: the network
    expects [0, 1]."""

    @property
    def license(self) -> str:
        """The license found for the weights."""
        return self.file.license


def _padded(size: int, padding: float) -> tuple[float, tuple[float, float]]:
    """Return `scale` and `origin` of dlib's chips, see align.chip_affine."""
    scale = size / (1 + 2 * padding)
    return scale, (padding * scale - 0.5, padding * scale - 0.5)


_DLIB_SCALE, _DLIB_ORIGIN = _padded(150, 0.25)
ARCFACE_SCALE = 69.75
ARCFACE_ORIGIN = (21.83, 37.32)
"""ArcFace's 112 px template (eyes, nose tip, mouth corners) in terms of dlib's mean face. dlib's
68 points on 500 pictures of CelebA's training split, aligned to MEAN_FACE_5 by their five points
and averaged, fit the template with this scale and shift to within 0.7 to 2.9 px per point; the
fit's rotation, 0.3 degrees, is dropped. Template: insightface, utils/face_align.py."""
FACENET_SCALE, FACENET_ORIGIN = _padded(160, 0.25)
"""Of the paddings 0.15, 0.25 and 0.4, the one whose distances separate best on 327 pictures of 110
people in CelebA's training split."""

RECOGNIZERS: dict[str, Recognizer] = {
    entry.name: entry
    for entry in (
        Recognizer("dlib", DLIB_RECOGNIZER, 150, 128, "l2", 0.556, _DLIB_SCALE, _DLIB_ORIGIN),
        Recognizer(
            "mobilefacenet",
            MOBILEFACENET,
            112,
            512,
            "cosine",
            0.747,
            ARCFACE_SCALE,
            ARCFACE_ORIGIN,
            "BGR",
            (127.5, 128.0),
        ),
        Recognizer(
            "w600k_mbf",
            W600K_MBF,
            112,
            512,
            "cosine",
            0.750,
            ARCFACE_SCALE,
            ARCFACE_ORIGIN,
            "RGB",
            (127.5, 127.5),
        ),
        Recognizer(
            "facenet",
            FACENET,
            160,
            128,
            "cosine",
            0.472,
            FACENET_SCALE,
            FACENET_ORIGIN,
            "RGB",
            "whiten",
        ),
    )
}


def installed_recognizers() -> list[str]:
    """Return the names in RECOGNIZERS that `load` can load, in the table's order."""
    return [name for name, entry in RECOGNIZERS.items() if _is_installed(entry)]


def _is_installed(entry: Recognizer) -> bool:
    try:
        pip_file(entry.file)
    except DeidError:
        return False
    return entry.file != FACENET or find_spec("h5py") is not None


def recognizer_affine(name: str, landmarks: Points) -> Affine:
    """Return the affine from frame pixels to a recognizer's chip, for `align.crop`.

    Args:
        landmarks: (5, 2) in dlib's order (see align.MEAN_FACE_5), frame pixels.
    """
    entry = _entry(name)
    target = MEAN_FACE_5 * entry.scale + entry.origin
    return similarity(np.asarray(landmarks, dtype=np.float64), target)


def cut(name: str, frame: Image, landmarks: Points) -> Image:
    """Crop a recognizer's chip of one face: (S, S, 3) uint8 RGB."""
    return crop(frame, recognizer_affine(name, landmarks), _entry(name).size)


class Embedder(nn.Module):
    """A network with its normalization: chips (N, 3, S, S) float32 RGB in [0, 1] -> (N, D)."""

    def __init__(self, recognizer: Recognizer, net: nn.Module) -> None:
        super().__init__()
        self.recognizer = recognizer
        self.net = net

    def forward(self, chips: Tensor) -> Tensor:
        """Embed chips, differentiably. Embeddings have unit length if the metric is cosine."""
        if self.recognizer.color == "BGR":
            chips = chips.flip(1)
        # On a CPU this makes the convolutions up to a third faster.
        chips = chips.contiguous(memory_format=torch.channels_last)
        embeddings: Tensor = self.net(_normalize(chips, self.recognizer.normalization))
        if self.recognizer.metric == "cosine":
            embeddings = functional.normalize(embeddings)
        return embeddings


def _normalize(chips: Tensor, how: Normalization) -> Tensor:
    if how == "none":
        return chips
    if how == "whiten":  # FaceNet's prewhiten, over all pixels and channels of a picture
        std, mean = torch.std_mean(chips, dim=(1, 2, 3), correction=0, keepdim=True)
        # The floor is 1/sqrt(number of values) in the range [0, 255], as in FaceNet.
        return (chips - mean) / std.clamp_min(chips[0].numel() ** -0.5 / 255)
    return (chips * 255 - how[0]) / how[1]


def load(name: str, device: str | torch.device = "cpu") -> Embedder:
    """Return a recognizer ready for inference, loaded once per process and device.

    Raises:
        DeidError: the recognizer does not exist, or its weights are not installed.
    """
    return _load(name, str(device))


@cache
def _load(name: str, device: str) -> Embedder:
    entry = _entry(name)
    pip_file(entry.file)
    embedder = Embedder(entry, _NETS[name](device)).to(device).eval()
    embedder.to(memory_format=torch.channels_last)
    return embedder.requires_grad_(False)


def _entry(name: str) -> Recognizer:
    if name not in RECOGNIZERS:
        raise DeidError(f"no recognizer is called {name}", f"choose from {', '.join(RECOGNIZERS)}")
    return RECOGNIZERS[name]


def embed(name: str, chips: Sequence[Image], device: str | torch.device = "cpu") -> Embeddings:
    """Embed chips made by `cut`; a chip's embedding does not depend on the others.

    Args:
        chips: N chips, (S, S, 3) uint8 RGB.

    Returns:
        (N, D) float32.
    """
    entry = _entry(name)
    net = load(name, device)
    out = np.empty((len(chips), entry.dimensions), np.float32)
    step = MICRO_BATCH.get(torch.device(device).type, MICRO_BATCH["cuda"])
    for start in range(0, len(chips), step):
        some = chips[start : start + step]
        batch = np.zeros((step, entry.size, entry.size, 3), np.uint8)
        batch[: len(some)] = np.stack(some)
        with torch.inference_mode():
            tensor = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float() / 255
            out[start : start + len(some)] = net(tensor)[: len(some)].cpu().numpy()
    return out


def embed_faces(
    name: str,
    frames: Sequence[Image],
    landmarks: Sequence[Points],
    device: str | torch.device = "cpu",
) -> Embeddings:
    """Embed one face per frame: (N, D) float32. Landmarks are those of `recognizer_affine`."""
    chips = [cut(name, frame, points) for frame, points in zip(frames, landmarks, strict=True)]
    return embed(name, chips, device)


def distances(name: str, left: Embeddings, right: Embeddings) -> NDArray[np.float64]:
    """Return all distances of (N, D) to (M, D) embeddings in the recognizer's metric: (N, M)."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    if _entry(name).metric == "cosine":
        return np.asarray(1 - a @ b.T)
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * (a @ b.T)
    return np.asarray(np.sqrt(np.maximum(squared, 0)))


def pair_distances(name: str, left: Embeddings, right: Embeddings) -> NDArray[np.float64]:
    """Return distances between two matched lists of (N, D) embeddings: (N,)."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    if _entry(name).metric == "cosine":
        return np.asarray(1 - (a * b).sum(1))
    return np.asarray(np.sqrt(((a - b) ** 2).sum(1)))


_NETS: dict[str, Callable[[str], nn.Module]] = {
    "dlib": load_recognizer,
    "mobilefacenet": lambda _: load_mobilefacenet(pip_file(MOBILEFACENET)),
    "w600k_mbf": lambda _: read_onnx(pip_file(W600K_MBF)),
    "facenet": lambda _: read_keras(pip_file(FACENET)),
}
