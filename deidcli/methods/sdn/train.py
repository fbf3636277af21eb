"""Train `sdn`: extractor, bottleneck, identity network, refinement networks.

    deid train sdn celeba/train --set pool=portraits
    deid train sdn celeba/train --set pool=portraits --size paper --device cuda

Each part keeps a checkpoint in `out`, so the same command resumes after a kill; a part that is
done is not done again.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from deidcli.methods.sdn.bottleneck import Bottleneck
from deidcli.methods.sdn.fitting import batch_of, fit_bottleneck
from deidcli.methods.sdn.identity import Identity
from deidcli.methods.sdn.losses import binary_cross_entropy, cross_entropy
from deidcli.methods.sdn.networks import PADDING, SIZES, FeatureExtractor
from deidcli.methods.sdn.optimizers import adamw, rate_factor
from deidcli.methods.sdn.portraits import (
    FITTED,
    describe,
    people_traits,
    portraits_of,
    published_identity,
    stored,
)
from deidcli.methods.sdn.recipe import APART, BOTTLENECK, EXTRACTOR, IDENTITY, TRAINING, Recipe
from deidcli.methods.sdn.refinement import RefinementTraining
from deidcli.methods.sdn.training_faces import (
    Faces,
    chips_at_grid,
    evenly,
    flipped_half,
    flipped_landmarks,
    load_faces,
)
from deidcli.training.checkpoints import load_checkpoint, save_checkpoint
from deidcli.training.chips import with_own_faces
from deidcli.training.loop import StoppedError, TrainingRun, log, optimizer_step, take_steps
from deidcli.training.weight_files import training_command, write_own_weights

__all__ = ["Recipe", "train"]

EXTRACTOR_RATE = 2.0
"""Learning rate of the extractor alone, as a share of the recipe's."""
LANDMARKS, PERSONS = 0.2, 0.1
"""Weights of landmarks and persons beside attributes while the extractor learns alone."""
WARNING = (
    "pool=training: these weights hold the faces of the training pictures' people, and what they "
    "publish is made of those faces"
)

Run = TrainingRun[Recipe]


@with_own_faces
def train(
    data: Sequence[Path],
    out: Path,
    settings: Recipe,
    cache: Path | None = None,
    stop_after: int | None = None,
) -> list[Path] | None:
    """Train on folders or parquet files and write safetensors with a card (weights.toml) to `out`.

    Args:
        data: as `deid anonymize` takes them, with CelebA's attributes.
        settings: the recipe; its `pool` is required for more than the extractor.
        cache: folder for the cut chips; default: `faces` in `out`, removed at the end.
        stop_after: leave after this many steps, as a kill would (for tests).

    Returns:
        The files written; None when stopped early.

    Raises:
        UsageError: no pool is named.
        DeidError: the data has no faces or no labels, or `out` holds another run's checkpoints.
    """
    settings.require_pool()
    torch.set_num_threads(settings.threads)
    assert cache is not None, "with_own_faces names it"
    try:
        return _train(data, Run(settings, out, stop_after), cache)
    except StoppedError:
        return None


def _train(data: Sequence[Path], run: Run, cache: Path) -> list[Path]:
    recipe = run.settings
    side = SIZES[recipe.size].side
    faces = load_faces(data, side, cache, recipe.limit, labeled=True)
    log(f"{len(faces)} faces, {faces.people} people with enough pictures")
    extractor = train_extractor(faces, run)
    if recipe.part == "extractor":
        return []
    if recipe.pool == TRAINING:
        log(f"warning: {WARNING}")
        pool = faces
    else:
        pool = load_faces([Path(recipe.pool)], side, cache, 0)
    bottleneck = train_bottleneck(faces, pool, run)
    if recipe.part == "bottleneck":
        return []
    training = train_refinement(faces, pool, extractor, bottleneck, run, data)
    return [write(training, pool, run, data)]


# --- The extractor


def train_extractor(faces: Faces, run: Run) -> FeatureExtractor:
    """Train the extractor on attributes, landmarks and persons of real faces: the first term of
    eq. 5, and more."""
    recipe = run.settings
    torch.manual_seed(recipe.seed)
    net = FeatureExtractor(SIZES[recipe.size], faces.people).to(recipe.device)
    net.to(memory_format=torch.channels_last)
    deviation = faces.landmarks.std(0).clamp(min=1e-3)
    optimizer = adamw(recipe.rate * EXTRACTOR_RATE, net)

    def step_of(step: int, rows: Tensor, generator: torch.Generator) -> dict[str, float]:
        net.train()
        chips = batch_of(faces.chips[rows]).to(recipe.device)
        chips, flips = flipped_half(chips, generator)
        points = faces.landmarks[rows]
        points = torch.where(flips[:, None], flipped_landmarks(points), points) / deviation
        logits, landmarks, persons = net(_varied(chips, generator))
        terms = {
            "attributes": binary_cross_entropy(logits, faces.labels[rows].to(logits)),
            "landmarks": functional.mse_loss(landmarks, points.to(landmarks)),
            "persons": cross_entropy(persons, faces.persons[rows].to(persons.device)),
        }
        loss = terms["attributes"] + LANDMARKS * terms["landmarks"] + PERSONS * terms["persons"]
        optimizer_step(optimizer, loss, rate_factor(step, recipe.extractor_steps))
        return {key: float(value.detach()) for key, value in terms.items()}

    parts: dict[str, nn.Module | torch.optim.Optimizer] = {"extractor": net, "optimizer": optimizer}
    fixed, steps = run.fixed(EXTRACTOR), recipe.extractor_steps
    take_steps("extractor", parts, len(faces), recipe.extractor_batch, steps, step_of, run, fixed)
    return net.eval()


