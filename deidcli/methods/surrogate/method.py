"""surrogate: a person who does not exist, drawn to fit the picture.

A face's description (`description.py`) is read, somebody whom the run's key draws is made to fit it
(`search.py`), MobileStyleGAN draws that person (`generator/`), and the drawn head is laid over the
old one (`laying.py`). Of the old face only the description is used, and what surrounds the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deidcli.celeba import parse_attributes
from deidcli.faces.align import Image, crop
from deidcli.faces.dlib_nets import load_recognizer
from deidcli.faces.mesh import Mesh, find_mesh
from deidcli.faces.segmenter import FACE, refined, to_input
from deidcli.generator.model import load_generator
from deidcli.methods.base import Chip, FaceInFrame, InFrames, Patch
from deidcli.methods.loading import load_part, load_reader, load_segmenter
from deidcli.methods.surrogate import laying
from deidcli.methods.surrogate.describe import Describer
from deidcli.methods.surrogate.description import Numbers, fields_of
from deidcli.methods.surrogate.grain import grain_of
from deidcli.methods.surrogate.networks import Predictor
from deidcli.methods.surrogate.search import Search, Wanted
from deidcli.methods.surrogate.settings import WEIGHTS, SurrogateFacts, SurrogateSettings
from deidcli.methods.surrogate.view import (
    inside,
    placed,
    view_affine,
    view_side,
)
from deidcli.weights.own import own_weights

READ_SIDE = 256
"""px of the middle of the view that descriptions are read from."""
SMALLEST = 24.0
"""Smallest face, px: width of the oval."""
LARGEST_YAW = 60.0
"""Degrees; beyond, the far half of the face is a guess."""
PEOPLE = 4
"""People who are tried at the most."""
GOOD = 34.0
"""Misfit up to which no other is tried, see `Search.misfit`."""
DRAWN_LANDMARKS = np.array(
    [[171.0, 121.0], [146.0, 123.0], [83.0, 122.0], [108.5, 123.0], [128.0, 170.5]]
)
"""dlib's five landmarks in a drawn picture of 256 px, roughly; where the mesh is looked for."""


@dataclass(frozen=True)
class _Seen:
    """A picture and what was read off it."""

    mesh: Mesh
    view: Image
    shares: NDArray[np.float32]
    """(192, 192, 6)."""
    numbers: Numbers
    descriptor: NDArray[np.float32]


@dataclass(frozen=True)
class _Try:
    """Somebody drawn."""

    misfit: float
    w: Tensor
    """(512,)."""
    picture: Image


