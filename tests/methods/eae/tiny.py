"""Helpers of eae's tests: the smallest recipe, and networks of random weights to train against."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deidcli.methods.eae.networks import ExternalAutoencoder, FeatureSelection, InternalAutoencoder
from deidcli.methods.eae.objectives import FrozenNetworks
from deidcli.methods.eae.recipe import Recipe
from deidcli.methods.eae.run import EaeRun, open_run
from deidcli.methods.loading import Module, ready

TINY = Recipe(
    attrs="GS", batch_size=8, fsn_epochs=2, external_epochs=1, internal_steps=5, picture_every=2,
    pen="dlib", sprn_steps=2, sprn_batch=4, checkpoint_steps=1, warmup=1,
)  # fmt: skip


def tiny_run(out: Path, left: int | None = None, **changes: Any) -> EaeRun:
    """A run of TINY with some settings changed; needs the fixture `tiny`."""
    return open_run([Path("faces")], out, replace(TINY, **changes), out / "cache", (), left)


def lively(module: Module, seed: int) -> Module:
    """The module in evaluation mode with random weights that keep signals large from layer to
    layer, so that gradients do not drown in rounding."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            fan = part.weight[0].numel()
            if isinstance(part, nn.ConvTranspose2d):  # each output sums a quarter of the kernel
                fan = part.weight[:, 0].numel() // 4
            with torch.no_grad():
                part.weight.normal_(0, (2 / fan) ** 0.5, generator=generator)
                if part.bias is not None:
                    part.bias.normal_(0, 0.3, generator=generator)
    return module.eval()


def random_networks(run: EaeRun) -> FrozenNetworks:
    """Frozen networks of random weights. The PEN's embeddings are positive, so that any two have a
    cosine above 0."""
    fsn = lively(FeatureSelection(run.size, len(run.fsn_attributes)), 1)
    external = lively(ExternalAutoencoder(run.size), 2)
    pen = lively(nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.Softplus(), nn.Flatten()), 3)
    return FrozenNetworks(ready(fsn, "cpu"), ready(external, "cpu"), ready(pen, "cpu"))


def random_internal(run: EaeRun) -> InternalAutoencoder:
    """An internal autoencoder of random weights, whose code is 0 in the mean over all chips, so
    that faces differ in their bits."""
    model = lively(InternalAutoencoder(run.size, len(run.attributes)), 4)
    assert model.code.bias is not None
    with torch.no_grad():
        codes = model.encode(random_networks(run).external.encode(batch_of(run, 24)[0]))
        model.code.bias -= codes.mean(0)
    return model


def batch_of(run: EaeRun, count: int = 8) -> tuple[Tensor, Tensor]:
    """Augmented images of some rows, and the rows."""
    rows = torch.arange(count)
    return run.images(rows, torch.Generator().manual_seed(0)), rows
