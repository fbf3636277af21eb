"""Faces and keys for sdn's tests."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deidcli.data.images import decode
from deidcli.faces.align import Image, chip_affine, crop
from deidcli.faces.dlib_hog import detect_hog
from deidcli.faces.landmarks import landmarks
from deidcli.methods.base import Context
from deidcli.methods.sdn import networks
from tests.conftest import PEOPLE


def bits_of(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """(count, 128) random bits of keys."""
    return np.random.default_rng(seed).integers(0, 2, (count, 128)).astype(np.uint8)


def context(bits: NDArray[np.uint8]) -> Context:
    """What the method is told of faces beside their pixels."""
    return Context(np.zeros(len(bits), np.uint64), np.ones(len(bits)), bits=bits)


@cache
def everybody() -> list[tuple[Image, NDArray[np.float64]]]:
    """The frames of all 24 people who do not exist, each with its landmarks."""
    found = []
    for picture in sorted((PEOPLE / "portraits").glob("person_*.jpg")):
        frame = decode(picture.read_bytes()).pixels
        found.append((frame, landmarks(frame, detect_hog(frame)[0][0])))
    return found


def portraits() -> list[tuple[Image, NDArray[np.float64]]]:
    """The first twelve of them."""
    return everybody()[:12]


def pixels(chips: Tensor) -> Image:
    """(N, 3, S, S) in [0, 1] -> (N, S, S, 3) uint8."""
    levels = (chips.clamp(0, 1) * 255).round().byte()
    return np.ascontiguousarray(levels.permute(0, 2, 3, 1).numpy())


def cut(frames: list[Image]) -> Tensor:
    """(12, 3, 64, 64): the faces of `portraits` in these frames."""
    points = [where for _, where in portraits()]
    size, padding = networks.GRID, networks.PADDING
    stack = np.stack(
        [
            crop(frame, chip_affine(where, size, padding), size, True)
            for frame, where in zip(frames, points, strict=True)
        ]
    )
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255


def training_data(root: Path, people: int = 3) -> Path:
    """A folder of the 24 portraits with labels, `people` numbers of persons among them."""
    (root / "img_align_celeba").mkdir(parents=True)
    names = [f"{number:06d}.jpg" for number in range(1, 25)]
    for number, name in enumerate(names, 1):
        picture = PEOPLE / "portraits" / f"person_{number:02d}.jpg"
        shutil.copy(picture, root / "img_align_celeba" / name)
    rows = [
        f"{name} {1 if n % 4 == 0 else -1} {1 if n % 2 else -1} {1 if n % 3 else -1}"
        for n, name in enumerate(names)
    ]
    lines = [str(len(names)), "Eyeglasses Male Smiling", *rows]
    (root / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    persons = "".join(f"{name} {4000 + n % people}\n" for n, name in enumerate(names))
    (root / "identity_CelebA.txt").write_text(persons)
    return root
