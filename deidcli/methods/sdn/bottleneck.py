"""The bottleneck of `sdn`: the linear layers that both directions share.

Within the mask a face is a row of principal components. Below them, in what no face and no
surrogate has, lie the carriers: fine patterns that survive being pasted, rounded, compressed and
cut again, on which the erasing network writes the hidden point and from which the reveal network
reads it. All are found in closed form (fitting.py), not by descent.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from deidcli.faces.align import Mask
from deidcli.methods.sdn.keyed_map import CODE, KeyedMap, unlock
from deidcli.methods.sdn.networks import CENTER, CORE, GRID, OUTSIDE, PADDING, edge_mask

COMPONENTS = CODE - 1
"""Principal components that are hidden; the last dimension holds their length."""
LATENT = 512
"""Leading components that make up a person of the identity network."""
LENGTH_SHARE = 0.3
"""Sine of the angle by which the length takes part in the hidden point."""
READERS = 3
"""Readouts: published as a crop; pasted into a frame of more than twice the chip's resolution;
into a coarser one. The one is taken whose answer looks most like a face under the key."""
FINE_FRAME = 1
"""The second of them."""
TONE_TERMS = 3
"""Mean, slope to the right, slope downwards, of each color plane."""

SECTORS = 16
"""Sectors of the mask's edge, by which a stranger's is compared with the picture's."""
EDGE_TERMS = 128
"""Principal components of the ring around the mask by which a stranger is fitted in."""
EDGE = EDGE_TERMS + 3 * TONE_TERMS

PLANES = torch.tensor(
    [
        [3**-0.5, 3**-0.5, 3**-0.5],
        [2**-0.5, 0.0, -(2**-0.5)],
        [6**-0.5, -2 * 6**-0.5, 6**-0.5],
    ]
)
"""From RGB to one plane of light and two of color, orthonormal, so that noise keeps its size."""


def to_planes(chips: Tensor) -> Tensor:
    """Turn (N, 3, S, S) RGB into the three PLANES."""
    return torch.einsum("pc,nchw->nphw", PLANES.to(chips), chips)


def to_rgb(planes: Tensor) -> Tensor:
    """Undo `to_planes`."""
    return torch.einsum("pc,nphw->nchw", PLANES.to(planes), planes)


