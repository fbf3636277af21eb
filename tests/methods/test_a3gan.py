"""a3gan: networks, losses of known answer, masks, latents, the recipe, the shipped weights."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from deidcli.errors import DeidError, UsageError
from deidcli.faces import align
from deidcli.faces.recognizers import RECOGNIZERS
from deidcli.methods import load_method
from deidcli.methods.a3gan import canvas
from deidcli.methods.a3gan import losses as a3gan_losses
from deidcli.methods.a3gan import method as a3gan
from deidcli.methods.a3gan import networks as nets
from deidcli.methods.a3gan import train as a3gan_training
from deidcli.methods.a3gan.attribute_head import turned_shape
from deidcli.methods.a3gan.canvas import COMPONENTS, LATENT
from deidcli.methods.a3gan.latents import (
    CANDIDATES,
    Description,
    Pool,
    normal_latents,
    pushes_of,
    rim_of,
    tempered,
    wanted,
)
from deidcli.methods.a3gan.method import VARIANTS, mask_of, recognizer_view
from deidcli.methods.a3gan.networks import SIZES, Variant
from deidcli.methods.a3gan.portraits import Album
from deidcli.methods.a3gan.settings import ALSO, ATTRIBUTES, CHANGE
from deidcli.methods.a3gan.teacher import drawn_masks, latents_of, prototypes_of
from deidcli.methods.base import Context
from deidcli.methods.blend import PADDING
from deidcli.weights import own
from tests.conftest import PEOPLE
from tests.datasets import celeba

TINY = a3gan_training.Settings(
    size="tiny",
    reader_epochs=1,
    reader_batch=8,
    batch_size=8,
    teacher_steps=2,
    steps=2,
    watched=2,
    recognizer="dlib",  # always installed
    checkpoint_steps=2,
    threads=1,
)


def parameters(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def column(name: str) -> int:
    return (*ATTRIBUTES, *ALSO).index(name)


# --- Networks


def test_the_papers_generator_is_table_2() -> None:
    generator = nets.Generator(SIZES["paper"])
    convolutions = [m for m in generator.encoder.modules() if isinstance(m, nn.Conv2d)]
    shapes = [(m.in_channels, m.out_channels, m.kernel_size, m.stride) for m in convolutions]
    assert shapes == [
        (a, b, (4, 4), (2, 2)) for a, b in ((3, 64), (64, 128), (128, 256), (256, 512), (512, 1024))
    ]
    back = [
        m
        for part in (generator.decoder, generator.last)
        for m in part.modules()
        if isinstance(m, nn.ConvTranspose2d)
    ]
    assert [(m.in_channels, m.out_channels, m.kernel_size, m.stride) for m in back] == [
        (a, b, (4, 4), (2, 2))
        for a, b in ((1024, 1024), (1536, 512), (768, 256), (384, 128), (192, 3))
    ]
    connected = [m for m in generator.ainet.layers if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in connected] == [
        (512 + 10, 512),
        (512, 512),
        (512, 512),
        (512, 1024),
        (1024, 1024),
        (1024, 1024),
    ]
    assert generator.ainet.affine.out_features == 2 * 1024


def test_the_papers_discriminator_is_table_3() -> None:
    with torch.device("meta"):
        discriminator = nets.Discriminator(SIZES["paper"])
    first, second = discriminator.critic[0], discriminator.reading[0]
    assert (first.in_features, first.out_features) == (16384, 1024)  # type: ignore[union-attr]
    assert (second.in_features, second.out_features) == (16384, 1024)  # type: ignore[union-attr]
    assert discriminator.attributes.out_features == 10
    kinds = [type(m).__name__ for m in discriminator.layers]
    assert kinds == ["Conv2d", "InstanceNorm2d", "LeakyReLU"] * 5


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_gives_faces(name: str) -> None:
    chips, latent, mask = torch.rand(2, 3, 128, 128), torch.randn(2, LATENT), torch.zeros(2, 10)
    generator = nets.Generator(SIZES["tiny"], VARIANTS[name])
    made = generator(chips, latent, mask)
    assert made.shape == chips.shape and float(made.detach().min()) >= 0
    bare = dataclasses.replace(SIZES["tiny"], canvas=False)
    assert nets.Generator(bare, VARIANTS[name])(chips, latent, mask).shape == chips.shape


def test_the_scu_has_57_8_percent_of_the_stus_parameters() -> None:
    widths = SIZES["paper"].widths
    with torch.device("meta"):
        scu, stu = (
            sum(parameters(unit(widths[i], widths[i + 1])) for i in range(4))
            for unit in (nets.SuppressiveUnit, nets.TransferUnit)
        )
    assert round(100 * scu / stu, 1) == 57.8


def test_the_scu_gates_the_encoder_feature() -> None:
    unit = nets.SuppressiveUnit(3, 5)
    encoded, deeper = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)
    out = unit(encoded, deeper, torch.zeros(2, 10))
    share = out / encoded
    assert float(share.detach().min()) > 0 and float(share.detach().max()) < 1
    with torch.no_grad():
        unit.gate.weight.zero_()
        unit.gate.bias.fill_(-50.0)
    assert float(unit(encoded, deeper, torch.zeros(2, 10)).detach().abs().max()) < 1e-6, "shut"


def test_the_stu_hears_the_mask_and_without_scu_features_pass_as_they_are() -> None:
    encoded, deeper = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)
    kept, free = torch.zeros(2, 10), torch.ones(2, 10)
    unit = nets.TransferUnit(3, 5)
    assert not torch.allclose(unit(encoded, deeper, kept), unit(encoded, deeper, free))
    plain = nets.Generator(SIZES["tiny"], Variant(skip="none")).units[0]
    assert torch.equal(plain(encoded, deeper, kept), encoded)


def test_adain_gives_each_channel_its_scale_and_bias() -> None:
    feature = torch.randn(2, 3, 4, 4) * 7 + 2
    scale, bias = torch.rand(2, 3, 1, 1) + 0.5, torch.randn(2, 3, 1, 1)
    out = nets.adain(feature, scale, bias)
    torch.testing.assert_close(out.mean((2, 3)), bias[..., 0, 0], atol=1e-4, rtol=1e-3)
    deviation = out.std((2, 3), correction=0)
    torch.testing.assert_close(deviation, scale[..., 0, 0], atol=1e-3, rtol=1e-3)


def test_without_its_mask_ainet_does_not_hear_it() -> None:
    latent, free = torch.randn(2, LATENT), torch.ones(2, 10)
    for masked in (True, False):
        ainet = nets.AttributeInjection(SIZES["tiny"], Variant(masked=masked))
        same = torch.equal(ainet(latent, free)[1], ainet(latent, 0 * free)[1])
        assert same != masked


def test_a_new_generator_shows_its_canvas() -> None:
    generator = nets.Generator(SIZES["tiny"]).eval()
    assert generator.canvas is not None
    chips = torch.full((1, 3, 128, 128), 0.6)
    halves = torch.zeros_like(chips)
    halves[..., 32:64, 34:94], halves[..., 64:96, 34:94] = 0.1, -0.1
    generator.canvas.mean[:] = canvas.pack(chips)[0]
    generator.canvas.components[3] = canvas.pack(halves)[0]
    latent = torch.zeros(1, LATENT)
    torch.testing.assert_close(
        generator(chips, latent, torch.zeros(1, 10)), chips, atol=1e-3, rtol=0
    )
    latent[0, 3] = 2
    made = generator(chips, latent, torch.zeros(1, 10))
    for rows in (slice(40, 60), slice(68, 88)):  # sharpening shows where the halves meet
        inside = (slice(None), slice(None), rows, slice(44, 84))
        wrong = made[inside] - (chips + 2 * halves)[inside]
        assert float(wrong.detach().std()) < 0.02 and float(wrong.detach().abs().max()) < 0.08


def test_a_new_generator_shows_the_portrait_it_is_given() -> None:
    generator = nets.Generator(SIZES["tiny"]).eval()
    assert generator.canvas is not None
    generator.canvas.components[3] = 0.01
    portrait, codes = torch.rand(1, 3, 128, 128) * 0.8 + 0.1, torch.randn(1, LATENT)
    codes[:, -2 * canvas.WARP**2 :] = 0
    faces = generator.canvas.around(portrait, codes, codes)
    torch.testing.assert_close(faces, portrait, atol=1e-3, rtol=0)
    made = generator(portrait, codes, torch.zeros(1, 10), faces)
    torch.testing.assert_close(made, portrait, atol=1e-3, rtol=0)
    further = codes.clone()
    further[0, 3] += 4
    pushed = generator.canvas.around(portrait, further, codes)
    added = canvas.unpack(torch.full((1, generator.canvas.mean.numel()), 0.04), 128)
    torch.testing.assert_close(pushed, (portrait + added).clamp(0, 1), atol=1e-3, rtol=0)


def test_an_album_gives_its_portraits_and_their_mirror_images() -> None:
    small = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3)).astype(np.uint8)
    chips = small.repeat(16, 1).repeat(16, 2)
    album = Album.of(chips)
    assert len(album) == 3
    faces = album.faces(torch.tensor([2, 0, 5]))
    given = torch.from_numpy(chips[[2, 0]]).permute(0, 3, 1, 2).float() / 255
    assert float((faces[:2] - given).abs().mean()) < 0.06
    torch.testing.assert_close(faces[2], faces[0].flip(2))
    album.files[:] = 0
    with pytest.raises(DeidError, match="portrait 1 "):
        album.faces(torch.tensor([1]))


def test_a_portrait_fits_where_its_surroundings_go_on() -> None:
    dark, light = torch.full((1, 3, 128, 128), 0.5), torch.full((1, 3, 128, 128), 0.5)
    dark[..., :20], light[..., :20] = 0.1, 0.9
    assert rim_of(dark).shape == (1, 180)
    torch.testing.assert_close(rim_of(dark * 0.6), rim_of(dark), atol=0.05, rtol=0)
    far = (rim_of(dark) - rim_of(light)).norm()
    assert float(far) > 5 * float((rim_of(dark) - rim_of(dark * 0.8)).norm())


def test_sharpening_adds_what_a_blur_takes_away() -> None:
    flat = torch.full((1, 3, 128, 128), 0.4)
    torch.testing.assert_close(canvas.sharpened(flat), flat, atol=1e-5, rtol=0)
    edge = flat.clone()
    edge[..., 64:] = 0.6
    made = canvas.sharpened(edge)
    assert float(made[0, 0, 64, 63]) < 0.38 and float(made[0, 0, 64, 64]) > 0.62
    torch.testing.assert_close(made.mean(), edge.mean(), atol=1e-3, rtol=0)


def test_a_latent_moves_features_only_by_its_last_numbers() -> None:
    picture = torch.rand(1, 3, 128, 128)
    latent = torch.randn(1, LATENT)
    latent[:, -2 * canvas.WARP**2 :] = 0
    torch.testing.assert_close(canvas.warped(picture, latent), picture, atol=1e-3, rtol=0)
    latent[:, -2 * canvas.WARP**2 : -(canvas.WARP**2)] = 1 / 64 / canvas.AMPLITUDE  # a pixel aside
    moved = canvas.warped(picture, latent)
    torch.testing.assert_close(moved[..., :-1], picture[..., 1:], atol=1e-3, rtol=0)


def test_faces_come_into_the_light_of_the_picture() -> None:
    from deidcli.methods.blend import rim_to_face

    chips, faces = torch.full((1, 3, 128, 128), 0.3), torch.full((1, 3, 128, 128), 0.6)
    made = canvas.laid(chips, faces, rim_to_face())
    assert 0.3 < float(made[0, 0, 64, 64]) < 0.6
    torch.testing.assert_close(made[..., 0, :], chips[..., 0, :], atol=0.03, rtol=0)
    same = canvas.laid(faces, faces, rim_to_face())
    torch.testing.assert_close(same, faces, atol=1e-3, rtol=0)


def test_packing_keeps_light_and_slow_color() -> None:
    chips = torch.rand(2, 3, 128, 128)
    flat = chips.mean((2, 3), keepdim=True).expand_as(chips)
    torch.testing.assert_close(canvas.unpack(canvas.pack(flat), 128), flat, atol=1e-5, rtol=0)
    again = canvas.pack(canvas.unpack(canvas.pack(chips), 128))
    torch.testing.assert_close(again[:, : 128**2], canvas.pack(chips)[:, : 128**2])


# --- Losses of known answer


def test_attribute_loss_is_equation_9() -> None:
    logits = torch.tensor([[0.0, 2.0], [-1.0, 5.0]])
    present = torch.tensor([[1.0, 1.0], [0.0, -1.0]])  # the last one is not labeled
    first = math.log(2) + math.log(1 + math.exp(-2))
    expected = (first + math.log(1 + math.exp(-1))) / 2
    assert float(a3gan_losses.attribute_loss(logits, present)) == pytest.approx(expected)


def test_a_m_is_xnor() -> None:
    source = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    mask = torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    assert a3gan_losses.xnor(source, mask).tolist() == [[1, 0, 0, 1]]


def test_the_anonymization_loss_is_the_reciprocal_of_the_cross_entropy() -> None:
    logits, avoided = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    loss = a3gan_losses.anonymization_loss(logits, avoided, epsilon=0.5)
    assert float(loss) == pytest.approx(1 / (2 * math.log(2) + 0.5))
    far = a3gan_losses.anonymization_loss(torch.tensor([[-4.0, 4.0]]), avoided)
    near = a3gan_losses.anonymization_loss(torch.tensor([[4.0, -4.0]]), avoided)
    assert float(far) < float(loss) < float(near) < 1 / a3gan_losses.EPSILON


def test_identity_and_diversity_count_no_negative_cosine() -> None:
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    b = torch.tensor([[3.0, 0.0], [-1.0, 0.0], [1.0, 1.0]])
    assert float(a3gan_losses.identity_loss(a, b)) == pytest.approx((1 + 0 + math.sqrt(0.5)) / 3)
    assert float(a3gan_losses.diversity_loss(b)) == pytest.approx(math.sqrt(0.5) / 3)


def test_critic_and_generator_pull_opposite_ways() -> None:
    real, fake, penalty = torch.tensor([3.0, 1.0]), torch.tensor([0.5]), torch.tensor(0.25)
    assert float(a3gan_losses.critic_loss(real, fake, penalty)) == pytest.approx(0.5 - 2 + 2.5)
    assert float(a3gan_losses.adversarial_loss(fake)) == -0.5


def test_the_gradient_penalty_of_a_linear_critic() -> None:
    weight = torch.zeros(3, 4, 4)
    weight[0, 0, 0], weight[1, 0, 0] = 3.0, 4.0  # length 5
    real, fake = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    penalty = a3gan_losses.gradient_penalty(
        lambda x: (x * weight).sum((1, 2, 3)), real, fake, torch.tensor([0.2, 0.9])
    )
    assert float(penalty) == pytest.approx(16)


def test_the_penalty_is_taken_between_the_two() -> None:
    real, fake = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    penalty = a3gan_losses.gradient_penalty(  # the slope of x^2 / 2 is x: 1 - share
        lambda x: (x**2).sum((1, 2, 3)) / 2, real, fake, torch.tensor([0.25])
    )
    assert float(penalty.detach()) == pytest.approx((0.75 - 1) ** 2)


def test_the_teacher_looks_where_the_mask_lies() -> None:
    made, other, mask = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), torch.zeros(4, 4)
    other[..., 3, 3] = 1
    assert float(a3gan_losses.teacher_loss(made, other, mask)) == 0
    assert float(a3gan_losses.teacher_loss(made, other, mask + 1)) == pytest.approx(
        1 / 16 + 1 / 12 + 1 / 12
    )


def test_equation_13_weighs_its_terms() -> None:
    terms = {"adv": torch.tensor(2.0), "deid": torch.tensor(3.0)}
    assert float(a3gan_losses.generator_loss(terms, {"adv": 0.5, "deid": 10.0})) == 31


# --- The mask


def test_presets_are_the_papers() -> None:
    assert [int(mask_of(name).sum()) for name in CHANGE] == [0, 1, 3, 5, 10]
    assert mask_of("3")[[column("Male"), column("Mustache"), column("Pale_Skin")]].tolist() == [
        1,
        1,
        1,
    ]
    assert torch.equal(mask_of("Male, Mustache,Pale_Skin"), mask_of("3"))


def test_what_attrs_names_is_kept_and_the_rest_may_change() -> None:
    free = a3gan.Settings(attrs="Male,Mouth_Slightly_Open,Smiling").changing()
    assert len(free) == 8 and "Male" not in free and "Mouth_Slightly_Open" not in free
    assert a3gan.as_mask(free)[column("Male")] == 0 and a3gan.as_mask(free).sum() == 8
    assert a3gan.Settings().changing() == ()
    assert len(a3gan.Settings(attrs="Y", change="3").changing()) == 3


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


# --- Latents


def described(count: int) -> Description:
    return Description(
        torch.zeros(count, 12),
        torch.zeros(count, 10),
        torch.zeros(count, 11),
        torch.zeros(count, 128),
        torch.zeros(count, 180),
    )


def test_the_latent_drawn_keeps_what_is_kept_and_turns_what_may_change() -> None:
    count = 4 * CANDIDATES
    pool = Pool(torch.zeros(count, LATENT), described(count))
    pool.described.attributes[::2, column("Male")] = 1
    pool.described.attributes[: count // 2, column("Bangs")] = 1
    face = described(1)
    face.attributes[0, column("Male")] = 1
    seeds = np.arange(40, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)

    def drawn(change: str) -> torch.Tensor:
        mask = mask_of(change)[None]
        rows = [pool.draw(face, mask, seeds[i : i + 1]) for i in range(len(seeds))]
        return pool.described.attributes[torch.cat(rows)]

    kept, turned = drawn("0"), drawn("Male,Bangs")
    assert (kept[:, column("Male")] == 1).all() and (kept[:, column("Bangs")] == 0).all()
    assert (turned[:, column("Male")] == 0).all() and (turned[:, column("Bangs")] == 1).all()


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
    goal = wanted(have, mask_of("Mustache,Pale_Skin").expand(2, -1))
    goal[0, column("Male")] = 1
    pushes = pushes_of(goal, have)
    assert pushes[0, column("Mustache")] > 1 and pushes[1, column("Mustache")] == 0
    assert (pushes[:, column("Pale_Skin")] > 1).all() and (pushes[:, column("Young")] == 0).all()
    assert (pushes_of(have, have) == 0).all()
    both = pushes_of(wanted(have, mask_of("Blond_Hair,Brown_Hair").expand(2, -1)), have)
    assert both[0, column("Blond_Hair")] > 1 and both[0, column("Brown_Hair")] == 0


def test_latents_have_unit_variance_and_draw_their_faces() -> None:
    values = torch.randn(40, 60) @ torch.diag(torch.linspace(3, 0.1, 60))
    mean, components, codes = latents_of(values, 0)
    torch.testing.assert_close(mean + codes @ components, values, atol=1e-3, rtol=1e-3)
    used = codes[:, :30]
    torch.testing.assert_close(used.T @ used / len(used), torch.eye(30), atol=1e-3, rtol=0)
    assert float(codes[:, COMPONENTS:].abs().max()) == 0


def test_prototypes_are_what_an_attribute_adds() -> None:
    attributes = (torch.rand(4000, 12) < 0.5).float()
    effect = torch.randn(12, 5)
    found = prototypes_of(attributes @ effect + 7, attributes)
    torch.testing.assert_close(found, effect, atol=0.05, rtol=0)


def test_a_normal_latent_is_of_its_own_seed() -> None:
    seeds = np.array([3, 5, 2**63], np.uint64)
    together = normal_latents(seeds)
    assert torch.equal(together[1:2], normal_latents(seeds[1:2]))
    many = normal_latents(np.arange(300, dtype=np.uint64))
    assert abs(float(many.mean())) < 0.02 and abs(float(many.std()) - 1) < 0.02


def test_tempered_latents_push_prototypes_little() -> None:
    noise = torch.randn(4000, LATENT)
    made = tempered(noise)
    spread = made.std(0)
    assert 0.6 < float(spread[:COMPONENTS].mean()) < 0.8
    assert float(spread[COMPONENTS : COMPONENTS + 40].max()) < 0.25
    features = slice(-2 * canvas.WARP**2, None)
    assert torch.equal(made[:, features], noise[:, features])


def test_masks_for_training_hold_the_presets_and_nothing() -> None:
    masks = drawn_masks(3000, torch.Generator().manual_seed(0))
    nothing = float((masks.sum(1) == 0).float().mean())
    assert 1 / 3 + 1 / 15 < nothing < 0.5
    assert float((masks == mask_of("5")).all(1).float().mean()) > 0.04


def test_a_mirrored_face_has_mirrored_landmarks() -> None:
    points = torch.from_numpy(align.MEAN_FACE_5).float() + torch.rand(5, 2) * 0.1
    mirrored = points.clone()
    mirrored[:, 0] = 1 - mirrored[:, 0]
    mirrored = mirrored[[2, 3, 0, 1, 4]]
    mean = torch.from_numpy(align.MEAN_FACE_5).float()
    found = turned_shape((points - mean).view(1, 10), torch.tensor([True]))
    # The mean face itself is mirror-symmetric to 0.02.
    torch.testing.assert_close(found.view(5, 2), mirrored - mean, atol=0.025, rtol=0)


def test_the_recognizer_sees_what_it_would_cut() -> None:
    from deidcli.faces.recognizers import cut

    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16), (128, 128), mode="bilinear")
    chip = (picture[0].permute(1, 2, 0) * 255).round().byte().numpy()
    unit = align.chip_from_unit(np.eye(2, 3), 128, PADDING)
    points = align.apply_affine(unit, align.MEAN_FACE_5)
    expected = cut("mobilefacenet", chip, points).astype(np.float32) / 255
    seen = recognizer_view(picture, RECOGNIZERS["mobilefacenet"])[0].permute(1, 2, 0).numpy()
    assert float(np.abs(seen - expected).mean()) < 0.01


# --- The recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of tiny networks, trained on portraits of people who do not exist."""
    folder = tmp_path_factory.mktemp("a3gan")
    data = [celeba(folder / "celeba")]
    made = a3gan_training.train(data, folder / "out", TINY, folder / "cache")
    assert made is not None and [path.name for path in made] == ["a3gan-tiny.safetensors"]
    return folder


