"""One step by eq. 13: each term moves the weights, in the right direction; the average follows."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from deidcli.methods.a3gan import gan as a3gan_gan
from deidcli.methods.a3gan import losses
from deidcli.methods.a3gan.gan import Gan, Photographs
from deidcli.methods.a3gan.geometry import veiled, window
from deidcli.methods.a3gan.networks import SIZES, Discriminator
from deidcli.methods.a3gan.recipe import GENERATOR_FLOOR, learning_rate_factor
from deidcli.methods.a3gan.supervised import Supervised
from tests.methods.a3gan.conftest import (
    LATENT,
    TINY,
    a_batch,
    changes,
    gradient,
    lively,
    pictures,
    values_of,
)

pytestmark = pytest.mark.usefixtures("small_recognizer")
REAL, PAIRS = 3, 2
RECIPE = dataclasses.replace(TINY, steps=100)
OURS = ("lambda_picture", "lambda_perceptual", "lambda_person", "lambda_attributes", "lambda_patch")


def photographs() -> Photographs:
    random = torch.Generator().manual_seed(6)
    labels = torch.rand(REAL, 10, generator=random).round()
    labels[:, 7] = -1
    return Photographs(
        pictures(REAL, 7),
        labels,
        torch.randn(REAL, LATENT, generator=random),
        (torch.rand(REAL, 10, generator=random) < 0.5).float(),
    )


def joined() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Chips, labels, latents and masks of photographs, and after them of pairs."""
    real, pairs = photographs(), a_batch(PAIRS)
    return (
        torch.cat([real.chips, pairs.source]),
        torch.cat([real.labels, pairs.present]),
        torch.cat([real.latent, pairs.latent]),
        torch.cat([real.mask, pairs.mask]),
    )


def a_gan(**changed: Any) -> Gan:
    recipe = dataclasses.replace(RECIPE, **changed)
    torch.manual_seed(0)
    head = Discriminator(SIZES["tiny"]).eval().requires_grad_(False)
    taught = Supervised(lively(), recipe)
    return Gan(taught.generator, taught.average, taught.lessons, head, recipe)


def a_step(gan: Gan, step: int = 0) -> dict[str, float]:
    random = torch.Generator().manual_seed(4)
    return gan.step(step, photographs(), a_batch(PAIRS), random)


