"""Train `dae`: autoencoder, targets, encoder, deblurrer, smoother, strangers.

    deid train dae celeba/train --validation celeba/valid
    deid train dae celeba/train --set target=neighbors --set network=conv --set n=9

Each part keeps a checkpoint in `out`, so the same command goes on after a kill and ends with the
same weights; a part that is done is not done again, so a second target with the same `out` reuses
the autoencoder and the filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.functional import gaussian_blur

from deidcli.celeba import CELEBA_ATTRIBUTES, parse_attributes
from deidcli.methods.blend import PADDING, SIDE
from deidcli.methods.dae import targets as targets_of
from deidcli.methods.dae.matching import train_strangers
from deidcli.methods.dae.networks import (
    Autoencoder,
    Convolutional,
    Deblurrer,
    FullyConnected,
    Smoother,
    pack,
    principal_components,
)
from deidcli.methods.dae.recipe import (
    BLOCK,
    BODY,
    GOAL,
    SAMPLES,
    Run,
    Settings,
    batch_of,
    faces_of,
    fit,
    in_blocks,
    mirrored,
    tensor_of,
)
from deidcli.training.cards import write_own_weights
from deidcli.training.chips import Chips, load_landmarks, require_labels, with_own_faces
from deidcli.training.loop import StoppedError, log


@with_own_faces
def train(
    data: Sequence[Path],
    out: Path,
    settings: Settings,
    cache: Path | None = None,
    validation: Sequence[Path] = (),
    stop_after: int | None = None,
) -> list[Path] | None:
    """Train on folders or parquet files and write safetensors with cards (weights.toml) to `out`.

    Args:
        data, validation: as `deid anonymize` takes them; supervised targets need labels. The
            validation set is only reconstructed, after every epoch.
        cache: folder for the cut chips; default: `faces` in `out`, removed at the end.
        stop_after: leave after this many steps, as a kill would (for tests).

    Returns:
        The files written; None when stopped early.
    """
    torch.set_num_threads(settings.threads)
    assert cache is not None, "with_own_faces names it"
    run = Run(settings, out, stop_after)
    try:
        return _train(data, validation, run, cache)
    except StoppedError:
        return None


def _train(data: Sequence[Path], validation: Sequence[Path], run: Run, cache: Path) -> list[Path]:
    settings = run.settings
    faces, rows = faces_of(data, cache, settings.limit)
    held_out = faces_of(validation, cache, 0)[0] if validation else None
    log(f"{len(faces)} faces of {len(set(faces.persons))} people")
    if settings.target in ("supervised", "strangers") and settings.part != "autoencoder":
        attribute_labels(faces, settings)  # known to be there before the first step
    body = train_autoencoder(
        tensor_of(faces), run, None if held_out is None else tensor_of(held_out)
    )
    if settings.part == "autoencoder":
        return []
    encoder = train_encoder(body, faces, run)
    if settings.part == "encoder":
        return []
    filters = train_filters(tensor_of(faces), run)
    if settings.part == "filters":
        return []
    extra: dict[str, Tensor] = {}
    if settings.target == "strangers":
        landmarks = load_landmarks(data, cache)[rows]
        extra = train_strangers(body, encoder, faces, landmarks, run, cache)
    if settings.target == "clusters":
        extra["centers"] = cluster_centers(body, tensor_of(faces), settings)
    return _write(body, encoder, filters, extra, run, [str(path) for path in data])


def build(settings: Settings) -> Autoencoder:
    """The network that the settings describe."""
    if settings.network == "conv":
        network = Convolutional(
            [int(part) for part in settings.channels.split(",")], settings.color
        )
        # 5.7 ms a face and training step in place of 9.8, on one core.
        return network.to(memory_format=torch.channels_last)
    return FullyConnected([int(part) for part in settings.widths.split(",")], settings.color)


def train_autoencoder(chips: Tensor, run: Run, held_out: Tensor | None = None) -> Autoencoder:
    """Minimize the mean squared reconstruction error (eq. 4 and 5)."""
    settings = run.settings
    torch.manual_seed(settings.seed)
    body = build(settings)
    rate = settings.rate * 5
    if isinstance(body, FullyConnected):
        if not (run.out / "autoencoder.pt").is_file():  # a checkpoint holds what follows
            some = chips[torch.linspace(0, len(chips) - 1, min(len(chips), 24_000)).long()]
            packed = in_blocks(lambda x: pack(x, settings.color), some, settings.device)
            widest = max(int(part) for part in settings.widths.split(","))
            body.start_from(*principal_components(packed, min(widest, packed.shape[1])))
        rate = settings.rate
    else:
        mean = torch.from_numpy(chips.numpy().mean(0)).permute(2, 0, 1)[None].float() / 255
        body.mean.copy_(mean[0] if settings.color else pack(mean, False).view(1, SIDE, SIDE))
    body = body.to(settings.device)

    def loss_of(rows: Tensor, generator: torch.Generator) -> Tensor:
        faces = mirrored(batch_of(chips, rows, settings.device), generator)
        return functional.mse_loss(body.decode(body.encode(faces)), _shown(faces, settings.color))

    def after() -> str:
        if held_out is None:
            return ""
        return f", validation {reconstruction_error(body, held_out, settings):.5f}"

    if isinstance(body, FullyConnected) and not (run.out / "autoencoder.pt").is_file():
        log(f"principal components alone:{after()}")
    epochs = settings.autoencoder_epochs
    fit("autoencoder", body, len(chips), epochs, rate, loss_of, run, run.fixed(BODY), after)
    return body


def _shown(faces: Tensor, color: bool) -> Tensor:
    if color:
        return faces
    return pack(faces, False).view(-1, 1, SIDE, SIDE).expand(-1, 3, -1, -1)


@torch.no_grad()
def reconstruction_error(body: Autoencoder, chips: Tensor, settings: Settings) -> float:
    """Mean squared error of (N, S, S, 3) uint8 chips, pixels in [0, 1]."""
    total = 0.0
    for rows in torch.split(torch.arange(len(chips)), BLOCK):
        faces = batch_of(chips, rows, settings.device)
        wrong = (body.decode(body.encode(faces)) - _shown(faces, settings.color)) ** 2
        total += float(wrong.mean()) * len(rows)
    return total / len(chips)


def attribute_labels(faces: Chips, settings: Settings) -> list[NDArray[np.int8]]:
    """For each attribute of the settings (N,) 1, -1, or 0 where a row has no label.

    Raises:
        DeidError: the data does not have both kinds of one of them.
    """
    names = parse_attributes(settings.attributes)
    require_labels(faces, names)
    return [faces.labels[:, CELEBA_ATTRIBUTES.index(name)] for name in names]


def target_codes(
    codes: NDArray[np.float32], faces: Chips, settings: Settings, cells: int
) -> NDArray[np.float32]:
    """The code that each face is to get; see dae_targets."""
    if settings.target in ("supervised", "strangers"):
        return targets_of.supervised(
            codes,
            attribute_labels(faces, settings),
            faces.persons,
            settings.k,
            settings.alpha,
            settings.beta,
            settings.together,
        )
    if settings.target == "clusters":
        return targets_of.clusters(codes, settings.clusters, settings.alpha, settings.seed)
    if settings.target == "neighbors":
        return targets_of.nearest_to_mean(codes, settings.n, settings.alpha, faces.persons)
    if settings.target == "cells":
        return targets_of.by_cell(codes, cells, settings.n, settings.alpha, faces.persons)
    return codes


def train_encoder(body: Autoencoder, faces: Chips, run: Run) -> Autoencoder:
    """Fine-tune the encoder alone to produce the targets (eq. 6).

    Each face is seen mirrored, too, with the code of its target's mirror image.
    """
    settings = run.settings
    network = deepcopy(body)
    if settings.target == "none":
        return network
    chips = tensor_of(faces)
    codes = in_blocks(body.encode, chips, settings.device).numpy()
    cells = body.grid**2 if isinstance(body, Convolutional) else 1
    log(f"targets: {settings.target}")
    goal = torch.from_numpy(target_codes(codes, faces, settings, cells))
    goal_mirrored = _mirrored_codes(body, goal, settings.device)
    scale = float(torch.from_numpy(codes).var(0).mean())
    for value in network.decoder.parameters():
        value.requires_grad_(False)

    def loss_of(rows: Tensor, generator: torch.Generator) -> Tensor:
        network.decoder.eval()
        turned = torch.rand(len(rows), generator=generator) < 0.5
        batch = batch_of(chips, rows, settings.device)
        batch = torch.where(turned.to(batch.device)[:, None, None, None], batch.flip(3), batch)
        wanted = torch.where(turned[:, None], goal_mirrored[rows], goal[rows])
        found = network.encode(batch)
        return functional.mse_loss(found, wanted.to(found.device)) / scale

    fixed = run.fixed((*BODY, *GOAL))
    rate = settings.rate * (5 if settings.network == "conv" else 1)
    name = f"encoder-{settings.target}"
    fit(name, network, len(chips), settings.encoder_epochs, rate, loss_of, run, fixed)
    return network


def cluster_centers(body: Autoencoder, chips: Tensor, settings: Settings) -> Tensor:
    """(K, D) float32: the distinct targets of `clusters`, whatever its alpha."""
    codes = in_blocks(body.encode, chips, settings.device).numpy()
    goal = targets_of.clusters(codes, settings.clusters, 1.0, settings.seed)
    return torch.from_numpy(np.unique(goal, axis=0))


@torch.no_grad()
def _mirrored_codes(body: Autoencoder, codes: Tensor, device: str) -> Tensor:
    parts = torch.split(codes, BLOCK)
    return torch.cat([body.encode(body.decode(c.to(device)).flip(3)).cpu() for c in parts])


@dataclass
class Filters:
    """The two networks after the decoder."""

    deblurrer: Deblurrer
    smoother: Smoother


def train_filters(chips: Tensor, run: Run) -> Filters:
    """The deblurrer on pairs of blurred and sharp faces, the smoother as an autoencoder (4.3)."""
    settings = run.settings
    torch.manual_seed(settings.seed)
    filters = Filters(Deblurrer().to(settings.device), Smoother().to(settings.device))

    def deblur(rows: Tensor, generator: torch.Generator) -> Tensor:
        faces = mirrored(batch_of(chips, rows, settings.device), generator)
        sigma = 0.3 + 0.7 * float(torch.rand(1, generator=generator))
        blurred = gaussian_blur(faces, [5, 5], [sigma, sigma])
        return functional.l1_loss(filters.deblurrer(blurred), faces)

    def smooth(rows: Tensor, generator: torch.Generator) -> Tensor:
        faces = mirrored(batch_of(chips, rows, settings.device), generator)
        return functional.mse_loss(filters.smoother(faces), faces)

    fixed = run.fixed(("filter_epochs", *SAMPLES))
    for name, model, epochs, loss_of in (
        ("deblurrer", filters.deblurrer, settings.filter_epochs, deblur),
        # A tenth of the deblurrer's work, and slow to converge.
        ("smoother", filters.smoother, 6 * settings.filter_epochs, smooth),
    ):
        fit(name, model, len(chips), epochs, settings.rate * 5, loss_of, run, fixed)
    return filters


def _write(
    body: Autoencoder,
    encoder: Autoencoder,
    filters: Filters,
    extra: dict[str, Tensor],
    run: Run,
    data: list[str],
) -> list[Path]:
    """`dae-NETWORK` (decoder, deblurrer, smoother) and `dae-TARGET` (encoder), with cards."""
    settings = run.settings
    shape = settings.widths if settings.network == "fc" else settings.channels
    network = {"network": settings.network, "shape": shape, "color": settings.color}
    common = {
        "kind": "dae",
        "trained_on": ", ".join(Path(path).name for path in data),
        "license": "Apache-2.0",
        "input": {"side": SIDE, "padding": PADDING, "range": "[0, 1]", **network},
    }
    parts = {"decoder": body.decoder, "deblurrer": filters.deblurrer, "smoother": filters.smoother}
    shared = {
        f"{part}.{key}": value
        for part, module in parts.items()
        for key, value in module.state_dict().items()
    }
    shared["mean"] = body.mean
    own = {f"encoder.{key}": value for key, value in encoder.encoder.state_dict().items()} | extra
    command = "deid train dae DATA " + " ".join(
        f"--set {key}={value}"
        for key, value in asdict(settings).items()
        if value != getattr(Settings, key) and key not in ("threads", "device", "pool", "part")
    )
    card = {**common, "command": command.strip(), "notes": ""}
    names = (f"dae-{settings.network}", f"dae-{settings.target}")
    return [
        write_own_weights(run.out, name, tensors, card)
        for name, tensors in zip(names, (shared, own), strict=True)
    ]
