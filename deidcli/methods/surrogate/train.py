"""Train `surrogate`: segmenter, reader, predictor.

    deid train surrogate celeba/train

The segmenter learns from drawn faces alone, whose label maps follow from the generator's features;
the reader from the labels of DATA; the predictor from what segmenter and reader see in drawn faces.
Each has a checkpoint in `out`, and what is read off faces is kept in the cache, so the same command
goes on after a kill.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.faces.reader import AGE_CENTER, AGE_SCALE, FEATURES, Reader
from deidcli.faces.segmenter import Segmenter
from deidcli.generator.model import load_generator
from deidcli.methods.surrogate.augmentation import varied
from deidcli.methods.surrogate.bank import (
    HELD_OUT,
    Bank,
    Maps,
    Seen,
    answers,
    draw_bank,
    draw_maps,
    held_out,
    read_faces,
)
from deidcli.methods.surrogate.losses import (
    age_loss,
    attribute_loss,
    predictor_loss,
    segmentation_loss,
)
from deidcli.methods.surrogate.networks import Predictor
from deidcli.methods.surrogate.recipe import PREDICTOR, READER, SEGMENTER, Recipe
from deidcli.methods.surrogate.settings import WEIGHTS
from deidcli.methods.surrogate.teacher import Clusters, Teacher, load_clusters, require_teachers
from deidcli.methods.surrogate.told import card_of, predictor_scores, reader_scores
from deidcli.training.chips import find_all, require_labels, with_own_faces
from deidcli.training.loop import (
    StoppedError,
    TrainingRun,
    average_decay,
    cosine,
    log,
    optimizer_step,
    take_steps,
    update_average,
)
from deidcli.training.weight_files import write_own_weights

__all__ = ["Recipe", "train"]

DEFAULTS = Recipe()
FLOOR = 0.01
"""Of the segmenter's learning rate, the share that is left at the end."""
LEFT = 1e-3
"""The same of the straight lines of reader and predictor."""
CLIP = 1.0
"""Highest norm of the segmenter's gradient."""
UNCLIPPED = float("inf")
FARTHEST = 4.0
"""Deviations from the mean beyond which the predictor need not go."""
BATCH = 24
"""Pictures that the held-out loss looks at at once."""
MAP_SEED, BANK_SEED = 1, 2
"""What tells the faces of the segmenter from those of the bank."""
DERIVED = ("precision", "usual")
"""Buffers of the predictor that `Predictor.prepare` makes."""
Run = TrainingRun[Recipe]
Parts = dict[str, nn.Module | torch.optim.Optimizer]


@with_own_faces
def train(
    data: Sequence[Path],
    out: Path,
    settings: Recipe = DEFAULTS,
    cache: Path | None = None,
    stop_after: int | None = None,
) -> Path | None:
    """Train all three networks and write `out`/surrogate.safetensors with its card.

    Args:
        data: folders or parquet files as `deid anonymize` takes them, with CelebA's attributes.
        cache: folder of what is read off faces; default: `faces` in `out`, removed at the end.
        stop_after: leave after this many steps, as a kill would (for tests).

    Returns:
        The weights' path; None when stopped early.

    Raises:
        DeidError: the data has no faces or no labels, a package with a teacher is not installed,
            the file `surrogate`, whose clusters have names, is not there, or `out` holds another
            run's checkpoints.
    """
    torch.set_num_threads(settings.threads)
    assert cache is not None, "with_own_faces names it"
    try:
        return _train(data, Run(settings, out, stop_after), cache)
    except StoppedError:
        return None


def _train(data: Sequence[Path], run: Run, cache: Path) -> Path:
    recipe = run.settings
    require_teachers()
    clusters = load_clusters()
    require_labels(find_all(data, cache))
    generator = load_generator(recipe.device, torch.float32)
    teacher = Teacher(generator, clusters)
    maps = draw_maps(teacher, recipe.segmenter_faces, _seed(recipe, MAP_SEED), cache)
    segmenter, segmented = train_segmenter(maps, run)
    bank = draw_bank(generator, segmenter, recipe.bank_faces, _seed(recipe, BANK_SEED), cache)
    seen = read_faces(data, cache, recipe.device)
    reader, read = train_reader(seen, bank, run)
    predictor, predicted = train_predictor(bank, reader, run)
    scores = {
        "split": f"every {HELD_OUT}th drawn face and person of the data, whom no step saw: "
        f"{int(seen.out.sum())} pictures of {len(seen.out)}",
        "segmenter_loss": round(segmented, 4),
        "reader": read,
        "predictor": predicted,
    }
    networks = {"segmenter": segmenter, "reader": reader, "predictor": predictor}
    card = card_of(data, recipe, scores, seen.labels)
    return write_own_weights(run.out, WEIGHTS, tensors_of(networks, clusters), card)


