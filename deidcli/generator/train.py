"""Train a head of the face generator: `deid train generator-head`.

    deid train generator-head
    deid train generator-head --set side=128

It needs no pictures: the teacher is the generator, whose 1,024 px averaged down are what the head
has to draw from the features on the way. A step draws the features of some faces, cuts a window out
of each, and lets the rest of the generator draw that window in several styles.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from deidcli.errors import UsageError
from deidcli.generator.heads import HIDDEN, LAYERS, Head, fit_linear, started_head
from deidcli.generator.model import load_generator
from deidcli.generator.networks import Style, haar, inverse_haar
from deidcli.generator.recipe import Recipe
from deidcli.generator.teacher import Example, Teacher
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
from deidcli.training.weight_files import training_command, write_own_weights

HELD_OUT = 16
"""Faces that no step sees and that the scores are of."""
HELD_OUT_SEED = 1_000_000_007
DEFAULTS = Recipe()
_APART = ("threads", "device", "checkpoint_steps")
"""Settings that decide nothing about the weights."""
Parts = dict[str, nn.Module | torch.optim.Optimizer]


def train(
    data: Sequence[Path] = (),
    out: Path = Path("runs/generator-head"),
    settings: Recipe = DEFAULTS,
    cache: Path | None = None,
    stop_after: int | None = None,
) -> Path | None:
    """Train a head and write `out`/generator-head-SIDE.safetensors (fp16) with its card.

    Run it again after a kill: it goes on from `out`/head-SIDE.pt.

    Args:
        data, cache: must be empty; the generator draws what is needed.
        stop_after: leave after this many steps, as a kill would (for tests).

    Returns:
        The weights' path; None when stopped early.
    """
    if data or cache:
        raise UsageError("generator-head is trained without pictures", "leave out DATA and --cache")
    if settings.side not in LAYERS:
        raise UsageError(f"no head draws {settings.side} px", "side=256 or side=128")
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    name = f"head-{settings.side}"
    teacher = Teacher(load_generator(settings.device, torch.float32), settings.side, settings.seed)
    linear_faces = 0 if (out / f"{name}.pt").is_file() else settings.linear_faces
    head = first_head(teacher, linear_faces)
    average = deepcopy(head).eval()
    held_out = held_out_faces(settings)
    log(f"before the first step: {words(scores(average, held_out))}")
    optimizer = torch.optim.Adam(_groups(head, settings), betas=(0.9, 0.99))

    def step_of(step: int, rows: Tensor, source: torch.Generator) -> dict[str, float]:
        losses = []
        for row in rows.tolist():
            example = teacher.window(row, settings.window, settings.styles, source)
            losses.append(distance(head, example, settings.detail))
        factor = cosine(step, settings.steps, settings.warmup, 0.02)
        value = optimizer_step(optimizer, torch.stack(losses).mean(), factor, clip=1.0)
        update_average(average, head, average_decay(step, settings.average))
        return {"loss": value}

    def after(step: int) -> str:
        write_sheet(average, held_out, out / f"sheet-{settings.side}.png")
        return f"; {words(scores(average, held_out))}"

    run = TrainingRun(settings, out, stop_after)
    parts: Parts = {"head": head, "average": average, "optimizer": optimizer}
    fixed = run.fixed(key for key in Recipe.__dataclass_fields__ if key not in _APART)
    try:
        take_steps(
            name, parts, settings.faces, settings.batch_size, settings.steps, step_of, run, fixed,
            after,
        )  # fmt: skip
    except StoppedError:
        return None
    return write_head(average, out, settings, scores(average, held_out))


def first_head(teacher: Teacher, linear_faces: int) -> Head:
    """A head before the first step: a ridge regression on so many faces; 0: none yet."""
    generator = teacher.generator
    head = started_head(generator.synthesis, generator.mean, teacher.side)
    head = head.to(generator.device).to(memory_format=torch.channels_last)
    if linear_faces:
        fit_linear(head, [teacher.whole(number) for number in range(linear_faces)])
    return head


def _groups(head: Head, settings: Recipe) -> list[dict[str, object]]:
    """The optimizer's groups: what multiplies w, which has many inputs, learns more slowly."""
    slow = {id(head.shift.weight)}
    slow |= {id(part.weight) for part in head.modules() if isinstance(part, Style)}
    values = list(head.parameters())
    return [
        {"params": [v for v in values if id(v) not in slow], "lr": settings.rate},
        {"params": [v for v in values if id(v) in slow], "lr": settings.style_rate},
    ]


