"""BRISQUE: a quality score without a reference."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deidcli.evaluate.quality import Array, read_pickle
from deidcli.weights.files import pip_file
from deidcli.weights.pip_files import (
    BRISQUE_RANGES,
    BRISQUE_SVM,
)

# --- BRISQUE


def brisque(images: Tensor) -> Tensor:
    """Return no-reference quality scores, mostly from 0 (natural) to 100. Lower is better.

    36 statistics of the locally normalized gray values, at full and half size, are scored by a
    support-vector regression that was fitted to human opinions of distorted photographs. It covers
    blur, noise and JPEG; it does not know what a face looks like. Below about 64 px, or on pictures
    with large flat parts, the fits are poor and the score means little.
    Mittal et al., "No-reference image quality assessment in the spatial domain", 2012.

    The steps are those of the `brisque` package: gray is BT.709 luma, and half size is cubic
    without smoothing. A picture without flat parts gets the package's score to within 1e-5. Two
    things differ. Flat parts count as exact zeros, while in the package rounding decides their sign
    (0.14 points at most on 24 faces of CelebA). And the shape of a distribution is limited to 0.2
    to 10, the range that the regression was fitted with.

    Args:
        images: (N, 3, H, W) uint8 RGB.

    Returns:
        (N,) float64. NaN if no statistics exist, as for a black picture.

    Raises:
        DeidError: the weights are not installed.
    """
    assert images.dtype == torch.uint8, "0 to 255"
    features = [_brisque_features(image) for image in images.permute(0, 2, 3, 1).cpu().numpy()]
    return torch.from_numpy(_brisque_svm()(np.stack(features)))


def _brisque_features(image: NDArray[np.uint8]) -> Array:
    """Return (36,) features of an (H, W, 3) RGB picture: 18 statistics at each of two sizes."""
    gray = image @ np.array([0.2125, 0.7154, 0.0721]) / 255
    half = cv2.resize(gray, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
    return np.concatenate([_scene_statistics(gray), _scene_statistics(half.astype(np.float64))])


def _scene_statistics(gray: Array) -> Array:
    """Fit normalized values and products of neighbors: (H, W) in [0, 1] -> (18,)."""
    x = _normalized(gray)
    shape, _, left, right = _asymmetric_fit(x)
    neighbors = (
        x[:, :-1] * x[:, 1:],
        x[:-1] * x[1:],
        x[:-1, :-1] * x[1:, 1:],
        x[1:, :-1] * x[:-1, 1:],
    )
    fits = [_asymmetric_fit(product) for product in neighbors]
    return np.array([shape, (left + right) / 2, *(value for fit in fits for value in fit)])


def _normalized(gray: Array) -> Array:
    """Return (value - local mean) / (local deviation + 1/255); 7x7 Gaussian, zero padding."""
    window = cv2.getGaussianKernel(7, 7 / 6)

    def blur(values: Array) -> Array:
        out = cv2.sepFilter2D(values, cv2.CV_64F, window, window, borderType=cv2.BORDER_CONSTANT)
        return out.astype(np.float64)

    mean = blur(gray)
    deviation = np.sqrt(np.abs(mean**2 - blur(gray**2)))
    x = (gray - mean) / (deviation + 1 / 255)
    x[np.abs(x) < 1e-9] = 0  # rounding noise, whose sign would depend on the machine
    return x


def _asymmetric_fit(x: Array) -> tuple[float, float, float, float]:
    """Fit an asymmetric generalized Gaussian: shape, mean, left and right variance (sec. 3.B).

    The fit uses moments: Lasmar et al., "Multiscale skewed heavy tailed model for texture
    analysis".
    """
    negative, positive = x[x < 0], x[x >= 0]
    if not (negative.size and positive.any()):
        return math.nan, math.nan, math.nan, math.nan
    left, right = float((negative**2).mean()), float((positive**2).mean())
    g = math.sqrt(left / right)
    ratio = float(np.abs(x).mean()) ** 2 / float((x**2).mean())
    shape = _shape_of(ratio * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2)
    log_gamma = [math.lgamma(i / shape) for i in (1, 2, 3)]
    spread = math.exp((log_gamma[0] - log_gamma[2]) / 2 + log_gamma[1] - log_gamma[0])
    return shape, (math.sqrt(right) - math.sqrt(left)) * spread, left, right


def _shape_of(ratio: float) -> float:
    """Return the shape s in [0.2, 10] with gamma(2/s)^2 / (gamma(1/s) gamma(3/s)) = ratio.

    The left-hand side increases with s, so bisection finds it.
    """
    low, high = 0.2, 10.0
    target = math.log(ratio)
    for _ in range(50):
        s = (low + high) / 2
        if 2 * math.lgamma(2 / s) - math.lgamma(1 / s) - math.lgamma(3 / s) < target:
            low = s
        else:
            high = s
    return (low + high) / 2


class _Svm:
    """Support-vector regression with a radial kernel: sum_i c_i exp(-g |x - v_i|^2) - rho."""

    def __init__(self, svm: Path, ranges: Path) -> None:
        head, _, body = svm.read_text(encoding="ascii").partition("SV\n")
        header = dict(line.split(maxsplit=1) for line in head.splitlines())
        self.gamma, self.rho = float(header["gamma"]), float(header["rho"])
        # Each line has the coefficient, then "1:value" to "36:value", all present.
        rows = [[float(word.split(":")[-1]) for word in line.split()] for line in body.splitlines()]
        table = np.array(rows)  # (770, 37)
        self.coefficients, self.vectors = table[:, 0], table[:, 1:]
        limits = read_pickle(ranges)
        self.low, self.high = np.array(limits["min_"]), np.array(limits["max_"])

    def __call__(self, features: Array) -> Array:
        """Score (N, 36) features: (N,)."""
        x = -1 + 2 * (features - self.low) / (self.high - self.low)
        squares = ((x[:, None] - self.vectors) ** 2).sum(2)
        scores: Array = np.exp(-self.gamma * squares) @ self.coefficients - self.rho
        return scores


@cache
def _brisque_svm() -> _Svm:
    return _Svm(pip_file(BRISQUE_SVM), pip_file(BRISQUE_RANGES))
