"""One step by eq. 13: each term moves the weights, in the right direction; the average follows."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from deidcli.faces import recognizers
from deidcli.methods.a3gan import gan as a3gan_gan
from deidcli.methods.a3gan import losses
from deidcli.methods.a3gan.canvas import COMPONENTS, LATENT
from deidcli.methods.a3gan.gan import Gan
from deidcli.methods.a3gan.networks import SIZES, Discriminator
from deidcli.methods.a3gan.recipe import GENERATOR_FLOOR, learning_rate_factor
from deidcli.methods.a3gan.teacher import Batch, canvas_faces
from tests.methods.a3gan.conftest import TINY, lively, pictures

COUNT = 4
RECIPE = dataclasses.replace(TINY, steps=100)


@pytest.fixture(autouse=True)
def one_recognizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read from its file once."""
    monkeypatch.setattr(a3gan_gan.recognizers, "load", LOAD)


LOAD = functools.cache(recognizers.load)


def a_batch() -> Batch:
    random = torch.Generator().manual_seed(2)
    return Batch(
        pictures(COUNT, 1),
        (torch.rand(COUNT, 10, generator=random) < 0.5).float(),
        torch.randn(COUNT, LATENT, generator=random),
        pictures(COUNT, 2),
        pictures(COUNT, 3),
        torch.rand(COUNT, 10, generator=random).round(),
    )


def a_gan(**changed: Any) -> Gan:
    torch.manual_seed(0)
    head = Discriminator(SIZES["tiny"]).eval().requires_grad_(False)
    return Gan(lively(), head, dataclasses.replace(RECIPE, **changed))


def a_step(gan: Gan, step: int = 0) -> dict[str, float]:
    return gan.step(step, a_batch(), torch.Generator().manual_seed(4))


def gradient(module: torch.nn.Module) -> Tensor:
    return torch.cat([v.grad.flatten() for v in module.parameters() if v.grad is not None])


def changes(one: Tensor, other: Tensor) -> bool:
    """Whether two gradients differ by more than rounding does."""
    return float((one - other).norm()) > 1e-4 * float(one.norm())


# --- Each term of eq. 13, and ours


@pytest.mark.parametrize(
    "name", ["lambda2", "lambda3", "lambda4", "lambda_teacher", "lambda_diversity"]
)
def test_each_term_moves_the_generator(name: str) -> None:
    whole, without, again = a_gan(), a_gan(**{name: 0.0}), a_gan()
    for gan in (whole, without, again):
        a_step(gan)
    assert torch.equal(gradient(whole.generator), gradient(again.generator))
    assert changes(gradient(whole.generator), gradient(without.generator))


def test_the_attribute_loss_moves_the_discriminator() -> None:
    whole, without = a_gan(), a_gan(lambda1=0.0)
    for gan in (whole, without):
        a_step(gan)
    assert changes(gradient(whole.discriminator), gradient(without.discriminator))
    attributes = without.discriminator.attributes.weight.grad
    assert attributes is None or not attributes.any(), "nothing else of eq. 13 teaches D_att"


def test_the_penalty_moves_the_discriminator_on_every_second_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = {}
    for penalty in (losses.PENALTY, 0.0):
        monkeypatch.setattr(losses, "PENALTY", penalty)
        for step in (0, 1):
            gan = a_gan()
            values = a_step(gan, step)
            seen[penalty, step] = gradient(gan.discriminator)
            assert (values["penalty"] > 0) == (step == 0)
    assert changes(seen[10.0, 0], seen[0.0, 0])
    assert not changes(seen[10.0, 1], seen[0.0, 1])


def test_the_penalty_of_every_second_step_has_twice_its_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = []

    def critic_loss(real: Tensor, fake: Tensor, penalty: Tensor, weight: float) -> Tensor:
        weights.append(weight)
        return fake.mean() - real.mean() + weight * penalty

    monkeypatch.setattr(a3gan_gan.losses, "critic_loss", critic_loss)
    a_step(a_gan())
    a_step(a_gan(penalty_every=1))
    assert weights == [2 * losses.PENALTY, losses.PENALTY]


def test_the_terms_are_those_of_the_published_picture() -> None:
    """Only inside the mask does a generated face count: outside, it is the picture's own."""
    gan, seen = a_gan(), {}
    first = gan.discriminator_step

    def spy(step: int, batch: Batch, fake: Tensor, random: torch.Generator) -> dict[str, float]:
        seen["fake"] = fake
        return first(step, batch, fake, random)

    gan.discriminator_step = spy  # type: ignore[method-assign]
    a_step(gan)
    chips, fake = a_batch().chips, seen["fake"]
    assert torch.equal(fake[..., -1, :], chips[..., -1, :])
    assert torch.equal(fake[..., :, -1], chips[..., :, -1])
    assert float((fake - chips)[..., 56:72, 56:72].abs().mean()) > 0.05
    assert not fake.requires_grad and float(fake.max()) <= 1


