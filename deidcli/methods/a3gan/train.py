"""Train `a3gan`: on drawn pairs, then by eq. 13 on photographs and pairs.

    deid train a3gan celeba/train
    deid train a3gan DATA --set skip=stu --set warm=false

1. Pairs are drawn once, into OUT/pairs: the same picture with another person (pairs.py).
2. On pairs, encoder, SCUs, AINet and decoder learn to put another person into a picture (L1, a
   perceptual term, the person, a patch critic).
3. The discriminator's attribute head alone (eq. 9).
4. The paper's losses (eq. 13), with the pairs as an anchor.

Each part keeps a checkpoint in OUT, so the same command resumes after a kill and ends with the
same weights. `OUT/samples.png` shows, row by row: photographs, change=0 with two latents, Male,
10; then sources, what is made of them, targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deidcli.faces.align import Image, chip_affine, crop
from deidcli.faces.dlib_nets import CHIP_SIZE, load_recognizer
from deidcli.faces.reader import pooled
from deidcli.faces.segmenter import FACE, HAIR, NECK, OCCLUDER, to_input
from deidcli.generator.model import load_generator
from deidcli.methods.a3gan import losses
from deidcli.methods.a3gan.gan import Gan, Photographs
from deidcli.methods.a3gan.geometry import (
    DRAWN_LANDMARKS,
    PADDING,
    drawn_chip,
    drawn_side_of,
    window,
)
from deidcli.methods.a3gan.networks import SIZES, Discriminator, Generator
from deidcli.methods.a3gan.pair_batches import Pairs
from deidcli.methods.a3gan.pairs import Reading, draw_pairs, drawn_mask
from deidcli.methods.a3gan.recipe import (
    ATTRIBUTES,
    GAN,
    HEAD_FLOOR,
    SUPERVISED,
    Recipe,
    Run,
    learning_rate_factor,
    veiled_share,
)
from deidcli.methods.a3gan.settings import ATTRIBUTES as TEN
from deidcli.methods.a3gan.settings import changing
from deidcli.methods.a3gan.supervised import Supervised
from deidcli.methods.a3gan.training_faces import (
    Faces,
    augmented,
    load_faces,
    to_batch,
    write_sheet,
)
from deidcli.methods.loading import load_part, load_reader, load_segmenter
from deidcli.training.chips import with_own_faces
from deidcli.training.loop import StoppedError, log, optimizer_step, take_steps
from deidcli.training.weight_files import training_command, write_own_weights
from deidcli.weights.own import own_weights

WEIGHT_DECAY = 0.02
"""AdamW's, for the attribute head."""
SHEET = 12
"""Faces on the sheet of samples."""
READ_AT_ONCE = 32
TOLD_BY = 64
"""Pairs on which it is told what the generator uses."""


@with_own_faces
def train(
    data: Sequence[Path],
    out: Path,
    settings: Recipe,
    cache: Path | None = None,
    validation: Sequence[Path] = (),
    stop_after: int | None = None,
) -> list[Path] | None:
    """Train on folders or parquet files and write safetensors with a card (weights.toml) to `out`.

    Args:
        data, validation: as `deid anonymize` takes them, with CelebA's attributes. On the
            validation set the attribute head's accuracy is logged; the sheet of samples shows it.
        cache: folder for the cut chips; default: `faces` in `out`, removed at the end.
        stop_after: leave after this many steps, as a kill would (for tests).

    Returns:
        The files written; None when stopped early.

    Raises:
        DeidError: the data has no faces or no labels, `out` was made with other settings, or a
            package that brings weights is not installed.
    """
    torch.set_num_threads(settings.threads)
    run = Run(settings, out, stop_after)
    try:
        assert cache is not None, "with_own_faces names it"
        return _train(data, validation, run, cache)
    except StoppedError:
        return None


def _train(data: Sequence[Path], validation: Sequence[Path], run: Run, cache: Path) -> list[Path]:
    recipe = run.settings
    faces = load_faces(data, cache, recipe.limit)
    held_out = load_faces(validation, cache) if validation else None
    shown = held_out or faces
    pairs = gather_pairs(run)
    log(f"{len(faces)} faces, {len(pairs)} pairs")
    taught = train_on_pairs(pairs, shown, run)
    if recipe.part == "supervised":
        return [write_weights(taught.average, run, data)]
    head = train_attribute_head(faces, held_out, run)
    average = train_gan(faces, pairs, shown, taught, head, run)
    return [write_weights(average, run, data)]


# --- Pairs


