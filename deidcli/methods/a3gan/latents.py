"""Which latent a face gets: f_z, drawn by the face's own seed among those that fit it.

The paper draws f_z from N(0, I) and leaves it to AINet and the losses that expression, light and
kept attributes come out right. A latent here is the whitened principal components of a
computer-made face and weights of attributes' prototypes (a3gan_canvas.Canvas). The weights hold the
latents of the faces that training saw, each with what the reader says of it, and its portrait
(a3gan_album). So one can be drawn among faces with the pose, the expression, the kept attributes
and the surroundings of the original, and the opposite of it where the mask allows a change; what
is still missing the prototypes add.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.methods.a3gan.canvas import COMPONENTS, LATENT, at_64, color_of, rim_cells
from deidcli.methods.a3gan.networks import Discriminator
from deidcli.methods.a3gan.settings import ALSO, ATTRIBUTES
from deidcli.methods.blend import LUMA

WEIGHTS = (3.0, 2.2, 2.5, 2.5, 5.0, 6.0, 2.5, 4.0, 1.5, 3.0, 4.0, 3.0)
"""Of the difference of two probabilities, for ATTRIBUTES and ALSO."""
GAINS = (1.0, 2.0, 2.0, 2.5, 0.0, 0.0, 2.5, 3.2, 1.2, 2.4, 0.0, 0.0)
"""How far a prototype is pushed for each of ATTRIBUTES and ALSO. Above 1, because the average
difference understates what one face shows; 0 where the pool has enough faces of both kinds or
where a shape would have to change."""
CHARACTER = (
    *("5_o_Clock_Shadow", "Arched_Eyebrows", "Bags_Under_Eyes", "Big_Lips", "Big_Nose", "Chubby"),
    *("Double_Chin", "Goatee", "High_Cheekbones", "No_Beard", "Oval_Face", "Pointy_Nose"),
    *("Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Straight_Hair", "Wavy_Hair"),
    *("Wearing_Lipstick", "Attractive", "Black_Hair"),
)
"""Attributes that a face's seed pushes at random: computer-made faces are more alike than people
(see docs/methods/a3gan.md), and these bring a person's own features."""
MANLY = ("5_o_Clock_Shadow", "Goatee", "No_Beard", "Receding_Hairline", "Sideburns")
"""Of these, those that only men get; and only women get Wearing_Lipstick."""
STRENGTH = 0.15
"""Standard deviation of those pushes, in prototypes."""
DEAD = 0.15
"""Differences of probabilities up to this push nothing."""
SHAPE_WEIGHT = 0.3
"""Of the landmarks' ten coordinates, in standard deviations: yaw, pitch, the eyes' width."""
TONE_WEIGHTS = (3.0, 8.0)
"""Of the luma of nine parts of the face, and of its chroma."""
RIM_WEIGHT = 0.25
"""Of the rim's 180 colors: a portrait whose hair and ground go on where the picture's end."""
CANDIDATES = 380
"""Latents that fit best, among whom one is drawn."""
WINDOW = (0.0, 0.24)
"""Which candidates may be drawn, by rank of their likeness to the face: 0 is the least alike.
Whoever keeps sex, age and pose raises the likeness of two people; the window brings it back."""


@dataclass
class Description:
    """What is known of N faces, originals or those of a pool."""

    attributes: Tensor
    """(N, 12) probabilities: ATTRIBUTES, ALSO."""
    shape: Tensor
    """(N, 10) landmarks less the mean face, in standard deviations."""
    tone: Tensor
    """(N, 11), see `tone_of`."""
    embedding: Tensor
    """(N, 128) of length 1: a recognizer's, less the mean."""
    rim: Tensor
    """(N, 180), see `rim_of`."""

    def rows(self, rows: Tensor) -> Description:
        """That of some of the faces."""
        return Description(*(value[rows] for value in vars(self).values()))


@dataclass
class Pool:
    """The latents of computer-made faces, as the weights hold them."""

    codes: Tensor
    """(P, 512) float32."""
    described: Description

    def latents(self, faces: Description, mask: Tensor, rows: Tensor, noise: Tensor) -> Tensor:
        """(N, 512): codes of rows of the pool with the attributes wanted and features of their own.

        Args:
            mask: (N, 10). noise: (N, 512) from N(0, I), of which the part after COMPONENTS enters.
        """
        goal = wanted(faces.attributes, mask)
        pushes = STRENGTH * noise[:, COMPONENTS : COMPONENTS + len(NAMES)] * _character(goal)
        pushes[:, _COLUMNS] += pushes_of(goal, self.described.attributes[rows]).to(pushes.dtype)
        features = noise[:, COMPONENTS + len(NAMES) :]
        return torch.cat([self.codes[rows, :COMPONENTS], pushes, features], 1)

    def draw(self, faces: Description, mask: Tensor, seeds: NDArray[np.uint64]) -> Tensor:
        """(N,) int64: whose latent each face gets.

        Args:
            mask: (N, 10), 1 where the attribute may change. seeds: (N,).
        """
        count = min(CANDIDATES, len(self.codes))
        fitting = torch.cdist(
            placed(faces, wanted(faces.attributes, mask)),
            placed(self.described, self.described.attributes),
            compute_mode="donot_use_mm_for_euclid_dist",  # whose rounding depends on N
        )
        rows = fitting.topk(count, largest=False).indices
        alike = (self.described.embedding[rows] * faces.embedding[:, None]).sum(2)
        order = alike.argsort(1)
        share = torch.from_numpy((seeds >> np.uint64(11)).astype(np.float64) / 2.0**53)
        low, high = WINDOW
        rank = ((low + (high - low) * share.to(rows.device)) * count).long()
        return rows.gather(1, order.gather(1, rank[:, None]))[:, 0]


