"""From a description and a key to w: somebody whom the key draws, made to fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deidcli.generator.model import Generator
from deidcli.generator.networks import WIDTH
from deidcli.methods.surrogate.description import YES_NO, Field, Numbers, columns_of
from deidcli.methods.surrogate.networks import Predictor

CANDIDATES = 768
"""People whom a face's own number draws; the one who fits best is taken."""
TRUNCATION = 0.8
STEPS = 3
"""Gauss-Newton steps of a fit."""
CORRECTION_LIMIT = 3.0
"""Largest error of the predictor that is corrected, in deviations of `variance`."""
DOUBT = 0.5
"""Share of the predictor's squared error that counts as doubt."""
STIFFNESS = 0.7
"""Weight of staying near the drawn person."""
REACH = 1.2
"""Largest distance from the mean w, in that of the generator's own draws (their median)."""


class Search:
    """Finds w for faces, in batches."""

    def __init__(self, generator: Generator, predictor: Predictor, fields: Sequence[Field]) -> None:
        self.generator, self.predictor = generator, predictor
        self.fields = tuple(fields)
        self.columns = torch.from_numpy(columns_of(self.fields))
        tolerance = torch.tensor([field.tolerance for field in self.fields])
        self.answers = torch.tensor([field.step == YES_NO for field in self.fields])
        self.scale = predictor.deviation[self.columns]
        doubt = predictor.doubt[self.columns]
        share = torch.where(self.answers, DOUBT / 2, DOUBT)
        self.variance = (tolerance / self.scale) ** 2 + share * doubt
        """(F,) of an error that does not matter, in squared deviations of a field."""

    def candidates(self, seeds: Sequence[int], count: int = CANDIDATES) -> Tensor:
        """(N, count, 512) w of the people whom seeds draw; the same seeds, the same people."""
        noise = [
            np.random.Generator(np.random.Philox(key=seed)).standard_normal((count, WIDTH))
            for seed in seeds
        ]
        z = torch.from_numpy(np.concatenate(noise).astype(np.float32))
        return self.generator.w_of(z, TRUNCATION).cpu().view(len(seeds), count, WIDTH)

    def nearest(self, wanted: Numbers, people: Tensor) -> Tensor:
        """(N, 512): of each face's candidates (N, C, 512) the one who fits best."""
        said = self._said(people.flatten(0, 1)).view(*people.shape[:2], -1)
        aimed = self._aim(self._normal(wanted)[:, None].expand_as(said), said)
        error = (said - aimed) ** 2 / self.variance
        # A robust sum: one field that nobody has must not decide among the others.
        best = (error / (1 + error / 25)).sum(2).argmin(1)
        return people[torch.arange(len(people)), best]

    def fit(self, wanted: Numbers, start: Tensor, person: Tensor) -> Tensor:
        """Move w until it is predicted to fit: the conditional mean given the description.

        Gauss-Newton steps towards the most probable w where w is Gaussian around the person
        and the description is read with `variance`. Source: Rodgers 2000, "Inverse Methods for
        Atmospheric Sounding", eq. 5.9.

        Args:
            wanted: (N, F). start: (N, 512) where the steps begin. person: (N, 512) the drawn
                person, whom w stays near.
        """
        target = self._normal(wanted)
        origin = self.predictor.normal(person)
        w = self.predictor.normal(start)
        prior = self.predictor.covariance / STIFFNESS
        noise = torch.diag(self.variance)
        for _ in range(STEPS):
            slope, said = self._slope(w)
            spread = slope @ prior  # (N, F, 512)
            gain = torch.linalg.solve(spread @ slope.transpose(1, 2) + noise, spread)
            rest = self._aim(target, said) - said + (slope @ (w - origin)[:, :, None])[:, :, 0]
            w = origin + (rest[:, None] @ gain)[:, 0]
            w = self._within(w)
        return self.predictor.plain(w)

    def error(self, wanted: Numbers, seen: Numbers) -> float:
        """How far what was read off a picture (D,) is from what was wanted (1, F)."""
        said = (torch.from_numpy(seen)[self.columns] - self.predictor.center[self.columns])[None]
        said = said / self.scale
        missed = (self._aim(self._normal(wanted), said) - said) ** 2 / self.variance
        return float((missed / (1 + missed / 25)).sum())

    def corrected(self, wanted: Numbers, seen: Numbers, w: Tensor) -> Numbers:
        """What a second fit has to aim at, after the first one's picture was read.

        Args:
            wanted: (1, F). seen: (D,) what was read off the picture of w (1, 512).
        """
        said = self._said(w) * self.scale + self.predictor.center[self.columns]
        shift = said - torch.from_numpy(seen)[self.columns]  # what the predictor had wrong
        limit = CORRECTION_LIMIT * self.variance.sqrt() * self.scale
        return np.asarray(wanted + torch.maximum(torch.minimum(shift, limit), -limit).numpy())

    def _within(self, w: Tensor) -> Tensor:
        """Pull what lies outside of the generator's own range to its border."""
        far = self.predictor.distance(w)
        return w * (REACH * self.predictor.usual / far).clamp(max=1)[:, None]

    def _aim(self, target: Tensor, said: Tensor) -> Tensor:
        """The target, or what is said already where an answer is surer than it has to be."""
        zero = -self.predictor.center[self.columns] / self.scale
        surer = (said - target) * torch.sign(target - zero) > 0
        return torch.where(self.answers & surer, said, target)

    def _normal(self, wanted: Numbers) -> Tensor:
        mean = self.predictor.center[self.columns]
        return (torch.from_numpy(wanted) - mean) / self.scale

    def _said(self, w: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = self.predictor(self.predictor.normal(w))[:, self.columns]
        return found

    def _slope(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The predictor's Jacobian (N, F, 512) and values (N, F) at normal w."""
        with torch.no_grad():
            slope, said = self.predictor.jacobian(w, self.columns)
        return slope, said