def gather_pairs(run: Run) -> Pairs:
    """Draw the pairs that are not there yet, and load all."""
    recipe = run.settings
    folder = run.out / "pairs"
    generator = load_generator(recipe.device)
    latent = SIZES[recipe.size].latent
    components = draw_pairs(
        generator, reading_of(recipe.device), latent, recipe.blocks, folder, recipe.seed
    )
    return Pairs(folder, recipe.blocks, components)


def reading_of(device: str) -> Reading:
    """What reads drawn pictures: attributes and age, and the outline of the head."""
    reader, segmenter = load_reader(device), load_segmenter(device)
    recognizer = load_recognizer(device)
    affine = chip_affine(DRAWN_LANDMARKS, CHIP_SIZE, 0.25)

    @torch.inference_mode()
    def read(pictures: list[Image]) -> tuple[np.ndarray, np.ndarray]:
        answers, heads = [], []
        for start in range(0, len(pictures), READ_AT_ONCE):
            block = pictures[start : start + READ_AT_ONCE]
            cut = np.stack([crop(picture, affine, CHIP_SIZE, True) for picture in block])
            chips = torch.from_numpy(cut).to(device).permute(0, 3, 1, 2).float() / 255
            answers.append(reader(pooled(recognizer.maps(chips))).cpu().numpy())
            views = to_input([np.pad(p, ((64, 64), (64, 64), (0, 0)), "reflect") for p in block])
            shares = torch.softmax(segmenter(views.to(device)), 1)
            head = shares[:, [HAIR, FACE, NECK, OCCLUDER]].sum(1).cpu().numpy()
            heads += [drawn_chip(drawn_side_of(share)) for share in head]
        return np.concatenate(answers).astype(np.float32), np.stack(heads)

    return read


# --- The generator on pairs


def new_generator(run: Run) -> Generator:
    """A generator with drawn weights, or with those that are there."""
    recipe = run.settings
    torch.manual_seed(recipe.seed)
    generator = Generator(SIZES[recipe.size], recipe.variant)
    if recipe.warm:
        load_part(generator, "generator", own_weights(recipe.weights_name)[0])
    return generator.to(recipe.device).to(memory_format=torch.channels_last)


def train_on_pairs(pairs: Pairs, shown: Faces, run: Run) -> Supervised:
    """Train a generator to put another person into a picture."""
    recipe = run.settings
    taught = Supervised(new_generator(run), recipe)

    def step_of(step: int, rows: Tensor, random: torch.Generator) -> dict[str, float]:
        veil = veiled_share(step, recipe.supervised_steps, recipe.veiled_until)
        batch = pairs.batch(rows, random, recipe.device, veil=veil, coarse=recipe.coarse)
        return taught.step(step, batch)

    def after(step: int) -> str:
        draw_sheet(taught.average, shown, pairs, run)
        return told_by(taught.average, pairs, run)

    count, fixed = len(pairs), run.fixed(SUPERVISED)
    take_steps(
        "supervised", taught.parts(), count, recipe.batch_size, recipe.supervised_steps,
        step_of, run, fixed, after,
    )  # fmt: skip
    return taught


@torch.no_grad()
def told_by(generator: Generator, pairs: Pairs, run: Run) -> str:
    """Return words for the log: the distance to the targets in the veiled heads, levels of 255, and
    what it is with another latent, and with the mask turned round: as large, if they are not used.
    """
    random = torch.Generator().manual_seed(run.settings.seed)
    rows = torch.randperm(len(pairs), generator=random)[:TOLD_BY]
    batch = pairs.batch(rows, random, run.settings.device, vary=False, veil=1.0)
    found = []
    for latent, mask in (
        (batch.latent, batch.mask), (batch.latent.roll(1, 0), batch.mask),
        (batch.latent, 1 - batch.mask),
    ):  # fmt: skip
        made = generator(batch.source, latent, mask)
        share = batch.head / (3 * batch.head.sum())
        found.append(255 * float(((made - batch.target).abs() * share).sum()))
    right, other, turned = found
    return f"; distance {right:.1f}, another latent {other:.1f}, mask turned {turned:.1f}"


# --- The attribute head


def train_attribute_head(faces: Faces, held_out: Faces | None, run: Run) -> Discriminator:
    """Train the discriminator's attribute head by eq. 9."""
    recipe = run.settings
    torch.manual_seed(recipe.seed)
    network = Discriminator(SIZES[recipe.size]).to(recipe.device)
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        network.parameters(), recipe.attribute_rate, weight_decay=WEIGHT_DECAY
    )
    steps = recipe.attribute_steps

    def step_of(step: int, rows: Tensor, random: torch.Generator) -> dict[str, float]:
        network.train()
        chips = augmented(to_batch(faces.chips[rows], recipe.device), random)
        _, logits = network(chips)
        loss = losses.attribute_loss(logits, faces.labels[rows].to(recipe.device))
        factor = learning_rate_factor(step, steps, HEAD_FLOOR)
        return {"att1": optimizer_step(optimizer, loss, factor)}

    def after(step: int) -> str:
        return "" if held_out is None else _accuracy(network.eval(), held_out, recipe.device)

    parts: dict[str, nn.Module | torch.optim.Optimizer] = {"model": network, "optimizer": optimizer}
    fixed = run.fixed(ATTRIBUTES)
    take_steps(
        "attribute_head", parts, len(faces), recipe.attribute_batch, steps, step_of, run, fixed,
        after,
    )  # fmt: skip
    return network


