"""Drawn faces with label maps for the segmenter, and the networks that teach age and person.

Nobody labels pixels here. A generator's own features tell its pictures' parts apart: k-means over
them gives clusters that are hair in one face as in another (Collins et al. 2020, "Editing in
Style", arXiv:2004.14367, section 3.1). Each cluster was named once, by eye. Where a picture shows a
person at all is told by MediaPipe's selfie segmentation; where the two disagree, and at the borders
of clusters, pixels have no label.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deidcli.errors import DeidError
from deidcli.faces.align import Image, chip_affine, crop
from deidcli.faces.mesh import Mesh
from deidcli.faces.segmenter import CLOTHES, FACE, GROUND, HAIR, NECK
from deidcli.generator.heads import LAYERS, late, load_head
from deidcli.generator.model import Generator, everywhere
from deidcli.generator.networks import WIDTH
from deidcli.methods.surrogate.describe import five_points
from deidcli.methods.surrogate.losses import IGNORED
from deidcli.methods.surrogate.settings import WEIGHTS
from deidcli.weights.files import pip_file
from deidcli.weights.own import own_cards, own_weights
from deidcli.weights.pip_files import AGE, SELFIE

SIDE = 256
"""px of the drawn pictures."""
MAP_SIDE = 128
"""px of the label maps, and of the pictures that the segmenter learns from: in a view of 192 px the
drawn picture has as many."""
TRUNCATION = (0.5, 1.0)
"""Truncations of the drawn faces, uniform between."""
COARSE = 3
"""Layers of the coarser of the two features that clusters are made of; the finer has one more."""
CELLS = 64
"""Side of a map of clusters."""

EITHER, ELSEWHERE = 5, 4
"""Names of clusters, beside HAIR, FACE and NECK: hair or forehead; ground, clothes or hair."""
NAMED: dict[int, tuple[int, ...]] = {
    FACE: (0, 7, 12, 13, 18, 19, 20, 23),
    NECK: (5,),
    HAIR: (3, 6, 9, 10, 14, 21),
    EITHER: (1, 2, 15),
    ELSEWHERE: (4, 8, 11, 16, 17, 22),
}
"""Name -> the clusters of the file `surrogate`, by eye."""

SURE_PERSON, SURE_GROUND = 0.85, 0.12
"""Shares of the person mask from which, and up to which, it is believed."""
HAIR_ABOVE, CLOTHES_BELOW, EITHER_ABOVE = 48, 84, 80
"""Rows of a label map: what is elsewhere and a person is hair above the first, clothes below the
second; below the third nothing is forehead."""
DIFFERENT = 45.0
"""Distance of the median colors of hair and face, RGB in [0, 255], from which color tells them
apart."""
NEARER = 0.6
"""A pixel's distance to one of them, as a share of that to the other, up to which it is that."""
AGE_SIDE, AGE_PADDING = 64, 0.2
"""px and padding of the chip that the age network sees, see `align.chip_affine`."""
AGE_MEAN = np.array([122.782, 117.001, 104.298], np.float32)
"""Mean color that the age network takes away, RGB. Source: dlib, dnn_age_predictor_v1."""


def require_teachers() -> None:
    """Make sure, before anything is done, that the other people's networks are there.

    Raises:
        DeidError: a package is not installed; the hint is the command.
    """
    for entry in (SELFIE, AGE):
        pip_file(entry)


@cache
def _selfie() -> Any:
    return cv2.dnn.readNetFromTFLite(str(pip_file(SELFIE)))


@cache
def _age() -> Any:
    return cv2.dnn.readNetFromONNX(str(pip_file(AGE)))


def person_mask(picture: Image) -> NDArray[np.uint8]:
    """(256, 256): 255 where a picture (256, 256, 3) shows a person, 0 where its ground."""
    network = _selfie()
    network.setInput(cv2.dnn.blobFromImage(picture, 1 / 255.0))
    share = np.asarray(network.forward(), np.float32).reshape(SIDE, SIDE)
    return np.clip(share * 255, 0, 255).astype(np.uint8)


