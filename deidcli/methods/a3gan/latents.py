"""Which latent a face gets: f_z, drawn by the face's own seed among those that fit the face.

The paper draws f_z from N(0, I) and leaves it to AINet and to the losses that expression, light
and kept attributes come out right. Here the weights hold the latents of the computer-made faces
that training used (`Pool`), each with what the attribute head reads from it, and its portrait
(portraits.py). A latent is drawn among those with the pose, the expression, the kept attributes
and the surroundings of the original, and the opposite attributes where the mask allows a change;
the prototypes of canvas.py add what is still missing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.methods.a3gan.canvas import COMPONENTS, LATENT, face_color, rim_cells, to_64
from deidcli.methods.a3gan.networks import Discriminator
from deidcli.methods.a3gan.settings import (
    ATTRIBUTES,
    EXTRA_ATTRIBUTES,
    READ_ATTRIBUTES,
    changing,
)
from deidcli.methods.blend import LUMA

# The constants up to WINDOW were tuned on CelebA's validation split; docs/notes/a3gan.md has the
# table with a reason for each. Card and notes of the shipped weights name them.
WEIGHTS = (3.0, 2.2, 2.5, 2.5, 5.0, 6.0, 2.5, 4.0, 1.5, 3.0, 4.0, 3.0)
"""Weight of the difference between two probabilities, one for each of READ_ATTRIBUTES."""
GAINS = (1.0, 2.0, 2.0, 2.5, 0.0, 0.0, 2.5, 3.2, 1.2, 2.4, 0.0, 0.0)
"""How far a prototype is pushed, one for each of READ_ATTRIBUTES. Above 1, because the average
difference understates what one face shows; 0 where the pool has enough faces of both kinds or
where a shape would have to change."""
CHARACTER = (
    *("5_o_Clock_Shadow", "Arched_Eyebrows", "Bags_Under_Eyes", "Big_Lips", "Big_Nose", "Chubby"),
    *("Double_Chin", "Goatee", "High_Cheekbones", "No_Beard", "Oval_Face", "Pointy_Nose"),
    *("Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Straight_Hair", "Wavy_Hair"),
    *("Wearing_Lipstick", "Attractive", "Black_Hair"),
)
"""Attributes that a face's seed pushes at random: computer-made faces are more alike than people
are (docs/notes/a3gan.md), and these give each face features of its own."""
MANLY = ("5_o_Clock_Shadow", "Goatee", "No_Beard", "Receding_Hairline", "Sideburns")
"""Those of CHARACTER that are pushed on men's faces alone."""
WOMANLY = ("Wearing_Lipstick",)
"""Those of CHARACTER that are pushed on women's faces alone."""
STRENGTH = 0.15
"""Standard deviation of the pushes of CHARACTER, in prototypes."""
DEAD = 0.15
"""Differences of probabilities up to this one push nothing."""
SHAPE_WEIGHT = 0.3
"""Weight of the landmarks' ten coordinates, in standard deviations: yaw, pitch, eye distance."""
TONE_WEIGHTS = (3.0, 8.0)
"""Weight of the luma of nine parts of the face, and of the face's chroma."""
RIM_WEIGHT = 0.25
"""Weight of the rim's 180 colors, so that hair and background go on where the picture's end."""
CANDIDATES = 380
"""How many of the best fitting latents are candidates; one of them is drawn."""
WINDOW = (0.0, 0.24)
"""Which candidates may be drawn, as shares of their order by likeness to the face: 0 is the least
alike. Keeping sex, age and pose makes two people more alike; the window undoes that."""
TRUNCATION = 0.7
"""Standard deviation at which principal components drawn from N(0, I) still add up to a face."""

assert len(WEIGHTS) == len(GAINS) == len(READ_ATTRIBUTES)


