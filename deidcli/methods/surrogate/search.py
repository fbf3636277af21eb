"""From a description and a key to w: somebody whom the key draws, made to fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deidcli.generator.model import Generator
from deidcli.generator.networks import WIDTH
from deidcli.methods.surrogate.description import (
    LEVELS,
    YES_NO,
    Field,
    Numbers,
    columns_of,
    passed_on,
)
from deidcli.methods.surrogate.networks import DESCRIPTOR, Predictor

CANDIDATES = 768
"""People whom a face's own number draws; the one who fits best is taken."""
TRUNCATION = 1.0
"""Of these people, see `Generator.w_of`."""
STEPS = 3
"""Gauss-Newton steps of a fit."""
APART = 0.71
"""Distance of dlib's descriptors that the new face shall have from the old one at the least. People
of one sex, age and skin tone are often nearer than the gate's 0.6; such a likeness is avoided."""
APART_TOLERANCE = 0.05
"""An error of that distance that does not matter."""
ALIKE = 0.64
"""Distance under which somebody is taken only if all others are nearer still: the gate's, and
something for what the picture around adds."""
ALIKE_COUNTS = 100.0
"""What such a likeness counts."""
WRONG_COUNTS = 20.0
"""What each wrong answer counts where the original's was sure."""
CHILD, ADULT = 15.0, 19.0
"""Years up to which somebody is a child and from which an adult, to the reader."""
GROWN_COUNTS = 80.0
"""What it counts when a child becomes an adult, or an adult a child."""
ANCHOR = 0.012
"""How far each number of dlib's descriptor may move from the drawn person's: who it is comes from
the key, and must not be fitted away."""
STIFFNESS = 0.7
"""Weight of staying near the drawn person."""
DOUBT = 0.5
"""Share of the predictor's squared error that counts as doubt; half of it for yes-no answers."""
CORRECTION_LIMIT = 3.0
"""Largest error of the predictor that is corrected, in deviations of `variance`."""
REACH = 1.4
"""Largest distance from the mean w, in that of the generator's own draws."""
MOST = 50.0
"""What one number, wholly missed, can count: one that nobody has must not decide alone."""


@dataclass(frozen=True)
class Wanted:
    """What a drawn face shall be."""

    numbers: Tensor
    """(F,) normal numbers of the fields."""
    avoided: Tensor
    """(128,) dlib's descriptor of the old face."""
    apart: float = APART
    """Distance from it."""


