"""The networks of a3gan: the paper's tables, each unit alone, and that each one matters."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from deidcli.methods.a3gan import canvas
from deidcli.methods.a3gan import networks as nets
from deidcli.methods.a3gan.canvas import LATENT
from deidcli.methods.a3gan.networks import SIZES, VARIANTS, Discriminator, Generator, Variant
from tests.methods.a3gan.conftest import lively, pictures
from tests.methods.a3gan.switches import SWITCHES, switched_off


def parameters(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def test_the_papers_generator_is_table_2() -> None:
    generator = Generator(SIZES["paper"])
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
        discriminator = Discriminator(SIZES["paper"])
    first, second = discriminator.critic[0], discriminator.hidden[0]
    assert (first.in_features, first.out_features) == (16384, 1024)  # type: ignore[union-attr]
    assert (second.in_features, second.out_features) == (16384, 1024)  # type: ignore[union-attr]
    assert discriminator.attributes.out_features == 10
    kinds = [type(m).__name__ for m in discriminator.layers]
    assert kinds == ["Conv2d", "InstanceNorm2d", "LeakyReLU"] * 5


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_gives_faces(name: str) -> None:
    chips, latent, mask = torch.rand(2, 3, 128, 128), torch.randn(2, LATENT), torch.zeros(2, 10)
    generator = Generator(SIZES["tiny"], VARIANTS[name])
    made = generator(chips, latent, mask)
    assert made.shape == chips.shape and float(made.detach().min()) >= 0
    bare = dataclasses.replace(SIZES["tiny"], canvas=False)
    assert Generator(bare, VARIANTS[name])(chips, latent, mask).shape == chips.shape


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


def test_the_stu_uses_the_mask_and_without_scu_features_pass_as_they_are() -> None:
    encoded, deeper = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)
    kept, free = torch.zeros(2, 10), torch.ones(2, 10)
    unit = nets.TransferUnit(3, 5)
    assert not torch.allclose(unit(encoded, deeper, kept), unit(encoded, deeper, free))
    plain = Generator(SIZES["tiny"], Variant(skip="none")).units[0]
    assert torch.equal(plain(encoded, deeper, kept), encoded)


def test_adain_gives_each_channel_its_scale_and_bias() -> None:
    feature = torch.randn(2, 3, 4, 4) * 7 + 2
    scale, bias = torch.rand(2, 3, 1, 1) + 0.5, torch.randn(2, 3, 1, 1)
    out = nets.adain(feature, scale, bias)
    torch.testing.assert_close(out.mean((2, 3)), bias[..., 0, 0], atol=1e-4, rtol=1e-3)
    deviation = out.std((2, 3), correction=0)
    torch.testing.assert_close(deviation, scale[..., 0, 0], atol=1e-3, rtol=1e-3)


def test_without_its_mask_ainet_does_not_use_it() -> None:
    latent, free = torch.randn(2, LATENT), torch.ones(2, 10)
    for masked in (True, False):
        ainet = nets.AttributeInjection(SIZES["tiny"], Variant(masked=masked))
        same = torch.equal(ainet(latent, free)[1], ainet(latent, 0 * free)[1])
        assert same != masked


def test_a_new_generator_shows_its_canvas() -> None:
    generator = Generator(SIZES["tiny"]).eval()
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
    generator = Generator(SIZES["tiny"]).eval()
    assert generator.canvas is not None
    generator.canvas.components[3] = 0.01
    portrait, codes = torch.rand(1, 3, 128, 128) * 0.8 + 0.1, torch.randn(1, LATENT)
    codes[:, -2 * canvas.WARP**2 :] = 0
    faces = generator.canvas.from_portraits(portrait, codes, codes)
    torch.testing.assert_close(faces, portrait, atol=1e-3, rtol=0)
    made = generator(portrait, codes, torch.zeros(1, 10), faces)
    torch.testing.assert_close(made, portrait, atol=1e-3, rtol=0)
    further = codes.clone()
    further[0, 3] += 4
    pushed = generator.canvas.from_portraits(portrait, further, codes)
    added = canvas.unpack(torch.full((1, generator.canvas.mean.numel()), 0.04), 128)
    torch.testing.assert_close(pushed, (portrait + added).clamp(0, 1), atol=1e-3, rtol=0)


# --- Each network matters: it is replaced by the identity or by noise

BARE = dataclasses.replace(SIZES["tiny"], canvas=False)
"""As the paper's, without a canvas."""


@pytest.mark.parametrize("size", [SIZES["tiny"], BARE], ids=["canvas", "bare"])
@pytest.mark.parametrize("name", SWITCHES)
def test_the_output_depends_on_each_network(name: str, size: nets.Size) -> None:
    """Each, switched off, changes the picture by more than 1 % of what the networks add to it."""
    generator = lively(size)
    chips, mask = pictures(8), torch.zeros(8, 10)
    latent = torch.randn(8, LATENT, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        made = generator(chips, latent, mask)
        with switched_off(generator, "last-layer"):
            without = generator(chips, latent, mask)
        with switched_off(generator, name):
            other = generator(chips, latent, mask)
        again = generator(chips, latent, mask)
    assert torch.equal(made, again), "a switch that stays would make every test pass"
    added = float((made - without).abs().mean())
    assert added > 0.1
    assert float((made - other).abs().mean()) > 0.01 * added


@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_teaches_every_layer(name: str) -> None:
    generator = lively(variant=VARIANTS[name])
    latent = torch.randn(4, LATENT, generator=torch.Generator().manual_seed(1))
    generator(pictures(4), latent, torch.ones(4, 10)).square().mean().backward()
    without = [
        key
        for key, value in generator.named_parameters()
        if value.grad is None or not value.grad.any()
    ]
    assert not without
