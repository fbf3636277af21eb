"""dae: deep autoencoders that give a face the code of somebody else.

Nousi, Papadopoulos, Tefas, Pitas, "Deep Autoencoders for Attribute Preserving Face
De-identification", Signal Processing: Image Communication 81 (2020).

An autoencoder learns faces; each training face gets a target code (dae_targets: same-attribute
neighbors, clusters, the neighbor closest to the mean, a neighbor for each grid cell); the encoder
alone is fine-tuned to produce it (eq. 6); then encoder, decoder, deblurrer and smoother
de-identify an unseen face in one pass, without labels or a gallery. Training: dae_training.

What departs from the paper, and why (figures: docs/methods/dae.md):
- Faces are aligned by their eyes, not cut by the detector's box, whose width comes in steps.
- Networks take color; the fully connected ones start as principal components, which reconstruct
  better before the first step than the networks did after all of theirs.
- The default, `target=strangers`, ends the collapse of all faces into a few that fine-tuning on
  mean codes brings: the published face is a computer-made one of the same sex, expression and
  pose, drawn by the face's own seed, moved by what the fine-tuned encoder keeps (dae_strangers).
- The face is laid into its picture with the tone of the picture at the chip's rim.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from deidcli.faces.align import Mask
from deidcli.methods.base import Chip, Context, PlanFace
from deidcli.methods.dae.networks import (
    PADDING,
    SIDE,
    Autoencoder,
    Convolutional,
    Deblurrer,
    FullyConnected,
    Smoother,
    pack,
)
from deidcli.methods.dae.settings import Facts, Settings
from deidcli.methods.dae.strangers import Matcher, Pool, features
from deidcli.weights.own import Card, own_weights

MICRO_BATCH = 32
"""Faces that go through the networks at once, always as many: sums round by a batch's size."""
EDGE = 7.0
"""Width of the mask's soft edge, px."""
HALF_WIDTH, HALF_HEIGHT, MIDDLE, POWER = 0.95, 1.04, 0.44, 2.4
"""The mask: a rounded ellipse, in sides of the mean face. A narrower one (half width 0.85, power
2.2) leaves four times as many faces to be found by their hair; a square with round corners leaves
as few as this and shows the stranger's ground."""
CELL = 4
"""Side of the cells in which the tone is matched, px; the outermost ones are the rim, which the
mask leaves to the picture."""
REACH = 10.0
"""How far into the face the rim's tone reaches, px."""


class DeepAutoencoder(Facts):
    """Encoder, decoder, deblurrer, smoother."""

    def __init__(self, settings: Settings, device: str) -> None:
        self.settings = settings
        self.device = device
        self.chip = Chip(SIDE, PADDING)
        self.mask = edge_mask()
        shared, own = self.weights(settings)
        tensors, card = own_weights(own)
        common, _ = own_weights(shared)
        network = _network(card)  # encoder and decoder come from two files
        _load(network.encoder, "encoder", tensors)
        _load(network.decoder, "decoder", common)
        network.mean.copy_(common["mean"])
        self.network: Autoencoder = _ready(network, device)
        self.filters: list[nn.Module] = []
        for name, module, wanted in (
            ("deblurrer", Deblurrer(), settings.deblur),
            ("smoother", Smoother(), settings.smooth),
        ):
            if wanted:
                _load(module, name, common)
                self.filters.append(_ready(module, device))
        self.strangers = _Strangers(tensors, device) if "pool.codes" in tensors else None
        self.centers: Tensor | None = None
        if "centers" in tensors and settings.snap:
            self.centers = tensors["centers"].float().to(device)
        self.tone = rim_to_face().to(device)

    def prepare(self, faces: Iterable[PlanFace]) -> None:
        """Nothing: each face is a matter of its own."""
        return None

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        strangers = self.strangers.of(chips, context) if self.strangers else None
        out = torch.empty_like(chips)
        for start in range(0, len(chips), MICRO_BATCH):
            rows = slice(start, start + MICRO_BATCH)
            count = len(chips[rows])
            full = _filled(chips[rows])
            codes = self.network.encode(full)
            if self.strangers is not None and strangers is not None:
                codes = self.strangers.codes(codes, _filled(strangers[rows]))
            if self.centers is not None:
                codes = snapped(codes, self.centers)
            out[rows] = self._faces(full, codes)[:count]
        return out

    def _faces(self, chips: Tensor, codes: Tensor) -> Tensor:
        """(MICRO_BATCH, 3, S, S) and their new codes -> the faces of these codes."""
        faces = self.network.decode(codes).clamp(0, 1)
        for module in self.filters:
            faces = module(faces.contiguous(memory_format=torch.channels_last)).clamp(0, 1)
        if self.settings.blend:
            faces = blended(chips, faces, self.tone)
        return faces


