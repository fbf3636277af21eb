"""Train `sdn`: extractor, bottleneck, people, painters.

    deid train sdn celeba/train --set pool=portraits
    deid train sdn celeba/train --size paper --device cuda

Each part keeps a checkpoint in `out`, so the same command goes on after a kill; a part that is
done is not done again.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deidcli.faces import align, recognizers
from deidcli.faces import attributes as attribute_net
from deidcli.faces.align import MEAN_FACE_5
from deidcli.methods.sdn.bottleneck import EDGE, LATENT, Bottleneck
from deidcli.methods.sdn.fitting import batch_of, fit_bottleneck
from deidcli.methods.sdn.identity import Identity
from deidcli.methods.sdn.losses import binary_cross_entropy, cross_entropy
from deidcli.methods.sdn.networks import GRID, PADDING, SIZES, FeatureExtractor, at_grid
from deidcli.methods.sdn.recipe import (
    COMMON,
    Faces,
    Run,
    Settings,
    adamw,
    descend,
    faces_of,
    fit,
    mirrored_landmarks,
)
from deidcli.methods.sdn.refinement import Painting
from deidcli.methods.sdn.shift import Directions, directions, traits
from deidcli.training.cards import write_own_weights
from deidcli.training.checkpoints import load_checkpoint, save_checkpoint
from deidcli.training.chips import with_own_faces
from deidcli.training.loop import StoppedError, log

__all__ = ["Settings", "train"]

FITTED = 8000
"""Faces that the linear layers are found from, at most."""
_APART = ("threads", "device", "checkpoint_steps")
"""Settings that decide nothing about the weights."""


@with_own_faces
def train(
    data: Sequence[Path],
    out: Path,
    settings: Settings,
    cache: Path | None = None,
    validation: Sequence[Path] = (),
    stop_after: int | None = None,
) -> list[Path] | None:
    """Train on folders or parquet files and write safetensors with a card (weights.toml) to `out`.

    Args:
        data: as `deid anonymize` takes them, with CelebA's attributes.
        cache: folder for the cut chips; default: `faces` in `out`, removed at the end.
        validation: not used.
        stop_after: leave after this many steps, as a kill would (for tests).

    Returns:
        The files written; None when stopped early.
    """
    torch.set_num_threads(settings.threads)
    assert cache is not None, "with_own_faces names it"
    try:
        return _train(data, Run(settings, out, stop_after), cache)
    except StoppedError:
        return None


def _train(data: Sequence[Path], run: Run, cache: Path) -> list[Path]:
    settings = run.settings
    faces = faces_of(data, SIZES[settings.size].side, cache, settings.limit, labeled=True)
    log(f"{len(faces)} faces, {faces.people} people with enough pictures")
    extractor = train_extractor(faces, run)
    if settings.part == "extractor":
        return []
    pool = faces
    if settings.pool:
        pool = faces_of([Path(settings.pool)], SIZES[settings.size].side, cache, 0)
    bottleneck = train_bottleneck(faces, pool, run)
    if settings.part == "bottleneck":
        return []
    painting = train_painters(faces, pool, extractor, bottleneck, run, data)
    return [write(painting, pool, run, data)]


def train_extractor(faces: Faces, run: Run) -> FeatureExtractor:
    """Attributes, landmarks and persons of real faces: the first term of eq. 5, and more."""
    settings = run.settings
    torch.manual_seed(settings.seed)
    net = FeatureExtractor(SIZES[settings.size], faces.people).to(settings.device)
    net.to(memory_format=torch.channels_last)
    deviation = faces.landmarks.std(0).clamp(min=1e-3)
    optimizer = adamw(settings.rate * 2, net)

    def step_of(step: int, rows: Tensor, generator: torch.Generator) -> dict[str, float]:
        net.train()
        turned = torch.rand(len(rows), generator=generator) < 0.5
        chips = batch_of(faces.chips[rows]).to(settings.device)
        chips = torch.where(turned.to(chips.device)[:, None, None, None], chips.flip(3), chips)
        points = faces.landmarks[rows]
        points = torch.where(turned[:, None], mirrored_landmarks(points), points) / deviation
        logits, landmarks, persons = net(_varied(chips, generator))
        parts = {
            "attributes": binary_cross_entropy(logits, faces.labels[rows].to(logits)),
            "landmarks": functional.mse_loss(landmarks, points.to(landmarks)),
            "persons": cross_entropy(persons, faces.persons[rows].to(persons.device)),
        }
        descend(parts["attributes"] + 0.2 * parts["landmarks"] + 0.1 * parts["persons"], optimizer)
        return {key: float(value.detach()) for key, value in parts.items()}

    models, rates = {"extractor": net}, {"extractor": optimizer}
    fixed = run.fixed((*COMMON, "extractor_steps", "extractor_batch"))
    steps, batch = settings.extractor_steps, settings.extractor_batch
    fit("extractor", models, rates, len(faces), steps, batch, step_of, run, fixed)
    return net.eval()


def _varied(chips: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness and contrast by up to 20 %; a third of the batches at half the resolution."""
    count = len(chips)
    factors = 0.8 + 0.4 * torch.rand(2, count, 1, 1, 1, generator=generator).to(chips.device)
    if float(torch.rand(1, generator=generator)) < 1 / 3:
        half = functional.avg_pool2d(chips, 2)
        chips = functional.interpolate(half, chips.shape[2:], mode="bilinear")
    mean = chips.mean((1, 2, 3), keepdim=True)
    return ((mean + (chips - mean) * factors[0]) * factors[1]).clamp(0, 1)


