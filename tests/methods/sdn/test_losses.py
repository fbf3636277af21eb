"""sdn: losses of known answer."""

from __future__ import annotations

import math

import pytest
import torch

from deidcli.methods.sdn import losses


def test_classifier_and_wrong_password_losses_are_cross_entropies() -> None:
    """Eq. 5 and 13; a person with number -1 is not known and does not count."""
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    one = math.log(1 + math.exp(-2))
    known, unknown = torch.tensor([0, -1]), torch.tensor([-1, -1])
    assert float(losses.wrong_password_loss(logits, known)) == pytest.approx(one)
    assert float(losses.wrong_password_loss(logits, unknown)) == 0
    both = losses.extractor_loss(logits, logits, known, torch.tensor([-1, 1]))
    assert float(both) == pytest.approx(one + math.log(2))


def test_attribute_losses_leave_out_what_is_not_asked() -> None:
    """Eq. 7 and 10."""
    logits = torch.tensor([[0.0, 3.0]])
    labels = torch.tensor([[1.0, -1.0]])
    assert float(losses.attribute_loss(logits, labels)) == pytest.approx(math.log(2))
    other = torch.tensor([[1.0, 0.0]])
    second = (math.log(2) + math.log(1 + math.exp(3))) / 2
    both = losses.discriminator_attribute_loss(logits, labels, logits, other)
    assert float(both) == pytest.approx(math.log(2) + second)


def test_distances_of_pictures() -> None:
    """Eq. 6 and 12."""
    zero, half = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)
    assert float(losses.reconstruction_loss(zero, half, zero)) == pytest.approx(0.5)
    assert float(losses.reidentification_loss(zero, half)) == pytest.approx(1.0)
    ramp = torch.arange(4.0).expand(2, 3, 4, 4)
    assert float(losses.gradient_loss(zero, ramp)) == pytest.approx(1.0)


def test_sums_of_the_paper() -> None:
    """Eq. 8, 9, 11, 14, 15."""
    one, two, three = (torch.tensor(float(n)) for n in (1, 2, 3))
    assert float(losses.encoder_loss(one, two)) == 3
    assert float(losses.discriminator_loss(one, two)) == 3
    assert float(losses.decoder_loss(two, three)) == 5
    assert float(losses.total_loss(one, two)) == 30
    sure, even = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert float(losses.discriminator_identity_loss(sure, even)) == pytest.approx(1.0)


def test_information_bounds_are_those_of_gaussians() -> None:
    """Eq. 20 and 21: the KL of N(m, 1) and N(0, 1) is m^2 / 2; log q peaks at the truth."""
    assert float(losses.information_upper_bound(torch.full((2, 3), 2.0))) == pytest.approx(2.0)
    code, width = torch.randn(5, 4), torch.zeros(4)
    at_truth = losses.information_lower_bound(code, code, width)
    assert float(at_truth) == 0
    assert float(losses.information_lower_bound(code, code + 1, width)) == pytest.approx(-0.5)
    narrow = losses.information_lower_bound(code, code, width - 2)
    assert float(narrow) == pytest.approx(1.0)