def snapped(codes: Tensor, centers: Tensor) -> Tensor:
    """(N, D) codes and (K, D) centers -> (N, D): of each code its nearest center."""
    return centers[torch.cdist(codes, centers).argmin(1)]


class _Strangers:
    """The pool of the weights, and who is drawn of it; see dae_strangers."""

    def __init__(self, tensors: dict[str, Tensor], device: str) -> None:
        matcher = Matcher(
            tensors["matcher.mean"].shape[0],
            (tensors["matcher.layers.0.bias"].shape[0], tensors["matcher.layers.3.bias"].shape[0]),
        )
        _load(matcher, "matcher", tensors)
        self.matcher = matcher.double().eval().requires_grad_(False).to(device)
        self.pool = Pool(
            tensors["pool.codes"].float().to(device),
            tensors["pool.kept"].float().to(device),
            tensors["pool.basis"].float().to(device),
            tensors["pool.features"].double().to(device),
            tensors["pool.embeddings"].double().to(device),
        )

    def of(self, chips: Tensor, context: Context) -> Tensor:
        """(N,) int64: each face's stranger, a row of the pool."""
        values = pack(chips.double(), True)
        logits, landmarks, embeddings = self.matcher(values)
        return self.pool.draw(features(values, logits, landmarks), embeddings, context.seeds)

    def codes(self, kept: Tensor, rows: Tensor) -> Tensor:
        """See `Pool.codes_of`."""
        return self.pool.codes_of(kept, rows)


def _network(card: Card) -> Autoencoder:
    shape = [int(part) for part in card.input["shape"].split(",")]
    color = bool(card.input["color"])
    if card.input["network"] == "conv":
        return Convolutional(shape, color)
    return FullyConnected(shape, color)


def _load(module: nn.Module, part: str, tensors: dict[str, Tensor]) -> None:
    """Load what a file holds under `part.`; fp16 becomes float32. Counters of batches are not
    kept in files, and nothing reads them."""
    found = {
        key.removeprefix(f"{part}."): value.float()
        for key, value in tensors.items()
        if key.startswith(f"{part}.")
    }
    counters = {key: value for key, value in module.state_dict().items() if "num_batches" in key}
    module.load_state_dict(found | counters)


def _ready(module: Any, device: str) -> Any:
    return module.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)


def _filled(rows: Tensor) -> Tensor:
    """Rows followed by zeros, MICRO_BATCH in all."""
    full = rows.new_zeros(MICRO_BATCH, *rows.shape[1:])
    full[: len(rows)] = rows
    return full


def edge_mask() -> Mask:
    """(64, 64): 1 inside a rounded ellipse around the head, falling to 0 across EDGE."""
    unit = SIDE / (1 + 2 * PADDING)
    line = (torch.arange(SIDE) + 0.5) / unit - PADDING
    x, y = (line - 0.5).abs() / HALF_WIDTH, (line - MIDDLE).abs() / HALF_HEIGHT
    radius = (x[None, :] ** POWER + y[:, None] ** POWER) ** (1 / POWER)
    ramp = ((1 - radius) * unit * min(HALF_WIDTH, HALF_HEIGHT) / EDGE).clamp(0, 1)
    mask: Mask = (ramp * ramp * (3 - 2 * ramp)).numpy().astype(np.float32)
    return mask


def rim_to_face() -> Tensor:
    """(R, 4096): how the difference in each cell of the rim spreads over the chip.

    Inside, a place takes the mean of the rim's differences weighted by nearness, fading with the
    distance from the rim; at the rim it takes them whole.
    """
    line = torch.arange(SIDE) + 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    inset = torch.stack([x, y, SIDE - x, SIDE - y]).amin(0).view(-1, 1)
    points = torch.stack([x, y], -1)
    cells = functional.avg_pool2d(points.permute(2, 0, 1), CELL)[:, _rim(torch.device("cpu"))].T
    distance = torch.cdist(points.view(-1, 2), cells)
    near = torch.exp(-(distance**2) / (2 * (CELL + 0.6 * inset) ** 2)) + 1e-12
    fade = torch.exp(-(inset - CELL / 2).clamp(min=0) / REACH)
    return (fade * near / near.sum(1, keepdim=True)).T.contiguous()


def _rim(device: torch.device) -> Tensor:
    """(16, 16) bool: the outermost cells."""
    rim = torch.ones(SIDE // CELL, SIDE // CELL, dtype=torch.bool, device=device)
    rim[1:-1, 1:-1] = False
    return rim


def blended(chips: Tensor, faces: Tensor, spread: Tensor) -> Tensor:
    """`faces` with the tone of `chips` at their rim: both (N, 3, 64, 64) -> the same, in [0, 1].

    Of the chips only means of the rim's cells enter, which stay in the picture anyway.
    """
    difference = functional.avg_pool2d(chips - faces, CELL)[:, :, _rim(chips.device)]
    return (faces + (difference @ spread).view_as(faces)).clamp(0, 1)
