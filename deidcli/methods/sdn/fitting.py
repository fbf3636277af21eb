"""The linear layers of `sdn` in closed form: components, carriers, readout.

Descent would find the same slowly: a code that hides most of a face in a few gray levels is a
question of variances, not of shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from deidcli.methods.sdn.bottleneck import (
    COMPONENTS,
    EDGE,
    EDGE_TERMS,
    LATENT,
    READERS,
    Bottleneck,
    to_planes,
)
from deidcli.methods.sdn.channel import Passage, passage_of, passed
from deidcli.methods.sdn.keyed_map import CODE
from deidcli.methods.sdn.networks import GRID
from deidcli.training.loop import log

BAND = 0.4
"""Highest frequency of a carrier, cycles a chip pixel: finer ones do not survive the pasting."""
WITHIN = 0.6
"""Share of a carrier's energy that lies within BAND and the core at once, at least."""
PASSES = 32
"""Batches that are sent through the channel to fit the readout."""
BATCH = 128
RIDGE = 1e-3


@torch.no_grad()
def fit_bottleneck(chips: Tensor, hosts: Tensor, strength: float, seed: int) -> Bottleneck:
    """Fit a bottleneck to faces like these.

    Args:
        chips: (N, 64, 64, 3) uint8 RGB: faces that are to be hidden.
        hosts: (M, 64, 64, 3) uint8 RGB: faces like those in which they are hidden.
        strength: see `Bottleneck.hide`.
    """
    net = Bottleneck()
    _fit_components(net, chips)
    fit_edge(net, chips)
    _fit_carriers(net, hosts)
    _fit_readers(net, hosts, strength, seed)
    return net


def batch_of(chips: Tensor) -> Tensor:
    """Turn chips (N, S, S, 3) uint8 into a batch (N, 3, S, S), float in [0, 1]."""
    return chips.permute(0, 3, 1, 2).float() / 255


def _planes_at(chips: Tensor, pixels: Tensor) -> Tensor:
    """Return the planes of (N, S, S, 3) uint8 at some pixels, (N, 3, len(pixels)), in blocks."""
    blocks = torch.split(chips, 1024)
    parts = [to_planes(batch_of(some)).flatten(2)[:, :, pixels] for some in blocks]
    return torch.cat(parts)


