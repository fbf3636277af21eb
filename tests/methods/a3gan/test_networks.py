"""The networks of a3gan: the paper's tables, each unit alone, and that each one matters."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deidcli.methods.a3gan import networks as nets
from deidcli.methods.a3gan.networks import SIZES, VARIANTS, Discriminator, Generator, Variant
from tests.methods.a3gan.conftest import LATENT, lively, pictures
from tests.methods.a3gan.switches import SWITCHES, switched_off


def parameters(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def kinds(module: nn.Module) -> list[str]:
    return [type(m).__name__ for m in module.modules() if not list(m.children())]


def shapes(module: nn.Module, kind: type[nn.Conv2d] | type[nn.ConvTranspose2d]) -> list[Any]:
    found = [m for m in module.modules() if isinstance(m, kind)]
    assert all(
        m.kernel_size == (4, 4) and m.stride == (2, 2) and m.padding == (1, 1) for m in found
    )
    return [(m.in_channels, m.out_channels) for m in found]


# --- The paper's tables


def test_the_papers_generator_is_table_2() -> None:
    with torch.device("meta"):
        generator = Generator(SIZES["paper"])
    widths = [(3, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
    assert shapes(generator.encoder, nn.Conv2d) == widths
    assert kinds(generator.encoder) == ["Conv2d", "BatchNorm2d", "LeakyReLU"] * 5
    back = [(1024, 1024), (1536, 512), (768, 256), (384, 128)]
    assert shapes(generator.decoder, nn.ConvTranspose2d) == back
    assert kinds(generator.decoder) == ["ConvTranspose2d", "BatchNorm2d", "ReLU"] * 4
    assert shapes(generator.last, nn.ConvTranspose2d) == [(192, 3)]
    assert kinds(generator.last) == ["ConvTranspose2d", "BatchNorm2d", "ReLU"]


def test_the_papers_ainet_is_table_4() -> None:
    with torch.device("meta"):
        ainet = Generator(SIZES["paper"]).ainet
    connected = [m for m in ainet.layers if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in connected] == [
        (512 + 10, 512),
        (512, 512),
        (512, 512),
        (512, 1024),
        (1024, 1024),
        (1024, 1024),
    ]
    assert kinds(ainet.layers) == ["Linear", "LeakyReLU"] * 6
    assert ainet.affine.out_features == 2 * 1024, "scale and bias of the bottleneck"


def test_the_papers_discriminator_is_table_3() -> None:
    with torch.device("meta"):
        discriminator = Discriminator(SIZES["paper"])
    widths = [(3, 64), (64, 128), (128, 256), (256, 512), (512, 1024)]
    assert shapes(discriminator.layers, nn.Conv2d) == widths
    assert kinds(discriminator.layers) == ["Conv2d", "InstanceNorm2d", "LeakyReLU"] * 5
    for head, answers in ((discriminator.critic, 1), (discriminator.attributes, 10)):
        assert kinds(head) == ["Linear", "LeakyReLU", "Linear"]
        assert head[0].in_features == 16384 and head[0].out_features == 1024
        assert head[2].in_features == 1024 and head[2].out_features == answers


def test_the_shipped_size_has_half_of_the_papers_widths_and_no_relu_at_the_end() -> None:
    paper, compact = SIZES["paper"], SIZES["compact"]
    assert compact.widths[:4] == tuple(width // 2 for width in paper.widths[:4])
    assert compact.critic == tuple(width // 4 for width in paper.critic)
    with torch.device("meta"):
        assert kinds(Generator(compact).last) == ["ConvTranspose2d"]


def test_the_scu_has_57_8_percent_of_the_stus_parameters() -> None:
    widths = SIZES["paper"].widths
    with torch.device("meta"):
        scu, stu = (
            sum(parameters(unit(widths[i], widths[i + 1])) for i in range(4))
            for unit in (nets.SuppressiveUnit, nets.TransferUnit)
        )
    assert round(100 * scu / stu, 1) == 57.8


# --- Each unit


def only(layer: nn.Module, bias: float, **centers: float) -> None:
    """Zero a layer but for its bias and the middle of its kernel for the channels named."""
    weight, biases = layer.weight, layer.bias
    assert isinstance(weight, Tensor) and isinstance(biases, Tensor)
    with torch.no_grad():
        weight.zero_()
        biases.fill_(bias)
        for channel, value in centers.items():
            weight[0, int(channel.removeprefix("c")), 1, 1] = value


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


ENCODED = torch.tensor([[0.5, -1.0], [2.0, 0.0]])[None, None]
DEEPER = torch.ones(1, 1, 1, 1)
NO_MASK = torch.zeros(1, 10)


def test_the_scu_is_equations_6_and_7() -> None:
    unit = nets.SuppressiveUnit(1, 1)
    only(unit.up, 0.25)
    nn.init.constant_(unit.up.weight, 0.75)
    only(unit.gate, -4.0, c0=2.0, c1=3.0)
    expected = [sigmoid(2 * e + 3 * (0.75 + 0.25) - 4) * e for e in (0.5, -1.0, 2.0, 0.0)]
    torch.testing.assert_close(unit(ENCODED, DEEPER, NO_MASK).flatten(), torch.tensor(expected))
    only(unit.gate, -50.0)
    assert float(unit(ENCODED, DEEPER, NO_MASK).detach().abs().max()) < 1e-6, "shut"


def test_the_stu_is_a_gated_unit_over_layers() -> None:
    unit = nets.TransferUnit(1, 1)
    only(unit.up, 0.25)
    with torch.no_grad():
        unit.up.weight[0] = 0.75  # of the deeper unit
        unit.up.weight[4] = 0.5  # of the mask's fourth attribute
    mask = NO_MASK.clone()
    mask[0, 3] = 1
    state = 0.25 + 0.75 + 0.5
    only(unit.reset, -1.0, c0=1.0)
    only(unit.update, 0.5, c1=1.0)
    only(unit.hidden, 0.1, c0=0.3, c1=0.7)
    expected = []
    for e in (0.5, -1.0, 2.0, 0.0):
        reset, update = sigmoid(e - 1), sigmoid(state + 0.5)
        made = math.tanh(0.3 * e + 0.7 * reset * state + 0.1)
        expected.append((1 - update) * state + update * made)
    torch.testing.assert_close(unit(ENCODED, DEEPER, mask).flatten(), torch.tensor(expected))


def test_without_scu_features_pass_as_they_are() -> None:
    plain = Generator(SIZES["tiny"], Variant(skip="none")).units[0]
    assert torch.equal(plain(ENCODED, DEEPER, NO_MASK), ENCODED)


def test_adain_is_equation_8() -> None:
    feature = torch.randn(2, 3, 4, 4) * 7 + 2
    scale, bias = torch.rand(2, 3, 1, 1) + 0.5, torch.randn(2, 3, 1, 1)
    out = nets.adain(feature, scale, bias)
    torch.testing.assert_close(out.mean((2, 3)), bias[..., 0, 0], atol=1e-4, rtol=1e-3)
    deviation = out.std((2, 3), correction=0)
    torch.testing.assert_close(deviation, scale[..., 0, 0], atol=1e-3, rtol=1e-3)
    row = nets.adain(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor(2.0), torch.tensor(0.5))
    torch.testing.assert_close(row, torch.tensor([[[[-1.5, 2.5]]]]), atol=1e-3, rtol=0)


def test_ainet_gives_a_scale_around_1_and_then_a_bias() -> None:
    ainet = nets.AttributeInjection(SIZES["tiny"], Variant())
    nn.init.zeros_(ainet.affine.weight)
    nn.init.constant_(ainet.affine.bias[:24], 0.25)
    nn.init.constant_(ainet.affine.bias[24:], -3.0)
    scale, bias = ainet(torch.randn(2, LATENT), torch.ones(2, 10))
    assert torch.equal(scale, torch.full((2, 24, 1, 1), 1.25))
    assert torch.equal(bias, torch.full((2, 24, 1, 1), -3.0))


@pytest.mark.parametrize("masked", [True, False])
def test_ainet_uses_the_mask_unless_it_is_without_it(masked: bool) -> None:
    latent = torch.randn(2, LATENT)
    ainet = nets.AttributeInjection(SIZES["tiny"], Variant(masked=masked))
    base = ainet(latent, torch.zeros(2, 10))
    for one in torch.eye(10):
        for with_it, without in zip(ainet(latent, one.expand(2, -1)), base, strict=True):
            assert torch.equal(with_it, without) != masked
    for with_it, without in zip(ainet(latent + 1, torch.zeros(2, 10)), base, strict=True):
        assert not torch.equal(with_it, without)


# --- The generator


def watched(module: nn.Module) -> list[tuple[Any, Tensor]]:
    """Inputs and outputs of a module, as they come."""
    seen: list[tuple[Any, Tensor]] = []
    module.register_forward_hook(lambda _, inputs, output: seen.append((inputs, output)))
    return seen


def arguments(count: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    latent = torch.randn(count, LATENT, generator=random)
    return pictures(count), latent, torch.rand(count, 10, generator=random).round()


def test_each_unit_is_given_its_layer_and_the_deeper_units_output() -> None:
    generator, given = lively(), arguments(2)
    layers = [watched(layer) for layer in generator.encoder]
    units = [watched(unit) for unit in generator.units]
    decoder = [watched(layer) for layer in (*generator.decoder, generator.last)]
    with torch.no_grad():
        generator(*given)
    assert torch.equal(layers[0][0][0][0], given[0] * 2 - 1), "the chip in [-1, 1]"
    deeper = layers[4][0][1]
    for index in (3, 2, 1, 0):
        inputs, output = units[index][0]
        assert torch.equal(inputs[0], layers[index][0][1])
        assert torch.equal(inputs[1], deeper) and torch.equal(inputs[2], given[2])
        deeper = output
        (fed,), _ = decoder[4 - index][0]
        assert torch.equal(fed, torch.cat([decoder[3 - index][0][1], output], 1))


def test_adain_lies_between_the_deepest_layer_and_the_decoder() -> None:
    generator, given = lively(), arguments(2)
    deepest, first = watched(generator.encoder[4]), watched(generator.decoder[0])
    with torch.no_grad():
        generator(*given)
        scale, bias = generator.ainet(*given[1:])
    assert torch.equal(first[0][0][0], nets.adain(deepest[0][1], scale, bias))


def test_without_adain_the_attribute_feature_stands_beside_the_other() -> None:
    generator, given = lively(variant=VARIANTS["no-adain"]), arguments(2)
    deepest, first = watched(generator.encoder[4]), watched(generator.decoder[0])
    with torch.no_grad():
        generator(*given)
        _, bias = generator.ainet(*given[1:])
    fed = first[0][0][0]
    assert torch.equal(fed[:, :24], deepest[0][1])
    assert torch.equal(fed[:, 24:], bias.expand(-1, -1, 4, 4))


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))
def test_every_variant_gives_faces_each_by_itself(variant: Variant) -> None:
    generator, given = Generator(SIZES["tiny"], variant).eval(), arguments(3)
    with torch.no_grad():
        made = generator(*given)
        alone = generator(*(value[1:2] for value in given))
    assert made.shape == given[0].shape
    torch.testing.assert_close(alone[0], made[1], atol=1e-5, rtol=1e-4)


def test_a_new_generator_begins_at_gray() -> None:
    generator = Generator(SIZES["tiny"])
    (last,) = generator.last
    assert isinstance(last, nn.ConvTranspose2d)
    nn.init.zeros_(last.weight)
    assert torch.equal(generator(*arguments(2)), torch.full((2, 3, 128, 128), 0.5))


# --- Discriminator and patch critic


def test_discriminator_and_patch_critic_see_chips_around_0() -> None:
    chips = pictures(2)
    for network in (Discriminator(SIZES["tiny"]), nets.PatchCritic((4, 4, 8))):
        seen = watched(network.layers[0])
        network(chips)
        assert torch.equal(seen[0][0][0], chips * 2 - 1)


def test_the_discriminator_answers_per_face() -> None:
    discriminator = Discriminator(SIZES["tiny"])
    scores, attributes = discriminator(pictures(3))
    assert scores.shape == (3,) and attributes.shape == (3, 10)
    alone = discriminator(pictures(3)[2:])
    torch.testing.assert_close(alone[0][0], scores[2])
    torch.testing.assert_close(alone[1][0], attributes[2])


def test_the_patch_critic_answers_per_patch() -> None:
    critic = nets.PatchCritic((4, 4, 8)).eval()
    with torch.no_grad():
        before = critic(pictures(2))
        changed = pictures(2)
        changed[:, :, :8, :8] = 1 - changed[:, :, :8, :8]
        differs = (critic(changed) != before)[0, 0]
    assert before.shape == (2, 1, 16, 16)
    assert differs[0, 0] and not differs[8:].any() and not differs[:, 8:].any()


def test_no_layer_of_the_patch_critic_stretches() -> None:
    critic = nets.PatchCritic((4, 4, 8)).train()
    layers = [m for m in critic.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        for value in critic.parameters():
            value.mul_(20)
        for _ in range(20):
            critic(pictures(1))
    assert len(layers) == 4
    for layer in layers:
        longest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert float(longest) == pytest.approx(1, abs=0.05)


# --- Each network matters: it is replaced by the identity or by noise


@pytest.mark.parametrize("name", SWITCHES)
def test_the_output_depends_on_each_network(name: str) -> None:
    """Each, switched off, changes the picture by more than 1 % of what the networks add to it."""
    generator, given = lively(), arguments(8)
    with torch.no_grad():
        made = generator(*given)
        with switched_off(generator, "last-layer"):
            without = generator(*given)
        with switched_off(generator, name):
            other = generator(*given)
        again = generator(*given)
    assert torch.equal(made, again), "a switch that stays would make every test pass"
    added = float((made - without).abs().mean())
    assert added > 0.1
    assert float((made - other).abs().mean()) > 0.01 * added


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))
def test_a_step_teaches_every_layer(variant: Variant) -> None:
    generator = lively(variant=variant)
    generator(*arguments(4)).square().mean().backward()
    without = [
        key
        for key, value in generator.named_parameters()
        if value.grad is None or not value.grad.any()
    ]
    assert not without


def test_a_new_ainet_hangs_on_its_latent_and_its_mask() -> None:
    """PyTorch's own initial weights lose a latent's variance over six layers."""
    torch.manual_seed(0)
    ainet = Generator(SIZES["compact"]).ainet
    latents, masks = torch.randn(32, SIZES["compact"].latent), torch.eye(10)
    with torch.no_grad():
        scale, bias = ainet(latents, torch.zeros(32, 10))
        by_mask, _ = ainet(latents[:1].expand(10, -1), masks)
    assert float(scale.std(0).mean()) > 0.1 and float(bias.std(0).mean()) > 0.1
    assert float(by_mask.std(0).mean()) > 0.01
