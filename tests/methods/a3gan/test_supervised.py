"""One step on pairs: each term moves the weights, in the right direction; and it does learn."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.faces import align, recognizers
from deidcli.faces.reader import pooled
from deidcli.methods.a3gan import losses
from deidcli.methods.a3gan.geometry import PADDING
from deidcli.methods.a3gan.networks import Generator, Size
from deidcli.methods.a3gan.pair_batches import Batch
from deidcli.methods.a3gan.recipe import GENERATOR_FLOOR, learning_rate_factor
from deidcli.methods.a3gan.settings import ATTRIBUTES
from deidcli.methods.a3gan.supervised import Lessons, Supervised
from deidcli.methods.loading import load_reader
from tests.methods.a3gan.conftest import (
    LATENT,
    TINY,
    SmallRecognizer,
    a_batch,
    changes,
    gradient,
    lively,
    pictures,
    values_of,
)
from tests.methods.a3gan.switches import switched_off

RECIPE = dataclasses.replace(TINY, supervised_steps=100)
TERMS = ("picture", "perceptual", "person", "attributes", "patch")


def some_lessons(**changed: Any) -> Lessons:
    torch.manual_seed(0)
    return Lessons(dataclasses.replace(RECIPE, **changed))


def a_pupil(**changed: Any) -> Supervised:
    torch.manual_seed(0)
    return Supervised(lively(), dataclasses.replace(RECIPE, **changed))


# --- What pairs teach


def test_the_recognizer_is_dlibs_as_it_is_used_everywhere() -> None:
    lessons, chips = some_lessons(), pictures(2)
    with torch.no_grad():
        seen = lessons.seen(chips)
    assert [found.shape[-1] for found in seen.maps] == [35] * 3 + [17] * 4 + [8] * 2
    bytes_of = (chips * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    unit = align.chip_from_unit(np.eye(2, 3), 128, PADDING)
    points = align.apply_affine(unit, align.MEAN_FACE_5)
    cuts = [recognizers.cut("dlib", chip, points) for chip in bytes_of]
    expected = torch.from_numpy(recognizers.embed("dlib", cuts))
    torch.testing.assert_close(seen.person, expected, atol=0.02, rtol=0)
    assert float((seen.person[0] - seen.person[1]).norm()) > 0.1
    assert not any(value.requires_grad for value in lessons.net.parameters())


def test_the_reader_reads_what_the_recognizer_sees() -> None:
    """The ten attributes, as the reader itself has them."""
    lessons, chips = some_lessons(), pictures(2)
    reader = load_reader("cpu")
    with torch.no_grad():
        maps = lessons.net.maps(losses.recognizer_view(chips, lessons.embedder.recognizer))
        expected = reader(pooled(maps))
        found = lessons.seen(chips).attributes
    for column, name in enumerate(ATTRIBUTES):
        same = expected[:, CELEBA_ATTRIBUTES.index(name)]
        torch.testing.assert_close(found[:, column], same, atol=1e-3, rtol=1e-3)
    assert not any(value.requires_grad for value in lessons.reader.parameters())


def test_the_patch_critic_learns_to_tell_targets_from_what_is_made(
    small_recognizer: SmallRecognizer,
) -> None:
    lessons = some_lessons(patch_rate=5e-3)
    target, made = pictures(4, 1), (pictures(4, 2) + torch.rand(4, 3, 128, 128) * 0.3)
    made.requires_grad_(True)
    found = [lessons.critic_step(made, target) for _ in range(25)]
    assert found[-1] < 0.7 * found[0] and made.grad is None
    with torch.no_grad():
        real, fake = lessons.critic(target).mean(), lessons.critic(made.clamp(0, 1)).mean()
    assert float(real) > float(fake) + 0.5
    assert lessons.critic.training


def test_the_patch_critic_sees_what_would_be_published(small_recognizer: SmallRecognizer) -> None:
    """Clamped: what lies outside of [0, 1] is no sign of a made picture."""
    made, target = pictures(2, 1) * 3 - 1, pictures(2, 2)
    one, other = some_lessons(), some_lessons()
    assert one.critic_step(made, target) == other.critic_step(made.clamp(0, 1), target)
    assert all(map(torch.equal, one.critic.parameters(), other.critic.parameters()))


def test_the_terms_are_those_against_the_target(small_recognizer: SmallRecognizer) -> None:
    lessons, batch, made = some_lessons(), a_batch(), pictures(4, 9)
    terms = lessons.terms(made, batch)
    assert terms.keys() == lessons.lambdas.keys()
    seen, wanted = lessons.seen(made), lessons.seen(batch.target)
    expected = {
        "picture": losses.picture_loss(made, batch.target, batch.head),
        "perceptual": losses.perceptual_loss(seen.maps, wanted.maps),
        "person": losses.person_loss(seen.person, wanted.person),
        "attributes": losses.answers_loss(seen.attributes, wanted.attributes),
        "patch": -lessons.critic.eval()(made).mean(),
    }
    lessons.critic.train()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, atol=1e-3, rtol=1e-3)
        assert float(value) != 0, name


@pytest.mark.parametrize("name", TERMS)
def test_each_term_moves_the_generator(name: str, small_recognizer: SmallRecognizer) -> None:
    whole, without, again = a_pupil(), a_pupil(**{f"lambda_{name}": 0.0}), a_pupil()
    for pupil in (whole, without, again):
        values = pupil.step(0, a_batch())
        assert values.keys() == {"critic", *TERMS}
    assert torch.equal(gradient(whole.generator), gradient(again.generator))
    assert changes(gradient(whole.generator), gradient(without.generator))


@pytest.mark.parametrize("name", TERMS)
def test_a_step_along_a_term_does_what_the_term_is_for(
    name: str, small_recognizer: SmallRecognizer
) -> None:
    lessons, batch = some_lessons(), a_batch()
    made = pictures(4, 9).requires_grad_(True)
    (slope,) = torch.autograd.grad(lessons.terms(made, batch)[name], made)
    moved = (made - slope * (0.5 / slope.norm())).detach()

    def measured(chips: Tensor) -> float:
        if name == "picture":
            return float((chips - batch.target).abs().mean())
        if name == "patch":
            return -float(lessons.critic(chips).mean())
        seen = [lessons.seen(values) for values in (chips, batch.target)]
        if name == "person":
            return float((seen[0].person - seen[1].person).norm())
        if name == "attributes":
            shares = [torch.sigmoid(one.attributes) for one in seen]
            return float((shares[0] - shares[1]).square().mean())
        both = zip(seen[0].maps, seen[1].maps, strict=True)
        return sum(float((a - b).abs().mean() / b.std()) for a, b in both)

    with torch.no_grad():
        assert measured(moved) < measured(made.detach())


def test_the_patch_term_leaves_the_patch_critic_alone(small_recognizer: SmallRecognizer) -> None:
    lessons = some_lessons()
    made = pictures(4, 9).requires_grad_(True)
    losses.generator_loss(lessons.terms(made, a_batch()), lessons.lambdas).backward()  # type: ignore[no-untyped-call]
    assert made.grad is not None and made.grad.any()
    for value in lessons.critic.parameters():
        assert value.grad is None and value.requires_grad


# --- A step


def test_a_step_moves_generator_average_and_patch_critic(small_recognizer: SmallRecognizer) -> None:
    pupil = a_pupil()
    parts = (pupil.generator, pupil.average, pupil.lessons.critic)
    pupil.generator.eval()
    before = [values_of(part) for part in parts]
    pupil.step(50, a_batch())
    for part, old in zip(parts, before, strict=True):
        still = sum(map(torch.equal, old, part.parameters()))
        assert still <= (1 if part is pupil.lessons.critic else 0)
    assert pupil.generator.training and not pupil.average.training
    assert not any(value.requires_grad for value in pupil.average.parameters())


def test_the_average_moves_a_share_of_the_way(small_recognizer: SmallRecognizer) -> None:
    pupil = a_pupil()
    for step, share in ((0, 0.9), (90, 9 / 100), (100_000, 1 - RECIPE.average)):
        before = values_of(pupil.average)
        pupil.step(step, a_batch())
        for old, average, new in zip(
            before, pupil.average.parameters(), pupil.generator.parameters(), strict=True
        ):
            torch.testing.assert_close(average, torch.lerp(old, new, share))


def test_the_learning_rate_rises_and_falls(small_recognizer: SmallRecognizer) -> None:
    pupil, rates = a_pupil(), []
    for step in (0, 10, 99):
        pupil.step(step, a_batch())
        rates.append(pupil.optimizer.param_groups[0]["lr"])
    factors = [learning_rate_factor(step, 100, GENERATOR_FLOOR) for step in (0, 10, 99)]
    assert rates == pytest.approx([RECIPE.rate * factor for factor in factors])
    assert rates[0] < rates[1] == RECIPE.rate and rates[2] < 0.1 * rates[1]
    assert pupil.lessons.optimizer.param_groups[0]["lr"] == RECIPE.patch_rate


def test_a_step_shows_source_latent_and_mask(
    small_recognizer: SmallRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pupil, batch, seen = a_pupil(), a_batch(), []
    pupil.generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    taught = []
    whole = pupil.lessons.critic_step

    def spy(made: Tensor, target: Tensor) -> float:
        taught.append(target)
        return whole(made, target)

    monkeypatch.setattr(pupil.lessons, "critic_step", spy)
    pupil.step(0, batch)
    (inputs,) = seen
    assert all(map(torch.equal, inputs, (batch.source, batch.latent, batch.mask)))
    assert torch.equal(taught[0], batch.target)


def test_a_checkpoint_holds_all_that_moves(small_recognizer: SmallRecognizer) -> None:
    pupil = a_pupil()
    assert pupil.parts() == {
        "generator": pupil.generator,
        "average": pupil.average,
        "optimizer": pupil.optimizer,
        "patch_critic": pupil.lessons.critic,
        "patch_optimizer": pupil.lessons.optimizer,
    }


def test_convolutions_run_in_the_precision_asked_for(small_recognizer: SmallRecognizer) -> None:
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        pupil, seen = a_pupil(precision=precision), []
        for module in (pupil.generator.encoder[0][0], pupil.lessons.net.layers[0]):
            module.register_forward_hook(lambda _, inputs, output, to=seen: to.append(output.dtype))
        values = pupil.step(0, a_batch())
        assert set(seen) == {dtype} and np.isfinite(list(values.values())).all()


# --- It learns

SIDE = 64
SMALL = Size((12, 16, 24, 32, 32), (4, 4, 8, 8, 8), (32,) * 6, 16, LATENT, True, SIDE)
"""Wide enough to learn disks."""
DISK = 14.0
"""px, the radius."""
STEPS = 300


def disks(count: int, seed: int) -> Batch:
    """A disk in the middle takes the color that the latent says, and is dark where mask bit 3 is
    set; the ground, smooth colors of each picture's own, stays."""
    random = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    disk = (
        ((rows - SIDE / 2) ** 2 + (columns - SIDE / 2) ** 2 < DISK**2)
        .float()
        .expand(count, 1, -1, -1)
    )
    ground = 0.2 + 0.6 * torch.nn.functional.interpolate(
        torch.rand(count, 3, 4, 4, generator=random), (SIDE, SIDE), mode="bilinear"
    )
    old = torch.rand(count, 3, 1, 1, generator=random)
    latent = torch.randn(count, LATENT, generator=random)
    mask = torch.zeros(count, 10)
    mask[:, 3] = (torch.rand(count, generator=random) < 0.5).float()
    new = torch.sigmoid(1.5 * latent[:, :3])[:, :, None, None]
    new = new * (1 - 0.7 * mask[:, 3, None, None, None])
    source, target = (torch.lerp(ground, color, disk) for color in (old, new))
    return Batch(source, target, disk, latent, mask, torch.zeros(count, 10))


