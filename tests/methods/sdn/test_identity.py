"""sdn: whom the key draws, and the directions of attributes and traits."""

from __future__ import annotations

import pytest
import torch

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.methods.sdn.identity import Identity
from deidcli.methods.sdn.method import SecureDualNetwork
from deidcli.methods.sdn.shift import directions, traits


def test_a_direction_crosses_its_boundary() -> None:
    """Codes whose fourth component, of small spread, decides the label."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(3, 0.5, 160)
    codes = torch.randn(600, 160, generator=generator) * spread
    labels = torch.full((600, 40), -1.0)
    labels[:, 20] = (codes[:, 3] > 0).float()
    found = directions(codes, labels)
    assert not found.steps[19].any() and not found.steps[:, 128:].any()
    assert float(found.normals[20] @ found.steps[20]) == pytest.approx(1, rel=1e-4)
    standing = codes @ found.normals[20] + found.offsets[20]
    assert float(((standing > 0) == (labels[:, 20] > 0)).float().mean()) > 0.95
    assert float(standing.std()) == pytest.approx(1, abs=0.05)
    assert int(found.steps[20].abs().argmax()) == 3


def test_traits_are_what_people_differ_by() -> None:
    """Two hundred people who differ in the first eighty components, and differ from themselves in
    the others."""
    generator = torch.Generator().manual_seed(0)
    persons = torch.arange(2000) % 200
    own = torch.randn(200, 300, generator=generator)
    own[:, 80:] = 0
    codes = own[persons] * 3 + torch.randn(2000, 300, generator=generator)
    into, back = traits(codes, persons)
    kept = codes @ into @ back
    assert torch.allclose(kept @ into @ back, kept, atol=1e-3)  # a projection
    assert float(kept[:, :80].norm() / codes[:, :80].norm()) > 0.75
    assert float(kept[:, 80:].norm() / codes[:, 80:].norm()) < 0.35
    nobody, _ = traits(codes, torch.full((2000,), -1))
    assert not nobody.any()


def test_the_latent_has_the_attributes_that_are_asked_for(method: SecureDualNetwork) -> None:
    net, rows = method.identity, torch.arange(200)
    fitting = torch.arange(200)[:, None] + torch.arange(8)
    edges, fit = net.edges[200:400], method.bottleneck.edge_fit
    for name in ("Male", "Smiling"):
        for present in (True, False):
            moved = net.latents(rows, fitting, edges, fit, {name: present}, {})
            beyond = net.standing(moved, name) > 0
            assert float((beyond == present).float().mean()) > 0.95
    given = (rows, fitting, edges, fit)
    plain, shifted = (net.latents(*given, {}, s) for s in ({}, {"Smiling": 1.0}))
    risen = net.standing(shifted, "Smiling") - net.standing(plain, "Smiling")
    assert torch.allclose(risen, torch.ones(200), atol=0.02)


def test_persons_that_are_drawn_fit_and_are_unlike_each_other() -> None:
    """Sex decides who fits; among those, a key that draws otherwise draws another."""
    net = Identity(600)
    column = CELEBA_ATTRIBUTES.index("Male")
    net.probabilities[:300, column] = net.labels[:300, column] = 1
    net.embeddings[torch.arange(600), torch.arange(600) % 100] = 1  # 100 kinds of faces
    logits = torch.full((2, 40), -20.0)
    logits[0, column] = 20
    given = (logits, torch.zeros(2, 10), torch.zeros(2, 48))
    numbers = [torch.full((2,), (n + 0.5) / 128, dtype=torch.float64) for n in range(128)]
    drawn = torch.stack([net.draw(*given, number, {})[0] for number in numbers])  # (128, 2)
    assert bool((drawn[:, 0] < 300).all()) and bool((drawn[:, 1] >= 300).all())
    assert len((drawn[:, 0] % 100).unique()) == len(drawn[:, 0].unique()) == 64
    asked, _ = net.draw(*given, numbers[0], {"Male": False})
    assert bool((asked >= 300).all())
