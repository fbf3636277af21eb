"""Train the reader of `a3gan`: the attribute head of the discriminator (eq. 9), and more."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from deidcli.methods.a3gan import losses
from deidcli.methods.a3gan.networks import SIZES, Discriminator
from deidcli.methods.a3gan.recipe import (
    NAMES,
    READER,
    Faces,
    Run,
    batch_of,
    descend,
    embeddings_of,
    in_blocks,
    warm,
)
from deidcli.methods.a3gan.settings import ALSO
from deidcli.training.loop import take_steps


def train_reader(
    faces: Faces, held_out: Faces | None, run: Run
) -> tuple[Discriminator, Tensor, Tensor]:
    """Eq. 9 alone, and what else a latent is chosen by.

    Returns:
        The discriminator, frozen; the landmarks' standard deviations (10,); the mean
        embedding (128,).
    """
    settings = run.settings
    torch.manual_seed(settings.seed)
    reader = Discriminator(SIZES[settings.size]).to(settings.device)
    reader.to(memory_format=torch.channels_last)
    spread = faces.shape.std(0).clamp(min=1e-4)
    embeddings = embeddings_of(faces.chips, run.out / "embeddings.npy")
    center = embeddings.mean(0)
    directions = functional.normalize(embeddings - center) * 10
    optimizer = torch.optim.AdamW(reader.parameters(), settings.rate, weight_decay=0.02)
    batch = min(settings.reader_batch, len(faces))
    steps = settings.reader_epochs * (len(faces) // batch)

    def step_of(step: int, rows: Tensor, generator: torch.Generator) -> dict[str, float]:
        reader.train()
        turned = torch.rand(len(rows), generator=generator) < 0.5
        chips = shaken(batch_of(faces.chips, rows, settings.device), turned, generator)
        ten, described = reader.read(chips)
        also, shape, embedding = torch.split(described, [len(ALSO), 10, 128], 1)
        labels = faces.labels[rows].to(ten.device)
        read = losses.attribute_loss(torch.cat([ten, also], 1), labels)
        placed = turned_shape(faces.shape[rows], turned) / spread
        shaped = functional.mse_loss(shape, placed.to(ten.device))
        alike = functional.mse_loss(embedding, directions[rows].to(ten.device))
        loss = read + shaped + alike
        descend(optimizer, loss, settings.rate * warm(step, steps))
        said = {"attributes": read, "landmarks": shaped, "embedding": alike}
        return {key: float(value.detach()) for key, value in said.items()}

    def after(step: int) -> str:
        if held_out is None:
            return ""
        reader.eval()
        said = in_blocks(lambda x: torch.cat(reader.read(x), 1), held_out.chips, settings.device)
        right = ((said[:, : len(NAMES)] > 0).float() == held_out.labels).float().mean(0)
        return "; right: " + ", ".join(f"{n} {v:.2f}" for n, v in zip(NAMES, right, strict=True))

    parts: dict[str, nn.Module | torch.optim.Optimizer] = {"model": reader, "optimizer": optimizer}
    take_steps("reader", parts, len(faces), batch, steps, step_of, run, run.fixed(READER), after)
    return reader.eval().requires_grad_(False), spread, center


def shaken(chips: Tensor, turned: Tensor, generator: torch.Generator) -> Tensor:
    """Mirrored where `turned` says so; brightness, contrast and sharpness varied a little."""
    chips = torch.where(turned.to(chips.device)[:, None, None, None], chips.flip(3), chips)
    gain, shift, soft = (torch.rand(len(chips), 1, 1, 1, generator=generator) for _ in range(3))
    small = functional.interpolate(functional.avg_pool2d(chips, 2), scale_factor=2.0)
    chips = torch.lerp(chips, small, (soft.to(chips.device) - 0.5).clamp(min=0) * 2)
    gain, shift = 0.8 + 0.4 * gain.to(chips.device), 0.2 * shift.to(chips.device) - 0.1
    return (chips * gain + shift).clamp(0, 1).contiguous(memory_format=torch.channels_last)


_MIRRORED = torch.tensor([4, 5, 6, 7, 0, 1, 2, 3, 8, 9])
"""The eyes change places."""


def turned_shape(shape: Tensor, turned: Tensor) -> Tensor:
    """(N, 10) landmarks less the mean face, those of the mirror image where `turned`."""
    signs = torch.tensor([-1.0, 1.0] * 5)
    return torch.where(turned[:, None], shape[:, _MIRRORED] * signs, shape)