class Bottleneck(nn.Module):
    """Principal components and carriers; see the module."""

    def __init__(self, mask: Mask | None = None) -> None:
        super().__init__()
        mask = edge_mask() if mask is None else mask
        inside = torch.from_numpy(np.flatnonzero(mask > OUTSIDE))
        core = torch.from_numpy(np.flatnonzero(mask > CORE))
        self.register_buffer("inside", inside, persistent=False)
        self.register_buffer("core", core, persistent=False)
        area, middle = 3 * len(inside), 3 * len(core)
        self.register_buffer("mean", torch.zeros(area))
        self.register_buffer("basis", torch.zeros(area, COMPONENTS))
        self.register_buffer("gains", torch.ones(COMPONENTS))
        self.register_buffer("spread", torch.ones(COMPONENTS))
        self.register_buffer("length", torch.tensor([0.0, 1.0]))
        self.register_buffer("carriers", torch.zeros(middle, CODE))
        self.register_buffer("readers", torch.zeros(READERS, CODE, CODE))
        self.register_buffer("noise", torch.full((READERS,), 0.1))
        everywhere = _tone_fields()
        tone, factor = torch.linalg.qr(everywhere[inside])
        self.register_buffer("tone", tone, persistent=False)
        around = everywhere @ torch.linalg.inv(factor)
        for side, ring in zip(("within", "beyond"), _rings(mask), strict=True):
            self.register_buffer(f"rim_{side}", ring, persistent=False)
            self.register_buffer(f"rim_{side}_tone", ring @ around, persistent=False)
        ring = (self.rim_beyond.sum(0) > 0).nonzero()[:, 0]
        self.register_buffer("ring", ring, persistent=False)
        self.register_buffer("edge_mean", torch.zeros(3 * len(ring)))
        self.register_buffer("edge_basis", torch.zeros(3 * len(ring), EDGE_TERMS))
        self.register_buffer("edge_fit", torch.zeros(EDGE, LATENT))

    inside: Tensor
    core: Tensor
    mean: Tensor
    """(3A,) the mean face inside the mask, plane after plane."""
    basis: Tensor
    """(3A, COMPONENTS) orthonormal, the widest spread first."""
    gains: Tensor
    """(COMPONENTS,) by what a component is multiplied before it is hidden."""
    spread: Tensor
    """(COMPONENTS,) variance of a component times its gain, their sum 1."""
    length: Tensor
    """(2,) mean and deviation of the logarithm of a code's length."""
    carriers: Tensor
    """(3K, CODE) orthonormal: the patterns."""
    readers: Tensor
    """(READERS, CODE, CODE): from carriers as they arrive to the point as it was, of least squared
    error; one for each kind of way that a picture takes."""
    noise: Tensor
    """(READERS,) variance of a dimension of the point that was read; the point's own is 1."""
    tone: Tensor
    """(A, TONE_TERMS) orthonormal smooth fields."""
    rim_within: Tensor
    rim_beyond: Tensor
    """(SECTORS, 4096): means of the sectors of the mask's edge, on its two sides."""
    rim_within_tone: Tensor
    rim_beyond_tone: Tensor
    """(SECTORS, TONE_TERMS): the smooth fields there."""
    ring: Tensor
    """(R,) pixels around the mask, which stay as they are."""
    edge_mean: Tensor
    edge_basis: Tensor
    """(3R,), (3R, EDGE_TERMS): the ring's mean and widest components, plane after plane."""
    edge_fit: Tensor
    """(EDGE, LATENT): from `edge` to the components that go with it, least squares over faces."""

    # --- Faces and components

    def face(self, chips: Tensor) -> Tensor:
        """Return the planes inside the mask less the mean face: (N, 3, 64, 64) RGB in [0, 1] ->
        (N, 3A)."""
        return to_planes(chips).flatten(2)[:, :, self.inside].flatten(1) - self.mean

    def components(self, chips: Tensor) -> Tensor:
        """Return the principal components of (N, 3, 64, 64) chips: (N, COMPONENTS)."""
        return self.face(chips) @ self.basis

    def render(self, components: Tensor, around: Tensor) -> Tensor:
        """Render the faces of (N, C <= COMPONENTS) components into chips (N, 3, 64, 64)."""
        inner = components @ self.basis[:, : components.shape[1]].T + self.mean
        return self._laid(inner, around)

    def _laid(self, inner: Tensor, around: Tensor) -> Tensor:
        planes = to_planes(around).flatten(2)
        index = self.inside.expand(*planes.shape[:2], -1)
        laid = planes.scatter(2, index, inner.view(len(inner), 3, -1))
        return to_rgb(laid.view(-1, 3, GRID, GRID))

    def _tone_of(self, chips: Tensor) -> Tensor:
        """Return the planes inside the mask, (N, 3, A) float64. Narrow products round by a row's
        place in the batch; in float64 that does not reach the pixels."""
        return (self.face(chips) + self.mean).view(len(chips), 3, -1).double()

    def rim(self, chips: Tensor, within: bool) -> Tensor:
        """Return the mask's edge less the face's tone: (N, 3, 64, 64) -> (N, 3 * SECTORS).

        A stranger whose edge, on its inner side, is like the picture's on the outer one fits in.
        """
        tone = self._tone_of(chips) @ self.tone.double()
        ring = (self.rim_within if within else self.rim_beyond).double()
        fields = (self.rim_within_tone if within else self.rim_beyond_tone).double()
        means = to_planes(chips).flatten(2).double() @ ring.T - tone @ fields.T
        return means.flatten(1).to(chips)

    def edge(self, chips: Tensor) -> Tensor:
        """Return what a stranger is fitted in by, the ring around the mask and the face's tone (its
        mean and slopes by plane): (N, 3, 64, 64) -> (N, EDGE) float64."""
        planes = to_planes(chips).flatten(2)[:, :, self.ring].flatten(1)
        terms = (planes - self.edge_mean).double() @ self.edge_basis.double()
        face = self.face(chips).view(len(chips), 3, len(self.inside))
        tone = face.double() @ self.tone.double()
        return torch.cat([terms, tone.flatten(1)], 1)

    # --- The hidden point

    def point(self, components: Tensor) -> Tensor:
        """Map (N, COMPONENTS) to points (N, CODE) on the sphere of radius sqrt(CODE)."""
        code = components * self.gains
        length = code.norm(dim=1, keepdim=True).clamp(min=1e-6)
        sine = LENGTH_SHARE * self._standard(length.log()).clamp(-1, 1)
        direction = code / length * (1 - sine * sine).sqrt()
        point: Tensor = torch.cat([direction, sine], 1) * CODE**0.5
        return point

    def _standard(self, logarithm: Tensor) -> Tensor:
        return (logarithm - self.length[0]) / (3 * self.length[1])

    def from_point(self, points: Tensor, noise: Tensor) -> Tensor:
        """Estimate the (N, COMPONENTS) of least squared error of points (N, CODE) on the sphere
        whose noise has the variance (N,)."""
        scaled = points / CODE**0.5
        sine = scaled[:, -1:].clamp(-LENGTH_SHARE, LENGTH_SHARE)
        length = (sine / LENGTH_SHARE * 3 * self.length[1] + self.length[0]).exp()
        code = scaled[:, :-1] / (1 - sine * sine).sqrt() * length
        shrink = self.spread / (self.spread + noise[:, None] / CODE)
        components: Tensor = code * shrink / self.gains
        return components

    def as_read(self, latents: Tensor, points: Tensor) -> Tensor:
        """Return strangers (N, LATENT) as if they had been hidden and read: (N, COMPONENTS).

        Args:
            points: (N, CODE) what a wrong key unlocked, which is noise. A stranger's fine
                components are made from it, with the spread that faces have, and the noise of
                the reading, as much as a fine frame leaves.
        """
        noise = self.noise[FINE_FRAME].expand(len(latents))
        length = (latents * self.gains[:LATENT]).norm(dim=1, keepdim=True)
        fine = points[:, LATENT:-1] * self.spread[LATENT:].sqrt() * length
        whole = self.point(torch.cat([latents, fine / self.gains[LATENT:]], 1))
        noisy = whole + noise[:, None].sqrt() * points
        return self.from_point(functional.normalize(noisy) * CODE**0.5, noise)

    def likelihood(self, points: Tensor) -> Tensor:
        """Return the nats (...) by which unlocked points (..., CODE) on the sphere are rather a
        face's than a wrong key's: the likelihood under `spread` against all directions alike.

        This separates right keys from wrong ones without error (docs/methods/sdn.md), for `restore`
        and for everybody else who has the published picture.
        """
        power = points[..., :-1].square()
        face = 0.8 * self.spread * CODE + 0.2  # a fifth noise: what the worst readout leaves
        return 0.5 * (power - power / face - face.log()).sum(-1)

    # --- The carriers

    def hide(self, chips: Tensor, points: Tensor, strength: float) -> Tensor:
        """Put the pattern of points (N, CODE) in place of what chips (N, 3, 64, 64) had there.

        Args:
            strength: root mean square of the pattern in the core, gray levels of 255.
        """
        planes = to_planes(chips).flatten(2)
        host = planes[:, :, self.core].flatten(1)
        amplitude = strength / 255 * (len(self.carriers) / CODE) ** 0.5
        changed = host + (amplitude * points - host @ self.carriers) @ self.carriers.T
        index = self.core.expand(*planes.shape[:2], -1)
        laid = planes.scatter(2, index, changed.view(len(host), 3, -1))
        return to_rgb(laid.view(-1, 3, GRID, GRID))

    def read(self, chips: Tensor) -> Tensor:
        """Read chips (N, 3, 64, 64) cut from the published picture: (N, READERS, CODE) on the
        sphere."""
        core = to_planes(chips).flatten(2)[:, :, self.core].flatten(1)
        points = torch.einsum("nc,rcd->nrd", core @ self.carriers, self.readers)
        on_sphere: Tensor = functional.normalize(points, dim=2) * CODE**0.5
        return on_sphere

    def unlocked(self, points: Tensor, keys: KeyedMap) -> tuple[Tensor, Tensor, Tensor]:
        """Unlock what `read` gave, (N, READERS, CODE).

        Returns:
            The likeliest of each face's points (N, CODE), its noise (N,), its likelihood in nats
            (N,).
        """
        each = torch.stack([unlock(points[:, r], keys) for r in range(READERS)], 1)
        nats = self.likelihood(each)
        best, which = nats.max(1)
        chosen = each.gather(1, which[:, None, None].expand(-1, 1, CODE))[:, 0]
        return chosen, self.noise[which], best