def age_of(picture: Image, mesh: Mesh) -> float:
    """Years, as dlib's age network guesses: the mean over its 81 classes."""
    affine = chip_affine(five_points(mesh), AGE_SIDE, AGE_PADDING)
    chip = crop(picture, affine, AGE_SIDE, extend=True)
    network = _age()
    network.setInput(((chip.astype(np.float32) - AGE_MEAN) / 256).transpose(2, 0, 1)[None].copy())
    shares = np.asarray(network.forward(), np.float64).ravel()
    years = np.r_[0.25, np.arange(1, len(shares))]  # as the package counts class 0
    return float(shares @ years)


@dataclass(frozen=True)
class Clusters:
    """From the generator's features to cluster numbers."""

    mean: Tensor
    """(1024,)."""
    deviation: Tensor
    """(1024,)."""
    components: Tensor
    """(1024, 64) principal components of normal features."""
    centers: Tensor
    """(24, 64)."""

    def __call__(self, features: Tensor) -> NDArray[np.uint8]:
        """(C, H, W) -> (H, W) the number of the nearest center."""
        rows = features.permute(1, 2, 0).flatten(0, 1).cpu()
        spread = ((rows - self.mean) / self.deviation).clamp(-3, 3) @ self.components
        nearest = torch.cdist(spread, self.centers).argmin(1)
        return nearest.view(features.shape[1:]).numpy().astype(np.uint8)

    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor, as the file keeps them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def load_clusters() -> Clusters:
    """The clusters that NAMED is about, from the file `surrogate`.

    Raises:
        DeidError: there is no such file.
    """
    if WEIGHTS not in own_cards():
        raise DeidError(
            "the clusters of the generator's features are in no weights that are here",
            "they were named by eye, so training starts from the file `surrogate` that is shipped",
        )
    tensors, _ = own_weights(WEIGHTS)
    names = [field.name for field in fields(Clusters)]
    return Clusters(**{name: tensors[f"clusters.{name}"].float() for name in names})


def find_clusters(
    generator: Generator, faces: int = 48, count: int = 24, seed: int = 77, rounds: int = 40
) -> Clusters:
    """Make clusters anew, by k-means over the features of some faces.

    New clusters have other numbers, and NAMED has to be made anew for them, by eye: look at some
    drawn faces beside their maps of clusters.

    Args:
        faces: that are drawn. count: of clusters. rounds: of k-means.
    """
    source = torch.Generator().manual_seed(seed)
    z = torch.randn(faces, WIDTH, generator=source)
    w = generator.w_of(z, (0.6 + 0.4 * torch.rand(faces, 1, generator=source)).to(generator.device))
    with torch.no_grad():
        maps = [_layers(generator, everywhere(one[None]))[1].cpu() for one in w]
    rows = torch.stack(maps).permute(0, 2, 3, 1).flatten(0, 2)
    mean, deviation = rows.mean(0), rows.std(0) + 1e-3
    normal = ((rows - mean) / deviation).clamp(-3, 3)
    some = normal[torch.randperm(len(normal), generator=source)[:20_000]]
    with torch.random.fork_rng():  # pca_lowrank draws from the global state
        torch.manual_seed(seed)
        components = torch.pca_lowrank(some, min(64, *some.shape))[2]
    spread = some @ components
    centers = spread[torch.randperm(len(spread), generator=source)[:count]].clone()
    for _ in range(rounds):
        nearest = torch.cdist(spread, centers).argmin(1)
        for number in np.unique(nearest.numpy()):
            centers[number] = spread[nearest == number].mean(0)
    return Clusters(mean, deviation, components, centers)


def _layers(generator: Generator, w: Tensor) -> tuple[Tensor, Tensor]:
    """The finer features (1, 512, 64, 64) for the head, and both (1024, 64, 64) for clusters."""
    network = generator.synthesis
    coarse = network.features(w, COARSE)
    fine = network.through(coarse, w, COARSE, COARSE + 1)
    doubled = functional.interpolate(coarse, scale_factor=2.0, mode="bilinear")
    return fine, torch.cat([doubled / coarse.std(), fine / fine.std()], 1)[0]