@dataclass
class Description:
    """What is known of N faces: originals, or those of a pool."""

    attributes: Tensor
    """(N, 12) probabilities of READ_ATTRIBUTES."""
    shape: Tensor
    """(N, 10) landmarks less the mean face's, in standard deviations."""
    tone: Tensor
    """(N, 11), see `tone_of`."""
    embedding: Tensor
    """(N, 128) of length 1: a recognizer's embedding less the mean."""
    rim: Tensor
    """(N, 180), see `rim_of`."""

    def rows(self, rows: Tensor) -> Description:
        """Return the description of some of the faces."""
        return Description(*(value[rows] for value in vars(self).values()))


@dataclass
class Pool:
    """The latents of P computer-made faces, as the weights hold them."""

    codes: Tensor
    """(P, 512) float32."""
    described: Description
    """What is known of these faces."""

    def draw(self, faces: Description, mask: Tensor, seeds: NDArray[np.uint64]) -> Tensor:
        """Choose a row of the pool for each of N faces, by the face's own seed.

        Args:
            mask: (N, 10), 1 where the attribute may change. seeds: (N,).

        Returns:
            (N,) int64 in [0, P).
        """
        count = min(CANDIDATES, len(self.codes))
        distances = torch.cdist(
            matching_points(faces, target_attributes(faces.attributes, mask)),
            matching_points(self.described, self.described.attributes),
            compute_mode="donot_use_mm_for_euclid_dist",  # the other's rounding depends on N
        )
        rows = distances.topk(count, largest=False).indices
        likeness = (self.described.embedding[rows] * faces.embedding[:, None]).sum(2)
        order = likeness.argsort(1)
        share = torch.from_numpy((seeds >> np.uint64(11)).astype(np.float64) / 2.0**53)
        low, high = WINDOW
        rank = ((low + (high - low) * share.to(rows.device)) * count).long()
        return rows.gather(1, order.gather(1, rank[:, None]))[:, 0]

    def latents(self, faces: Description, mask: Tensor, rows: Tensor, noise: Tensor) -> Tensor:
        """Return the codes of rows of the pool, with target attributes and features of their own.

        Args:
            mask: (N, 10), 1 where the attribute may change. rows: (N,) from `draw`.
            noise: (N, 512) from N(0, I); only the part after COMPONENTS is used.

        Returns:
            (N, 512) latents.
        """
        target = target_attributes(faces.attributes, mask)
        end = COMPONENTS + len(CELEBA_ATTRIBUTES)
        pushes = STRENGTH * noise[:, COMPONENTS:end] * _may_push(target)
        missing = prototype_pushes(target, self.described.attributes[rows])
        pushes[:, _READ_COLUMNS] += missing.to(pushes.dtype)
        return torch.cat([self.codes[rows, :COMPONENTS], pushes, noise[:, end:]], 1)


def attribute_mask(change: str) -> Tensor:
    """Return the mask (10,) float32 of a preset or of names, see `settings.changing`."""
    return as_mask(changing(change))


def as_mask(names: tuple[str, ...]) -> Tensor:
    """Return (10,) float32, 1 where one of ATTRIBUTES is among the names."""
    return torch.tensor([float(name in names) for name in ATTRIBUTES])


def target_attributes(attributes: Tensor, mask: Tensor) -> Tensor:
    """Return probabilities (N, 12), inverted where the mask (N, 10) allows a change."""
    free = functional.pad(mask, (0, len(EXTRA_ATTRIBUTES)))
    return attributes * (1 - free) + (1 - attributes) * free


def prototype_pushes(target: Tensor, present: Tensor) -> Tensor:
    """Return the prototypes' weights (N, 12) that lead from one set of probabilities to another.

    Args:
        target, present: (N, 12) in [0, 1], for READ_ATTRIBUTES.
    """
    missing = target - present
    missing = missing.sign() * (missing.abs() - DEAD).clamp(min=0) / (1 - DEAD)
    pushes = missing * torch.tensor(GAINS, dtype=target.dtype, device=target.device)
    # No mustache on women, which the paper's loss avoids as well; hair has one color.
    pushes[:, _MUSTACHE] *= target[:, _MALE]
    pushes[:, _BROWN] *= 1 - target[:, _BLOND]
    return pushes


