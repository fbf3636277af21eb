"""Train `a3gan`: the attribute head, the generator under a teacher, the generator by eq. 13.

    deid train a3gan celeba/train --set pool=portraits --set more=celeba_small
    deid train a3gan DATA --size paper --set pool=portraits --set skip=stu

1. The discriminator's attribute head alone (eq. 9), which also describes the faces among which a
   latent is chosen.
2. The generator learns to lay the face that a latent stands for into the picture (L1): a GAN from
   noise needs days of a GPU. Half of the batch has the portrait as its canvas, half what the
   latent alone draws. With a canvas the target is the canvas itself, so an untrained generator
   already has a loss near 0 (docs/methods/a3gan.md, "What the networks do").
3. The paper's losses (eq. 13), the teacher's kept at a lower weight; half of the latents come
   from N(0, I).

Each part keeps a checkpoint in `out`, so the same command resumes after a kill and ends with the
same weights. `out/samples.png` shows, row by row: originals, change=0, 5, 10, N(0, I).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from deidcli.faces import recognizers
from deidcli.methods.a3gan import losses
from deidcli.methods.a3gan.attribute_head import AttributeHead, train_attribute_head
from deidcli.methods.a3gan.canvas import LATENT
from deidcli.methods.a3gan.gan import Gan
from deidcli.methods.a3gan.latents import attribute_mask, describe, truncated
from deidcli.methods.a3gan.networks import SIZES, Discriminator, Generator
from deidcli.methods.a3gan.recipe import (
    GAN,
    GENERATOR_FLOOR,
    POOL_TRAINING,
    TEACHER,
    Recipe,
    Run,
    learning_rate_factor,
)
from deidcli.methods.a3gan.settings import ATTRIBUTES
from deidcli.methods.a3gan.teacher import (
    Material,
    canvas_faces,
    draw_seeds,
    gather_material,
    make_batch,
    new_generator,
)
from deidcli.methods.a3gan.training_faces import Faces, load_faces, to_batch, write_sheet
from deidcli.methods.blend import PADDING, wide_edge_mask
from deidcli.training.chips import with_own_faces
from deidcli.training.loop import StoppedError, log, optimizer_step, take_steps
from deidcli.training.weight_files import training_command, write_own_weights

TEACHER_DECAY = 1e-3
"""AdamW's weight decay under the teacher."""
SHEET = 12
"""Faces on the sheet of samples."""
REAL_FACES = (
    "pool=training: published faces are made of the training pictures, and the weights hold them: "
    "faces of real people, if the data is of real people. Not for publishing"
)


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
        UsageError: there is no pool.
        DeidError: the data has no faces or no labels, or `out` was made with other settings.
    """
    settings.require_pool()
    torch.set_num_threads(settings.threads)
    run = Run(settings, out, stop_after)
    try:
        assert cache is not None, "with_own_faces names it"
        return _train(data, validation, run, cache)
    except StoppedError:
        return None


def _train(data: Sequence[Path], validation: Sequence[Path], run: Run, cache: Path) -> list[Path]:
    recipe = run.settings
    if recipe.part == "all":
        recognizers.load(recipe.recognizer)  # the last part needs it: say so before the first
    faces = load_faces(data, run, cache, recipe.limit, labeled=True)
    more = [Path(text) for text in recipe.more.split(",") if text]
    labeled = load_faces([*data, *more], run, cache, recipe.limit * (1 + len(more)))
    held_out = load_faces(validation, run, cache) if validation else None
    log(f"{len(faces)} faces, {len(labeled)} for the attribute head")
    source = faces
    if recipe.part != "attribute_head":
        if recipe.pool == POOL_TRAINING:
            log(f"warning: {REAL_FACES}")
        else:
            source = load_faces([Path(recipe.pool)], run, cache)
    head = train_attribute_head(labeled, held_out, run)
    if recipe.part == "attribute_head":
        return []
    material = gather_material(faces, source, head, run)
    shown = held_out or faces
    generator = train_under_teacher(material, shown, head, run)
    if recipe.part == "teacher":
        return []
    average = train_gan(material, shown, head, generator, run)
    return [write_weights(average, head.network, material, run, data)]


# --- The generator under the teacher


def train_under_teacher(
    material: Material, shown: Faces, head: AttributeHead, run: Run
) -> Generator:
    """Train a new generator to lay the face that a latent stands for into the picture."""
    recipe = run.settings
    generator = new_generator(material, run)
    optimizer = torch.optim.AdamW(generator.parameters(), recipe.rate, weight_decay=TEACHER_DECAY)
    steps = recipe.teacher_steps
    window = wide_edge_mask(SIZES[recipe.size].side).to(recipe.device)

    def step_of(step: int, rows: Tensor, random: torch.Generator) -> dict[str, float]:
        generator.train()
        batch = make_batch(material, rows, random, run)
        made = generator(batch.chips, batch.latent, batch.mask, canvas_faces(generator, batch))
        loss = losses.teacher_loss(made, batch.target, window)
        factor = learning_rate_factor(step, steps, GENERATOR_FLOOR)
        return {"teacher": optimizer_step(optimizer, loss, factor)}

    def after(step: int) -> str:
        draw_sheet(generator, shown, head.network, material, run)
        return ""

    parts: dict[str, nn.Module | torch.optim.Optimizer] = {
        "model": generator,
        "optimizer": optimizer,
    }
    count, fixed = len(material.faces), run.fixed(TEACHER)
    take_steps("teacher", parts, count, recipe.batch_size, steps, step_of, run, fixed, after)
    return generator


# --- The generator under eq. 13


def train_gan(
    material: Material, shown: Faces, head: AttributeHead, generator: Generator, run: Run
) -> Generator:
    """Train generator and discriminator by eq. 13.

    Returns:
        The generator with the averaged weights.
    """
    recipe = run.settings
    gan = Gan(generator, head.network, recipe)

    def step_of(step: int, rows: Tensor, random: torch.Generator) -> dict[str, float]:
        return gan.step(step, make_batch(material, rows, random, run), random)

    def after(step: int) -> str:
        draw_sheet(gan.average, shown, head.network, material, run)
        return ""

    parts: dict[str, nn.Module | torch.optim.Optimizer] = {
        "generator": gan.generator,
        "average": gan.average,
        "discriminator": gan.discriminator,
        "generator_optimizer": gan.generator_optimizer,
        "discriminator_optimizer": gan.discriminator_optimizer,
    }
    count, fixed = len(material.faces), run.fixed(GAN)
    take_steps("gan", parts, count, recipe.batch_size, recipe.steps, step_of, run, fixed, after)
    return gan.average


# --- What is written


@torch.no_grad()
def draw_sheet(
    generator: Generator, shown: Faces, head: Discriminator, material: Material, run: Run
) -> None:
    """Write samples.png: originals, change=0, 5, 10, and latents from N(0, I)."""
    device = run.settings.device
    was_training, pool = generator.training, material.pool
    generator.eval()
    some = torch.linspace(0, len(shown) - 1, min(SHEET, len(shown))).round().long()
    chips = to_batch(shown.chips, some, device)
    window = wide_edge_mask(chips.shape[2]).to(device)
    described = describe(head, chips)
    seeds = draw_seeds(len(chips), torch.Generator().manual_seed(1))
    rows = [chips]
    noise = torch.randn(len(chips), LATENT, generator=torch.Generator().manual_seed(2)).to(device)
    for change in ("0", "5", "10"):
        mask = attribute_mask(change).expand(len(chips), -1).to(device)
        chosen = pool.draw(described, mask, seeds)
        latent, faces = pool.latents(described, mask, chosen, noise).to(device), None
        if generator.canvas is not None:
            portraits = material.portraits.faces(chosen)
            faces = generator.canvas.from_portraits(portraits, latent, pool.codes[chosen])
        rows.append(torch.lerp(chips, generator(chips, latent, mask, faces), window))
    nothing = torch.zeros(len(chips), len(ATTRIBUTES), device=chips.device)
    rows.append(torch.lerp(chips, generator(chips, truncated(noise), nothing), window))
    write_sheet(run.out / "samples.png", rows)
    generator.train(was_training)


def write_weights(
    generator: Generator, head: Discriminator, material: Material, run: Run, data: Sequence[Path]
) -> Path:
    """Write `a3gan-SIZE`, or `a3gan-SIZE-VARIANT`, and its card; return its path."""
    recipe = run.settings
    tensors = {
        f"{part}.{key}": value
        for part, module in (("generator", generator), ("attribute_head", head))
        for key, value in module.state_dict().items()
        if value.is_floating_point() and not key.startswith("critic.")
    }
    pool, portraits = material.pool, material.portraits
    tensors |= {f"pool.{key}": value for key, value in vars(pool.described).items()}
    tensors |= {
        "pool.codes": pool.codes,
        "portraits.files": portraits.files,
        "portraits.ends": portraits.ends,
    }
    names = ",".join(Path(path).name for path in recipe.more.split(",") if path)
    command = training_command(
        "a3gan", replace(recipe, more=names), leave_out=("part",), paths=("pool", "pool_labels")
    )
    card = {
        "kind": "a3gan",
        "trained_on": ", ".join(path.name for path in data),
        "command": command,
        "license": "Apache-2.0",
        "input": {
            "side": SIZES[recipe.size].side,
            "padding": PADDING,
            "range": "[0, 1]",
            "color": "RGB",
        },
        "notes": REAL_FACES if recipe.pool == POOL_TRAINING else "",
    }
    return write_own_weights(run.out, recipe.weights_name, tensors, card)