class Search:
    """Finds w for a face."""

    def __init__(self, generator: Generator, predictor: Predictor, fields: Sequence[Field]) -> None:
        self.generator, self.predictor = generator, predictor
        self.fields = tuple(fields)
        self.columns = torch.from_numpy(columns_of(self.fields))
        self.answers = torch.tensor([field.step == YES_NO for field in self.fields])
        self.center = predictor.center[self.columns]
        self.scale = predictor.deviation[self.columns]
        tolerance = torch.tensor([field.tolerance for field in self.fields])
        share = torch.where(self.answers, DOUBT / 2, DOUBT)
        self.variance = (tolerance / self.scale) ** 2 + share * predictor.doubt[self.columns]
        """(F,) of an error that does not matter, in squared deviations of a field."""

    def wanted(self, numbers: Numbers, descriptor: NDArray[np.float32]) -> Wanted:
        """What is wanted for a face that was read as numbers (D,) and dlib's descriptor (128,)."""
        passed = torch.from_numpy(passed_on(numbers[None], self.fields)[0])
        return Wanted((passed - self.center) / self.scale, torch.from_numpy(descriptor))

    def candidates(self, seed: int, count: int = CANDIDATES) -> Tensor:
        """(count, 512) w of the people whom a seed draws; the same seed, the same people."""
        source = np.random.Generator(np.random.Philox(key=seed))
        z = source.standard_normal((count, WIDTH), dtype=np.float32)
        return self.generator.w_of(torch.from_numpy(z), TRUNCATION).cpu()

    @torch.no_grad()
    def people(self, wanted: Wanted, seed: int, count: int) -> Tensor:
        """(count, 512): of a seed's candidates those who fit best, the best first."""
        candidates = self.candidates(seed)
        said = self.predictor(self.predictor.normal(candidates))
        return candidates[self._misfit(wanted, said).argsort()[:count]]

    @torch.no_grad()
    def one_person(self, wanted: Wanted, seed: int) -> Tensor:
        """(1, 512): the first of a seed's candidates who has the sex that is wanted, if one is:
        the same somebody for all pictures of a person, whatever these show."""
        candidates = self.candidates(seed)
        names = [field.name for field in self.fields]
        if "Male" not in names:
            return candidates[:1]
        place = names.index("Male")
        zero = self.center[place] / self.scale[place]
        said = self.predictor(self.predictor.normal(candidates))[:, self.columns[place]] + zero
        fits = said * torch.sign(wanted.numbers[place] + zero)
        first = int((fits > 0).int().argmax())  # 0 where there is none
        return candidates[first : first + 1]

    @torch.no_grad()
    def fit(self, wanted: Wanted, start: Tensor, person: Tensor) -> Tensor:
        """Move w until it is predicted to fit: the conditional mean given the description.

        Gauss-Newton steps towards the most probable w where w is Gaussian around the person
        and the description is read with `variance`. Source: Rodgers 2000, "Inverse Methods for
        Atmospheric Sounding", eq. 5.9.

        Args:
            start: (512,) where the steps begin. person: (512,) the drawn person, whom w stays
                near.

        Returns:
            (512,).
        """
        predictor = self.predictor
        origin, w = predictor.normal(person), predictor.normal(start)
        prior = predictor.covariance / STIFFNESS
        spared = (ANCHOR / predictor.deviation[-DESCRIPTOR:]) ** 2
        noise = torch.cat([self.variance, torch.tensor([APART_TOLERANCE**2]), spared])
        held = predictor(origin)[-DESCRIPTOR:]
        for _ in range(STEPS):
            slope, said = predictor.jacobian(w)
            apart, away = self._apart(wanted, said)
            own = slope[-DESCRIPTOR:]
            rows = torch.cat([slope[self.columns], (away @ own)[None], own])
            rest = self._aim(wanted, said) - said[self.columns]
            far = (wanted.apart - apart).clamp(min=0)[None]
            rest = torch.cat([rest, far, held - said[-DESCRIPTOR:]])
            spread = rows @ prior  # (F + 1, 512)
            gain = torch.linalg.solve(spread @ rows.T + torch.diag(noise), spread)
            w = self._within(origin + (rest + rows @ (w - origin)) @ gain)
        return predictor.plain(w)

    def misfit(self, wanted: Wanted, numbers: Numbers, descriptor: NDArray[np.float32]) -> float:
        """How far what was read off a picture is from what was wanted: 0 is a perfect fit."""
        return float(self._misfit(wanted, self._normal(numbers, descriptor)))

    @torch.no_grad()
    def corrected(
        self, wanted: Wanted, w: Tensor, numbers: Numbers, descriptor: NDArray[np.float32]
    ) -> Wanted:
        """What a second fit has to aim at, after the picture of w (512,) was read."""
        said = self.predictor(self.predictor.normal(w))
        seen = self._normal(numbers, descriptor)
        limit = CORRECTION_LIMIT * self.variance.sqrt()
        shift = (said - seen)[self.columns]  # what the predictor had wrong
        shift = torch.maximum(torch.minimum(shift, limit), -limit)
        apart = self._apart(wanted, said)[0] - self._apart(wanted, seen)[0]
        return replace(
            wanted, numbers=wanted.numbers + shift, apart=wanted.apart + float(apart.clamp(0, 0.2))
        )

    def _misfit(self, wanted: Wanted, said: Tensor) -> Tensor:
        """(...,) the robust sum of squared errors of normal numbers (..., D + 128)."""
        missed = (self._aim(wanted, said) - said[..., self.columns]) ** 2 / self.variance
        near = (wanted.apart - self._apart(wanted, said)[0]).clamp(min=0) / APART_TOLERANCE
        alike = self._apart(wanted, said)[0] < ALIKE
        # How sure, in the sign of the wanted answer; below 0 it is the wrong answer.
        zero = self.center / self.scale
        right = (said[..., self.columns] + zero) * torch.sign(wanted.numbers + zero)
        wrong = self.answers & self._sure(wanted) & (right < 0)
        total = (missed / (1 + missed / MOST)).sum(-1) + near**2
        grown = GROWN_COUNTS * self._grown(wanted, said)
        return total + ALIKE_COUNTS * alike + WRONG_COUNTS * wrong.sum(-1) + grown

    def _grown(self, wanted: Wanted, said: Tensor) -> Tensor:
        """(...,) whether a child became an adult, or an adult a child."""
        names = [field.name for field in self.fields]
        if "age" not in names:
            return torch.zeros(said.shape[:-1])
        place = names.index("age")
        center, scale = self.center[place], self.scale[place]
        old = wanted.numbers[place] * scale + center
        new = said[..., self.columns[place]] * scale + center
        return ((old < CHILD) & (new > ADULT)) | ((old > ADULT) & (new < CHILD))

    def _sure(self, wanted: Wanted) -> Tensor:
        """(F,) whether an answer was a sure one."""
        return (wanted.numbers * self.scale + self.center).abs() > sum(LEVELS) / 2

    def _apart(self, wanted: Wanted, said: Tensor) -> tuple[Tensor, Tensor]:
        """(...,) distance of the descriptor from the avoided one; and (..., 128) its slope by the
        normal descriptor."""
        center, scale = self.predictor.center[-DESCRIPTOR:], self.predictor.deviation[-DESCRIPTOR:]
        away = said[..., -DESCRIPTOR:] * scale + center - wanted.avoided
        apart = away.norm(dim=-1)
        return apart, away * scale / apart.clamp(min=1e-6)[..., None]

    def _within(self, w: Tensor) -> Tensor:
        """Pull what lies outside of the generator's own range to its border."""
        far = self.predictor.distance(w)
        return w * (REACH * self.predictor.usual / far).clamp(max=1)

    def _aim(self, wanted: Wanted, said: Tensor) -> Tensor:
        """What is wanted, or said already where an answer is surer than it has to be: (..., F)."""
        own, target = said[..., self.columns], wanted.numbers
        surer = (own - target) * torch.sign(target + self.center / self.scale) > 0
        return torch.where(self.answers & surer, own, target.expand_as(own))

    def _normal(self, numbers: Numbers, descriptor: NDArray[np.float32]) -> Tensor:
        """(D + 128,) normal numbers of what was read."""
        both = torch.from_numpy(np.concatenate([numbers, descriptor]))
        return (both - self.predictor.center) / self.predictor.deviation