def _seed(recipe: Recipe, what: int) -> int:
    return (recipe.seed * 1_000_003 + what) % (1 << 62)


def tensors_of(networks: dict[str, nn.Module], clusters: Clusters) -> dict[str, Tensor]:
    """What the file holds: networks and clusters under their prefixes, without counters of batch
    norm and what follows from the rest."""
    tensors = {
        f"{part}.{key}": value
        for part, network in networks.items()
        for key, value in network.state_dict().items()
        if value.is_floating_point() and not (part == "predictor" and key in DERIVED)
    }
    return tensors | {f"clusters.{key}": value for key, value in clusters.tensors().items()}


def falling(step: int, steps: int, warmup: int = 0) -> float:
    """The learning rate's factor: linear from 0 to 1 over `warmup` steps, and to LEFT over all."""
    return min(1.0, (step + 1) / max(1, warmup)) * (1 - step / steps) + LEFT


def _steps(count: int, batch_size: int, epochs: int) -> int:
    return epochs * (count // min(batch_size, count))


# --- What a view shows where


def train_segmenter(maps: Maps, run: Run) -> tuple[Segmenter, float]:
    """Train the segmenter; return the averaged one and its loss on held-out faces."""
    recipe, device = run.settings, run.settings.device
    torch.manual_seed(recipe.seed)
    net = Segmenter().to(device).to(memory_format=torch.channels_last)
    average = deepcopy(net).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        net.parameters(), recipe.segmenter_rate, weight_decay=recipe.segmenter_decay
    )
    apart = torch.from_numpy(held_out(len(maps.labels)))
    pictures, labels = maps.pictures[~apart], maps.labels[~apart]

    def step_of(step: int, rows: Tensor, source: torch.Generator) -> dict[str, float]:
        net.train()
        x, y = varied(pictures[rows], labels[rows], pictures, step, source)
        loss = segmentation_loss(net(x.to(device)), y.to(device))
        factor = cosine(step, recipe.segmenter_steps, recipe.segmenter_warmup, FLOOR)
        value = optimizer_step(optimizer, loss, factor, clip=CLIP)
        update_average(average, net, average_decay(step, recipe.average))
        return {"loss": value}

    def after(step: int) -> str:
        return f"; held out {segmenter_loss(average, held, device):.4f}"

    held = Maps(maps.pictures[apart], maps.labels[apart])
    parts: Parts = {"segmenter": net, "average": average, "optimizer": optimizer}
    take_steps(
        "segmenter", parts, len(labels), recipe.segmenter_batch, recipe.segmenter_steps, step_of,
        run, run.fixed(SEGMENTER), after,
    )  # fmt: skip
    return average, segmenter_loss(average, held, device)


@torch.no_grad()
def segmenter_loss(net: Segmenter, maps: Maps, device: str) -> float:
    """The loss on whole drawn pictures, not varied; all labeled pixels count alike."""
    said = [
        net(((x.float() / 255 - 0.5) * 4).to(device)) for x in torch.split(maps.pictures, BATCH)
    ]
    return float(segmentation_loss(torch.cat(said).cpu(), maps.labels.long()))


# --- Who is in it


