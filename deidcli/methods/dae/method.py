"""The method `dae`: deep autoencoders that give a face the code of somebody else.

Source: Nousi, Papadopoulos, Tefas, Pitas, "Deep Autoencoders for Attribute Preserving Face
De-identification", Signal Processing: Image Communication 81 (2020).

An autoencoder learns faces. Each training face gets a target code (targets.py); the encoder alone
is fine-tuned to produce it (eq. 6). Encoder, decoder, deblurrer and smoother then de-identify an
unseen face in one pass, without labels or a gallery.

Departures from the paper; docs/notes/dae.md has the figures:
- Faces are aligned by their eyes, not cut by the detector's box, whose width comes in steps.
- The networks take color. The fully connected ones start as principal components, which
  reconstruct better before the first step than randomly started networks did after training.
- The default, `target=strangers`, avoids the collapse of all faces into a few that fine-tuning on
  mean codes causes: the published face is a computer-made one of the same sex, expression and
  pose, drawn by the face's own seed and moved by what the fine-tuned encoder keeps (strangers.py).
- The new face is laid into its picture with the picture's tone at the chip's rim.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deidcli.methods.base import Chip, Context, Method
from deidcli.methods.blend import PADDING, SIDE, blended, edge_mask, rim_to_face
from deidcli.methods.dae.networks import Autoencoder, Deblurrer, Smoother, build_autoencoder
from deidcli.methods.dae.settings import DaeFacts, DaeSettings
from deidcli.methods.dae.strangers import Strangers
from deidcli.methods.loading import filled, load_part, ready
from deidcli.weights.own import own_weights

MICRO_BATCH = 32
"""Faces that go through the networks at once, always this many: sums round by a batch's size."""


class DeepAutoencoder(DaeFacts, Method):
    """Encoder, decoder, deblurrer and smoother."""

    def __init__(self, settings: DaeSettings, device: str) -> None:
        """Load the networks.

        Args:
            settings: which target's encoder, and which filters follow the decoder.
            device: `cpu` or `cuda`.

        Raises:
            UsageError: there are no weights for the target.
            DeidError: a weight file is missing or altered.
        """
        self.settings = settings
        self.device = device
        self.chip = Chip(SIDE, PADDING)
        self.mask = edge_mask()
        shared_name, own_name = self.weights(settings)
        own, card = own_weights(own_name)
        shared, _ = own_weights(shared_name)
        shape = [int(part) for part in card.input["shape"].split(",")]
        network = build_autoencoder(card.input["network"], shape, bool(card.input["color"]))
        load_part(network.encoder, "encoder", own)
        load_part(network.decoder, "decoder", shared)
        network.mean.copy_(shared["mean"])
        self.network: Autoencoder = ready(network, device)
        self.filters: list[nn.Module] = []
        for name, module, wanted in (
            ("deblurrer", Deblurrer(), settings.deblur),
            ("smoother", Smoother(), settings.smooth),
        ):
            if wanted:
                load_part(module, name, shared)
                self.filters.append(ready(module, device))
        self.strangers = Strangers(own, device) if "pool.codes" in own else None
        self.centers: Tensor | None = None
        if "centers" in own and settings.snap:
            self.centers = own["centers"].float().to(device)
        self.tone = rim_to_face().to(device)

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        """De-identify faces; see `Method`.

        Args:
            chips: (N, 3, 64, 64) float32 RGB in [0, 1].
            context: its seeds choose the strangers.
        """
        rows_of_pool = self.strangers.draw(chips, context.seeds) if self.strangers else None
        out = torch.empty_like(chips)
        for start in range(0, len(chips), MICRO_BATCH):
            rows = slice(start, start + MICRO_BATCH)
            full = filled(chips[rows], MICRO_BATCH)
            codes = self.network.encode(full)
            if self.strangers is not None and rows_of_pool is not None:
                drawn = filled(rows_of_pool[rows], MICRO_BATCH)
                codes = self.strangers.pool.codes_of(codes, drawn)
            if self.centers is not None:
                codes = snapped(codes, self.centers)
            out[rows] = self.faces_of(codes, full)[: len(chips[rows])]
        return out

    def faces_of(self, codes: Tensor, chips: Tensor) -> Tensor:
        """Return the faces that codes stand for, filtered and blended as the settings say.

        Args:
            codes: (N, D) float32, the published codes.
            chips: (N, 3, 64, 64) float32 RGB in [0, 1], whose tone is matched at the rim.

        Returns:
            (N, 3, 64, 64) float32 RGB in [0, 1].
        """
        faces = self.network.decode(codes).clamp(0, 1)
        for module in self.filters:
            faces = module(faces.contiguous(memory_format=torch.channels_last)).clamp(0, 1)
        return blended(chips, faces, self.tone) if self.settings.blend else faces


def snapped(codes: Tensor, centers: Tensor) -> Tensor:
    """Return for each of (N, D) codes the nearest of (K, D) centers: (N, D)."""
    return centers[torch.cdist(codes, centers).argmin(1)]
