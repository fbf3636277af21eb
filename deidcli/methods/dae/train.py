"""Train `dae`: autoencoder, encoder, deblurrer and smoother, and for strangers matcher and pool.

    deid train dae celeba/train --validation celeba/valid --set pool=portraits
    deid train dae celeba/train --set target=neighbors --set network=conv --set n=9

Each part keeps a checkpoint in `out`, so the same command resumes after a kill and ends with the
same weights. A part that is done is not done again, so a second target with the same `out` reuses
the autoencoder and the filters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from deidcli.methods.blend import SIDE
from deidcli.methods.dae import losses, matching, targets
from deidcli.methods.dae.networks import (
    Autoencoder,
    Convolutional,
    Deblurrer,
    FullyConnected,
    Matcher,
    Smoother,
    build_autoencoder,
    pack,
    principal_components,
)
from deidcli.methods.dae.recipe import (
    AUTOENCODER_FIXED,
    ENCODER_FIXED,
    FILTERS_FIXED,
    MATCHER_FIXED,
    POOL_WARNING,
    TRAINING_POOL,
    DaeRun,
    Recipe,
)
from deidcli.methods.dae.training_faces import (
    batch_of,
    faces_of,
    flipped,
    flipped_codes,
    in_blocks,
    random_half,
    reconstruction_error,
    tensor_of,
    to_reconstruct,
)
from deidcli.methods.dae.weight_files import Filters, write_weights
from deidcli.training.chips import Chips, load_landmarks, with_own_faces
from deidcli.training.loop import StoppedError, cosine, log, optimizer_step, take_steps

WEIGHT_DECAY = 1e-3
"""AdamW's, for every network."""
WARMUP = 50
"""Steps over which the learning rate rises, at most a tenth of all."""
FLOOR = 0.02
"""Share of the learning rate that is left at the end."""
CLIP = 5.0
"""Highest norm of a gradient."""
FRESH_RATE = 5
"""Times the learning rate for networks that start at random, not as principal components."""
MATCHER_RATE = 4
"""Times the learning rate for the matcher, whose first layer alone starts as components."""
SMOOTHER_EPOCHS = 6
"""Epochs of the smoother for each of the deblurrer: a tenth of the work, slow to converge."""
COMPONENT_FACES = 24_000
"""At most so many faces give the principal components, which bounds memory."""
SIGMA = (0.3, 1.0)
"""Blur that the deblurrer learns to undo, px: spans that of the decoder's output."""

LossOf = Callable[[Tensor, torch.Generator], Tensor]
"""(rows of a batch, generator) -> loss."""


@with_own_faces
def train(
    data: Sequence[Path],
    out: Path,
    settings: Recipe,
    cache: Path | None = None,
    validation: Sequence[Path] = (),
    stop_after: int | None = None,
) -> list[Path] | None:
    """Train on folders or parquet files and write safetensors with cards (weights.toml) to `out`.

    Args:
        data, validation: as `deid anonymize` takes them; supervised targets need labels. The
            validation set is only reconstructed, at every checkpoint of the autoencoder.
        cache: folder for the cut chips; default: `faces` in `out`, removed at the end.
        stop_after: leave after this many steps, as a kill would (for tests).

    Returns:
        The files written; None when stopped early.

    Raises:
        UsageError: target=strangers without a pool.
        DeidError: the data has no faces or not the labels that the target needs, or a checkpoint
            in `out` was made with other settings.
    """
    settings.require_pool()
    torch.set_num_threads(settings.threads)
    assert cache is not None, "with_own_faces names it"
    run = DaeRun(settings, out, stop_after)
    try:
        return _train(data, validation, run, cache)
    except StoppedError:
        return None


def _train(
    data: Sequence[Path], validation: Sequence[Path], run: DaeRun, cache: Path
) -> list[Path]:
    """Train part after part; what can be refused is refused before the first step."""
    settings = run.settings
    faces, rows = faces_of(data, cache, settings.limit)
    chips = tensor_of(faces)
    held_out = tensor_of(faces_of(validation, cache, 0)[0]) if validation else None
    log(f"{len(faces)} faces of {len(set(faces.persons))} people")
    if settings.target in ("supervised", "strangers") and settings.part != "autoencoder":
        targets.attribute_labels(faces, settings)
    pool = _pool(chips, settings, cache) if settings.uses_pool() else None
    autoencoder = train_autoencoder(chips, run, held_out)
    if settings.part == "autoencoder":
        return []
    encoder = train_encoder(autoencoder, faces, run)
    if settings.part == "encoder":
        return []
    filters = train_filters(chips, run)
    if settings.part == "filters":
        return []
    own: dict[str, Tensor] = {}
    if pool is not None:
        assert isinstance(autoencoder, FullyConnected) and isinstance(encoder, FullyConnected)
        landmarks = load_landmarks(data, cache)[rows]
        described = matching.matcher_targets(faces, landmarks, cache)
        matcher = train_matcher(chips, described, run)
        networks = (autoencoder, encoder, matcher)
        center, device = described.center, settings.device
        own = matching.pool_tensors(*networks, center, chips, pool, device, cache)
    if settings.target == "clusters":
        codes = in_blocks(autoencoder.encode, chips, settings.device).numpy()
        own["centers"] = torch.from_numpy(targets.cluster_centers(codes, settings))
    return write_weights(autoencoder, encoder, filters, own, run, data)