def test_the_teacher_is_asked_where_the_latents_are_its_own() -> None:
    gan, batch = a_gan(), a_batch()
    made = pictures(COUNT, 9).requires_grad_(True)
    terms = gan.generator_terms(batch, made, made)
    (teacher,) = torch.autograd.grad(terms["teacher"], made, retain_graph=True)
    assert teacher[: COUNT // 2].any() and not teacher[COUNT // 2 :].any()


def test_half_of_the_latents_are_from_a_normal_distribution() -> None:
    gan, seen = a_gan(), []
    gan.generator.ainet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    a_step(gan)
    own, (used,) = a_batch().latent, seen
    half = COUNT // 2
    assert torch.equal(used[:half], own[:half]) and not torch.equal(used[half:], own[half:])
    pushes = used[half:, COMPONENTS : COMPONENTS + 40]
    assert float(pushes.std()) < 0.3, "truncated, as `latent=normal` has them"


def test_half_of_a_batch_has_portraits_as_its_canvas() -> None:
    generator, batch = lively(), a_batch()
    assert generator.canvas is not None
    generator.canvas.components[3] = 0.1
    faces = canvas_faces(generator, batch)
    assert faces is not None
    assert torch.equal(faces[:2], batch.faces[:2])
    assert torch.equal(faces[2:], generator.canvas(batch.latent[2:]))
    other = canvas_faces(generator, batch, batch.latent + 1)
    assert other is not None and not torch.equal(other[2:], faces[2:])


# --- Directions


def stripes(count: int, across: bool) -> Tensor:
    """(count, 3, 128, 128): stripes one way or the other, at random places."""
    random = torch.Generator().manual_seed(int(across))
    phase = torch.rand(count, 1, 1, 1, generator=random) * 6
    waves = (torch.sin(torch.arange(128) / 3 + phase) / 2 + 0.5).expand(count, 3, 128, 128)
    return waves.transpose(2, 3) if across else waves


def test_the_gap_of_the_critic_grows_on_what_can_be_told_apart() -> None:
    gan = a_gan(gan_rate=1e-3, lambda1=0.0)
    batch = dataclasses.replace(a_batch(), chips=stripes(COUNT, True))
    random = torch.Generator().manual_seed(0)
    gaps = [
        gan.discriminator_step(step, batch, stripes(COUNT, False), random)["gap"]
        for step in range(25)
    ]
    assert gaps[-1] > gaps[0] + 0.1 and gaps[-1] > 0


def test_the_discriminator_learns_the_attributes_of_originals() -> None:
    gan = a_gan(gan_rate=1e-3)
    batch, random = a_batch(), torch.Generator().manual_seed(0)
    seen = [gan.discriminator_step(step, batch, batch.faces, random)["att1"] for step in range(25)]
    assert seen[-1] < 0.9 * seen[0]


@pytest.mark.parametrize("name", ["adv", "att2", "deid", "teacher"])
def test_a_step_along_a_term_does_what_the_term_is_for(name: str) -> None:
    """adv: the critic's score rises. att2: attributes leave a_m. deid: the original is less alike.
    teacher: the picture comes nearer to its target."""
    gan, batch = a_gan(recognizer_faces=COUNT), a_batch()
    made = batch.chips.clone().requires_grad_(True)  # hence far above 0 in likeness
    (slope,) = torch.autograd.grad(gan.generator_terms(batch, made, made)[name], made)
    moved = (made - slope * (0.5 / slope.norm())).detach()

    def measured(chips: Tensor) -> float:
        scores, attributes = gan.discriminator(chips)
        if name == "adv":
            return -float(scores.mean())
        if name == "att2":
            kept = batch.mask == 0  # a_m is not a_s there: nearer to a_s is further from a_m
            present = torch.where(kept, batch.attributes, 1 - batch.attributes)
            return float(losses.attribute_loss(attributes, present))
        if name == "teacher":
            error = (chips - batch.target)[: COUNT // 2] * gan.window
            return float(error.abs().mean())
        assert gan.recognizer is not None
        views = [losses.recognizer_view(c, gan.recognizer.recognizer) for c in (batch.chips, chips)]
        return float(torch.nn.functional.cosine_similarity(*map(gan.recognizer, views)).mean())

    with torch.no_grad():
        assert measured(moved) < measured(made.detach())


# --- The average


def test_the_generators_learning_rate_rises_and_falls() -> None:
    gan, rates = a_gan(), []
    for step in (0, 10, 99):
        a_step(gan, step)
        rates.append(gan.generator_optimizer.param_groups[0]["lr"])
    first = gan.generator_optimizer.param_groups[0]["initial_lr"]
    expected = [first * learning_rate_factor(step, 100, GENERATOR_FLOOR) for step in (0, 10, 99)]
    assert rates == pytest.approx(expected)
    assert rates[0] < rates[1] == first and rates[2] < first / 2


def test_the_average_moves_a_share_of_the_way() -> None:
    gan = a_gan(gan_rate=0.1)
    before = [value.clone() for value in gan.average.parameters()]
    a_step(gan)
    assert not any(map(torch.equal, before, gan.average.parameters()))
    for old, average, new in zip(
        before, gan.average.parameters(), gan.generator.parameters(), strict=True
    ):
        torch.testing.assert_close(average, torch.lerp(old, new, 0.9))
    later = [value.clone() for value in gan.average.parameters()]
    a_step(gan, 10_000)
    for old, average, new in zip(
        later, gan.average.parameters(), gan.generator.parameters(), strict=True
    ):
        torch.testing.assert_close(average, torch.lerp(old, new, 1 - RECIPE.average))


def test_a_step_of_the_generator_leaves_the_discriminator_alone() -> None:
    gan = a_gan(gan_rate=1e-3)
    gan.discriminator_step = lambda *_: {}  # type: ignore[method-assign, assignment]
    before = [value.clone() for value in gan.discriminator.parameters()]
    moving = [value.clone() for value in gan.generator.parameters()]
    a_step(gan)
    assert all(map(torch.equal, before, gan.discriminator.parameters()))
    assert all(value.requires_grad for value in gan.discriminator.parameters())
    assert not any(map(torch.equal, moving, gan.generator.parameters()))
