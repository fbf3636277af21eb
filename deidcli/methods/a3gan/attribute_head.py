"""Train the attribute head of `a3gan`: that of the discriminator (eq. 9), with outputs of ours.

It is trained alone at first. Frozen, it describes the faces among which a latent is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from deidcli.methods.a3gan import losses
from deidcli.methods.a3gan.networks import SIZES, Discriminator
from deidcli.methods.a3gan.recipe import ATTRIBUTE_HEAD, HEAD_FLOOR, Run, learning_rate_factor
from deidcli.methods.a3gan.settings import EXTRA_ATTRIBUTES, READ_ATTRIBUTES
from deidcli.methods.a3gan.training_faces import Faces, dlib_embeddings, in_blocks, to_batch
from deidcli.training.loop import optimizer_step, take_steps

WEIGHT_DECAY = 0.02
EMBEDDING_SCALE = 10.0
"""Length of the embeddings that are learned: their numbers then have a mean square of 0.8, near
that of the landmarks (1)."""


@dataclass
class AttributeHead:
    """What training the attribute head gives."""

    network: Discriminator
    """Frozen, in evaluation mode."""
    landmark_std: Tensor
    """(10,) standard deviation of each landmark coordinate, unit square."""
    mean_embedding: Tensor
    """(128,) mean of dlib's descriptors."""


def train_attribute_head(faces: Faces, held_out: Faces | None, run: Run) -> AttributeHead:
    """Train the discriminator's attribute head by eq. 9, on landmarks and on embeddings.

    Args:
        held_out: faces whose accuracy is logged at each checkpoint.
    """
    recipe = run.settings
    torch.manual_seed(recipe.seed)
    network = Discriminator(SIZES[recipe.size]).to(recipe.device)
    network.to(memory_format=torch.channels_last)
    landmark_std = faces.shape.std(0).clamp(min=1e-4)
    embeddings = dlib_embeddings(faces.chips, run.out / "embeddings.npy")
    mean_embedding = embeddings.mean(0)
    directions = functional.normalize(embeddings - mean_embedding) * EMBEDDING_SCALE
    optimizer = torch.optim.AdamW(network.parameters(), recipe.rate, weight_decay=WEIGHT_DECAY)
    batch_size = min(recipe.attribute_batch, len(faces))
    steps = recipe.attribute_epochs * (len(faces) // batch_size)

    def step_of(step: int, rows: Tensor, generator: torch.Generator) -> dict[str, float]:
        network.train()
        flipped = torch.rand(len(rows), generator=generator) < 0.5
        chips = augmented(to_batch(faces.chips, rows, recipe.device), flipped, generator)
        shape = flipped_landmarks(faces.shape[rows], flipped) / landmark_std
        terms = head_losses(network, chips, faces.labels[rows], shape, directions[rows])
        optimizer_step(
            optimizer,
            terms["attributes"] + terms["landmarks"] + terms["embedding"],
            learning_rate_factor(step, steps, HEAD_FLOOR),
        )
        return {key: float(value.detach()) for key, value in terms.items()}

    def after(step: int) -> str:
        return "" if held_out is None else _accuracy(network.eval(), held_out, recipe.device)

    parts: dict[str, nn.Module | torch.optim.Optimizer] = {"model": network, "optimizer": optimizer}
    fixed = run.fixed(ATTRIBUTE_HEAD)
    take_steps("attribute_head", parts, len(faces), batch_size, steps, step_of, run, fixed, after)
    return AttributeHead(network.eval().requires_grad_(False), landmark_std, mean_embedding)


def head_losses(
    network: Discriminator, chips: Tensor, labels: Tensor, shape: Tensor, directions: Tensor
) -> dict[str, Tensor]:
    """Return the three terms that the attribute head learns from, each a scalar.

    Args:
        chips: (B, 3, S, S) in [0, 1]. labels: (B, 12), negative where there is none.
        shape: (B, 10) landmarks less the mean face's, in standard deviations.
        directions: (B, 128) embeddings less the mean, of length EMBEDDING_SCALE.
    """
    ten, more = network.attribute_head(chips)
    extra, landmarks, embedding = torch.split(more, [len(EXTRA_ATTRIBUTES), 10, 128], 1)
    attributes = torch.cat([ten, extra], 1)
    return {
        "attributes": losses.attribute_loss(attributes, labels.to(ten.device)),
        "landmarks": functional.mse_loss(landmarks, shape.to(ten.device)),
        "embedding": functional.mse_loss(embedding, directions.to(ten.device)),
    }


def _accuracy(network: Discriminator, faces: Faces, device: str) -> str:
    """Return words for the log: the share of faces on which each attribute is right."""
    outputs = in_blocks(lambda x: torch.cat(network.attribute_head(x), 1), faces.chips, device)
    right = ((outputs[:, : len(READ_ATTRIBUTES)] > 0).float() == faces.labels).float().mean(0)
    shares = zip(READ_ATTRIBUTES, right, strict=True)
    return "; right: " + ", ".join(f"{name} {share:.2f}" for name, share in shares)


def augmented(chips: Tensor, flipped: Tensor, generator: torch.Generator) -> Tensor:
    """Return chips (B, 3, S, S) flipped where `flipped` (B,) says so, and varied a little.

    Brightness, contrast and sharpness vary, which the position of landmarks does not depend on.
    """
    chips = torch.where(flipped.to(chips.device)[:, None, None, None], chips.flip(3), chips)
    gain, shift, soft = (torch.rand(len(chips), 1, 1, 1, generator=generator) for _ in range(3))
    small = functional.interpolate(functional.avg_pool2d(chips, 2), scale_factor=2.0)
    chips = torch.lerp(chips, small, (soft.to(chips.device) - 0.5).clamp(min=0) * 2)
    gain, shift = 0.8 + 0.4 * gain.to(chips.device), 0.2 * shift.to(chips.device) - 0.1
    return (chips * gain + shift).clamp(0, 1).contiguous(memory_format=torch.channels_last)


_FLIPPED_ORDER = torch.tensor([4, 5, 6, 7, 0, 1, 2, 3, 8, 9])
"""The coordinates of the two eyes change places."""


def flipped_landmarks(shape: Tensor, flipped: Tensor) -> Tensor:
    """Return landmarks less the mean face's (N, 10), those of the mirror image where `flipped`."""
    signs = torch.tensor([-1.0, 1.0] * 5)
    return torch.where(flipped[:, None], shape[:, _FLIPPED_ORDER] * signs, shape)