def _pool(chips: Tensor, settings: Recipe, cache: Path) -> Tensor:
    """Return the (P, S, S, 3) uint8 chips of the strangers."""
    if settings.pool == TRAINING_POOL:
        log(f"WARNING: {POOL_WARNING}")
    else:
        chips = tensor_of(faces_of([Path(settings.pool)], cache, 0)[0])
    return matching.evenly_spread(chips, settings.pool_size)


def optimize(
    name: str,
    network: nn.Module,
    count: int,
    epochs: int,
    rate: float,
    loss_of: LossOf,
    run: DaeRun,
    fixed: Sequence[str],
    after: Callable[[], str] = str,
) -> None:
    """Train a network in place by AdamW, from its checkpoint `out/name.pt` where there is one.

    Args:
        count: samples. rate: highest learning rate.
        fixed: names of the settings that the checkpoint must share.
        after: words for a checkpoint's log line; the network is in evaluation mode then.
    """
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=WEIGHT_DECAY)
    steps = epochs * max(1, count // run.settings.batch_size)
    warmup = min(WARMUP, steps // 10)

    def step_of(step: int, rows: Tensor, generator: torch.Generator) -> dict[str, float]:
        network.train()
        loss = loss_of(rows, generator)
        factor = cosine(step, steps, warmup, FLOOR)
        return {"loss": optimizer_step(optimizer, loss, factor, CLIP)}

    def evaluated(step: int) -> str:
        network.eval()
        return after()

    parts: Mapping[str, Any] = {"model": network, "optimizer": optimizer}
    batch_size = run.settings.batch_size
    take_steps(name, parts, count, batch_size, steps, step_of, run, run.fixed(fixed), evaluated)
    network.eval()


def train_autoencoder(chips: Tensor, run: DaeRun, held_out: Tensor | None = None) -> Autoencoder:
    """Return an autoencoder that was trained to reconstruct faces (eq. 4 and 5).

    Args:
        chips: (N, S, S, 3) uint8. held_out: the same of other people, only measured.
    """
    settings = run.settings
    torch.manual_seed(settings.seed)
    started = not (run.out / "autoencoder.pt").is_file()  # a checkpoint holds the start, too
    autoencoder = _new_autoencoder(chips, settings, started).to(settings.device)

    def loss_of(rows: Tensor, generator: torch.Generator) -> Tensor:
        faces = batch_of(chips, rows, settings.device)
        faces = flipped(faces, random_half(len(faces), generator))
        made = autoencoder.decode(autoencoder.encode(faces))
        return losses.reconstruction_loss(made, to_reconstruct(faces, settings.color))

    def after() -> str:
        if held_out is None:
            return ""
        return f", validation {reconstruction_error(autoencoder, held_out, settings):.5f}"

    if isinstance(autoencoder, FullyConnected) and started:
        log(f"principal components alone:{after()}")
    rate = settings.rate * (1 if isinstance(autoencoder, FullyConnected) else FRESH_RATE)
    epochs = settings.autoencoder_epochs
    fixed = AUTOENCODER_FIXED
    optimize("autoencoder", autoencoder, len(chips), epochs, rate, loss_of, run, fixed, after)
    return autoencoder


def _new_autoencoder(chips: Tensor, settings: Recipe, started: bool) -> Autoencoder:
    """Return the network that the settings describe; the fully connected one, if `started`, as
    the principal components of the chips."""
    shape = settings.widths if settings.network == "fc" else settings.channels
    sizes = [int(part) for part in shape.split(",")]
    network = build_autoencoder(settings.network, sizes, settings.color)
    if isinstance(network, Convolutional):
        mean = torch.from_numpy(chips.numpy().mean(0)).permute(2, 0, 1)[None].float() / 255
        network.mean.copy_(mean[0] if settings.color else pack(mean, False).view(1, SIDE, SIDE))
        # 5.7 ms a face and training step in place of 9.8, on one core.
        return network.to(memory_format=torch.channels_last)
    if started:
        count = min(len(chips), COMPONENT_FACES)
        some = chips[torch.linspace(0, len(chips) - 1, count).long()]
        packed = in_blocks(lambda x: pack(x, settings.color), some, settings.device)
        network.start_from(*principal_components(packed, min(max(sizes), packed.shape[1])))
    return network


def train_encoder(autoencoder: Autoencoder, faces: Chips, run: DaeRun) -> Autoencoder:
    """Return a copy of the autoencoder whose encoder alone was fine-tuned to produce the target
    codes (eq. 6).

    Each face is seen flipped, too, with the code of its target's flipped face.
    """
    settings = run.settings
    network = deepcopy(autoencoder)
    if settings.target == "none":
        return network
    chips = tensor_of(faces)
    codes = in_blocks(autoencoder.encode, chips, settings.device)
    cells = autoencoder.grid**2 if isinstance(autoencoder, Convolutional) else 1
    log(f"targets: {settings.target}")
    target_codes = torch.from_numpy(targets.target_codes(codes.numpy(), faces, settings, cells))
    flipped_targets = flipped_codes(autoencoder, target_codes, settings.device)
    variance = float(codes.var(0).mean())
    network.decoder.requires_grad_(False)

    def loss_of(rows: Tensor, generator: torch.Generator) -> Tensor:
        network.decoder.eval()
        where = random_half(len(rows), generator)
        found = network.encode(flipped(batch_of(chips, rows, settings.device), where))
        wanted = torch.where(where[:, None], flipped_targets[rows], target_codes[rows])
        return losses.target_loss(found, wanted.to(found.device), variance)

    rate = settings.rate * (FRESH_RATE if settings.network == "conv" else 1)
    name, epochs = f"encoder-{settings.target}", settings.encoder_epochs
    optimize(name, network, len(chips), epochs, rate, loss_of, run, ENCODER_FIXED)
    return network


def train_filters(chips: Tensor, run: DaeRun) -> Filters:
    """Return the deblurrer, trained on pairs of blurred and sharp faces, and the smoother, trained
    as an autoencoder (sec. 4.3).

    Args:
        chips: (N, S, S, 3) uint8.
    """
    settings = run.settings
    torch.manual_seed(settings.seed)
    filters = Filters(Deblurrer().to(settings.device), Smoother().to(settings.device))

    def faces_of_rows(rows: Tensor, generator: torch.Generator) -> Tensor:
        return flipped(batch_of(chips, rows, settings.device), random_half(len(rows), generator))

    def deblur(rows: Tensor, generator: torch.Generator) -> Tensor:
        faces = faces_of_rows(rows, generator)
        low, high = SIGMA
        sigma = low + (high - low) * float(torch.rand(1, generator=generator))
        blurred = gaussian_blur(faces, [5, 5], [sigma, sigma])
        return losses.deblurring_loss(filters.deblurrer(blurred), faces)

    def smooth(rows: Tensor, generator: torch.Generator) -> Tensor:
        faces = faces_of_rows(rows, generator)
        return losses.smoothing_loss(filters.smoother(faces), faces)

    rate, epochs, count = settings.rate * FRESH_RATE, settings.filter_epochs, len(chips)
    optimize("deblurrer", filters.deblurrer, count, epochs, rate, deblur, run, FILTERS_FIXED)
    epochs *= SMOOTHER_EPOCHS
    optimize("smoother", filters.smoother, count, epochs, rate, smooth, run, FILTERS_FIXED)
    return filters


def train_matcher(chips: Tensor, described: matching.MatcherTargets, run: DaeRun) -> Matcher:
    """Return the network that says which strangers fit a face.

    Args:
        chips: (N, S, S, 3) uint8. described: what it is to say of them.
    """
    settings = run.settings
    torch.manual_seed(settings.seed)
    matcher = matching.start_matcher(chips).to(settings.device)

    def loss_of(rows: Tensor, generator: torch.Generator) -> Tensor:
        values = pack(batch_of(chips, rows, settings.device), True)
        wanted = (described.labels[rows], described.landmarks[rows], described.embeddings[rows])
        labels, landmarks, embeddings = (value.to(values.device) for value in wanted)
        return losses.matcher_loss(matcher(values), labels, landmarks, embeddings).total()

    rate, epochs = settings.rate * MATCHER_RATE, settings.matcher_epochs
    optimize("matcher", matcher, len(chips), epochs, rate, loss_of, run, MATCHER_FIXED)
    return matcher
