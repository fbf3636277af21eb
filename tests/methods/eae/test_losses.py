"""The losses, at places where their value is known."""

from __future__ import annotations

import math

import pytest
import torch

from deidcli.methods.eae import losses


def test_attribute_loss_is_cross_entropy_of_labeled_rows() -> None:
    logits = torch.tensor([[[0.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [5.0, 0.0]]])
    targets = torch.tensor([[1.0, 1.0], [0.0, -1.0]])  # the last one is not labeled
    loss = losses.attribute_loss(logits, targets)
    first = (math.log(2) + math.log(1 + math.exp(-3))) / 2
    assert loss.tolist() == pytest.approx([first, math.log(1 + math.exp(-2))])
    assert losses.attribute_loss(logits, torch.full((2, 2), -1.0)).tolist() == [0, 0]


def test_attribute_loss_takes_soft_targets() -> None:
    logits = torch.tensor([[[0.0, 1.0]]])
    absent, present = math.log(1 + math.e), math.log(1 + 1 / math.e)
    loss = losses.attribute_loss(logits, torch.tensor([[0.25]]))
    assert float(loss) == pytest.approx(0.75 * absent + 0.25 * present)


def test_code_loss_reads_the_code_as_log_odds() -> None:
    code = torch.tensor([[2.0, -1.0], [2.0, 3.0]])
    targets = torch.tensor([[1.0, 1.0], [0.0, -1.0]])
    first = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2
    assert losses.code_loss(code, targets).tolist() == pytest.approx(
        [first, math.log(1 + math.exp(1))]
    )


def test_identity_loss_counts_no_negative_cosine() -> None:
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    b = torch.tensor([[3.0, 0.0], [-1.0, 0.0], [1.0, 1.0]])
    assert float(losses.identity_loss(a, b)) == pytest.approx((1 + 0 + math.sqrt(0.5)) / 3)


def test_reconstruction_loss_is_the_mean_squared_error() -> None:
    a, b = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 4.0], [0.0, 1.0]])
    assert float(losses.reconstruction_loss(a, b)) == pytest.approx((4 + 1) / 4)


def test_likeness_loss_is_nil_where_all_point_one_way() -> None:
    assert float(losses.likeness_loss(torch.tensor([[1.0, 0.0], [5.0, 0.0]]))) == pytest.approx(0)
    apart = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert float(losses.likeness_loss(apart)) == pytest.approx(1 - math.sqrt(0.5))


def test_multiple_loss_weighs_its_terms() -> None:
    loss = losses.multiple_loss(
        torch.tensor(1.0), torch.tensor([2.0, 3.0]), torch.tensor(4.0), 10, 7
    )
    assert float(loss) == 1 + 10 * 5 + 7 * 4


def test_arcface_loss_adds_the_margin_to_the_right_angle() -> None:
    centers = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    at = torch.tensor([[math.cos(0.6), math.sin(0.6)]])
    right, other = 64 * math.cos(0.6 + 0.5), 64 * math.sin(0.6)
    expected = math.log(1 + math.exp(other - right))
    loss = losses.arcface_loss(at, centers, torch.tensor([0]))
    assert float(loss) == pytest.approx(expected, rel=1e-3)