def train_bottleneck(faces: Faces, pool: Faces, run: Run) -> Bottleneck:
    """The linear layers, from the file where they were found before."""
    path, fixed = run.out / "bottleneck.pt", run.fixed((*COMMON, "strength", "pool", "pool_size"))
    net = Bottleneck()
    if saved := load_checkpoint(path, fixed):
        net.load_state_dict(saved["bottleneck"])
        return net
    if run.left == 0:
        raise StoppedError
    log("bottleneck: components, carriers, readers")
    chips = _evenly(_small(faces.chips), FITTED)
    hosts = torch.cat([_evenly(chips, FITTED // 2), _evenly(_small(pool.chips), FITTED // 2)])
    net = fit_bottleneck(chips, hosts, run.settings.strength, run.settings.seed)
    save_checkpoint(path, {"settings": fixed, "bottleneck": net.state_dict()})
    return net


def _evenly(rows: Tensor, count: int) -> Tensor:
    some = torch.linspace(0, len(rows) - 1, min(count, len(rows))).round().long()
    return rows[some]


def _small(chips: Tensor) -> Tensor:
    """(N, S, S, 3) uint8 -> (N, 64, 64, 3) uint8."""
    if chips.shape[1] == GRID:
        return chips
    parts = [at_grid(batch_of(some)) * 255 for some in torch.split(chips, 512)]
    return torch.cat([part.round().to(torch.uint8).permute(0, 2, 3, 1) for part in parts])


@torch.no_grad()
def remember(
    chips: Tensor, extractor: FeatureExtractor, bottleneck: Bottleneck, mirrored: bool
) -> Identity:
    """An identity network that knows these faces: (N, S, S, 3) uint8.

    Args:
        mirrored: the second half are mirror images of the first; they get the same descriptor,
            so that the key never draws among a person and his own mirror image.
    """
    net = Identity(len(chips))
    for rows in torch.split(torch.arange(len(chips)), 256):
        faces = at_grid(batch_of(chips[rows]))
        net.codes[rows] = bottleneck.components(faces)[:, :LATENT]
        net.rims[rows] = bottleneck.rim(faces, within=True)
        net.edges[rows] = bottleneck.edge(faces).to(net.edges)
    own = len(chips) // 2 if mirrored else len(chips)
    found = torch.cat([descriptors(some) for some in torch.split(chips[:own], 256)])
    net.embeddings.copy_(found.repeat(len(chips) // own, 1))
    describe(net, chips, extractor)
    return net


@torch.no_grad()
def describe(net: Identity, chips: Tensor, extractor: FeatureExtractor) -> None:
    """Put down what the extractor says of the faces that a network remembers."""
    extractor.eval()
    device = next(extractor.parameters()).device
    for rows in torch.split(torch.arange(len(chips)), 256):
        logits, landmarks, _ = extractor(batch_of(chips[rows]).to(device))
        net.probabilities[rows] = logits.sigmoid().to(net.probabilities)
        net.landmarks[rows] = landmarks.to(net.landmarks)


def descriptors(chips: Tensor) -> Tensor:
    """dlib's of (N, S, S, 3) uint8 chips: (N, 128)."""
    side = chips.shape[1]
    points = align.apply_affine(align.chip_from_unit(np.eye(2, 3), side, PADDING), MEAN_FACE_5)
    cut = [recognizers.cut("dlib", chip, points) for chip in chips.numpy()]
    return torch.from_numpy(recognizers.embed("dlib", cut))


def labels_of(chips: Tensor) -> Tensor:
    """What the classifier of `deid score` reads off (N, S, S, 3) uint8 chips: (N, 40)."""
    net, side = attribute_net.load(), chips.shape[1]
    points = align.apply_affine(align.chip_from_unit(np.eye(2, 3), side, PADDING), MEAN_FACE_5)
    found = []
    for some in torch.split(chips, 256):
        cut = np.stack([attribute_net.cut(net, chip, points) for chip in some.numpy()])
        found.append(torch.from_numpy(attribute_net.predict(net, cut)))
    return torch.cat(found)


def attribute_directions(faces: Faces, bottleneck: Bottleneck) -> Directions:
    """Sec. 6.2 on the training faces, as the bottleneck renders them."""
    known = faces.labels[:, :].max(1).values >= 0
    rows = _evenly(known.nonzero()[:, 0], 2 * FITTED)
    return directions(_codes(faces, rows, bottleneck)[0], faces.labels[rows])


def traits_of(faces: Faces, bottleneck: Bottleneck) -> tuple[Tensor, Tensor]:
    """What tells the training faces' people apart; see sdn_shift.traits."""
    rows = _evenly((faces.persons >= 0).nonzero()[:, 0], 2 * FITTED)
    codes, edges = _codes(faces, rows, bottleneck)
    return traits(codes - edges @ bottleneck.edge_fit, faces.persons[rows])


def _codes(faces: Faces, rows: Tensor, bottleneck: Bottleneck) -> tuple[Tensor, Tensor]:
    """(N, LATENT) components and (N, EDGE) edges."""
    codes, edges = [torch.zeros(0, LATENT)], [torch.zeros(0, EDGE)]
    for some in torch.split(rows, 512):
        chips = at_grid(batch_of(faces.chips[some]))
        codes.append(bottleneck.components(chips)[:, :LATENT])
        edges.append(bottleneck.edge(chips).to(chips))
    return torch.cat(codes), torch.cat(edges)


def chosen_of(pool: Faces, settings: Settings) -> Tensor:
    """(P, S, S, 3) uint8: the faces that the published identity network remembers."""
    chips = _evenly(pool.chips, settings.pool_size)
    return torch.cat([chips, chips.flip(2)])


def train_identity(
    faces: Faces, pool: Faces, extractor: FeatureExtractor, bottleneck: Bottleneck, run: Run
) -> tuple[Identity, Identity, Tensor]:
    """The identity network that is published, one of training faces, and who those are (P,)."""
    settings = run.settings
    known = (faces.persons >= 0).nonzero()[:, 0]
    rows = _evenly(known if len(known) else torch.arange(len(faces)), settings.pool_size)
    chips = chosen_of(pool, settings)
    path, fixed = (
        run.out / "identity.pt",
        run.fixed((*COMMON, "pool", "pool_size", "extractor_steps")),
    )
    if saved := load_checkpoint(path, fixed):
        nets = Identity(len(chips)), Identity(len(rows))
        for net, name in zip(nets, ("pool", "people"), strict=True):
            net.load_state_dict(saved[name])
        return *nets, faces.persons[rows]
    log("people of the identity network")
    people = remember(faces.chips[rows], extractor, bottleneck, mirrored=False)
    net = remember(chips, extractor, bottleneck, mirrored=True)
    net.labels.copy_(labels_of(chips[: len(chips) // 2]).repeat(2, 1))
    log("directions of the attributes")
    for name, value in asdict(attribute_directions(faces, bottleneck)).items():
        net.get_buffer(name).copy_(value)
    into, back = traits_of(faces, bottleneck)
    for one in (net, people):
        one.into_traits.copy_(into)
        one.from_traits.copy_(back)
    states = {"pool": net.state_dict(), "people": people.state_dict()}
    save_checkpoint(path, {"settings": fixed, **states})
    return net, people, faces.persons[rows]


def train_painters(
    faces: Faces,
    pool: Faces,
    extractor: FeatureExtractor,
    bottleneck: Bottleneck,
    run: Run,
    data: Sequence[Path],
) -> Painting:
    """Algorithm 1. The weights so far are written with every checkpoint."""
    settings = run.settings
    chosen, people, persons = train_identity(faces, pool, extractor, bottleneck, run)
    painting = Painting(faces, extractor, bottleneck, chosen, people, persons, run)
    names = [field.name for field in fields(Settings) if field.name not in ("part", *_APART)]
    fit(
        "painters",
        painting.models,
        painting.optimizers,
        len(faces),
        settings.steps,
        settings.batch_size,
        painting.step,
        run,
        run.fixed((*COMMON, *names)),
        lambda step: "" if step == settings.steps else _sofar(painting, pool, run, data),
    )
    return painting


def _sofar(painting: Painting, pool: Faces, run: Run, data: Sequence[Path]) -> str:
    write(painting, pool, run, data)
    return ""


def write(painting: Painting, pool: Faces, run: Run, data: Sequence[Path]) -> Path:
    """`sdn-SIZE` with its card. What the identity network says of its people is said anew, for
    the extractor has learned on."""
    settings, size = run.settings, SIZES[run.settings.size]
    said = deepcopy(painting.pool)
    describe(said, chosen_of(pool, settings), painting.extractor)
    parts = {
        "bottleneck": painting.bottleneck,
        "identity": said,
        "extractor": painting.extractor,
        "erasing": painting.erasing_mean,
        "reveal": painting.reveal_mean,
    }
    tensors = {
        f"{part}.{key}": value
        for part, module in parts.items()
        for key, value in module.state_dict().items()
        if value.is_floating_point()
    }
    used = [*data, Path(settings.pool)] if settings.pool else data
    names = [path.name for path in used]
    command = "deid train sdn DATA " + " ".join(
        f"--set {key}={Path(settings.pool).name if key == 'pool' else value}"
        for key, value in asdict(settings).items()
        if value != getattr(Settings, key) and key not in (*_APART, "part")
    )
    card = {
        "kind": "sdn",
        "trained_on": ", ".join(names),
        "command": command.strip(),
        "license": "Apache-2.0",
        "input": {"side": size.side, "padding": PADDING, "range": "[0, 1]", "color": "RGB"},
        "notes": "",
    }
    return write_own_weights(run.out, f"sdn-{settings.size}", tensors, card)
