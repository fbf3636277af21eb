"""The attribute head: what it learns from, in which order, and that it learns it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deidcli.faces import align
from deidcli.methods.a3gan import attribute_head
from deidcli.methods.a3gan.attribute_head import (
    augmented,
    flipped_landmarks,
    head_losses,
    train_attribute_head,
)
from deidcli.methods.a3gan.latents import describe
from deidcli.methods.a3gan.networks import SIZES, Discriminator
from deidcli.methods.a3gan.recipe import Run
from deidcli.methods.a3gan.training_faces import Faces
from tests.methods.a3gan.conftest import TINY, column, pictures

COUNT = 64


def faces_with_patterns() -> Faces:
    """Bangs: stripes in the upper half; Smiling: stripes in the lower one. Nothing else varies."""
    random = torch.Generator().manual_seed(0)
    labels = torch.zeros(COUNT, 12)
    for name in ("Bangs", "Smiling"):
        labels[:, column(name)] = (torch.rand(COUNT, generator=random) < 0.5).float()
    chips = torch.full((COUNT, 128, 128, 3), 128.0)
    waves = 60 * torch.sin(torch.arange(64) * 0.8)[None, :, None, None]
    chips[:, :64] += waves * labels[:, column("Bangs")].view(-1, 1, 1, 1)
    chips[:, 64:] += waves * labels[:, column("Smiling")].view(-1, 1, 1, 1)
    noise = torch.randn(chips.shape, generator=random) * 4
    shape = torch.randn(COUNT, 10, generator=random) * 0.05
    chips = (chips + noise).clamp(0, 255).byte()
    return Faces(chips, labels, torch.zeros(COUNT, 40), shape)


@pytest.fixture
def no_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(chips: Tensor, path: Path) -> Tensor:
        return torch.randn(len(chips), 128, generator=torch.Generator().manual_seed(1))

    monkeypatch.setattr(attribute_head, "dlib_embeddings", made)


@pytest.mark.usefixtures("no_descriptors")
def test_it_learns_each_attribute_in_its_own_column(tmp_path: Path) -> None:
    recipe = dataclasses.replace(TINY, attribute_epochs=12, rate=1e-2)
    faces = faces_with_patterns()
    made = train_attribute_head(faces, None, Run(recipe, tmp_path))
    assert not any(value.requires_grad for value in made.network.parameters())
    found = describe(made.network, faces.chips.permute(0, 3, 1, 2) / 255).attributes > 0.5
    right = (found == (faces.labels > 0.5)).float().mean(0)
    assert float(right.min()) > 0.9, right
    torch.testing.assert_close(made.landmark_std, faces.shape.std(0))


@pytest.mark.parametrize("name", ["attributes", "landmarks", "embedding"])
def test_each_term_moves_it(name: str) -> None:
    torch.manual_seed(0)
    network = Discriminator(SIZES["tiny"])
    labels, shape, directions = torch.ones(4, 12), torch.ones(4, 10), torch.ones(4, 128)
    terms = head_losses(network, pictures(4), labels, shape, directions)
    terms[name].backward()
    slopes = network.layers[0].weight.grad
    assert slopes is not None and slopes.any()


def test_labels_that_are_missing_teach_nothing() -> None:
    network = Discriminator(SIZES["tiny"])
    nothing = torch.full((4, 12), -1.0)
    terms = head_losses(network, pictures(4), nothing, torch.ones(4, 10), torch.ones(4, 128))
    assert float(terms["attributes"].detach()) == 0


@pytest.mark.usefixtures("no_descriptors")
def test_a_flipped_face_is_taught_its_flipped_landmarks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All faces are bright on the left and have a nose left of the mean's."""
    faces = faces_with_patterns()
    faces.chips[:] = 30
    faces.chips[:, :, :64] = 200
    faces.shape[:] = torch.randn(COUNT, 10) * 1e-3
    faces.shape[:, 8] -= 0.05
    std, seen = faces.shape.std(0).clamp(min=1e-4), []
    real = attribute_head.head_losses

    def spy(network: Discriminator, chips: Tensor, *targets: Tensor) -> dict[str, Tensor]:
        bright_left = chips[..., :64].mean((1, 2, 3)) > chips[..., 64:].mean((1, 2, 3))
        nose_left = (targets[1] * std)[:, 8] < 0
        seen.append((bright_left, nose_left))
        return real(network, chips, *targets)

    monkeypatch.setattr(attribute_head, "head_losses", spy)
    train_attribute_head(faces, None, Run(TINY, tmp_path))
    bright, nose = (torch.cat(values) for values in zip(*seen, strict=True))
    assert torch.equal(bright, nose)
    assert 0.2 < float(bright.float().mean()) < 0.8, "some are flipped, some are not"


def test_only_light_and_sharpness_vary() -> None:
    chips = torch.full((40, 3, 128, 128), 0.5)
    chips[..., 32:64, 32:64] = 0.9
    made = augmented(chips, torch.zeros(40, dtype=torch.bool), torch.Generator().manual_seed(0))
    means = made.mean((1, 2, 3))
    assert float(means.std()) > 0.03 and float(made.min()) >= 0 and float(made.max()) <= 1
    inside, outside = made[..., 40:56, 40:56].mean((1, 2, 3)), made[..., 80:, 80:].mean((1, 2, 3))
    assert (inside > outside + 0.1).all()


def test_a_mirrored_face_has_mirrored_landmarks() -> None:
    points = torch.from_numpy(align.MEAN_FACE_5).float() + torch.rand(5, 2) * 0.1
    mirrored = points.clone()
    mirrored[:, 0] = 1 - mirrored[:, 0]
    mirrored = mirrored[[2, 3, 0, 1, 4]]
    mean = torch.from_numpy(align.MEAN_FACE_5).float()
    found = flipped_landmarks((points - mean).view(1, 10), torch.tensor([True]))
    # The mean face itself is mirror-symmetric to 0.02.
    torch.testing.assert_close(found.view(5, 2), mirrored - mean, atol=0.025, rtol=0)