class Surrogate(SurrogateFacts, InFrames):
    """Somebody who does not exist, drawn with this pose, expression, sex, age and skin tone."""

    def __init__(self, settings: SurrogateSettings, device: str) -> None:
        self.settings, self.device = settings, device
        self.chip = Chip(256, 0.9)
        tensors, _ = own_weights(WEIGHTS)
        predictor = Predictor()
        load_part(predictor, "predictor", tensors, unused=("precision", "usual"))
        predictor.prepare()
        self.segmenter = load_segmenter(device)
        self.predictor = predictor.eval().requires_grad_(False)
        self.describer = Describer(load_recognizer(device), load_reader(device), device)
        self.generator = load_generator(device)
        self.fields = fields_of(settings.parts(), parse_attributes(settings.attrs))
        self.search = Search(self.generator, self.predictor, self.fields)

    def in_frames(self, faces: Sequence[FaceInFrame]) -> list[Patch | None]:
        """Patches for faces; None where there are no dense landmarks, the face is under 24 px, or
        it is turned by more than 60 degrees. A face's patch depends on nothing but its frame, its
        landmarks and its number."""
        return [self.patch(face) for face in faces]

    def patch(self, face: FaceInFrame) -> Patch | None:
        """See `in_frames`."""
        mesh = find_mesh(face.frame, face.landmarks)
        if mesh is None or not self._possible(mesh):
            return None
        old = self.see(face.frame, mesh)
        drawn = self.drawn_for(old, face.seed, self._side(mesh))
        if drawn is None:
            return None
        return self.lay(face, old, drawn)

    def _possible(self, mesh: Mesh) -> bool:
        width = float(np.ptp(mesh.oval[:, 0]))
        return width >= SMALLEST and abs(mesh.pose.yaw) <= LARGEST_YAW

    def _side(self, mesh: Mesh) -> int:
        """Side of what is drawn: 512 where the face has more pixels than 256 would fill."""
        if self.settings.detail != "auto":
            return int(self.settings.detail)
        wanted = READ_SIDE * float(np.hypot(*np.linalg.inv(view_affine(mesh, READ_SIDE)[:, :2])[0]))
        return 256 if wanted <= 330 else 512 if wanted <= 660 else 1024

    def see(self, frame: Image, mesh: Mesh) -> _Seen:
        """Read a picture of which the landmarks are known."""
        view = crop(frame, view_affine(mesh, READ_SIDE), view_side(READ_SIDE), extend=True)
        shares = self.segment(view)
        return _Seen(mesh, view, shares, *self.describer(frame, mesh, view, shares))

    @torch.inference_mode()
    def segment(self, view: Image) -> NDArray[np.float32]:
        """(192, 192, 6) shares of what a view shows."""
        said = torch.softmax(self.segmenter(to_input([view]).to(self.device)), 1)[0]
        return np.asarray(said.permute(1, 2, 0).cpu().numpy(), np.float32)

    def drawn_for(self, old: _Seen, seed: int, side: int) -> Image:
        """Draw somebody who fits, and the best of several where the first ones do not."""
        wanted = self.search.wanted(old.numbers, old.descriptor)
        best: _Try | None = None
        steady = self.settings.person == "identity"
        search = self.search
        people = search.one_person(wanted, seed) if steady else search.people(wanted, seed, PEOPLE)
        for person in people:
            best = self._better(best, wanted, person)
            if best.misfit <= GOOD:
                break
        assert best is not None
        return best.picture if side == READ_SIDE else self.draw(best.w, side)

    def _better(self, best: _Try | None, wanted: Wanted, person: Tensor) -> _Try:
        """The best so far, or a person drawn twice: as the predictor has it, and again against
        what it had wrong."""
        w = self.search.fit(wanted, person, person)
        for again in (True, False):
            picture = self.draw(w, READ_SIDE)
            seen = self._see_drawn(picture)
            if seen is None:  # no face at all
                return best or _Try(np.inf, w, picture)
            misfit = self.search.misfit(wanted, seen.numbers, seen.descriptor)
            if best is None or misfit < best.misfit:
                best = _Try(misfit, w, picture)
            if misfit <= GOOD or not again:
                break
            aimed = self.search.corrected(wanted, w, seen.numbers, seen.descriptor)
            w = self.search.fit(aimed, w, person)
        assert best is not None
        return best

    def draw(self, w: Tensor, side: int) -> Image:
        """The picture of w (512,): (side, side, 3) uint8 RGB."""
        picture = self.generator.draw(w[None], side)[0]
        pixels = ((picture + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())

    def _see_drawn(self, picture: Image) -> _Seen | None:
        mesh = find_mesh(picture, DRAWN_LANDMARKS)
        return None if mesh is None else self.see(picture, mesh)

    def lay(self, face: FaceInFrame, old: _Seen, drawn: Image) -> Patch:
        """Lay a drawn picture over a face."""
        side = len(drawn)
        affine = view_affine(old.mesh, side)
        size = view_side(side)
        view = crop(face.frame, affine, size, extend=True)
        new = placed(drawn)
        parts = laying.Parts(view, refined(old.shares, view))
        drawn_parts = laying.Parts(new, refined(self.segment(new), new))
        grain = grain_of(face.frame, affine, parts.of(FACE))
        # Another stream than the one that draws the person.
        source = np.random.Generator(np.random.Philox(key=[face.seed, 1]))
        noise = source.standard_normal((size, size), dtype=np.float32)
        lay = getattr(laying, f"lay_{self.settings.region}")
        pixels, mask = lay(parts, drawn_parts, inside(side, laying.FADE), grain, noise)
        return Patch(pixels, affine, mask)
