"""Train `a3gan`: the reader, the generator under a teacher, the generator by eq. 13.

    deid train a3gan celeba/train --set pool=portraits --set more=celeba_small
    deid train a3gan DATA --size paper --set skip=stu

1. The discriminator's attribute head alone (eq. 9). It is the reader, too, by which latents are
   chosen.
2. The generator learns to lay the face that a latent stands for into the picture (L1): a GAN from
   noise needs days of a GPU, this an hour of a CPU. Half of the batch has the portrait as its
   canvas, half what the latent alone draws.
3. The paper's losses (eq. 13), the teacher's kept at a lower weight; half of the latents come
   from N(0, I).

Each part keeps a checkpoint in `out`, so the same command goes on after a kill and ends with the
same weights. `out/samples.png` shows, row by row: originals, change=0, 5, 10.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from deidcli.faces import recognizers
from deidcli.methods.a3gan import losses
from deidcli.methods.a3gan.attribute_head import train_reader
from deidcli.methods.a3gan.canvas import LATENT
from deidcli.methods.a3gan.latents import describe, tempered
from deidcli.methods.a3gan.method import card_name, mask_of, recognizer_view
from deidcli.methods.a3gan.networks import SIZES, Discriminator, Generator
from deidcli.methods.a3gan.recipe import (
    GAN,
    TEACHER,
    Faces,
    Run,
    Settings,
    batch_of,
    descend,
    faces_of,
    warm,
    write_sheet,
)
from deidcli.methods.a3gan.settings import ATTRIBUTES
from deidcli.methods.a3gan.teacher import (
    Lesson,
    Material,
    gather,
    lesson_of,
    new_generator,
    seeds_of,
)
from deidcli.methods.blend import PADDING, wide_edge_mask
from deidcli.training.cards import write_own_weights
from deidcli.training.chips import with_own_faces
from deidcli.training.loop import StoppedError, log, take_steps, update_average

SHEET = 12
"""Faces on the sample sheet."""


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
        data, validation: as `deid anonymize` takes them, with CelebA's attributes. The validation
            set is read by the reader and shown on the sample sheet.
        cache: folder for the cut chips; default: `faces` in `out`, removed at the end.
        stop_after: leave after this many steps, as a kill would (for tests).

    Returns:
        The files written; None when stopped early.
    """
    torch.set_num_threads(settings.threads)
    run = Run(settings, out, stop_after)
    try:
        assert cache is not None, "with_own_faces names it"
        return _train(data, validation, run, cache)
    except StoppedError:
        return None


def _train(data: Sequence[Path], validation: Sequence[Path], run: Run, cache: Path) -> list[Path]:
    settings = run.settings
    if settings.part not in ("reader", "teacher"):
        recognizers.load(settings.recognizer)  # the last part needs it: say so before the first
    faces = faces_of(data, run, cache, settings.limit, labeled=True)
    more = [Path(text) for text in settings.more.split(",") if text]
    every = faces_of([*data, *more], run, cache, settings.limit * (1 + len(more)))
    held_out = faces_of(validation, run, cache) if validation else None
    log(f"{len(faces)} faces, {len(every)} for the reader")
    reader, spread, center = train_reader(every, held_out, run)
    if settings.part == "reader":
        return []
    source = faces_of([Path(settings.pool)], run, cache) if settings.pool else faces
    material = gather(faces, source, reader, spread, center, run)
    shown = held_out or faces
    generator = train_under_teacher(material, shown, reader, run)
    if settings.part == "teacher":
        return []
    generator = train_gan(material, shown, reader, generator, run)
    return [_write(generator, reader, material, run, [str(path) for path in data])]


# --- The generator


