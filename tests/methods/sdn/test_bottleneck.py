"""sdn: components, the hidden point, what fits strangers in."""

from __future__ import annotations

import pytest
import torch

from deidcli.methods.sdn import keyed_map
from deidcli.methods.sdn.bottleneck import to_planes, to_rgb
from deidcli.methods.sdn.identity import Identity
from deidcli.methods.sdn.method import FACE, SecureDualNetwork
from tests.methods.sdn.faces import bits_of


def test_planes_keep_lengths() -> None:
    chips = torch.rand(2, 3, 8, 8)
    planes = to_planes(chips)
    assert torch.allclose(planes.norm(), chips.norm())
    assert torch.allclose(to_rgb(planes), chips, atol=1e-6)


def test_components_survive_the_sphere(method: SecureDualNetwork, chips: torch.Tensor) -> None:
    net = method.bottleneck
    given = net.components(chips)
    back = net.from_point(net.point(given), torch.full((12,), 1e-6))
    assert float((back - given).norm() / given.norm()) < 0.02


def test_a_wrong_key_is_recognised_exactly(
    method: SecureDualNetwork, published: torch.Tensor
) -> None:
    """From the published picture and the weights alone. This is no protection and is documented as
    none; were it ever to fail, docs/restore.md would have to say so."""
    net, read = method.bottleneck, method.bottleneck.read(published)
    right = net.unlocked(read, keyed_map.expand(bits_of(12)))[2]
    wrong = [net.unlocked(read, keyed_map.expand(bits_of(12, n)))[2].max() for n in range(1, 9)]
    assert float(torch.stack(wrong).max()) < FACE - 20
    assert float(right.min()) > FACE + 50


def test_all_hidden_points_have_one_length(method: SecureDualNetwork, chips: torch.Tensor) -> None:
    points = method.bottleneck.point(method.bottleneck.components(chips))
    assert torch.allclose(points.norm(dim=1), torch.full((12,), 32.0), atol=1e-3)


@pytest.mark.parametrize("strength", [1.0, 4.0])
def test_the_pattern_is_as_strong_as_asked(
    method: SecureDualNetwork, chips: torch.Tensor, strength: float
) -> None:
    net = method.bottleneck
    points = net.point(net.components(chips))
    patterns = [net.hide(chips, by, strength) for by in (points, -points)]
    change = (patterns[0] - patterns[1]).flatten(2)[:, :, net.core] / 2
    assert float(change.square().mean().sqrt()) * 255 == pytest.approx(strength, rel=0.01)


def test_a_picture_tells_of_the_face_that_was_in_it(
    method: SecureDualNetwork, chips: torch.Tensor
) -> None:
    """What goes with edge and tone is most of a face's components, and nothing is moved where
    the picture is the stranger's own."""
    net = method.bottleneck
    codes, edges = net.components(chips)[:, :512], net.edge(chips).float()
    rest = codes - edges @ net.edge_fit
    assert float((rest - rest.mean(0)).norm()) < 0.75 * float((codes - codes.mean(0)).norm())
    who = Identity(12)
    who.codes.copy_(codes)
    who.edges.copy_(edges)
    fitting = torch.arange(12)[:, None]
    for row in (0, 5):
        rows = torch.full((12,), row)
        same = who.latents(rows, fitting, edges, net.edge_fit, {}, {})[row]
        assert torch.allclose(same, codes[row], atol=1e-3)
    moved = who.latents(torch.zeros(12).long(), fitting * 0, edges, net.edge_fit, {}, {})
    assert torch.allclose(moved, codes[0] + (edges - edges[0]) @ net.edge_fit, atol=1e-3)


def test_a_stranger_looks_as_if_he_had_been_hidden(
    method: SecureDualNetwork, chips: torch.Tensor
) -> None:
    """As much off as a face that was read, with fine components as wide as faces have them."""
    net, whole = method.bottleneck, method.bottleneck.components(chips)
    points = torch.randn(12, keyed_map.CODE, generator=torch.Generator().manual_seed(0))
    points = torch.nn.functional.normalize(points) * 32
    noise = float(net.noise[1])
    read = net.as_read(whole[:, :512], points)
    right = net.from_point(
        torch.nn.functional.normalize(net.point(whole) + noise**0.5 * points.flip(0)) * 32,
        torch.full((12,), noise),
    )
    for part in (slice(512), slice(512, None)):
        sizes = [float(faces[:, part].norm()) for faces in (read, right)]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.4)
    errors = [float((faces - whole)[:, :512].norm()) for faces in (read, right)]
    assert errors[0] == pytest.approx(errors[1], rel=0.3)


@pytest.mark.slow
def test_the_bottleneck_in_closed_form(chips: torch.Tensor) -> None:
    from deidcli.methods.sdn.fitting import fit_bottleneck

    faces = (chips * 255).byte().permute(0, 2, 3, 1).contiguous()
    net = fit_bottleneck(faces, faces, 2.0, 0)
    eye = net.carriers.T @ net.carriers
    assert torch.allclose(eye, torch.eye(keyed_map.CODE), atol=1e-3)
    assert float(net.noise[0]) < 0.1