def wanted(attributes: Tensor, mask: Tensor) -> Tensor:
    """(N, 12) -> the same, turned round where the mask (N, 10) allows a change."""
    free = functional.pad(mask, (0, len(ALSO)))
    return attributes * (1 - free) + (1 - attributes) * free


def pushes_of(goal: Tensor, have: Tensor) -> Tensor:
    """(N, 12) weights of the prototypes between two sets of probabilities (N, 12)."""
    missing = goal - have
    missing = missing.sign() * (missing.abs() - DEAD).clamp(min=0) / (1 - DEAD)
    pushes = missing * torch.tensor(GAINS, dtype=goal.dtype, device=goal.device)
    # No mustache on women, which the paper's loss avoids, too; hair has one color.
    pushes[:, _MUSTACHE] *= goal[:, _MALE]
    pushes[:, _BROWN] *= 1 - goal[:, _BLOND]
    return pushes


def _character(goal: Tensor) -> Tensor:
    """(N, 40): 1 where the seed may push, given whether the face is to be a man's (N, 12)."""
    male = goal[:, _MALE : _MALE + 1]
    free, manly, womanly = (
        torch.tensor([float(name in some) for name in NAMES], device=goal.device)
        for some in (CHARACTER, MANLY, ("Wearing_Lipstick",))
    )
    return free * (1 - manly * (1 - male)) * (1 - womanly * male)


NAMES = CELEBA_ATTRIBUTES
_COLUMNS = [NAMES.index(name) for name in (*ATTRIBUTES, *ALSO)]
_BLOND, _BROWN, _MALE, _MUSTACHE = (
    ATTRIBUTES.index(name) for name in ("Blond_Hair", "Brown_Hair", "Male", "Mustache")
)


def placed(faces: Description, attributes: Tensor) -> Tensor:
    """(N, F) float64: points between which a small distance means a fitting face."""
    weights = torch.tensor(WEIGHTS, dtype=torch.float64, device=attributes.device)
    shape, rim = faces.shape.double() * SHAPE_WEIGHT, faces.rim.double() * RIM_WEIGHT
    light, color = torch.split(faces.tone.double(), [9, 2], 1)
    tone = [light * TONE_WEIGHTS[0], color * TONE_WEIGHTS[1]]
    return torch.cat([attributes.double() * weights, shape, *tone, rim], 1)


def rim_of(chips: Tensor) -> Tensor:
    """(N, 3, S, S) -> (N, 180): the colors of the chip's outermost cells, the face's being 1."""
    small = at_64(chips)
    color = color_of(small)[:, :, :, 0].clamp(min=0.05)
    return (rim_cells(small) / color).clamp(max=3).flatten(1)


def tone_of(chips: Tensor) -> Tensor:
    """(N, 3, S, S) -> (N, 11): luma of 3 x 3 parts of the face, chroma of the whole."""
    small = at_64(chips)[:, :, 12:45, 15:48]
    red, green, blue = small.unbind(1)
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    parts = functional.avg_pool2d(luma[:, None], 11).flatten(1)
    chroma = torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], 1).mean((2, 3))
    return torch.cat([parts, chroma], 1)


def describe(reader: Discriminator, chips: Tensor) -> Description:
    """What the reader says of (N, 3, S, S) chips in [0, 1]."""
    ten, more = reader.read(chips)
    also, shape, embedding = torch.split(more, [len(ALSO), 10, 128], 1)
    attributes = torch.cat([ten, also], 1).sigmoid()
    tone, rim = tone_of(chips), rim_of(chips)
    return Description(attributes, shape, tone, functional.normalize(embedding), rim)


TEMPERED = 0.7
"""Share of N(0, I) at which components still add up to a face."""


def tempered(noise: Tensor) -> Tensor:
    """(N, 512) from N(0, I) -> latents of people as they are: prototypes are pushed by STRENGTH."""
    sizes = [COMPONENTS, len(NAMES), LATENT - COMPONENTS - len(NAMES)]
    components, pushes, features = torch.split(noise, sizes, 1)
    return torch.cat([TEMPERED * components, STRENGTH * pushes, features], 1)


def normal_latents(seeds: NDArray[np.uint64]) -> Tensor:
    """(N, 512) from N(0, I), each row from its own seed alone."""
    rows = [np.random.default_rng(int(seed)).standard_normal(LATENT) for seed in seeds]
    return torch.from_numpy(np.stack(rows).astype(np.float32))


assert len(WEIGHTS) == len(ATTRIBUTES) + len(ALSO)
