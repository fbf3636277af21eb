"""Pairs to learn from: the same picture with another person, as many as one likes.

CelebA shows nobody with somebody else's face. The face generator does (style mixing): of one w the
places that decide on pose, hair outline and ground, of another those that decide on the person. A
*group* is one picture with several people; any two of its members are a pair, in either order.

The latent of a person is what is left of its w when what tells attributes is replaced by noise: the
attributes of a target must come from the source picture and the mask, never from the latent.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import DeidError
from deidcli.faces.align import Image
from deidcli.generator.model import IDENTITY_PLACES, Generator, mix
from deidcli.methods.a3gan.geometry import MARGIN_SIDE, drawn_chip
from deidcli.methods.a3gan.settings import ATTRIBUTES, PRESETS
from deidcli.training.loop import log

GROUP = 4
"""People in a group; the first is the picture's own."""
BLOCK = 64
"""Groups that are drawn and kept at once."""
BANK = 1024
"""Pictures from which it is learned what a w would be read as."""
CANDIDATES = 192
"""People among whom one with the wanted attributes is chosen."""
TRUNCATION = 0.85
MEAN_OF = 4096
"""Draws that the principal components of w are taken over."""
RIDGE = 30.0
LIMIT = 3.0
"""Log-odds beyond which an answer is as sure as it gets."""
FIRM = ("Smiling", "Eyeglasses", "Bald", "Wearing_Hat", "Heavy_Makeup", "No_Beard")
"""Attributes beside the ten in which the people of a group are alike where that can be had."""
READ = tuple(CELEBA_ATTRIBUTES.index(name) for name in (*ATTRIBUTES, *FIRM))
AGE = len(CELEBA_ATTRIBUTES)
AGE_WEIGHT = 2.0
"""Of a step of 15 years, in steps of log-odds."""
OWN_MASKS = (0.35, 0.2, 0.15)
"""Shares of masks that are empty, Male alone, and one of the larger presets; the rest is drawn."""
OFTEN = 0.3
"""How often each attribute is in a drawn mask."""

Reading = Callable[[list[Image]], tuple[NDArray[np.float32], NDArray[np.uint8]]]
"""Pictures of 256 px -> what the reader says of each (N, 41), and its head's outline (N, S, S)."""


@dataclass(frozen=True)
class Block:
    """G groups."""

    pictures: NDArray[np.uint8]
    """(G, 4, S, S, 3) RGB: chips with a margin, see `geometry`."""
    heads: NDArray[np.uint8]
    """(G, 4, S, S): share of head and neck, of 255."""
    codes: NDArray[np.float32]
    """(G, 4, K): the person's w in units of its principal components."""
    answers: NDArray[np.float32]
    """(G, 4, 41): log-odds of CelebA's attributes, and age as (years - 35) / 15."""


@dataclass(frozen=True)
class Components:
    """The principal components of w, and which of their directions tell attributes."""

    mean: Tensor
    """(512,)."""
    axes: Tensor
    """(K, 512), each as long as the standard deviation along it."""
    slopes: Tensor
    """(1 + K + K, R + 1): what is read of a mix, linear in both codes; the first is constant."""

    def w_of(self, code: Tensor) -> Tensor:
        """(N, K) -> (N, 512)."""
        return self.mean + code @ self.axes

    def read(self, own: Tensor, person: Tensor) -> Tensor:
        """What a mix would be read as: (N, R + 1)."""
        one = torch.ones(len(person), 1)
        found: Tensor = torch.cat([one, own.expand(len(person), -1), person], 1) @ self.slopes
        return found

    def telling(self) -> Tensor:
        """(K, D) orthonormal: the directions of a person's code that tell attributes and age."""
        count = self.axes.shape[0]
        slopes = self.slopes[1 + count :]
        basis: Tensor = torch.linalg.qr(slopes)[0]
        return basis


def principal(generator: Generator, count: int) -> tuple[Tensor, Tensor]:
    """The mean w, and its first `count` principal axes, each as long as w's deviation along it."""
    noise = torch.randn(MEAN_OF, 512, generator=torch.Generator().manual_seed(1))
    w = generator.w_of(noise)
    mean = w.mean(0)
    _, scales, axes = torch.linalg.svd(w - mean, full_matrices=False)
    return mean, axes[:count] * (scales[:count, None] / MEAN_OF**0.5)


def code_of(w: Tensor, mean: Tensor, axes: Tensor) -> Tensor:
    """(N, 512) -> (N, K)."""
    return (w - mean) @ (axes / axes.square().sum(1, keepdim=True)).T


def truncated_codes(
    generator: Generator, mean: Tensor, axes: Tensor, count: int, random: torch.Generator
) -> Tensor:
    """Codes (count, K) of people drawn at random."""
    w = generator.w_of(torch.randn(count, 512, generator=random))
    return TRUNCATION * code_of(w, mean, axes)


def interesting(answers: NDArray[np.float32]) -> Tensor:
    """(N, 41) -> (N, R + 1): the attributes that count, clipped, and age."""
    said = torch.from_numpy(np.clip(answers[:, list(READ)], -LIMIT, LIMIT))
    age = torch.from_numpy(answers[:, AGE : AGE + 1]) * AGE_WEIGHT
    return torch.cat([said, age], 1).float()