@torch.no_grad()
def _accuracy(network: Discriminator, faces: Faces, device: str) -> str:
    """Return words for the log: the share of faces on which each attribute is right."""
    parts = torch.split(faces.chips, 256)
    said = torch.cat([network(to_batch(part, device))[1].cpu() for part in parts])
    right = ((said > 0).float() == faces.labels).float().mean(0)
    return "; right: " + ", ".join(f"{n} {share:.2f}" for n, share in zip(TEN, right, strict=True))


# --- The generator under eq. 13


def train_gan(
    faces: Faces, pairs: Pairs, shown: Faces, taught: Supervised, head: Discriminator, run: Run
) -> Generator:
    """Train generator and discriminator by eq. 13.

    Returns:
        The generator with the averaged weights.
    """
    recipe = run.settings
    gan = Gan(taught.generator, taught.average, taught.lessons, head, recipe)
    half = recipe.batch_size // 2

    def step_of(step: int, rows: Tensor, random: torch.Generator) -> dict[str, float]:
        chosen = torch.randint(len(faces), (half,), generator=random)
        real = Photographs(
            augmented(to_batch(faces.chips[chosen], recipe.device), random),
            faces.labels[chosen].to(recipe.device),
            torch.randn(half, SIZES[recipe.size].latent, generator=random).to(recipe.device),
            torch.stack([drawn_mask(random) for _ in range(half)]).to(recipe.device),
        )
        return gan.step(step, real, pairs.batch(rows, random, recipe.device), random)

    def after(step: int) -> str:
        draw_sheet(gan.average, shown, pairs, run)
        return ""

    count, fixed = len(pairs), run.fixed(GAN)
    take_steps(
        "gan", gan.parts(), count, recipe.batch_size - half, recipe.steps, step_of, run, fixed,
        after,
    )  # fmt: skip
    return gan.average


# --- What is written


@torch.no_grad()
def draw_sheet(generator: Generator, shown: Faces, pairs: Pairs, run: Run) -> None:
    """Write samples.png, see the module."""
    device = run.settings.device
    was_training = generator.training
    generator.eval()
    some = torch.linspace(0, len(shown) - 1, min(SHEET, len(shown))).round().long()
    chips = to_batch(shown.chips[some], device)
    share = torch.from_numpy(window()).to(device)
    random = torch.Generator().manual_seed(1)
    latents = torch.randn(2, len(chips), generator.size.latent, generator=random).to(device)
    rows = [chips]
    for change, latent in (("0", 0), ("0", 1), ("1", 0), ("10", 0)):
        mask = torch.tensor([[float(name in changing(change)) for name in TEN]])
        made = generator(chips, latents[latent], mask.expand(len(chips), -1).to(device))
        rows.append(torch.lerp(chips, made.clamp(0, 1), share))
    some = torch.linspace(0, len(pairs) - 1, SHEET).long()
    batch = pairs.batch(some, random, device, vary=False)
    coarse = pairs.batch(some, random, device, veil=1.0)
    rows += [coarse.source, generator(coarse.source, coarse.latent, coarse.mask), coarse.target]
    rows += [batch.source, generator(batch.source, batch.latent, batch.mask), batch.target]
    write_sheet(run.out / "samples.png", rows)
    generator.train(was_training)


def write_weights(generator: Generator, run: Run, data: Sequence[Path]) -> Path:
    """Write `a3gan-SIZE`, or `a3gan-SIZE-VARIANT`, and its card; return its path."""
    recipe = run.settings
    tensors = {
        f"generator.{key}": value
        for key, value in generator.state_dict().items()
        if value.is_floating_point()
    }
    card = {
        "kind": "a3gan",
        "trained_on": ", ".join([*(path.name for path in data), "pictures of random-face"]),
        "command": training_command("a3gan", recipe),
        "license": "Apache-2.0",
        "input": {
            "side": SIZES[recipe.size].side,
            "padding": PADDING,
            "range": "[0, 1]",
            "color": "RGB",
        },
    }
    return write_own_weights(run.out, recipe.weights_name, tensors, card)
