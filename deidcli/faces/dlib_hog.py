"""dlib's frontal HOG detector, used by `--detector hog` and by some scores."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import cv2
import dlib
import numpy as np

from deidcli.faces.align import Box, Image

UPSAMPLE = 2.0
"""dlib's detectors use windows of 80 px and more, so doubling the frame finds faces from 40 px."""
SMALL_PICTURE, SMALL_UPSAMPLE = 0.0625, 1.5
"""Pictures up to 250x250 px are mostly crops of one face, so only faces from 53 px are searched, in
half the time. Doubling found no more faces in 1,000 of CelebA's training pictures."""
WORKING_MEGAPIXELS = 12.0
"""The largest picture for HOG; larger frames are reduced to it first."""
LONGEST_SIDE = 16_000
"""Longest side of a working picture in px; dlib's HOG corrupts memory on much longer ones."""


def working_scale(height: int, width: int, megapixels: float = WORKING_MEGAPIXELS) -> float:
    """Return by how much to enlarge (or reduce, if below 1) a frame before detection."""
    most = UPSAMPLE if height * width > SMALL_PICTURE * 1e6 else SMALL_UPSAMPLE
    area = math.sqrt(megapixels * 1e6 / (height * width))
    return min(most, area, LONGEST_SIDE / max(height, width))


def resize(frame: Image, scale: float) -> Image:
    """Scale a frame for detection; shrinking averages areas."""
    if scale == 1.0:
        return frame
    height, width = frame.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(frame, size, interpolation=how), dtype=np.uint8)


def to_gray(frame: Image) -> Image:
    """Convert (H, W, 3) uint8 RGB to (H, W) uint8."""
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


@cache
def _hog() -> Any:
    return dlib.get_frontal_face_detector()


def detect_hog(frame: Image, threshold: float = 0.0) -> list[tuple[Box, float]]:
    """Run dlib's HOG detector on a (H, W, 3) uint8 RGB frame; boxes and scores, best first."""
    scale = working_scale(*frame.shape[:2])
    # Gray finds the same faces as color (docs/detectors.md) in two thirds of the time.
    rects, scores, _ = _hog().run(resize(to_gray(frame), scale), 0, threshold)
    return [
        (
            (
                rect.left() / scale,
                rect.top() / scale,
                (rect.right() + 1) / scale,
                (rect.bottom() + 1) / scale,
            ),
            float(score),
        )
        for rect, score in zip(rects, scores, strict=True)
    ]
