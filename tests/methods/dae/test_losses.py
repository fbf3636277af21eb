"""The losses of `deid train dae`: values of known answer, and that no term is without effect."""

from __future__ import annotations

import pytest
import torch

from deidcli.methods.dae import losses


def test_the_losses_of_faces_are_mean_errors() -> None:
    faces = torch.full((2, 3, 64, 64), 0.25)
    off = faces + 0.5
    assert float(losses.reconstruction_loss(off, faces)) == 0.25
    assert float(losses.smoothing_loss(off, faces)) == 0.25
    assert float(losses.deblurring_loss(off, faces)) == 0.5


def test_the_target_loss_is_in_units_of_the_codes_variance() -> None:
    codes = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert float(losses.target_loss(codes, codes + 3, 1.0)) == 9
    assert float(losses.target_loss(codes, codes + 3, 4.5)) == 2


def matcher_outputs() -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Random outputs of a matcher for four faces, and the tensor that they are parts of."""
    values = torch.randn(4, 5 + 10 + 128, generator=torch.Generator().manual_seed(0))
    values.requires_grad_(True)
    logits, landmarks, embeddings = values.split([5, 10, 128], 1)
    return (logits, landmarks, embeddings), values


def test_attributes_without_a_label_do_not_count() -> None:
    (logits, landmarks, embeddings), values = matcher_outputs()
    labels = torch.zeros(4, 5)
    labels[0, 2], labels[1, 3] = 1, -1
    zeros = (torch.zeros(4, 10), torch.zeros(4, 128))
    found = losses.matcher_loss((logits, landmarks, embeddings), labels, *zeros)
    sure = -(logits[0, 2].sigmoid().log() + (1 - logits[1, 3].sigmoid()).log()) / 2
    torch.testing.assert_close(found.attributes, sure)
    (gradient,) = torch.autograd.grad(found.attributes, values)
    assert gradient.nonzero().tolist() == [[0, 2], [1, 3]]
    none = losses.matcher_loss((logits, landmarks, embeddings), labels * 0, *zeros)
    assert none.attributes.item() == 0


@pytest.mark.parametrize("term", losses.MatcherLoss._fields)
def test_each_term_of_the_matcher_changes_the_gradient(term: str) -> None:
    outputs, values = matcher_outputs()
    wanted = (torch.ones(4, 5), torch.ones(4, 10), torch.ones(4, 128) / 128**0.5)
    terms = losses.matcher_loss(outputs, *wanted)
    (whole,) = torch.autograd.grad(terms.total(), values, retain_graph=True)
    without = terms._replace(**{term: torch.zeros(())})
    (rest,) = torch.autograd.grad(without.total(), values)
    columns = dict(zip(terms._fields, ((0, 5), (5, 15), (15, 143)), strict=True))[term]
    changed = (whole != rest).any(0).nonzero().flatten().tolist()
    assert changed == list(range(*columns))
