"""The networks of `dae`: shapes, packing, the start as principal components."""

from __future__ import annotations

import pytest
import torch

from deidcli.methods.dae.networks import (
    Convolutional,
    Deblurrer,
    FullyConnected,
    Smoother,
    pack,
    principal_components,
    unpack,
)


def test_packing_keeps_light_and_slow_color() -> None:
    chips = torch.rand(2, 3, 64, 64)
    flat = chips.mean((2, 3), keepdim=True).expand_as(chips)
    torch.testing.assert_close(unpack(pack(flat, True), True), flat, atol=1e-5, rtol=0)
    assert pack(chips, True).shape == (2, 4608) and pack(chips, False).shape == (2, 4096)
    gray = unpack(pack(chips, False), False)
    torch.testing.assert_close(gray[:, 0], gray[:, 2])
    torch.testing.assert_close(
        pack(unpack(pack(chips, True), True), False), pack(chips, False), atol=1e-5, rtol=0
    )


def test_a_network_starts_as_its_principal_components() -> None:
    chips = torch.rand(40, 3, 64, 64)
    packed = pack(chips, True)
    network = FullyConnected((20, 12, 6))
    mean, components = principal_components(packed, 20)
    network.start_from(mean, components)
    own = components[:, :6]
    expected = unpack((packed - mean) @ own @ own.T + mean, True)
    torch.testing.assert_close(network.decode(network.encode(chips)), expected, atol=1e-4, rtol=0)


def test_components_are_the_same_from_few_and_many_samples() -> None:
    values = torch.randn(30, 20) @ torch.diag(torch.linspace(3, 0.1, 20))
    _, many = principal_components(values, 4)
    _, few = principal_components(torch.cat([values, values.new_zeros(30, 15)], 1), 4)
    torch.testing.assert_close((many.T @ few[:20]).abs(), torch.eye(4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("color", [True, False])
def test_shapes_are_the_papers(color: bool) -> None:
    chips = torch.rand(2, 3, 64, 64)
    connected = FullyConnected(color=color)
    sizes = [layer.in_features for layer in connected.encoder if hasattr(layer, "in_features")]
    assert sizes == [4608 if color else 4096, 1024, 768] and connected.code == 512
    convolutional = Convolutional(color=color).eval()
    assert convolutional.grid == 2 and convolutional.code == 1024
    for network in (connected, convolutional):
        assert network.decode(network.encode(chips)).shape == chips.shape


def test_filters_start_harmless_and_keep_the_shape() -> None:
    chips = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(Deblurrer()(chips), chips)
    assert Smoother()(chips).shape == chips.shape
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in Deblurrer().layers) == 4