def _directions(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variances of (N, A), widest first, and their orthonormal directions (A, A)."""
    centered = values - values.mean(0)
    variances, vectors = torch.linalg.eigh(centered.T @ centered / len(values))
    return variances.flip(0).clamp(min=1e-12), vectors.flip(1)


def _fit_components(net: Bottleneck, chips: Tensor) -> None:
    """Find each plane's principal components, and keep the widest of all."""
    values = _planes_at(torch.cat([chips, chips.flip(2)]), net.inside)
    area = values.shape[2]
    found = [_directions(values[:, plane]) for plane in range(3)]
    variances = torch.cat([variance for variance, _ in found])
    best = variances.topk(COMPONENTS).indices
    net.mean.copy_(values.mean(0).flatten())
    net.basis.zero_()
    for column, index in enumerate(best.tolist()):
        plane, direction = divmod(index, area)
        net.basis[plane * area : (plane + 1) * area, column] = found[plane][1][:, direction]
    # Least squared error at a given power: a part's power goes with its deviation, not with its
    # variance (the optimum for independent Gaussian parts in white noise).
    net.gains.copy_(variances[best] ** -0.25)
    code = (values.flatten(1) - net.mean) @ net.basis * net.gains
    lengths = code.norm(dim=1)
    net.length.copy_(torch.stack([lengths.log().mean(), lengths.log().std()]))
    spread = (code / lengths[:, None]).square().mean(0)
    net.spread.copy_(spread / spread.sum())


@torch.no_grad()
def fit_edge(net: Bottleneck, chips: Tensor) -> None:
    """Fit how a face goes with the ring around it and with its tone.

    Faces and their rings are taken for jointly Gaussian; what the ring says of the face is then
    linear, and a stranger is moved by what the picture's ring differs from their own ("pathwise
    conditioning", Wilson et al. 2020).
    """
    chips = torch.cat([chips, chips.flip(2)])
    rings = _planes_at(chips, net.ring).flatten(1)
    net.edge_mean.copy_(rings.mean(0))
    _, axes = _directions(rings)
    net.edge_basis.copy_(axes[:, :EDGE_TERMS])
    found = [_edge_and_code(net, batch_of(some)) for some in torch.split(chips, 1024)]
    edges, codes = (torch.cat(part).double() for part in zip(*found, strict=True))
    square = edges.T @ edges / len(edges)
    ridge = RIDGE * square.diagonal().mean() * torch.eye(EDGE).to(square)
    product = edges.T @ (codes - codes.mean(0)) / len(edges)
    net.edge_fit.copy_(torch.linalg.solve(square + ridge, product))


def _edge_and_code(net: Bottleneck, chips: Tensor) -> tuple[Tensor, Tensor]:
    return net.edge(chips), net.components(chips)[:, :LATENT]


def _fit_carriers(net: Bottleneck, hosts: Tensor) -> None:
    """Find patterns within core and band where faces have least: what they lose is not missed."""
    size = len(net.core)
    points = torch.zeros(size, GRID * GRID)
    points[torch.arange(size), net.core] = 1
    line = torch.fft.fftfreq(GRID)
    band = ((line[:, None] ** 2 + line[None] ** 2).sqrt() < BAND).float()
    spectrum = torch.fft.fft2(points.view(size, GRID, GRID)) * band
    limited = torch.fft.ifft2(spectrum).real.flatten(1)[:, net.core]
    shares, vectors = torch.linalg.eigh((limited + limited.T) / 2)
    allowed = vectors[:, shares > WITHIN]  # (K, L) Slepian's functions of this mask
    values = _planes_at(hosts, net.core)
    found = [_directions(values[:, plane] @ allowed) for plane in range(3)]
    energies = torch.cat([variance for variance, _ in found])
    if len(energies) < CODE:
        raise ValueError(f"the mask holds {len(energies)} carriers; {CODE} are needed")
    net.carriers.zero_()
    for column, index in enumerate(energies.topk(CODE, largest=False).indices.tolist()):
        plane, direction = divmod(index, allowed.shape[1])
        pattern = allowed @ found[plane][1][:, direction]
        net.carriers[plane * size : (plane + 1) * size, column] = pattern


def _fit_readers(net: Bottleneck, hosts: Tensor, strength: float, seed: int) -> None:
    """Fit ridge regressions of the hidden point on the carriers as they come out of the channel."""
    generator = torch.Generator().manual_seed(seed)
    for reader in range(READERS):
        square, product = torch.zeros(CODE, CODE), torch.zeros(CODE, CODE)
        held: list[tuple[Tensor, Tensor]] = []
        for turn in range(PASSES + 3):
            seen, points = _example(net, hosts, strength, passage_of(reader, generator), generator)
            if turn >= PASSES:
                held.append((seen, points))
                continue
            square += seen.T @ seen
            product += seen.T @ points
        ridge = RIDGE * square.diagonal().mean() * torch.eye(CODE)
        net.readers[reader] = torch.linalg.solve(square + ridge, product)
        errors = []
        for seen, points in held:
            found = functional.normalize(seen @ net.readers[reader]) * CODE**0.5
            errors.append((found - points).square().mean())
        net.noise[reader] = torch.stack(errors).mean()
        log(f"reader {reader}: noise {float(net.noise[reader]) ** 0.5:.2f}")


def _example(
    net: Bottleneck, hosts: Tensor, strength: float, passage: Passage, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return carriers as they arrive (BATCH, CODE) and the random points (BATCH, CODE) that were
    sent on them."""
    rows = torch.randint(0, len(hosts), (BATCH,), generator=generator)
    points = torch.randn(BATCH, CODE, generator=generator)
    points = functional.normalize(points) * CODE**0.5
    hidden = net.hide(0.02 + 0.96 * batch_of(hosts[rows]), points, strength)
    seen = to_planes(passed(hidden, passage, generator)).flatten(2)[:, :, net.core]
    return seen.flatten(1) @ net.carriers, points