def train_reader(seen: Seen, bank: Bank, run: Run) -> tuple[Reader, dict[str, object]]:
    """Train the reader on attributes and ages of DATA and on ages of drawn faces; return it and
    what it gets right of the people of DATA whom no step saw."""
    recipe, device = run.settings, run.settings.device
    torch.manual_seed(recipe.seed)
    net = Reader()
    known = ~seen.out
    # Those of DATA alone: on them the answers have to be right.
    mean, deviation = statistics(seen.features[known])
    net.mean.copy_(mean)
    net.deviation.copy_(deviation)
    net.to(device)
    optimizer = torch.optim.AdamW(
        net.parameters(), recipe.reader_rate, weight_decay=recipe.reader_decay
    )
    features = torch.from_numpy(np.concatenate([seen.features[known], bank.features]))
    ages = torch.from_numpy(np.concatenate([seen.ages[known], bank.ages]))
    unlabeled = np.zeros((len(bank.ages), len(CELEBA_ATTRIBUTES)), np.int8)
    labels = torch.from_numpy(np.concatenate([seen.labels[known], unlabeled]))
    steps = _steps(len(ages), recipe.reader_batch, recipe.reader_epochs)

    def step_of(step: int, rows: Tensor, source: torch.Generator) -> dict[str, float]:
        net.train()
        noise = torch.randn(len(rows), FEATURES, generator=source).to(device)
        x = features[rows].to(device).float() + recipe.reader_noise * net.deviation * noise
        said = net(x, recipe.reader_drop)
        attributes = attribute_loss(said[:, :-1], labels[rows].to(device).float())
        age = age_loss(said[:, -1], ages[rows].to(device))
        loss = attributes + recipe.age_weight * age
        optimizer_step(optimizer, loss, falling(step, steps), UNCLIPPED)
        return {"attributes": float(attributes.detach()), "age": float(age.detach())}

    parts: Parts = {"reader": net, "optimizer": optimizer}
    fixed = {**run.fixed(READER), "faces": len(ages)}
    take_steps("reader", parts, len(ages), recipe.reader_batch, steps, step_of, run, fixed)
    said = answers(net.eval(), seen.features[seen.out], device)
    years = AGE_CENTER + AGE_SCALE * said[:, -1]
    return net, reader_scores(said[:, :-1], seen.labels[seen.out], years, seen.ages[seen.out])


def statistics(rows: NDArray[np.float16]) -> tuple[Tensor, Tensor]:
    """The mean (F,) and the deviation (F,) of rows (N, F), a little above 0."""
    count, chunk = len(rows), 1024
    parts = [rows[start : start + chunk] for start in range(0, count, chunk)]
    mean = sum(part.sum(0, dtype=np.float64) for part in parts) / count
    squares = sum(np.square(part.astype(np.float64) - mean).sum(0) for part in parts)
    deviation = np.sqrt(squares / max(1, count - 1)) + 1e-3
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


# --- What a w would show


def train_predictor(bank: Bank, reader: Reader, run: Run) -> tuple[Predictor, dict[str, object]]:
    """Train the predictor on drawn faces; return it and R2 on those that no step saw."""
    recipe, device = run.settings, run.settings.device
    torch.manual_seed(recipe.seed)
    net = Predictor()
    w = torch.from_numpy(bank.w)
    numbers = torch.from_numpy(bank.described(reader, device))
    apart = torch.from_numpy(held_out(len(w)))
    known = (~apart).nonzero()[:, 0]
    net.w_mean.copy_(w.mean(0))
    net.w_deviation.copy_(w.std(0))
    net.center.copy_(numbers[known].mean(0))
    net.deviation.copy_(numbers[known].std(0) + 1e-6)
    inputs = net.normal(w)
    net.covariance.copy_(torch.cov(inputs.T))
    wanted = ((numbers - net.center) / net.deviation).clamp(-FARTHEST, FARTHEST)
    net.to(device)
    optimizer = torch.optim.AdamW(
        net.parameters(), recipe.predictor_rate, weight_decay=recipe.predictor_decay
    )
    steps = _steps(len(known), recipe.predictor_batch, recipe.predictor_epochs)

    def step_of(step: int, rows: Tensor, source: torch.Generator) -> dict[str, float]:
        net.train()
        chosen = known[rows]
        x = inputs[chosen]
        x = x + recipe.predictor_noise * torch.randn(x.shape, generator=source)
        said = net(x.to(device), recipe.predictor_drop)
        loss = predictor_loss(said, wanted[chosen].to(device))
        factor = falling(step, steps, recipe.predictor_warmup)
        return {"loss": optimizer_step(optimizer, loss, factor, UNCLIPPED)}

    parts: Parts = {"predictor": net, "optimizer": optimizer}
    fixed = {**run.fixed(PREDICTOR), "faces": len(known)}
    take_steps("predictor", parts, len(known), recipe.predictor_batch, steps, step_of, run, fixed)
    said = torch.from_numpy(answers(net.eval(), inputs[apart].numpy(), device))
    net.doubt.copy_((said - wanted[apart]).square().mean(0))
    found = predictor_scores(said.numpy(), wanted[apart].numpy())
    log(f"predictor: R2 {found['mean']}")
    return net, found
