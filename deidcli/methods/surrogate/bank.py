"""What is read off drawn faces and off those of DATA: what the reader and the predictor learn from.

Only numbers are kept: what dlib's recognizer sees, an age, and of drawn faces what is measured.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deidcli.data.source import content_signature, open_source
from deidcli.errors import DeidError
from deidcli.faces.align import (
    MEAN_FACE_5,
    Image,
    Points,
    apply_affine,
    chip_affine,
    crop,
    scale_of,
)
from deidcli.faces.dlib_nets import CHIP_SIZE, DlibRecognizer, load_recognizer
from deidcli.faces.mesh import FIRST_PADDING, Mesh, ffhq_affine, find_mesh
from deidcli.faces.reader import AGE_CENTER, AGE_SCALE, Reader, pooled
from deidcli.faces.segmenter import Segmenter, to_input
from deidcli.generator.model import Generator
from deidcli.methods.surrogate.blocks import Row, read_once
from deidcli.methods.surrogate.describe import AGE, PADDING, five_points, measured
from deidcli.methods.surrogate.description import Numbers
from deidcli.methods.surrogate.teacher import SIDE, Teacher, age_of, label_map, pixels_of, random_w
from deidcli.methods.surrogate.view import placed
from deidcli.training.chips import find_all, frames_of, require_labels
from deidcli.training.loop import log

FORMAT = 1
"""Raise it when what is read off a face changes its meaning."""
MARGIN = 32
"""px around the aligned face of DATA that a chip may reach into."""
HELD_OUT = 12
"""Every so manieth drawn face, and person of DATA, is left out of training and scored."""
CHUNK = 1024
"""Faces that a network looks at at once."""


def kept_name(what: str, *told: object) -> str:
    """A folder's name that changes with all that decides what is in it."""
    text = json.dumps([FORMAT, *told], default=str)
    return f"{what}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def digest_of(tensors: dict[str, Tensor]) -> str:
    """The sha256 of tensors' bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def held_out(count: int) -> NDArray[np.bool_]:
    """(count,) True for those that no step sees."""
    return np.asarray(np.arange(count) % HELD_OUT == 0, np.bool_)


@dataclass(frozen=True)
class Maps:
    """Drawn faces with their label maps."""

    pictures: Tensor
    """(N, 3, 128, 128) uint8 RGB."""
    labels: Tensor
    """(N, 128, 128) uint8, see `teacher.label_map`."""


def draw_maps(teacher: Teacher, count: int, seed: int, cache: Path) -> Maps:
    """Draw faces for the segmenter; a killed run goes on."""
    told = digest_of(teacher.clusters.tensors())
    folder = cache / kept_name("maps", count, seed, told)
    rows = read_once(folder, random_w(teacher.generator, count, seed), teacher)
    pictures = torch.from_numpy(rows["picture"]).permute(0, 3, 1, 2).contiguous()
    drawn = zip(rows["picture"], rows["clusters"], rows["person"], strict=True)
    return Maps(pictures, torch.from_numpy(np.stack([label_map(*one) for one in drawn])))


@dataclass(frozen=True)
class Bank:
    """What was read off drawn faces."""

    w: NDArray[np.float32]
    """(N, 512)."""
    features: NDArray[np.float16]
    """(N, 5760), see `networks.pooled`."""
    ages: NDArray[np.float32]
    """(N,) years."""
    measured: NDArray[np.float32]
    """(N, 18), see `describe.measured`."""
    descriptors: NDArray[np.float32]
    """(N, 128) dlib's."""

    def described(self, reader: Reader, device: str) -> Numbers:
        """(N, D + 128) what `networks.Predictor` predicts: the numbers, then the descriptor."""
        return np.concatenate([self.numbers(reader, device), self.descriptors], axis=1)

    @torch.no_grad()
    def numbers(self, reader: Reader, device: str) -> Numbers:
        """(N, D) everything, in the order of `description.NAMES`."""
        said = answers(reader.eval(), self.features, device)
        age = AGE_CENTER + AGE_SCALE * said[:, -1:]
        parts = [said[:, :-1], self.measured[:, :AGE], age, self.measured[:, AGE:]]
        return np.concatenate(parts, axis=1).astype(np.float32)


@torch.no_grad()
def answers(net: nn.Module, rows: NDArray[Any], device: str) -> NDArray[np.float32]:
    """What a network says of rows (N, ...), on the CPU."""
    parts = [
        net(torch.from_numpy(rows[start : start + CHUNK]).to(device).float()).cpu().numpy()
        for start in range(0, len(rows), CHUNK)
    ]
    return np.concatenate(parts)