def train_under_teacher(
    material: Material, shown: Faces, reader: Discriminator, run: Run
) -> Generator:
    """The face that a latent stands for, laid into the picture."""
    settings = run.settings
    generator = new_generator(material, run)
    optimizer = torch.optim.AdamW(generator.parameters(), settings.rate, weight_decay=1e-3)
    steps, size = settings.teacher_steps, SIZES[settings.size].side
    window = wide_edge_mask(size).to(settings.device)

    def step_of(step: int, rows: Tensor, random: torch.Generator) -> dict[str, float]:
        generator.train()
        lesson = lesson_of(material, rows, random, run)
        drawn = drawn_by(generator, lesson, lesson.latent)
        made = generator(lesson.chips, lesson.latent, lesson.mask, drawn)
        loss = losses.teacher_loss(made, lesson.target, window)
        return {"teacher": descend(optimizer, loss, settings.rate * warm(step, steps, 0.1))}

    def after(step: int) -> str:
        return sheet(generator, shown, reader, material, run)

    name, fixed = "teacher", run.fixed(TEACHER)
    parts: dict[str, nn.Module | torch.optim.Optimizer] = {
        "model": generator,
        "optimizer": optimizer,
    }
    count = len(material.faces)
    take_steps(name, parts, count, settings.batch_size, steps, step_of, run, fixed, after)
    return generator


def drawn_by(generator: Generator, lesson: Lesson, latent: Tensor) -> Tensor | None:
    """(B, 3, S, S): of the first half of a batch the portraits, of the others what the latents
    (B, 512) alone draw; None where there is no canvas."""
    if generator.canvas is None:
        return None
    half = len(latent) // 2
    return torch.cat([lesson.faces[:half], generator.canvas(latent[half:])])


def train_gan(
    material: Material, shown: Faces, reader: Discriminator, generator: Generator, run: Run
) -> Generator:
    """Eq. 13; the averaged weights are what it gives."""
    settings = run.settings
    discriminator = deepcopy(reader).requires_grad_(True)
    average = deepcopy(generator).eval().requires_grad_(False)
    betas = (0.0, 0.9)
    of_generator = torch.optim.Adam(generator.parameters(), settings.gan_rate, betas)
    of_critic = torch.optim.Adam(discriminator.parameters(), settings.gan_rate, betas)
    watcher = None
    if settings.watched:
        watcher = recognizers.load(settings.recognizer, settings.device)
    window = wide_edge_mask(SIZES[settings.size].side).to(settings.device)
    lambdas = {
        "att2": settings.lambda2,
        "deid": settings.lambda3,
        "adv": settings.lambda4,
        "teacher": settings.lambda_teacher,
        "diversity": settings.lambda_diversity,
    }

    def step_of(step: int, rows: Tensor, random: torch.Generator) -> dict[str, float]:
        generator.train()
        lesson = lesson_of(material, rows, random, run)
        latent = lesson.latent.clone()
        half = len(rows) // 2
        latent[half:] = tempered(torch.randn(len(rows) - half, LATENT, generator=random)).to(latent)
        made = generator(lesson.chips, latent, lesson.mask, drawn_by(generator, lesson, latent))
        fake = torch.lerp(lesson.chips, made.clamp(max=1), window)
        said = _critic_step(discriminator, of_critic, lesson, fake.detach(), step, random, settings)
        discriminator.requires_grad_(False)
        judged, attributes = discriminator(fake)
        terms = {
            "att2": losses.anonymization_loss(
                attributes, losses.xnor(lesson.attributes, lesson.mask)
            ),
            "adv": losses.adversarial_loss(judged),
            "teacher": losses.teacher_loss(made[:half], lesson.target[:half], window),
        }
        if watcher is not None:
            some = torch.arange(settings.watched) * len(rows) // settings.watched
            seen = [recognizer_view(x[some], watcher.recognizer) for x in (lesson.chips, fake)]
            published = watcher(seen[1])
            with torch.no_grad():
                original = watcher(seen[0])
            terms["deid"] = losses.identity_loss(original, published)
            terms["diversity"] = losses.diversity_loss(published)
        loss = losses.generator_loss(terms, lambdas)
        discriminator.requires_grad_(True)
        descend(of_generator, loss, settings.gan_rate * warm(step, settings.steps, 0.1))
        update_average(average, generator, min(settings.average, (1 + step) / (10 + step)))
        return said | {key: float(value.detach()) for key, value in terms.items()}

    def after(step: int) -> str:
        return sheet(average, shown, reader, material, run)

    parts: dict[str, nn.Module | torch.optim.Optimizer] = {
        "generator": generator,
        "average": average,
        "discriminator": discriminator,
        "of_generator": of_generator,
        "of_critic": of_critic,
    }
    count, fixed = len(material.faces), run.fixed(GAN)
    take_steps("gan", parts, count, settings.batch_size, settings.steps, step_of, run, fixed, after)
    return average