def distance(head: Head, example: Example, detail: float) -> Tensor:
    """The mean L1 distance of the pictures, and of their Haar details with the weight `detail`."""
    bands = head.bands(example.features, example.w)
    wanted = haar(example.picture)
    weight = example.weight / example.weight.mean()
    picture = inverse_haar(bands[:, :3], bands[:, 3:])
    doubled = functional.interpolate(weight, scale_factor=2.0)
    flat = ((picture - example.picture).abs() * doubled).mean()
    return flat + detail * ((bands - wanted)[:, 3:].abs() * weight).mean()


def held_out_faces(settings: Recipe) -> list[Example]:
    """Whole faces that no step sees."""
    teacher = Teacher(load_generator(settings.device, torch.float32), settings.side, HELD_OUT_SEED)
    return [teacher.whole(number) for number in range(HELD_OUT)]


@torch.no_grad()
def scores(head: Head, faces: Sequence[Example]) -> dict[str, float]:
    """How near a head comes to the generator.

    Returns:
        `psnr`: dB, the mean over faces. `sharpness`: the variance of the Laplacian of the gray
        picture, of the generator's own, the median over faces. `l1`: gray levels of 255.
    """
    signal, sharp, levels = [], [], []
    for face in faces:
        drawn = head(face.features, face.w).clamp(-1, 1)
        error = (drawn - face.picture) / 2
        signal.append(-10 * float(error.square().mean().log10()))
        levels.append(255 * float(error.abs().mean()))
        sharp.append(sharpness(drawn[0]) / sharpness(face.picture[0]))
    return {
        "psnr": float(np.mean(signal)),
        "sharpness": float(np.median(sharp)),
        "l1": float(np.mean(levels)),
    }


def sharpness(picture: Tensor) -> float:
    """The variance of the Laplacian of a (3, H, W) picture in [-1, 1], in gray levels of 255."""
    gray = ((picture.mean(0) + 1) * 127.5).cpu().numpy()
    return float(cv2.Laplacian(gray, cv2.CV_32F).var())


def words(found: dict[str, float]) -> str:
    """Scores for a line of the log."""
    return ", ".join(f"{key} {value:.3f}" for key, value in found.items())


@torch.no_grad()
def write_sheet(head: Head, faces: Sequence[Example], path: Path, count: int = 8) -> None:
    """A sheet to look at: the head's pictures above the generator's own."""
    shown = faces[:count]
    drawn = torch.cat([head(face.features, face.w) for face in shown])
    both = torch.stack([drawn, torch.cat([face.picture for face in shown])])  # (2, N, 3, S, S)
    pixels = ((both.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()
    rows, columns, _, side, _ = pixels.shape
    sheet = pixels.transpose(0, 3, 1, 4, 2).reshape(rows * side, columns * side, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.ascontiguousarray(sheet[:, :, ::-1]))


def write_head(head: Head, out: Path, settings: Recipe, found: dict[str, float]) -> Path:
    """Write a head and its card."""
    side = settings.side
    command = training_command("generator-head", settings).replace(" DATA", "")
    card = {
        "kind": "generator-head",
        "trained_on": "pictures of people who do not exist, drawn by MobileStyleGAN (random-face "
        "2021.7.21.1, Apache-2.0), a student of StyleGAN2 on Flickr-Faces-HQ",
        "command": command,
        "license": "Apache-2.0",
        "input": {"layers": LAYERS[side], "side": side // 2, "hidden": HIDDEN},
        "scores": {
            "split": f"{HELD_OUT} faces that no step saw, against the generator's own picture",
            **{key: round(value, 3) for key, value in found.items()},
        },
        "notes": "",
    }
    return write_own_weights(out, f"generator-head-{side}", head.state_dict(), card)
