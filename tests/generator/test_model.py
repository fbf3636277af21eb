"""What the generator draws at every side, with the head that we ship."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from deidcli.faces.dlib_hog import detect_hog
from deidcli.faces.landmarks import landmarks
from deidcli.faces.mesh import find_mesh
from deidcli.generator.heads import fit_linear, trained_sides
from deidcli.generator.model import SIDES, Generator, load_generator, mix
from deidcli.generator.recipe import Recipe
from deidcli.generator.teacher import Teacher
from deidcli.generator.train import HELD_OUT_SEED, first_head, scores


@pytest.fixture(scope="module")
def generator() -> Generator:
    return load_generator("cpu", torch.float32)


@pytest.fixture(scope="module")
def w(generator: Generator) -> torch.Tensor:
    return generator.w_of(torch.randn(2, 512, generator=torch.Generator().manual_seed(8)), 0.7)


def pixels(drawn: torch.Tensor) -> np.ndarray:
    """(N, S, S, 3) uint8 RGB."""
    return ((drawn + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def mesh_of(picture: np.ndarray) -> np.ndarray:
    """(468, 2)."""
    ((box, _), *_) = detect_hog(picture)
    found = find_mesh(picture, landmarks(picture, box))
    assert found is not None
    return found.plane


@pytest.mark.parametrize("side", SIDES)
def test_every_side_shows_the_same_face(generator: Generator, w: torch.Tensor, side: int) -> None:
    drawn = generator.draw(w[:1], side)
    assert drawn.shape == (1, 3, side, side) and drawn.dtype == torch.float32
    assert -1 <= float(drawn.min()) < -0.3 and 0.3 < float(drawn.max()) <= 1
    whole = generator.draw(w[:1])
    wanted = functional.interpolate(whole, size=32, mode="area")
    small = functional.interpolate(drawn, size=32, mode="area")
    assert float((small - wanted).abs().mean()) < 0.12
    other = functional.interpolate(generator.draw(w[1:], side), size=32, mode="area")
    assert float((other - wanted).abs().mean()) > 0.2


def test_the_shipped_head_is_nearer_than_a_ridge_and_as_sharp(generator: Generator) -> None:
    """Against the generator's own 1,024 px averaged down, on faces that no step saw."""
    from deidcli.generator.heads import load_head

    teacher = Teacher(generator, 256, HELD_OUT_SEED)
    faces = [teacher.whole(number) for number in range(4)]
    ridge = first_head(Teacher(generator, 256, Recipe().seed), 0)
    fit_linear(ridge, [Teacher(generator, 256, 0).whole(number) for number in range(4)])
    ours, plain = scores(load_head(256), faces), scores(ridge, faces)
    assert ours["psnr"] > plain["psnr"] + 1
    assert 0.7 < ours["sharpness"] < 1.3
    assert ours["sharpness"] > plain["sharpness"]


def test_128_px_without_a_head_are_256_averaged_down(generator: Generator, w: torch.Tensor) -> None:
    if 128 in trained_sides():
        pytest.skip("128 px have a head of their own")
    with torch.no_grad():
        pooled = functional.avg_pool2d(generator.draw(w, 256), 2)
    # Clipped before and after.
    assert float((generator.draw(w, 128) - pooled).abs().mean()) < 0.01


@pytest.mark.parametrize("side", [256, 1024])
def test_a_face_in_a_batch_is_the_face_alone(
    generator: Generator, w: torch.Tensor, side: int
) -> None:
    both = generator.draw(w, side)
    assert torch.allclose(both[1:], generator.draw(w[1:], side), atol=1e-4)
    assert generator.draw(w[:0], side).shape == (0, 3, side, side)


def test_a_mixed_face_keeps_the_place_of_its_features(generator: Generator) -> None:
    """Its mesh lies nearer to the first face's than the other's does, and it is another face."""
    z = torch.randn(16, 512, generator=torch.Generator().manual_seed(8))
    drawn = generator.w_of(z, 0.7)
    first, other = drawn[[0, 2, 4]], drawn[[8, 10, 12]]
    pictures = [pixels(generator.draw(w, 256)) for w in (first, mix(first, other), other)]
    for a, mixed, b in zip(*pictures, strict=True):
        points = [mesh_of(picture) for picture in (a, mixed, b)]
        kept, apart = (np.linalg.norm(points[0] - p, axis=1).mean() for p in points[1:])
        assert kept < 0.6 * apart
        middle = (slice(90, 190), slice(80, 176))
        assert np.abs(a[middle].astype(int) - mixed[middle]).mean() > 12


def test_a_side_that_it_does_not_draw_is_refused(generator: Generator, w: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="300 px"):
        generator.draw(w, 300)


HALF_APART = 0.01
"""Mean distance of a pixel in bfloat16 from float32, of a range of 2: 0.0025 to 0.0052 measured
(gray levels: 0.3 to 0.7)."""


def test_half_precision_draws_the_same_picture(generator: Generator, w: torch.Tensor) -> None:
    half = load_generator("cpu", torch.bfloat16)
    drawn, wanted = half.draw(w, 256), generator.draw(w, 256)
    assert drawn.dtype == torch.float32
    apart = (drawn - wanted).abs().mean((1, 2, 3))
    assert float(apart.min()) > 0  # else it was not in half precision
    assert float(apart.max()) < HALF_APART
    assert float((wanted[0] - wanted[1]).abs().mean()) > 10 * HALF_APART


@pytest.mark.slow
def test_a_compiled_synthesis_draws_the_same_picture(
    generator: Generator, w: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes on a busy computer, for the compiler writes C++ for every layer."""
    wanted = generator.draw(w[:1], 256)
    calls = []
    features = torch.compile(generator.synthesis.features, dynamic=False)

    def compiled(*args: object) -> torch.Tensor:
        calls.append(1)
        try:
            return features(*args)
        except (torch._dynamo.exc.BackendCompilerFailed, torch._inductor.exc.InductorError) as e:
            pytest.skip(f"torch.compile cannot run here: {e}")

    monkeypatch.setattr(generator.synthesis, "features", compiled)
    drawn = generator.draw(w[:1], 256)
    assert calls
    assert float((drawn - wanted).abs().max()) < 1e-3