def error_of(generator: Generator, batch: Batch, inside: bool) -> float:
    """The mean distance to the target, in the disk or on the ground."""
    with torch.no_grad():
        made = generator(batch.source, batch.latent, batch.mask)
    share = batch.head if inside else 1 - batch.head
    return float(((made - batch.target).abs() * share).sum() / (3 * share.sum()))


def test_it_learns_to_use_source_latent_and_mask(small_recognizer: SmallRecognizer) -> None:
    """And every network has a part in it: without it the error rises."""
    torch.manual_seed(0)
    new = Generator(SMALL)
    recipe = dataclasses.replace(
        RECIPE,
        supervised_steps=STEPS,
        rate=4e-3,
        average=0.95,
        lambda_patch=0.01,
        lambda_person=0.0,
        lambda_attributes=0.0,
    )
    pupil = Supervised(new, recipe)
    before = {inside: error_of(new, disks(32, 999), inside) for inside in (True, False)}
    for step in range(STEPS):
        pupil.step(step, disks(16, step))
    generator, unseen = pupil.average, disks(32, 999)
    after = {inside: error_of(generator, unseen, inside) for inside in (True, False)}
    assert after[True] < 0.3 * before[True] and after[False] < 0.2 * before[False]

    def changed(**given: Tensor) -> dict[bool, float]:
        batch = dataclasses.replace(unseen, **given)
        return {inside: error_of(generator, batch, inside) for inside in (True, False)}

    assert changed(latent=unseen.latent.roll(1, 0))[True] > 1.1 * after[True]
    assert changed(mask=1 - unseen.mask)[True] > 1.5 * after[True]
    assert changed(source=unseen.source.roll(1, 0))[False] > 3 * after[False]
    for name in ("encoder", "scu", "ainet", "adain", "decoder", "last-layer"):
        with switched_off(generator, name):
            off = sum(error_of(generator, unseen, inside) for inside in (True, False))
        assert off > 1.5 * sum(after.values()), name