def _critic_step(
    discriminator: Discriminator,
    optimizer: torch.optim.Optimizer,
    lesson: Lesson,
    fake: Tensor,
    step: int,
    random: torch.Generator,
    settings: Settings,
) -> dict[str, float]:
    """Eq. 14 and 9; the penalty every few steps, with as many times its weight."""
    discriminator.train()
    real, attributes = discriminator(lesson.chips)
    judged, _ = discriminator(fake)
    known = losses.attribute_loss(attributes, lesson.attributes)
    penalty, weight = real.new_zeros(()), losses.PENALTY * settings.penalty_every
    if step % settings.penalty_every == 0:
        share = torch.rand(len(fake), generator=random).to(fake.device)
        penalty = losses.gradient_penalty(lambda x: discriminator(x)[0], lesson.chips, fake, share)
    # The critic's scale is set against lambda4, which is small.
    loss = losses.critic_loss(real, judged, penalty, weight) + settings.lambda1 * known
    descend(optimizer, loss, settings.gan_rate)
    return {
        "critic": float((real.mean() - judged.mean()).detach()),
        "penalty": float(penalty.detach()),
        "att1": float(known.detach()),
    }


# --- What is written


@torch.no_grad()
def sheet(
    generator: Generator, shown: Faces, reader: Discriminator, material: Material, run: Run
) -> str:
    """Write samples.png; returns no words for the log."""
    device = run.settings.device
    was, pool = generator.training, material.pool
    generator.eval()
    some = torch.linspace(0, len(shown) - 1, min(SHEET, len(shown))).round().long()
    chips = batch_of(shown.chips, some, device)
    window = wide_edge_mask(chips.shape[2]).to(device)
    faces = describe(reader, chips)
    seeds = seeds_of(len(chips), torch.Generator().manual_seed(1))
    rows = [chips]
    noise = torch.randn(len(chips), LATENT, generator=torch.Generator().manual_seed(2)).to(device)
    for change in ("0", "5", "10"):
        mask = mask_of(change).expand(len(chips), -1).to(device)
        chosen = pool.draw(faces, mask, seeds)
        latent, drawn = pool.latents(faces, mask, chosen, noise).to(device), None
        if generator.canvas is not None:
            portraits = material.album.faces(chosen)
            drawn = generator.canvas.around(portraits, latent, pool.codes[chosen])
        rows.append(torch.lerp(chips, generator(chips, latent, mask, drawn), window))
    nothing = torch.zeros(len(chips), len(ATTRIBUTES), device=chips.device)
    rows.append(torch.lerp(chips, generator(chips, tempered(noise), nothing), window))
    write_sheet(run.out / "samples.png", rows)
    generator.train(was)
    return ""


def _write(
    generator: Generator, reader: Discriminator, material: Material, run: Run, data: list[str]
) -> Path:
    """`a3gan-SIZE` or, for an ablation, `a3gan-SIZE-VARIANT`, with its card."""
    settings = run.settings
    tensors = {
        f"{part}.{key}": value
        for part, module in (("generator", generator), ("reader", reader))
        for key, value in module.state_dict().items()
        if value.is_floating_point() and not key.startswith("critic.")
    }
    pool, album = material.pool, material.album
    tensors |= {f"pool.{key}": value for key, value in vars(pool.described).items()}
    tensors |= {"pool.codes": pool.codes, "album.files": album.files, "album.ends": album.ends}
    command = "deid train a3gan DATA " + " ".join(
        f"--set {key}={value}"
        for key, value in asdict(settings).items()
        if value != getattr(Settings, key)
        and key not in ("threads", "device", "pool", "pool_labels", "more", "part")
    )
    card = {
        "kind": "a3gan",
        "trained_on": ", ".join(Path(path).name for path in data),
        "command": command.strip(),
        "license": "Apache-2.0",
        "input": {
            "side": SIZES[settings.size].side,
            "padding": PADDING,
            "range": "[0, 1]",
            "color": "RGB",
        },
        "notes": "",
    }
    name = card_name(settings.size, settings.variant)
    return write_own_weights(run.out, name, tensors, card)