def _may_push(target: Tensor) -> Tensor:
    """Return (N, 40): how much the seed may push each of CelebA's attributes on these faces."""
    male = target[:, _MALE : _MALE + 1]
    free, manly, womanly = (
        torch.tensor([float(name in some) for name in CELEBA_ATTRIBUTES], device=target.device)
        for some in (CHARACTER, MANLY, WOMANLY)
    )
    return free * (1 - manly * (1 - male)) * (1 - womanly * male)


_READ_COLUMNS = [CELEBA_ATTRIBUTES.index(name) for name in READ_ATTRIBUTES]
_BLOND, _BROWN, _MALE, _MUSTACHE = (
    ATTRIBUTES.index(name) for name in ("Blond_Hair", "Brown_Hair", "Male", "Mustache")
)


def matching_points(faces: Description, attributes: Tensor) -> Tensor:
    """Return points (N, F) float64; a small distance between two means that the faces fit.

    Args:
        attributes: (N, 12), in place of those of `faces`.
    """
    weights = torch.tensor(WEIGHTS, dtype=torch.float64, device=attributes.device)
    shape, rim = faces.shape.double() * SHAPE_WEIGHT, faces.rim.double() * RIM_WEIGHT
    light, color = torch.split(faces.tone.double(), [9, 2], 1)
    tone = [light * TONE_WEIGHTS[0], color * TONE_WEIGHTS[1]]
    return torch.cat([attributes.double() * weights, shape, *tone, rim], 1)


def rim_of(chips: Tensor) -> Tensor:
    """Return the colors (N, 180) of the outermost cells of chips, as multiples of the face's."""
    small = to_64(chips)
    color = face_color(small)[:, :, :, 0].clamp(min=0.05)
    return (rim_cells(small) / color).clamp(max=3).flatten(1)


def tone_of(chips: Tensor) -> Tensor:
    """Return (N, 11): the luma of 3 x 3 parts of the faces, and the chroma of the whole."""
    small = to_64(chips)[:, :, 12:45, 15:48]
    red, green, blue = small.unbind(1)
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    parts = functional.avg_pool2d(luma[:, None], 11).flatten(1)
    chroma = torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], 1).mean((2, 3))
    return torch.cat([parts, chroma], 1)


def describe(head: Discriminator, chips: Tensor) -> Description:
    """Return what the attribute head reads from chips (N, 3, S, S) in [0, 1], and their colors."""
    ten, more = head.attribute_head(chips)
    extra, shape, embedding = torch.split(more, [len(EXTRA_ATTRIBUTES), 10, 128], 1)
    attributes = torch.cat([ten, extra], 1).sigmoid()
    tone, rim = tone_of(chips), rim_of(chips)
    return Description(attributes, shape, tone, functional.normalize(embedding), rim)


def truncated(noise: Tensor) -> Tensor:
    """Return (N, 512) from N(0, I) as latents of faces that look like people.

    Components have the standard deviation TRUNCATION, prototypes STRENGTH.
    """
    sizes = [COMPONENTS, len(CELEBA_ATTRIBUTES), LATENT - COMPONENTS - len(CELEBA_ATTRIBUTES)]
    components, pushes, features = torch.split(noise, sizes, 1)
    return torch.cat([TRUNCATION * components, STRENGTH * pushes, features], 1)


def normal_latents(seeds: NDArray[np.uint64]) -> Tensor:
    """Return (N, 512) float32 from N(0, I), each row made from its own seed (N,) alone."""
    rows = [np.random.default_rng(int(seed)).standard_normal(LATENT) for seed in seeds]
    return torch.from_numpy(np.stack(rows).astype(np.float32))
