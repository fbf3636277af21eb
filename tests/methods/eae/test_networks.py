"""The shapes of the networks, and what a recognizer sees of a chip."""

from __future__ import annotations

import pytest
import torch

from deidcli.faces.recognizers import RECOGNIZERS
from deidcli.methods.eae import networks
from deidcli.methods.eae.networks import SIZES
from deidcli.methods.eae.pen import recognizer_view


@pytest.mark.parametrize(("name", "code"), [("compact", (192, 7, 7)), ("paper", (512, 14, 14))])
def test_shapes(name: str, code: tuple[int, int, int]) -> None:
    """Fig. 3 and 6: the codes are 512x14x14 in the paper's size; nothing is computed here."""
    size = SIZES[name]
    with torch.device("meta"):
        fsn = networks.FeatureSelection(size, 5).eval()
        external = networks.ExternalAutoencoder(size).eval()
        internal = networks.InternalAutoencoder(size, 4).eval()
        chips = torch.empty(2, 3, size.side, size.side)
        desired, r = fsn.desired(chips), external.encode(chips)
        bits = internal.encode(r)
        y = internal.decode(bits)
        assert desired.shape == r.shape == y.shape == (2, *code)
        assert bits.shape == (2, 4)
        assert fsn.heads(desired).shape == (2, 5, 2)
        assert external.decode(y).shape == chips.shape
    convolutions = [m for m in external.modules() if "Conv" in type(m).__name__]
    assert len(convolutions) == 10
    assert len([m for m in internal.modules() if isinstance(m, torch.nn.Conv2d)]) == 12
    assert len([m for m in fsn.shared.modules() if isinstance(m, torch.nn.Conv2d)]) == 6
    assert all(len([m for m in g if isinstance(m, torch.nn.Linear)]) == 3 for g in fsn.groups)


def test_pooling_before_the_activation_is_the_papers_order() -> None:
    block = networks._block(3, 8, 3, 1, 2).eval()
    conv, norm, pool, _ = block
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(
        block(x), pool(torch.nn.functional.leaky_relu(norm(conv(x)), networks.SLOPE))
    )


def test_a_code_of_zero_is_absent() -> None:
    assert networks.bits_of(torch.tensor([[-0.1, 0.0, 0.1]])).tolist() == [[-1, -1, 1]]


def test_a_recognizers_view_lies_where_its_own_chip_does() -> None:
    """A ramp over the chip: every recognizer's pixel shows the place in the mean face it names."""
    side, entry = 224, RECOGNIZERS["w600k_mbf"]
    unit = side / (1 + 2 * networks.PADDING)
    place = (torch.arange(side) + 0.5) / unit - networks.PADDING
    chips = torch.stack([place[None].expand(side, -1), place[:, None].expand(-1, side)])
    view = recognizer_view(torch.cat([chips, chips[:1]])[None], entry)[0]
    expected = (torch.arange(entry.size)[:, None] - torch.tensor(entry.origin)) / entry.scale
    assert torch.allclose(view[0, 50], expected[:, 0], atol=1e-4)
    assert torch.allclose(view[1, :, 50], expected[:, 1], atol=1e-4)