def random_w(generator: Generator, count: int, seed: int) -> Tensor:
    """(count, 512) on the CPU: random faces."""
    source = torch.Generator().manual_seed(seed)
    z = torch.randn(count, WIDTH, generator=source)
    low, high = TRUNCATION
    kept = low + (high - low) * torch.rand(count, 1, generator=source)
    return generator.w_of(z, kept.to(generator.device)).cpu()


def pixels_of(drawn: Tensor) -> Image:
    """(3, S, S) in [-1, 1] -> (S, S, 3) uint8 RGB."""
    pixels = ((drawn.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    return np.ascontiguousarray(pixels.cpu().numpy())


class Teacher:
    """Draws faces for the segmenter."""

    def __init__(self, generator: Generator, clusters: Clusters) -> None:
        self.generator, self.clusters = generator, clusters
        self.head = load_head(SIDE).to(generator.device)

    @torch.no_grad()
    def __call__(self, w: Tensor) -> dict[str, NDArray[np.uint8]]:
        """Draw the face of a w (512,).

        Returns:
            `picture` (128, 128, 3) RGB, `clusters` (64, 64), `person` (128, 128) in [0, 255].
        """
        places = everywhere(w[None].to(self.generator.device))
        fine, features = _layers(self.generator, places)
        last = self.generator.synthesis.through(fine, places, COARSE + 1, LAYERS[SIDE])
        picture = pixels_of(self.head(last, late(places, SIDE))[0])
        both = (picture, person_mask(picture))
        small = [cv2.resize(one, (MAP_SIDE,) * 2, interpolation=cv2.INTER_AREA) for one in both]
        return {
            "picture": np.asarray(small[0], np.uint8),
            "clusters": self.clusters(features),
            "person": np.asarray(small[1], np.uint8),
        }


def label_map(
    picture: Image, clusters: NDArray[np.uint8], person: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """What each pixel of a drawn face shows, as far as it is known.

    Args:
        picture: (128, 128, 3). clusters: (64, 64). person: (128, 128), see `Teacher`.

    Returns:
        (128, 128): GROUND, HAIR, FACE, NECK or CLOTHES of `segmentation`, or IGNORED.
    """
    names = np.zeros(256, np.uint8)
    for name, numbers in NAMED.items():
        names[list(numbers)] = name
    size = (MAP_SIDE, MAP_SIDE)
    named = cv2.resize(names[clusters], size, interpolation=cv2.INTER_NEAREST)
    near = np.ones((3, 3), np.uint8)
    border = cv2.dilate(named, near) != cv2.erode(named, near)
    share = person.astype(np.float32) / 255
    sure, nobody = share > SURE_PERSON, share < SURE_GROUND
    row = np.broadcast_to(np.arange(MAP_SIDE)[:, None], size)
    labels = np.full(size, IGNORED, np.uint8)
    for part in (FACE, NECK, HAIR):
        labels[sure & (named == part)] = part
    labels[sure & (named == ELSEWHERE) & (row < HAIR_ABOVE)] = HAIR
    labels[sure & (named == ELSEWHERE) & (row > CLOTHES_BELOW)] = CLOTHES
    _tell_by_color(picture, labels, sure & (named == EITHER) & (row < EITHER_ABOVE))
    labels[border & (named != EITHER)] = IGNORED
    labels[nobody & (named != FACE)] = GROUND
    return labels


def _tell_by_color(picture: Image, labels: NDArray[np.uint8], either: NDArray[np.bool_]) -> None:
    """Label what is hair or face by whose color it is nearer to, where these differ enough."""
    colors = picture.astype(np.float32)
    known = [colors[labels == part] for part in (FACE, HAIR)]
    if min(map(len, known)) <= 50:
        return
    face, hair = (np.median(some, axis=0) for some in known)
    if np.linalg.norm(face - hair) <= DIFFERENT:
        return
    to_face, to_hair = (np.linalg.norm(colors - one, axis=2) for one in (face, hair))
    labels[either & (to_face < NEARER * to_hair)] = FACE
    labels[either & (to_hair < NEARER * to_face)] = HAIR
