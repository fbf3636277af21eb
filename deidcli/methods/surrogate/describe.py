"""Read a face's description off its picture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from deidcli.faces.align import Image, Points, chip_affine, crop
from deidcli.faces.dlib_nets import CHIP_SIZE, DlibRecognizer
from deidcli.faces.iris import gaze
from deidcli.faces.mesh import Mesh
from deidcli.faces.reader import AGE_CENTER, AGE_SCALE, Reader, pooled
from deidcli.faces.segmenter import FACE, HAIR
from deidcli.methods.surrogate.description import MEASURED, NAMES, Numbers

AGE = [field.name for field in MEASURED].index("age")
"""Place of the age, which is not measured here, among MEASURED."""
FIVE = (263, 362, 33, 133, 2)
"""Points of the mesh for dlib's five landmarks, see `align.MEAN_FACE_5`."""
PADDING = 0.25
"""Of the chip that dlib's recognizer sees."""
CHEEKS = ((117, 118, 101, 36, 205, 187, 123), (346, 347, 330, 266, 425, 411, 352))
"""Points of the mesh around the cheeks, whose median color is the skin's."""
EYE_REGIONS = ((33, 159, 133, 145, 119, 100), (362, 386, 263, 374, 329, 348))
"""Points of the mesh around the eyes and what lies under them: what glasses cover."""
LIDS = ((159, 145, 33, 133), (386, 374, 362, 263))
"""Upper and lower lid, and the corners, of both eyes."""


def five_points(mesh: Mesh) -> Points:
    """(5, 2) landmarks in dlib's order, from dense ones."""
    return mesh.plane[list(FIVE)]


def measured(picture: Image, mesh: Mesh, view: Image, shares: NDArray[np.float32]) -> Numbers:
    """The numbers of `description.MEASURED` except the age.

    Args:
        picture, mesh: a picture and its landmarks. view: (S, S, 3) around the face, see `view`.
        shares: (192, 192, 6) of the view.

    Returns:
        (18,) float32, in the order of MEASURED.
    """
    pose, looks = mesh.pose, gaze(picture, mesh)
    eyes = float(np.hypot(*(mesh.eyes[1] - mesh.eyes[0])))
    opened = np.linalg.norm(mesh.plane[13] - mesh.plane[14]) / max(1e-6, eyes)
    skin = skin_color(picture, mesh)
    shade = eye_shade(picture, mesh, float(skin[0]))
    numbers = [pose.yaw, pose.pitch, opened, _eyes_open(mesh), *looks, shade, *skin]
    return np.array([*numbers, *hair(view, shares, skin)], np.float32)


def _eyes_open(mesh: Mesh) -> float:
    """Height over width of the opening between the lids, the mean of both eyes."""
    shares = []
    for up, down, left, right in LIDS:
        height = np.linalg.norm(mesh.plane[up] - mesh.plane[down])
        shares.append(
            height / max(1e-6, float(np.linalg.norm(mesh.plane[left] - mesh.plane[right])))
        )
    return float(np.mean(shares))


def skin_color(picture: Image, mesh: Mesh) -> NDArray[np.float32]:
    """(3,) the median L, a, b of the cheeks."""
    return _median(picture, mesh, CHEEKS)


def eye_shade(picture: Image, mesh: Mesh, skin: float) -> float:
    """The median L of the eyes' region less the skin's: far below 0 with dark glasses."""
    return float(_median(picture, mesh, EYE_REGIONS)[0]) - skin


def _median(picture: Image, mesh: Mesh, places: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """(3,) the median L, a, b within convex hulls of points of the mesh."""
    hulls = [cv2.convexHull(np.round(mesh.plane[list(ids)]).astype(np.int32)) for ids in places]
    x, y, width, height = cv2.boundingRect(np.concatenate(hulls))
    x, y, right, bottom = max(0, x), max(0, y), x + width, y + height
    region = picture[y : max(0, bottom), x : max(0, right)]
    if region.size == 0:
        return np.array([60, 12, 15], np.float32)
    inside = np.zeros(region.shape[:2], np.uint8)
    for hull in hulls:
        cv2.fillConvexPoly(inside, hull - np.array([x, y]), 1)
    pixels = region[inside > 0]
    if len(pixels) == 0:
        pixels = region.reshape(-1, 3)
    return np.asarray(np.median(_lab(pixels), axis=0), np.float32)


def hair(
    view: Image, shares: NDArray[np.float32], skin: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(8,) the hair's median L, a, b (the skin's where there is hardly any), how much there is
    of it beside the neck, left and right, and above the eyes, and how much head beside the face,
    left and right."""
    side = len(shares)
    small = cv2.resize(view, (side, side), interpolation=cv2.INTER_AREA)
    low = side // 6  # the drawn picture is the view's middle two thirds
    share = shares[low : side - low, low : side - low, HAIR]
    pixels = np.asarray(small[low : side - low, low : side - low][share > 0.7], np.uint8)
    color = np.median(_lab(pixels), axis=0) if len(pixels) > 60 else skin
    size = len(share)
    bottom, third = round(0.72 * size), round(0.3 * size)
    left, right = share[bottom:, :third].mean(), share[bottom:, -third:].mean()
    top = share[: round(0.45 * size)].mean()
    head = shares[low : side - low, low : side - low, [HAIR, FACE]].sum(2)
    beside = head[round(0.33 * size) : round(0.66 * size)]
    beside_left, beside_right = beside[:, :third].mean(), beside[:, -third:].mean()
    numbers = [*color, left, right, top, beside_left, beside_right]
    return np.array(numbers, np.float32)


def _lab(pixels: Image) -> NDArray[np.float32]:
    """(P, 3) uint8 RGB -> L in [0, 100], a, b."""
    row = pixels.reshape(1, -1, 3).astype(np.float32) / 255
    return np.asarray(cv2.cvtColor(row, cv2.COLOR_RGB2LAB)[0], np.float32)


class Describer:
    """Reads descriptions; holds the networks for it."""

    def __init__(self, recognizer: DlibRecognizer, reader: Reader, device: str) -> None:
        self.recognizer, self.reader, self.device = recognizer, reader, device

    def __call__(
        self, picture: Image, mesh: Mesh, view: Image, shares: NDArray[np.float32]
    ) -> tuple[Numbers, NDArray[np.float32]]:
        """All numbers of one face (D,), see `description.NAMES`; and dlib's descriptor (128,)."""
        answers, descriptor = self.answers(picture, mesh)
        age = AGE_CENTER + AGE_SCALE * answers[-1]
        other = measured(picture, mesh, view, shares)
        numbers = np.concatenate([answers[:-1], other[:AGE], [age], other[AGE:]])
        assert len(numbers) == len(NAMES)
        return numbers.astype(np.float32), descriptor

    @torch.no_grad()
    def answers(
        self, picture: Image, mesh: Mesh
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What the reader says (41,), and dlib's descriptor (128,)."""
        chip = crop(picture, chip_affine(five_points(mesh), CHIP_SIZE, PADDING), CHIP_SIZE, True)
        batch = torch.from_numpy(chip)[None].to(self.device).permute(0, 3, 1, 2).float() / 255
        maps = self.recognizer.maps(batch)
        said = self.reader(pooled(maps))[0]
        descriptor = (
            functional.adaptive_avg_pool2d(maps[-1], 1)[0, :, 0, 0] @ self.recognizer.projection
        )
        return said.cpu().numpy(), descriptor.cpu().numpy()