def draw_bank(
    generator: Generator, segmenter: Segmenter, count: int, seed: int, cache: Path
) -> Bank:
    """Draw faces and read them; a killed run goes on. Those without dense landmarks are left out.

    Args:
        segmenter: trained, in evaluation mode; on the generator's device.
    """
    device = str(generator.device)
    recognizer = load_recognizer(device)
    whole = landmarks_of_whole(SIDE)

    def read(w: Tensor) -> Row | None:
        picture = pixels_of(generator.draw(w[None], SIDE)[0])
        mesh = find_mesh(picture, whole)
        if mesh is None:
            return None
        view = placed(picture)
        with torch.no_grad():
            said = segmenter(to_input([view]).to(device))
        shares = torch.softmax(said, 1)[0].permute(1, 2, 0).cpu().numpy()
        numbers = measured(picture, mesh, view, shares)
        return {"w": w.numpy(), "measured": numbers, **_seen(picture, mesh, recognizer, device)}

    folder = cache / kept_name("drawn", count, seed, digest_of(dict(segmenter.state_dict())))
    rows = read_once(folder, random_w(generator, count, seed), read)
    log(f"{len(rows['item'])} of {count} drawn faces were read")
    return Bank(*(rows[name] for name in ("w", "features", "age", "measured", "descriptor")))


@dataclass(frozen=True)
class Seen:
    """What was read off the faces of DATA."""

    features: NDArray[np.float16]
    """(N, 5760), see `networks.pooled`."""
    ages: NDArray[np.float32]
    """(N,) years, as the age network guesses."""
    labels: NDArray[np.int8]
    """(N, 40) 1 present, -1 absent, 0 not labeled."""
    out: NDArray[np.bool_]
    """(N,) True for the pictures of people whom no step sees: every twelfth person."""


def read_faces(data: Sequence[Path], cache: Path, device: str) -> Seen:
    """Read the faces of DATA; a killed run goes on.

    Raises:
        DeidError: there are no labels, or no face with dense landmarks.
    """
    known = find_all(data, cache)
    require_labels(known)
    recognizer = load_recognizer(device)

    def read(item: tuple[np.bool_, tuple[Image, Points]]) -> Row | None:
        found, (frame, points) = item
        mesh = find_mesh(frame, points) if found else None
        return None if mesh is None else _seen(*upright(frame, mesh), recognizer, device)

    told = [content_signature(open_source(path)) for path in data]
    folder = cache / kept_name("seen", told)
    rows = read_once(folder, zip(known.found, frames_of(data, cache), strict=True), read)
    if len(rows["item"]) == 0:
        raise DeidError("no face of the data has dense landmarks", "is it a face dataset?")
    log(f"{len(rows['item'])} of {len(known)} pictures of the data were read")
    persons = known.persons[rows["item"]]
    numbers = {person: number for number, person in enumerate(dict.fromkeys(persons))}
    out = held_out(len(numbers))[[numbers[person] for person in persons]]
    return Seen(rows["features"], rows["age"], known.labels[rows["item"]], out)


def landmarks_of_whole(side: int) -> Points:
    """(5, 2) landmarks with which `mesh.find_mesh` looks first at all of a picture of `side` px: a
    drawn face fills its picture, so nothing has to be looked for."""
    mean = (MEAN_FACE_5 + FIRST_PADDING) / (1 + 2 * FIRST_PADDING)
    return np.asarray(mean * side - 0.5, np.float64)


def upright(frame: Image, mesh: Mesh) -> tuple[Image, Mesh]:
    """A face as large and as upright as a drawn one: (320, 320, 3), and its landmarks there."""
    affine = ffhq_affine(mesh, SIDE)
    affine[:, 2] += MARGIN
    view = crop(frame, affine, SIDE + 2 * MARGIN, extend=True)
    depth = mesh.points[:, 2:] * scale_of(affine)
    return view, Mesh(np.hstack([apply_affine(affine, mesh.plane), depth]), mesh.score)


def _seen(picture: Image, mesh: Mesh, recognizer: DlibRecognizer, device: str) -> Row:
    """What dlib's recognizer sees of a face, dlib's descriptor, and the age."""
    chip = crop(picture, chip_affine(five_points(mesh), CHIP_SIZE, PADDING), CHIP_SIZE, True)
    batch = torch.from_numpy(chip)[None].to(device).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        maps = recognizer.maps(batch)
        features = pooled(maps)[0].half().cpu().numpy()
        descriptor = (maps[-1].mean((2, 3)) @ recognizer.projection)[0].cpu().numpy()
    age = np.float32(age_of(picture, mesh))
    return {"features": features, "descriptor": descriptor, "age": age}
