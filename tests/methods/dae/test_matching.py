"""What the matcher is trained on, and the pool of strangers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.faces import align, recognizers
from deidcli.methods.dae import matching
from deidcli.methods.dae.networks import ATTRIBUTES, FullyConnected, Matcher, pack
from deidcli.methods.dae.strangers import KEPT, features
from deidcli.methods.dae.training_faces import tensor_of
from deidcli.training.chips import Chips


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A fast recognizer in place of dlib's; how many faces each call described."""
    calls: list[int] = []

    def embed(name: str, chips: list[np.ndarray]) -> np.ndarray:
        calls.append(len(chips))
        flat = np.stack([chip.reshape(-1)[:: chip.size // 128][:128] for chip in chips])
        return flat.astype(np.float32) / 255

    monkeypatch.setattr(recognizers, "embed", embed)
    return calls


def test_descriptors_are_kept_by_content(faces: Chips, tmp_path: Path, counted: list[int]) -> None:
    first = matching.descriptors(faces.chips[:10], tmp_path)
    np.testing.assert_array_equal(matching.descriptors(faces.chips[:10], tmp_path), first)
    assert counted == [10], "kept ones are not made again"
    other = matching.descriptors(faces.chips[10:20], tmp_path)
    assert counted == [10, 10] and not np.allclose(first, other), "another pool of the same size"


def test_the_matcher_is_told_labels_landmarks_and_likeness(
    faces: Chips, tmp_path: Path, counted: list[int]
) -> None:
    shape = np.random.default_rng(0).normal(0, 0.05, (24, 5, 2)).astype(np.float32)
    goal = matching.matcher_targets(faces, align.MEAN_FACE_5.astype(np.float32) + shape, tmp_path)
    for index, name in enumerate(ATTRIBUTES):
        wanted = faces.labels[:, CELEBA_ATTRIBUTES.index(name)]
        assert goal.labels[:, index].tolist() == wanted.tolist(), name
    assert goal.labels[:, :2].abs().min() == 1 and goal.labels[:, 2:].abs().max() == 0
    flat = torch.from_numpy(shape).flatten(1)
    torch.testing.assert_close(goal.landmarks, flat / flat.std(0), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(goal.embeddings.norm(dim=1), torch.ones(24))
    described = torch.from_numpy(matching.descriptors(faces.chips, tmp_path))
    torch.testing.assert_close(goal.center, described.mean(0))
    back = functional.normalize(described - goal.center)
    torch.testing.assert_close(goal.embeddings, back)


def test_the_matcher_starts_whitened(faces: Chips, monkeypatch: pytest.MonkeyPatch) -> None:
    # Fewer units than faces, so that no direction is made up.
    monkeypatch.setattr(matching, "Matcher", partial(Matcher, hidden=(12, 8)))
    chips = tensor_of(faces)
    matcher = matching.start_matcher(chips)
    packed = pack(chips.permute(0, 3, 1, 2).float() / 255, True)
    torch.testing.assert_close(matcher.mean, packed.mean(0))
    first = matcher.layers[0]
    with torch.no_grad():
        out = first(packed - matcher.mean) - first.bias
    torch.testing.assert_close(out.T @ out / 23, torch.eye(12), atol=1e-3, rtol=0)
    components = torch.linalg.svd(packed - packed.mean(0), full_matrices=False)[2][:12]
    alike = functional.normalize(first.weight) @ components.T
    assert alike.abs().max().item() < 0.99, "no unit is one component alone"


def test_the_widest_directions_are_kept() -> None:
    spread = torch.linspace(40, 1, 40)
    codes = torch.randn(4000, 40, generator=torch.Generator().manual_seed(0)) * spread + 5
    basis = matching.kept_directions(codes)
    assert basis.shape == (40, KEPT)
    torch.testing.assert_close(basis.T @ basis, torch.eye(KEPT), atol=1e-4, rtol=0)
    assert float((basis[: KEPT + 4] ** 2).sum()) > 0.95 * KEPT


def test_a_pool_is_taken_evenly_and_no_larger_than_it_is() -> None:
    chips = torch.arange(101)
    assert matching.evenly_spread(chips, 5).tolist() == [0, 25, 50, 75, 100]
    assert matching.evenly_spread(chips[:3], 5).tolist() == [0, 1, 2]


def test_the_pool_holds_each_stranger_as_it_is_and_flipped(
    faces: Chips, tmp_path: Path, counted: list[int]
) -> None:
    torch.manual_seed(0)
    chips = tensor_of(faces)
    autoencoder, encoder = (FullyConnected([20, 18]) for _ in range(2))
    matcher = matching.start_matcher(chips).eval()
    center = torch.rand(128)
    networks = (autoencoder, encoder, matcher)
    made = matching.pool_tensors(*networks, center, chips, chips[:6], "cpu", tmp_path)
    both = torch.cat([chips[:6], chips[:6].flip(2)]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        torch.testing.assert_close(made["pool.codes"], autoencoder.encode(both))
        torch.testing.assert_close(made["pool.kept"], encoder.encode(both) @ made["pool.basis"])
        logits, landmarks, _ = matcher(pack(both.double(), True))
        described = features(pack(both.double(), True), logits, landmarks)
        tuned = encoder.encode(chips.permute(0, 3, 1, 2).float() / 255)
    torch.testing.assert_close(made["pool.features"], described, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made["pool.basis"], matching.kept_directions(tuned))
    pixels = torch.cat([chips[:6], chips[:6].flip(2)]).numpy()
    likeness = torch.from_numpy(matching.descriptors(pixels, tmp_path)) - center
    expected = functional.normalize(likeness)
    torch.testing.assert_close(made["pool.embeddings"], expected)