def _varied(chips: Tensor, generator: torch.Generator) -> Tensor:
    """Vary brightness and contrast by up to 20 %; a third of the batches at half the resolution."""
    count = len(chips)
    factors = 0.8 + 0.4 * torch.rand(2, count, 1, 1, 1, generator=generator).to(chips.device)
    if float(torch.rand(1, generator=generator)) < 1 / 3:
        half = functional.avg_pool2d(chips, 2)
        chips = functional.interpolate(half, chips.shape[2:], mode="bilinear")
    mean = chips.mean((1, 2, 3), keepdim=True)
    return ((mean + (chips - mean) * factors[0]) * factors[1]).clamp(0, 1)


# --- What is found in closed form


def train_bottleneck(faces: Faces, pool: Faces, run: Run) -> Bottleneck:
    """Fit the linear layers, or take them from the file where they were kept before."""
    path, fixed = run.out / "bottleneck.pt", run.fixed(BOTTLENECK)
    net = Bottleneck()
    if saved := load_checkpoint(path, fixed):
        net.load_state_dict(saved["bottleneck"])
        return net
    if run.left == 0:
        raise StoppedError
    log("bottleneck: components, carriers, readers")
    chips = evenly(chips_at_grid(faces.chips), FITTED)
    hosts = [evenly(chips, FITTED // 2), evenly(chips_at_grid(pool.chips), FITTED // 2)]
    net = fit_bottleneck(chips, torch.cat(hosts), run.settings.strength, run.settings.seed)
    save_checkpoint(path, {"settings": fixed, "bottleneck": net.state_dict()})
    return net


def train_identity(
    faces: Faces, pool: Faces, extractor: FeatureExtractor, bottleneck: Bottleneck, run: Run
) -> tuple[Identity, Identity, Tensor]:
    """Make the identity network that is published, one of training faces, and return both with the
    persons (P,) of the latter."""
    size = run.settings.pool_size
    known = (faces.persons >= 0).nonzero()[:, 0]
    rows = evenly(known if len(known) else torch.arange(len(faces)), size)
    portraits = portraits_of(pool, size)
    path, fixed = run.out / "identity.pt", run.fixed(IDENTITY)
    if saved := load_checkpoint(path, fixed):
        nets = Identity(len(portraits)), Identity(len(rows))
        for net, name in zip(nets, ("pool", "people"), strict=True):
            net.load_state_dict(saved[name])
        return *nets, faces.persons[rows]
    log("people of the identity network")
    people = stored(faces.chips[rows], extractor, bottleneck, flipped=False)
    published = published_identity(portraits, faces, extractor, bottleneck)
    into, back = people_traits(faces, bottleneck)
    for one in (published, people):
        one.into_traits.copy_(into)
        one.from_traits.copy_(back)
    states = {"pool": published.state_dict(), "people": people.state_dict()}
    save_checkpoint(path, {"settings": fixed, **states})
    return published, people, faces.persons[rows]


# --- The refinement networks


def train_refinement(
    faces: Faces,
    pool: Faces,
    extractor: FeatureExtractor,
    bottleneck: Bottleneck,
    run: Run,
    data: Sequence[Path],
) -> RefinementTraining:
    """Train by algorithm 1. The weights so far are written with every checkpoint."""
    recipe = run.settings
    nets = train_identity(faces, pool, extractor, bottleneck, run)
    training = RefinementTraining(faces, extractor, bottleneck, *nets, recipe)

    def write_so_far(step: int) -> str:
        if step < recipe.steps:
            write(training, pool, run, data)
        return ""

    take_steps(
        "refinement",
        training.parts(),
        len(faces),
        recipe.batch_size,
        recipe.steps,
        training.step,
        run,
        run.fixed(field.name for field in fields(Recipe) if field.name not in APART),
        write_so_far,
    )
    return training


def write(training: RefinementTraining, pool: Faces, run: Run, data: Sequence[Path]) -> Path:
    """Write `sdn-SIZE` with its card. What the extractor predicts for the portraits is predicted
    anew, for it has learned since."""
    recipe, size = run.settings, SIZES[run.settings.size]
    networks = training.networks
    identity = deepcopy(networks.pool)
    describe(identity, portraits_of(pool, recipe.pool_size), networks.extractor)
    parts = {
        "bottleneck": networks.bottleneck,
        "identity": identity,
        "extractor": networks.extractor,
        "erasing": training.erasing_average,
        "reveal": training.reveal_average,
    }
    tensors = {
        f"{part}.{key}": value
        for part, module in parts.items()
        for key, value in module.state_dict().items()
        if value.is_floating_point()
    }
    used = data if recipe.pool == TRAINING else [*data, Path(recipe.pool)]
    card = {
        "kind": "sdn",
        "trained_on": ", ".join(path.name for path in used),
        "command": training_command("sdn", recipe, leave_out=("part",), paths=("pool",)),
        "license": "Apache-2.0",
        "input": {"side": size.side, "padding": PADDING, "range": "[0, 1]", "color": "RGB"},
        "notes": WARNING if recipe.pool == TRAINING else "",
    }
    return write_own_weights(run.out, f"sdn-{recipe.size}", tensors, card)