def spied(gan: Gan, name: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What a method of a gan is given, as it comes."""
    seen: list[tuple[Any, ...]] = []
    owner = gan.lessons if hasattr(gan.lessons, name) else gan
    whole = getattr(owner, name)

    def spy(*given: Any) -> Any:
        seen.append(given)
        return whole(*given)

    monkeypatch.setattr(owner, name, spy)
    return seen


# --- Each term of eq. 13, and ours


@pytest.mark.parametrize("name", ["lambda2", "lambda3", "lambda4", *OURS])
def test_each_term_moves_the_generator(name: str) -> None:
    whole, without, again = a_gan(), a_gan(**{name: 0.0}), a_gan()
    for gan in (whole, without, again):
        a_step(gan)
    assert torch.equal(gradient(whole.generator), gradient(again.generator))
    assert changes(gradient(whole.generator), gradient(without.generator))


def test_a_step_says_all_of_its_losses() -> None:
    assert a_step(a_gan()).keys() == {
        *("gap", "penalty", "att1", "critic", "att2", "adv", "deid"),
        *("picture", "perceptual", "person", "attributes", "patch"),
    }


def test_the_attribute_loss_moves_the_discriminator() -> None:
    whole, without = a_gan(), a_gan(lambda1=0.0)
    for gan in (whole, without):
        a_step(gan)
    assert changes(gradient(whole.discriminator), gradient(without.discriminator))
    (*_, last) = without.discriminator.attributes.parameters()
    assert last.grad is None or not last.grad.any(), "nothing else of eq. 13 teaches D_att"


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

    monkeypatch.setattr(losses, "critic_loss", critic_loss)
    a_step(a_gan())
    a_step(a_gan(penalty_every=1))
    assert weights == [2 * losses.PENALTY, losses.PENALTY]


# --- Who sees what


@pytest.mark.parametrize("until", [0.9, 1.0])
def test_the_generator_is_shown_photographs_and_then_sources(until: float) -> None:
    """As the method will show them: veiled, if they were to the last on pairs."""
    gan, seen = a_gan(veiled_until=until), []
    gan.generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    a_step(gan)
    chips, _, latent, mask = joined()
    expected = veiled(chips, torch.from_numpy(window())) if until == 1 else chips
    (inputs,) = seen
    assert all(map(torch.equal, inputs, (expected, latent, mask)))
    assert torch.equal(expected, chips) == (until < 1)


def test_the_terms_are_those_of_the_published_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only inside the mask does a generated face count: outside, it is the picture's own."""
    gan = a_gan()
    critic, paper = spied(gan, "discriminator_step", monkeypatch), spied(gan, "eq13", monkeypatch)
    a_step(gan)
    chips, labels, _, mask = joined()
    (step, shown, given, fake, _), (terms_of,) = critic[0], paper
    assert step == 0 and torch.equal(shown, chips) and torch.equal(given, labels)
    made = terms_of[3]
    assert all(map(torch.equal, terms_of[:3], (chips, labels, mask)))
    assert torch.equal(terms_of[4], fake) and terms_of[4].requires_grad
    assert torch.equal(fake[..., -1, :], chips[..., -1, :])
    assert torch.equal(fake[..., :, -1], chips[..., :, -1])
    middle = (slice(None), slice(None), slice(56, 72), slice(56, 72))
    torch.testing.assert_close(fake[middle], made.clamp(0, 1)[middle])
    assert not fake.requires_grad and float(fake.max()) <= 1


def test_pairs_teach_what_was_made_of_their_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    gan = a_gan()
    terms, critic = spied(gan, "terms", monkeypatch), spied(gan, "critic_step", monkeypatch)
    paper = spied(gan, "eq13", monkeypatch)
    a_step(gan)
    ((made, pairs),) = terms
    assert torch.equal(made, paper[0][3][REAL:]) and len(made) == PAIRS
    assert torch.equal(pairs.target, a_batch(PAIRS).target)
    assert torch.equal(critic[0][0], made) and torch.equal(critic[0][1], pairs.target)


def test_eq_13_is_of_its_arguments() -> None:
    gan = a_gan()
    chips, labels, _, mask = joined()
    made, fake = pictures(5, 20), pictures(5, 21)
    terms = gan.eq13(chips, labels, mask, made, fake)
    scores, attributes = gan.discriminator(fake)
    avoided = losses.xnor(torch.where(labels > 0, 1.0, 0.0), mask)
    own, published = (gan.lessons.seen(values).person for values in (chips, fake))
    expected = {
        "att2": losses.anonymization_loss(attributes, avoided),
        "adv": -scores.mean(),
        "deid": losses.identity_loss(own, published),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)


# --- Directions


def stripes(count: int, across: bool) -> Tensor:
    """(count, 3, 128, 128): stripes one way or the other, at random places."""
    random = torch.Generator().manual_seed(int(across))
    phase = torch.rand(count, 1, 1, 1, generator=random) * 6
    waves = (torch.sin(torch.arange(128) / 3 + phase) / 2 + 0.5).expand(count, 3, 128, 128)
    return waves.transpose(2, 3) if across else waves


def test_the_gap_of_the_critic_grows_on_what_can_be_told_apart() -> None:
    gan, random = a_gan(gan_rate=1e-3, lambda1=0.0), torch.Generator().manual_seed(0)
    real, fake, labels = stripes(4, True), stripes(4, False), torch.zeros(4, 10)
    gaps = [gan.discriminator_step(n, real, labels, fake, random)["gap"] for n in range(25)]
    assert gaps[-1] > gaps[0] + 0.1 and gaps[-1] > 0


def test_the_discriminator_learns_the_attributes_of_originals() -> None:
    gan, random = a_gan(gan_rate=1e-3), torch.Generator().manual_seed(0)
    chips, labels, _, _ = joined()
    fake = pictures(5, 22)
    seen = [gan.discriminator_step(n, chips, labels, fake, random)["att1"] for n in range(25)]
    assert seen[-1] < 0.9 * seen[0]


@pytest.mark.parametrize("name", ["adv", "att2", "deid"])
def test_a_step_along_a_term_does_what_the_term_is_for(name: str) -> None:
    """adv: the critic's score rises. att2: attributes leave a_m. deid: the original is less
    alike."""
    gan = a_gan()
    chips, labels, _, mask = joined()
    made = chips.clone().requires_grad_(True)  # hence far above 0 in likeness
    if name == "deid":
        made = (chips + 0.1 * pictures(5, 23)).requires_grad_(True)
    (slope,) = torch.autograd.grad(gan.eq13(chips, labels, mask, made, made)[name], made)
    moved = (made - slope * (0.5 / slope.norm())).detach()

    def measured(faces: Tensor) -> float:
        scores, attributes = gan.discriminator(faces)
        if name == "adv":
            return -float(scores.mean())
        if name == "att2":  # a_m is not a_s where the mask is 0: nearer to a_s is further from a_m
            present = torch.where(mask == 0, labels.clamp(min=0), 1 - labels.clamp(min=0))
            return float(losses.attribute_loss(attributes, present))
        seen = [gan.lessons.seen(values).person for values in (chips, faces)]
        return float(torch.nn.functional.cosine_similarity(*seen).mean())

    with torch.no_grad():
        assert measured(moved) < measured(made.detach())


# --- What moves


def test_the_generators_learning_rate_rises_and_falls() -> None:
    gan, rates = a_gan(), []
    for step in (0, 10, 99):
        a_step(gan, step)
        rates.append(gan.generator_optimizer.param_groups[0]["lr"])
    factors = [learning_rate_factor(step, 100, GENERATOR_FLOOR) for step in (0, 10, 99)]
    assert rates == pytest.approx([RECIPE.gan_rate * factor for factor in factors])
    assert rates[0] < rates[1] == RECIPE.gan_rate and rates[2] < rates[1] / 2
    assert gan.discriminator_optimizer.param_groups[0]["lr"] == RECIPE.gan_rate


def test_the_average_moves_a_share_of_the_way() -> None:
    """It was trained on pairs before: it does not start anew."""
    gan = a_gan(gan_rate=0.01)
    for step, share in ((0, 9 / 510), (100_000, 1 - RECIPE.average)):
        before = values_of(gan.average)
        a_step(gan, step)
        for old, average, new in zip(
            before, gan.average.parameters(), gan.generator.parameters(), strict=True
        ):
            assert not torch.equal(old, average)
            torch.testing.assert_close(average, torch.lerp(old, new, share))


def test_a_step_of_the_generator_leaves_the_discriminator_alone() -> None:
    gan = a_gan(gan_rate=1e-3)
    gan.discriminator_step = lambda *_: {}  # type: ignore[method-assign, assignment]
    before, moving = values_of(gan.discriminator), values_of(gan.generator)
    a_step(gan)
    assert all(map(torch.equal, before, gan.discriminator.parameters()))
    assert all(v.grad is None and v.requires_grad for v in gan.discriminator.parameters())
    assert not any(map(torch.equal, moving, gan.generator.parameters()))


def test_discriminator_and_patch_critic_move_and_the_head_stays() -> None:
    torch.manual_seed(0)
    head = Discriminator(SIZES["tiny"]).eval().requires_grad_(False)
    taught = Supervised(lively(), RECIPE)
    gan = Gan(taught.generator, taught.average, taught.lessons, head, RECIPE)
    before, patches = values_of(head), values_of(gan.lessons.critic)
    a_step(gan)
    assert all(map(torch.equal, before, head.parameters()))
    moved = [
        not torch.equal(*two) for two in zip(before, values_of(gan.discriminator), strict=True)
    ]
    assert sum(moved) >= len(moved) - 5, "biases before instance norms have no bearing"
    assert not all(map(torch.equal, patches, gan.lessons.critic.parameters()))


def test_a_checkpoint_holds_all_that_moves() -> None:
    gan = a_gan()
    assert gan.parts() == {
        "generator": gan.generator,
        "average": gan.average,
        "discriminator": gan.discriminator,
        "generator_optimizer": gan.generator_optimizer,
        "discriminator_optimizer": gan.discriminator_optimizer,
        "patch_critic": gan.lessons.critic,
        "patch_optimizer": gan.lessons.optimizer,
    }
    for optimizer, module in (
        (gan.generator_optimizer, gan.generator),
        (gan.discriminator_optimizer, gan.discriminator),
    ):
        (group,) = optimizer.param_groups
        assert [id(value) for value in group["params"]] == [id(v) for v in module.parameters()]
        assert group["betas"] == a3gan_gan.BETAS == (0.0, 0.9)
