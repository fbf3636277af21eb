"""The losses of a3gan, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deidcli.faces import align
from deidcli.faces.recognizers import RECOGNIZERS
from deidcli.methods.a3gan import losses
from deidcli.methods.a3gan.geometry import PADDING
from deidcli.methods.a3gan.losses import recognizer_view


def test_attribute_loss_is_equation_9() -> None:
    logits = torch.tensor([[0.0, 2.0], [-1.0, 5.0]])
    present = torch.tensor([[1.0, 1.0], [0.0, -1.0]])  # the last one is not labeled
    first = math.log(2) + math.log(1 + math.exp(-2))
    expected = (first + math.log(1 + math.exp(-1))) / 2
    assert float(losses.attribute_loss(logits, present)) == pytest.approx(expected)


def test_a_m_is_xnor() -> None:
    source = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    mask = torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    assert losses.xnor(source, mask).tolist() == [[1, 0, 0, 1]]


def test_the_anonymization_loss_is_the_reciprocal_of_the_cross_entropy() -> None:
    logits, avoided = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    loss = losses.anonymization_loss(logits, avoided, epsilon=0.5)
    assert float(loss) == pytest.approx(1 / (2 * math.log(2) + 0.5))
    far = losses.anonymization_loss(torch.tensor([[-4.0, 4.0]]), avoided)
    near = losses.anonymization_loss(torch.tensor([[4.0, -4.0]]), avoided)
    assert float(far) < float(loss) < float(near) < 1 / losses.EPSILON


def test_the_identity_loss_counts_no_negative_cosine() -> None:
    a = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    b = torch.tensor([[3.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    assert float(losses.identity_loss(a, b)) == pytest.approx((1 + 0 + math.sqrt(0.5) + 0) / 4)


def test_the_identity_loss_starts_from_the_originals_mean() -> None:
    """Embeddings that all point one way are not alike for that."""
    a = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    b = torch.tensor([[3.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    far = torch.tensor([100.0, 70.0])
    moved = losses.identity_loss(a + far, b + far)
    assert float(moved) == pytest.approx(float(losses.identity_loss(a, b)), abs=1e-4)


def test_critic_and_generator_pull_opposite_ways() -> None:
    real, fake, penalty = torch.tensor([3.0, 1.0]), torch.tensor([0.5]), torch.tensor(0.25)
    assert float(losses.critic_loss(real, fake, penalty)) == pytest.approx(0.5 - 2 + 2.5)
    assert float(losses.adversarial_loss(fake)) == -0.5


def test_the_gradient_penalty_of_a_linear_critic() -> None:
    weight = torch.zeros(3, 4, 4)
    weight[0, 0, 0], weight[1, 0, 0] = 3.0, 4.0  # length 5
    real, fake = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    penalty = losses.gradient_penalty(
        lambda x: (x * weight).sum((1, 2, 3)), real, fake, torch.tensor([0.2, 0.9])
    )
    assert float(penalty) == pytest.approx(16)


def test_the_penalty_is_taken_between_the_two() -> None:
    real, fake = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    penalty = losses.gradient_penalty(  # the slope of x^2 / 2 is x: 1 - share
        lambda x: (x**2).sum((1, 2, 3)) / 2, real, fake, torch.tensor([0.25])
    )
    assert float(penalty.detach()) == pytest.approx((0.75 - 1) ** 2)


def test_the_penalty_reaches_the_critic() -> None:
    slope = torch.tensor(3.0, requires_grad=True)
    real, fake = torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1, requires_grad=True)
    penalty = losses.gradient_penalty(
        lambda x: (slope * x).sum((1, 2, 3)), real, fake, torch.tensor([0.25, 0.5])
    )
    found = torch.autograd.grad(penalty, [slope, fake], allow_unused=True)
    assert float(found[0]) == 2 * (3 - 1)
    assert found[1] is None, "the generator is not taught by it"


# --- Ours


def test_the_picture_loss_counts_the_head_three_times_and_edges() -> None:
    target, made = torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 4, 4), 0.5)
    made[0, :, 3, 3] -= 1
    nowhere, there = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    there[..., 3, 3] = 1
    expected = 1 / 16 + 1 / 12 + 1 / 12
    assert float(losses.picture_loss(made, target, nowhere)) == pytest.approx(expected)
    assert float(losses.picture_loss(made, target, there)) == pytest.approx(3 * expected)
    assert float(losses.picture_loss(target, target, there)) == 0


def test_the_picture_loss_sees_edges_both_ways() -> None:
    target = torch.zeros(1, 3, 4, 4)
    across, down = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    across[..., ::2], down[..., ::2, :] = 1, 1
    for made in (across, down):
        assert float(losses.picture_loss(made, target, torch.zeros(1, 1, 4, 4))) == 1.5


def test_the_perceptual_loss_is_in_units_of_the_targets_deviation() -> None:
    one = torch.tensor([-2.0, 2.0]).view(1, 1, 1, 2)
    two = torch.tensor([10.0, 30.0]).view(1, 2, 1, 1)
    found = losses.perceptual_loss([one + 1, two - 7], [one, two])
    expected = (1 / (math.sqrt(8) + 1e-3) + 7 / (math.sqrt(200) + 1e-3)) / 2
    assert float(found) == pytest.approx(expected)


def test_the_person_loss_is_a_squared_distance() -> None:
    made, target = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 5.0], [2.0, 1.0]])
    assert float(losses.person_loss(made, target)) == (9 + 5) / 2


def test_the_patch_critics_loss_is_a_hinge() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, -0.25, 1.0])
    found = losses.patch_critic_loss(real, fake)
    assert float(found) == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 0.75 + 2) / 3)


def test_equation_13_weighs_its_terms() -> None:
    terms = {"adv": torch.tensor(2.0), "deid": torch.tensor(3.0)}
    assert float(losses.generator_loss(terms, {"adv": 0.5, "deid": 10.0})) == 31
    with pytest.raises(KeyError):
        losses.generator_loss(terms, {"adv": 0.5})


@pytest.mark.parametrize("name", ["dlib", "mobilefacenet"])
def test_the_recognizer_sees_what_it_would_cut(name: str) -> None:
    from deidcli.faces.recognizers import cut

    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16), (128, 128), mode="bilinear")
    chip = (picture[0].permute(1, 2, 0) * 255).round().byte().numpy()
    unit = align.chip_from_unit(np.eye(2, 3), 128, PADDING)
    points = align.apply_affine(unit, align.MEAN_FACE_5)
    expected = cut(name, chip, points).astype(np.float32) / 255
    seen = recognizer_view(picture, RECOGNIZERS[name])[0].permute(1, 2, 0).numpy()
    assert float(np.abs(seen - expected).mean()) < 0.01


def test_the_answers_loss_is_least_where_the_answers_agree() -> None:
    target = torch.tensor([[2.0, -1.0, 0.0]])
    share = torch.sigmoid(target)
    entropy = -(share * share.log() + (1 - share) * (1 - share).log()).mean()
    torch.testing.assert_close(losses.answers_loss(target, target), entropy)
    turned = losses.answers_loss(-target, target)
    other = -(share * (1 - share).log() + (1 - share) * share.log()).mean()
    torch.testing.assert_close(turned, other)
    assert float(turned) > float(entropy)
