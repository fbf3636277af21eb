"""sdn: costs and shapes of the networks."""

from __future__ import annotations

import pytest
import torch

from deidcli.methods.sdn import networks
from deidcli.methods.sdn.bottleneck import Bottleneck


def test_the_paper_size_costs_what_the_paper_says() -> None:
    """Table 5: 13.09 G multiply-accumulates; counted for both directions and the extractor."""
    size = networks.SIZES["paper"]
    chip, mask = torch.zeros(1, 3, 128, 128), torch.from_numpy(networks.edge_mask(128))
    network = networks.multiply_accumulates(networks.RefinementNetwork(size), chip, mask)
    extractor = networks.multiply_accumulates(networks.FeatureExtractor(size, 10).eval(), chip)
    linear = 2 * sum(part.numel() for part in (Bottleneck().basis, Bottleneck().carriers))
    assert (2 * network + 2 * extractor + linear) / 13.09e9 == pytest.approx(1, abs=0.05)


def test_multiply_accumulates_of_a_convolution() -> None:
    layer = torch.nn.Conv2d(3, 8, 3, 2, 1)
    assert networks.multiply_accumulates(layer, torch.zeros(1, 3, 16, 16)) == 8 * 64 * 27


@pytest.mark.parametrize("name", ["compact", "paper"])
def test_refinement_networks_leave_the_surroundings(name: str) -> None:
    size = networks.SIZES[name]
    torch.manual_seed(0)
    network = networks.RefinementNetwork(size)
    torch.nn.init.normal_(network.last.weight)
    mask = torch.from_numpy(networks.edge_mask(size.side))
    chips = torch.rand(1, 3, size.side, size.side)
    with torch.no_grad():
        refined = network(chips, mask)
    outside = mask <= networks.OUTSIDE
    assert torch.equal(refined[:, :, outside], chips[:, :, outside])
    assert float((refined - chips)[:, :, ~outside].abs().mean()) > 0.01