def test_training_resumes_to_the_same_weights_and_draws_a_sheet(trained: Path) -> None:
    assert (trained / "out" / "samples.png").stat().st_size > 10_000
    for _ in range(40):
        made = a3gan_training.train(
            [trained / "celeba"], trained / "again", TINY, trained / "cache", stop_after=4
        )
        if made is not None:
            break
    else:
        raise AssertionError("never done")
    left, right = load_file(made[0]), load_file(trained / "out" / made[0].name)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_trained_weights_are_used_where_deid_weights_says(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEID_WEIGHTS", str(trained / "out"))
    method = load_method("a3gan", {"size": "tiny", "change": "3"}, "cpu")
    chips = torch.rand(3, 3, 128, 128)
    assert method(chips, context(3)).shape == chips.shape
    with pytest.raises(UsageError, match="a3gan-tiny-stu"):
        load_method("a3gan", {"size": "tiny", "variant": "stu"}, "cpu")


def test_other_settings_need_another_folder(trained: Path) -> None:
    changed = dataclasses.replace(TINY, lambda4=1.0)
    with pytest.raises(DeidError, match="lambda4"):
        a3gan_training.train([trained / "celeba"], trained / "out", changed, trained / "cache")


def test_faces_of_the_pool_without_a_number_are_left_out(trained: Path) -> None:
    labels = np.full((24, 40), 0.5, np.float32)
    labels[3] = np.nan
    np.save(trained / "labels.npy", labels)
    settings = dataclasses.replace(
        TINY, pool=str(PEOPLE / "portraits"), pool_labels=str(trained / "labels.npy")
    )

    def made() -> list[Path] | None:
        data, out = [trained / "celeba"], trained / "pooled"
        return a3gan_training.train(data, out, settings, trained / "cache")

    written = made()
    assert written is not None
    tensors = load_file(written[0])
    assert len(tensors["album.ends"]) == 23 and len(tensors["pool.codes"]) == 46
    np.save(trained / "labels.npy", labels[:20])
    (trained / "pooled" / "material.pt").unlink()
    with pytest.raises(DeidError, match="20 rows; the pool has 24"):
        made()


def test_training_without_labels_is_refused_before_the_first_step(trained: Path) -> None:
    data, out = [PEOPLE / "portraits"], trained / "nothing"
    with pytest.raises(DeidError, match="no labels"):
        a3gan_training.train(data, out, TINY, trained / "cache")
    assert not out.exists()


# --- The shipped weights


def context(count: int, first: int = 1) -> Context:
    seeds = np.arange(first, first + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return Context(seeds, np.ones(count))


@pytest.fixture(scope="module")
def portraits() -> torch.Tensor:
    """(24, 3, 128, 128) chips of people who do not exist."""
    from deidcli.training.chips import load_chips

    with tempfile.TemporaryDirectory() as folder:
        chips = np.array(load_chips(PEOPLE / "portraits", 128, PADDING, Path(folder), True).chips)
    return torch.from_numpy(chips).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def shipped() -> Any:
    return load_method("a3gan", {}, "cpu")


@pytest.mark.parametrize("latent", ["drawn", "normal"])
def test_a_face_does_not_depend_on_its_batch(latent: str, portraits: torch.Tensor) -> None:
    method = load_method("a3gan", {"latent": latent}, "cpu")
    with torch.inference_mode():
        whole = (method(portraits, context(24)) * 255).round()
        single = [(method(portraits[i : i + 1], context(1, i + 1)) * 255).round() for i in (0, 23)]
    for row, alone in zip((0, 23), single, strict=True):
        assert torch.equal(whole[row], alone[0])


def test_another_seed_is_another_person(shipped: Any, portraits: torch.Tensor) -> None:
    with torch.inference_mode():
        one, other = (shipped(portraits[:8], context(8, first)) for first in (1, 100))
    assert float((embedded(one) - embedded(other)).norm(dim=1).median()) > 0.5


def test_published_faces_are_not_the_originals(shipped: Any, portraits: torch.Tensor) -> None:
    with torch.inference_mode():
        made = shipped(portraits, context(24))
    own = (embedded(portraits) - embedded(made)).norm(dim=1)
    assert float((own > 0.6).float().mean()) > 0.9
    assert float((portraits - made)[:, :, 40:88, 44:84].abs().mean()) > 0.03


def embedded(chips: torch.Tensor) -> torch.Tensor:
    from deidcli.faces import recognizers

    points = align.apply_affine(align.chip_from_unit(np.eye(2, 3), 128, PADDING), align.MEAN_FACE_5)
    pixels = (chips * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    cuts = [recognizers.cut("dlib", chip, points) for chip in pixels]
    return torch.from_numpy(recognizers.embed("dlib", cuts))


def test_shipped_weights_are_small_and_their_cards_whole() -> None:
    cards = [card for card in own.own_cards().values() if card.kind == "a3gan"]
    assert "a3gan-compact" in {card.name for card in cards}
    folder = own.weights_folder()
    assert sum((folder / card.file).stat().st_size for card in cards) < 80e6
    for card in cards:
        assert card.trained_on and card.command and card.license and card.notes, card.name
        kinds = {name: value.dtype for name, value in own.own_weights(card.name)[0].items()}
        assert kinds.pop("album.files") == torch.uint8 and kinds.pop("album.ends") == torch.int64
        assert set(kinds.values()) == {torch.float16}


def test_the_command_records_weights_and_settings(deid: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = deid(
        "anonymize", PEOPLE / "portraits", "--method", "a3gan", "--set", "change=Male", "--out", out
    )
    assert result.code == 0, result.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["method_settings"]["change"] == "Male"
    assert "a3gan-compact" in manifest["weights"]
    assert manifest["counts"]["ok"] >= 20
