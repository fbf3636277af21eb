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

from typing import Any

import torch
from torch import Tensor, nn

from deidcli.methods.base import Chip, Context, Method
from deidcli.methods.blend import PADDING, SIDE, blended, edge_mask, rim_to_face
from deidcli.methods.dae.networks import (
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


class DeepAutoencoder(Facts, Method):
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
