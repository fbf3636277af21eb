"""The identity network of `sdn`: (attributes, password) -> a latent that names a person.

It remembers faces of people who do not exist, as leading components of the bottleneck, with what
the feature extractor says of them. Among those that fit the face's pose and the attributes asked
for, the key draws one, who is fitted to the picture's edge and light. What is then still lacking of
an attribute is added along its direction in the latent space (sec. 6.2, shift.py). So the latent
depends on the key, the attributes, how the face is turned, what is around it, and its tone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.methods.sdn.bottleneck import EDGE, LATENT, SECTORS
from deidcli.methods.sdn.shift import TRAITS

KEPT = {
    "Male": 3.0,
    "Smiling": 2.0,
    "Mouth_Slightly_Open": 2.0,
    "Eyeglasses": 1.5,
    "Young": 1.0,
}
"""What a person shares with the face where nothing is asked for, and how much it weighs against
a deviation of ten landmarks, which weigh LANDMARKS each."""
ASKED = 25.0
"""Weight of an attribute that was asked for."""
LANDMARKS = 0.35
EMBEDDING = 128
RIM = 1.2
"""Weight of the difference of the edges, in [0, 1], a sector and plane."""
CANDIDATES = 128
"""Persons that fit best."""
PICKS = 64
"""Of them, so many as unlike each other as can be, among whom the key draws."""
SHARE = 1.0
"""A person is the mean of those that fit, fitted to the picture's edge, plus so much of what sets
the one whom the key draws apart from it,"""
TRAIT_SHARE = 1.0
"""plus so much of the traits therein that tell people apart (shift.traits). So nobody's own
face is published, and two people in one picture differ more than two who are remembered: at 64 px,
faces in the same surroundings look alike to recognizers."""
MARGIN = 3.0
"""Degrees beyond its boundary to which an attribute that was asked for is shifted."""
MOST = 5.0
"""Degrees that this shift has at most: farther out are no faces."""


class Identity(nn.Module):
    """The remembered people, and the directions of CelebA's attributes."""

    def __init__(self, people: int) -> None:
        super().__init__()
        count = len(CELEBA_ATTRIBUTES)
        self.register_buffer("codes", torch.zeros(people, LATENT))
        self.register_buffer("probabilities", torch.zeros(people, count))
        self.register_buffer("labels", torch.zeros(people, count))
        self.register_buffer("landmarks", torch.zeros(people, 10))
        self.register_buffer("embeddings", torch.zeros(people, EMBEDDING))
        self.register_buffer("rims", torch.zeros(people, 3 * SECTORS))
        self.register_buffer("edges", torch.zeros(people, EDGE))
        self.register_buffer("into_traits", torch.zeros(LATENT, TRAITS))
        self.register_buffer("from_traits", torch.zeros(TRAITS, LATENT))
        self.register_buffer("steps", torch.zeros(count, LATENT))
        self.register_buffer("normals", torch.zeros(count, LATENT))
        self.register_buffer("offsets", torch.zeros(count))

    codes: Tensor
    """(P, LATENT) float: the persons' components."""
    probabilities: Tensor
    """(P, 40) of CelebA's attributes, by the feature extractor, as the face's are."""
    labels: Tensor
    """(P, 40) the same by the classifier of `deid score`, which reads glasses better."""
    landmarks: Tensor
    """(P, 10) in deviations."""
    embeddings: Tensor
    """(P, EMBEDDING) dlib's descriptors."""
    rims: Tensor
    """(P, 3 * SECTORS): `Bottleneck.rim`, within."""
    edges: Tensor
    """(P, EDGE): `Bottleneck.edge`."""
    into_traits: Tensor
    from_traits: Tensor
    """See shift.traits."""
    steps: Tensor
    normals: Tensor
    offsets: Tensor
    """See shift.Directions."""

    def draw(
        self,
        logits: Tensor,
        landmarks: Tensor,
        rims: Tensor,
        draws: Tensor,
        wanted: Mapping[str, bool],
    ) -> tuple[Tensor, Tensor]:
        """Draw each face's person.

        Args:
            logits, landmarks: (N, 40), (N, 10) of the feature extractor.
            rims: (N, 3 * SECTORS) of `Bottleneck.rim`, beyond: what stays of the picture.
            draws: (N,) float64 in [0, 1), from the key. wanted: attributes asked for.

        Returns:
            (N,) int64, whom the person is made of; (N, CANDIDATES) int64, all that fit.
        """
        weights = torch.zeros(len(CELEBA_ATTRIBUTES), dtype=torch.float64)
        asked, known = logits.double().sigmoid(), self.probabilities.double().clone()
        for name, weight in KEPT.items():
            weights[CELEBA_ATTRIBUTES.index(name)] = weight
        for name, present in wanted.items():
            column = CELEBA_ATTRIBUTES.index(name)
            weights[column] = ASKED
            asked[:, column] = float(present)
            known[:, column] = self.labels[:, column].double()
        weights = weights.to(asked.device)
        mine = [asked * weights, landmarks.double() * LANDMARKS, rims.double() * RIM]
        theirs = [
            known * weights,
            self.landmarks.double() * LANDMARKS,
            self.rims.double() * RIM,
        ]
        count = min(CANDIDATES, len(self.codes))
        fitting = (
            torch.cdist(torch.cat(mine, 1), torch.cat(theirs, 1)).topk(count, largest=False).indices
        )
        picks = self._apart(fitting)
        place = (draws.to(picks.device) * picks.shape[1]).long()
        return picks.gather(1, place[:, None])[:, 0], fitting

    def _apart(self, fitting: Tensor) -> Tensor:
        """Pick (N, PICKS) of (N, K) persons: first the least common, then always the one farthest
        from those there are."""
        vectors = self.embeddings.double()[fitting]
        apart = torch.cdist(vectors, vectors)
        nearest = torch.full_like(apart[:, 0], torch.inf)
        chosen = [(vectors - vectors.mean(1, keepdim=True)).norm(dim=2).argmax(1)]
        for _ in range(min(PICKS, fitting.shape[1]) - 1):
            last = chosen[-1][:, None, None].expand(-1, 1, apart.shape[2])
            nearest = torch.minimum(nearest, apart.gather(1, last)[:, 0])
            chosen.append(nearest.argmax(1))
        return fitting.gather(1, torch.stack(chosen, 1))

    def latents(
        self,
        rows: Tensor,
        fitting: Tensor,
        edges: Tensor,
        fit: Tensor,
        wanted: Mapping[str, bool],
        shift: Mapping[str, float],
    ) -> Tensor:
        """Return the latents (N, LATENT) of what `draw` gave, moved to what is wanted and by what
        is to be shifted.

        Args:
            edges: (N, EDGE) of the pictures, `Bottleneck.edge`. fit: its `edge_fit`.
            shift: attribute -> degree, degrees (table 4: -2 to 2).
        """
        # In float64: narrow products round by a row's place in the batch.
        fit, codes, theirs = fit.double(), self.codes, self.edges
        common, around = codes[fitting].double().mean(1), theirs[fitting].double().mean(1)
        apart = codes[rows].double() - common - (theirs[rows].double() - around) @ fit
        traits = apart @ self.into_traits.double() @ self.from_traits.double()
        fitted = common + (edges.double() - around) @ fit
        latents = (fitted + SHARE * apart + TRAIT_SHARE * traits).to(self.codes)
        for name, present in wanted.items():
            sign = 1.0 if present else -1.0
            lacking = (MARGIN - sign * self.standing(latents, name)).clamp(0, MOST)
            step = self.steps[CELEBA_ATTRIBUTES.index(name)]
            latents = latents + sign * lacking[:, None] * step
        for name, degree in shift.items():
            latents = latents + degree * self.steps[CELEBA_ATTRIBUTES.index(name)]
        return latents

    def standing(self, latents: Tensor, name: str) -> Tensor:
        """Return by how many degrees (N,) latents (N, LATENT) are past an attribute's boundary."""
        column = CELEBA_ATTRIBUTES.index(name)
        return latents @ self.normals[column] + self.offsets[column]
