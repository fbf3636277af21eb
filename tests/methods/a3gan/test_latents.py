"""Masks, and which latent a face gets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.errors import UsageError
from deidcli.methods import load_method
from deidcli.methods.a3gan import canvas
from deidcli.methods.a3gan.canvas import COMPONENTS, LATENT
from deidcli.methods.a3gan.latents import (
    CANDIDATES,
    Description,
    Pool,
    as_mask,
    attribute_mask,
    describe,
    normal_latents,
    prototype_pushes,
    target_attributes,
    tone_of,
    truncated,
)
from deidcli.methods.a3gan.settings import PRESETS, A3ganSettings
from tests.methods.a3gan.conftest import column


def test_presets_are_the_papers() -> None:
    assert [int(attribute_mask(name).sum()) for name in PRESETS] == [0, 1, 3, 5, 10]
    assert attribute_mask("3")[
        [column("Male"), column("Mustache"), column("Pale_Skin")]
    ].tolist() == [
        1,
        1,
        1,
    ]
    assert torch.equal(attribute_mask("Male, Mustache,Pale_Skin"), attribute_mask("3"))


def test_what_attrs_names_is_kept_and_the_rest_may_change() -> None:
    free = A3ganSettings(attrs="Male,Mouth_Slightly_Open,Smiling").changing()
    assert len(free) == 8 and "Male" not in free and "Mouth_Slightly_Open" not in free
    assert as_mask(free)[column("Male")] == 0 and as_mask(free).sum() == 8
    assert A3ganSettings().changing() == ()
    assert len(A3ganSettings(attrs="Y", change="3").changing()) == 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"attrs": "G", "change": "1"}, "Male: to be kept"),
        ({"change": "7"}, "neither a preset"),
        ({"change": "Male,Big_Nose"}, "Big_Nose"),
        ({"attrs": "Big_Nose"}, "cannot keep Big_Nose"),
    ],
)
def test_conflicts_and_unknown_names_are_errors(given: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_method("a3gan", given, "cpu")


def described(count: int) -> Description:
    return Description(
        torch.zeros(count, 12),
        torch.zeros(count, 10),
        torch.zeros(count, 11),
        torch.zeros(count, 128),
        torch.zeros(count, 180),
    )


def test_the_latent_drawn_keeps_what_is_kept_and_inverts_what_may_change() -> None:
    count = 4 * CANDIDATES
    pool = Pool(torch.zeros(count, LATENT), described(count))
    pool.described.attributes[::2, column("Male")] = 1
    pool.described.attributes[: count // 2, column("Bangs")] = 1
    face = described(1)
    face.attributes[0, column("Male")] = 1
    seeds = np.arange(40, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)

    def drawn(change: str) -> torch.Tensor:
        mask = attribute_mask(change)[None]
        rows = [pool.draw(face, mask, seeds[i : i + 1]) for i in range(len(seeds))]
        return pool.described.attributes[torch.cat(rows)]

    kept, inverted = drawn("0"), drawn("Male,Bangs")
    assert (kept[:, column("Male")] == 1).all() and (kept[:, column("Bangs")] == 0).all()
    assert (inverted[:, column("Male")] == 0).all() and (inverted[:, column("Bangs")] == 1).all()


def test_the_latent_drawn_is_of_one_less_alike() -> None:
    pool = Pool(torch.zeros(CANDIDATES, LATENT), described(CANDIDATES))
    angle = torch.linspace(0, 3, CANDIDATES)
    pool.described.embedding[:, :2] = torch.stack([angle.cos(), angle.sin()], 1)
    face = described(1)
    face.embedding[0, 0] = 1
    seeds = np.arange(60, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    rows = torch.cat([pool.draw(face, torch.zeros(1, 10), seeds[i : i + 1]) for i in range(60)])
    assert int(rows.min()) >= CANDIDATES // 2 and len(set(rows.tolist())) > 5


def test_prototypes_add_what_is_missing_but_no_mustache_on_women() -> None:
    have = torch.zeros(2, 12)
    goal = target_attributes(have, attribute_mask("Mustache,Pale_Skin").expand(2, -1))
    goal[0, column("Male")] = 1
    pushes = prototype_pushes(goal, have)
    assert pushes[0, column("Mustache")] > 1 and pushes[1, column("Mustache")] == 0
    assert (pushes[:, column("Pale_Skin")] > 1).all() and (pushes[:, column("Young")] == 0).all()
    assert (prototype_pushes(have, have) == 0).all()
    both = prototype_pushes(
        target_attributes(have, attribute_mask("Blond_Hair,Brown_Hair").expand(2, -1)), have
    )
    assert both[0, column("Blond_Hair")] > 1 and both[0, column("Brown_Hair")] == 0


def test_the_seed_pushes_no_beard_on_women_and_no_lipstick_on_men() -> None:
    pool = Pool(torch.zeros(2, LATENT), described(2))
    faces = described(2)
    faces.attributes[0, column("Male")] = 1
    pool.described.attributes[:] = faces.attributes
    rows = torch.tensor([0, 1])
    made = pool.latents(faces, torch.zeros(2, 10), rows, torch.ones(2, LATENT))
    man, woman = made[:, COMPONENTS:]

    def place(name: str) -> int:
        return CELEBA_ATTRIBUTES.index(name)

    for name in ("Goatee", "No_Beard", "Sideburns"):
        assert man[place(name)] > 0 and woman[place(name)] == 0
    assert man[place("Wearing_Lipstick")] == 0 and woman[place("Wearing_Lipstick")] > 0
    assert man[place("Big_Nose")] == woman[place("Big_Nose")] > 0
    assert man[place("Smiling")] == 0  # no trait of character


def test_the_tone_is_the_light_of_nine_parts_then_blue_and_red() -> None:
    chips = torch.zeros(2, 3, 64, 64)
    chips[0, 2], chips[1, 0] = 0.5, 0.5
    chips[:, :, :23] *= 0.5  # the upper third of the face
    blue, red = tone_of(chips)
    assert torch.allclose(blue[:9], blue[3] * torch.tensor([0.5] * 3 + [1.0] * 6))
    assert float(blue[3]) == pytest.approx(0.114 * 0.5) and float(red[3]) == pytest.approx(0.1495)
    mean = 0.5 * (0.5 + 2) / 3
    assert blue[9:].tolist() == pytest.approx([0.5 * mean, -0.114 / 1.402 * mean], abs=1e-4)
    assert red[9:].tolist() == pytest.approx([-0.299 / 1.772 * mean, 0.5 * mean], abs=1e-4)


def test_a_normal_latent_is_of_its_own_seed() -> None:
    seeds = np.array([3, 5, 2**63], np.uint64)
    together = normal_latents(seeds)
    assert torch.equal(together[1:2], normal_latents(seeds[1:2]))
    many = normal_latents(np.arange(300, dtype=np.uint64))
    assert abs(float(many.mean())) < 0.02 and abs(float(many.std()) - 1) < 0.02


def test_truncated_latents_push_prototypes_little() -> None:
    noise = torch.randn(4000, LATENT)
    made = truncated(noise)
    spread = made.std(0)
    assert 0.6 < float(spread[:COMPONENTS].mean()) < 0.8
    assert float(spread[COMPONENTS : COMPONENTS + 40].max()) < 0.25
    features = slice(-2 * canvas.WARP**2, None)
    assert torch.equal(made[:, features], noise[:, features])


class Stub:
    """An attribute head that always says the same."""

    def attribute_head(self, chips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.arange(10.0)[None], torch.arange(10.0, 150.0)[None]


def test_a_description_has_the_outputs_of_the_head_in_their_order() -> None:
    found = describe(Stub(), torch.full((1, 3, 128, 128), 0.5))  # type: ignore[arg-type]
    assert torch.equal(found.attributes, torch.arange(12.0)[None].sigmoid())
    assert torch.equal(found.shape, torch.arange(12.0, 22.0)[None])
    expected = torch.arange(22.0, 150.0)
    torch.testing.assert_close(found.embedding[0], expected / expected.norm())