def _tone_fields() -> Tensor:
    """Return a constant and two slopes over the chip: (4096, 3)."""
    line = torch.linspace(-1, 1, GRID)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([torch.ones(GRID * GRID), x.flatten(), y.flatten()], 1)


def _rings(mask: Mask) -> tuple[Tensor, Tensor]:
    """Return two (SECTORS, 4096): rows that average a sector just within and just beyond the
    edge."""
    share = torch.from_numpy(mask)
    near = functional.max_pool2d(share[None], 7, 1, 3)[0]
    line = torch.arange(GRID) + 0.5
    unit = GRID / (1 + 2 * PADDING)
    x, y = (line - (c + PADDING) * unit for c in CENTER)
    angle = torch.atan2(y[:, None].expand(GRID, GRID), x[None].expand(GRID, GRID))
    sector = ((angle / (2 * torch.pi) + 0.5) * SECTORS).long().clamp(max=SECTORS - 1)
    rows = []
    for ring in ((share > OUTSIDE) & (share < 0.5), (share <= OUTSIDE) & (near > OUTSIDE)):
        hot = functional.one_hot(sector.flatten(), SECTORS).T * ring.flatten()
        rows.append(hot / hot.sum(1, keepdim=True).clamp(min=1))
    return rows[0], rows[1]