def learn_components(
    generator: Generator, reading: Reading, count: int, folder: Path, seed: int
) -> Components:
    """Draw a bank of mixes and learn what a code would be read as; kept in `folder`.

    Raises:
        DeidError: what is kept there was drawn with another seed, or for another size.
    """
    path = folder / "components.npz"
    if not path.is_file():
        mean, axes = principal(generator, count)
        random = torch.Generator().manual_seed(seed)
        own, person = (truncated_codes(generator, mean, axes, BANK, random) for _ in range(2))
        answers = []
        for a, b in zip(torch.split(own, BLOCK), torch.split(person, BLOCK), strict=True):
            pictures = draw(generator, mean + a @ axes, mean + b @ axes)
            answers.append(reading(pictures)[0])
        known = torch.cat([torch.ones(BANK, 1), own, person], 1).double()
        penalty = RIDGE * torch.eye(known.shape[1], dtype=torch.float64)
        penalty[0, 0] = 0
        wanted = interesting(np.concatenate(answers)).double()
        slopes = torch.linalg.solve(known.T @ known + penalty, known.T @ wanted)
        explained = 1 - (wanted - known @ slopes).square().mean(0) / wanted.var(0)
        log("explained: " + " ".join(f"{share:.2f}" for share in explained.tolist()))
        folder.mkdir(parents=True, exist_ok=True)
        made_with = np.array([seed, count])
        np.savez(path, mean=mean, axes=axes, slopes=slopes.float(), made_with=made_with)
    with np.load(path) as kept:
        if kept["made_with"].tolist() != [seed, count]:
            raise DeidError(
                f"the pairs in {folder} were drawn with another seed or for another size",
                "train with the same settings, or into another folder",
            )
        return Components(*(torch.from_numpy(kept[name]) for name in ("mean", "axes", "slopes")))


def draw(generator: Generator, own: Tensor, person: Tensor) -> list[Image]:
    """Pictures of 256 px (N of them) of one w (N, 512) with the person of another."""
    drawn = generator.draw(mix(own, person, IDENTITY_PLACES), 256)
    pixels = ((drawn + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return list(np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy()))


def drawn_mask(random: torch.Generator) -> Tensor:
    """(10,) a mask to aim at."""
    share = float(torch.rand((), generator=random))
    names: tuple[str, ...] = ()
    if share >= sum(OWN_MASKS):
        return (torch.rand(len(ATTRIBUTES), generator=random) < OFTEN).float()
    if share >= OWN_MASKS[0]:
        presets = ("1",) if share < sum(OWN_MASKS[:2]) else ("3", "5", "10")
        pick = int(torch.randint(len(presets), (), generator=random))
        names = PRESETS[presets[pick]]
    return torch.tensor([float(name in names) for name in ATTRIBUTES])


def draw_block(
    generator: Generator, reading: Reading, components: Components, seed: int, index: int
) -> Block:
    """Draw the groups of one block; the same for the same seed and index."""
    random = torch.Generator().manual_seed(seed * 100_003 + index)
    mean, axes = components.mean, components.axes
    own = truncated_codes(generator, mean, axes, BLOCK, random)
    codes = []
    for code in own:
        codes.append(code)
        before = components.read(code[None], code[None])
        for _ in range(GROUP - 1):
            mask = drawn_mask(random)
            others = truncated_codes(generator, mean, axes, CANDIDATES, random)
            wanted = before[0].clone()
            ten = wanted[: len(mask)]
            turned = -torch.where(ten < 0, -1.0, 1.0) * ten.abs().clamp(1)
            wanted[: len(mask)] = torch.where(mask > 0, turned, ten)
            said = components.read(code[None], others).clamp(-LIMIT, LIMIT)
            codes.append(others[(said - wanted).square().sum(1).argmin()])
    person = torch.stack(codes)
    pictures = draw(
        generator, components.w_of(own.repeat_interleave(GROUP, 0)), components.w_of(person)
    )
    answers, heads = reading(pictures)
    chips = np.stack([drawn_chip(picture) for picture in pictures])
    shape = (BLOCK, GROUP)
    return Block(
        chips.reshape(*shape, MARGIN_SIDE, MARGIN_SIDE, 3),
        heads.reshape(*shape, MARGIN_SIDE, MARGIN_SIDE),
        person.numpy().reshape(*shape, -1),
        answers.reshape(*shape, -1),
    )


def draw_pairs(
    generator: Generator, reading: Reading, latent: int, blocks: int, folder: Path, seed: int
) -> Components:
    """Draw blocks of groups into `folder`, those that are not there yet.

    Args:
        latent: numbers of a latent. blocks: how many blocks; one is 256 pictures.
    """
    components = learn_components(generator, reading, latent, folder, seed)
    for index in range(blocks):
        path = block_path(folder, index)
        if path.is_file():
            continue
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, **vars(draw_block(generator, reading, components, seed, index)))
        os.replace(partial, path)
        log(f"pairs: block {index + 1} of {blocks}")
    return components


def block_path(folder: Path, index: int) -> Path:
    """The file of a block."""
    return folder / f"block-{index:05d}.npz"
