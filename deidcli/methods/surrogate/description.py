"""The description of a face: the few numbers that are passed on to the drawn one.

Each number belongs to a *part*, which the setting `keep` names. Parts that a person has for longer
than a picture (sex, age, beard, hair, skin) are rounded to a few levels, so that many people share
each value. No shape is among them: neither distances between features nor what a recognizer sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deidcli.celeba import CELEBA_ATTRIBUTES

Numbers = NDArray[np.float32]
"""(D,) or (N, D) float32, in the order of NAMES."""


@dataclass(frozen=True)
class Field:
    """One number."""

    name: str
    part: str
    tolerance: float
    """An error that does not matter."""
    step: float = 0.0
    """What it is rounded to; 0: not at all."""
    low: float = -np.inf
    high: float = np.inf
    """The range that is passed on: what the generator can draw."""


YES_NO = -1.0
"""Marks a field that is a log-odds of the attribute reader: four levels are passed on."""
LEVELS = (1.5, 5.0)
"""The log-odds that are passed on, with their sign: of a doubtful answer and of a sure one."""
SURE = 1.5
"""Log-odds from which an answer counts as sure."""


def _yes_no(name: str, part: str, tolerance: float = 1.0) -> Field:
    return Field(name, part, tolerance, step=YES_NO)


MEASURED: tuple[Field, ...] = (
    Field("yaw", "pose", 2.0, low=-45, high=45),
    Field("pitch", "pose", 2.0, low=-25, high=25),
    Field("mouth_open", "expression", 0.02, low=0, high=0.6),
    Field("eyes_open", "expression", 0.03, low=0.05, high=0.5),
    Field("gaze_x", "gaze", 0.01, low=-0.25, high=0.25),
    Field("gaze_y", "gaze", 0.02, low=-0.2, high=0.2),
    Field("eye_shade", "glasses", 7.0, step=24.0, low=-48, high=0),
    Field("age", "age", 3.0, step=6.0, low=1, high=80),
    Field("skin_l", "skin", 3.0, step=10.0, low=20, high=90),
    Field("skin_a", "skin", 2.0, step=6.0, low=0, high=30),
    Field("skin_b", "skin", 2.0, step=6.0, low=-5, high=35),
    Field("hair_l", "hair", 9.0, step=20.0, low=2, high=90),
    Field("hair_a", "hair", 6.0, step=10.0, low=-5, high=30),
    Field("hair_b", "hair", 6.0, step=14.0, low=-15, high=40),
    Field("hair_left", "hair", 0.08, step=0.34, low=0, high=1),
    Field("hair_right", "hair", 0.08, step=0.34, low=0, high=1),
    Field("hair_top", "hair", 0.05, step=0.2, low=0, high=1),
    Field("head_left", "hair", 0.04, step=0.2, low=0, high=1),
    Field("head_right", "hair", 0.04, step=0.2, low=0, high=1),
)
"""Read off the dense landmarks (pose, expression, gaze in widths of an eye), off the lightness of
the eyes' region against the skin's (dark glasses), by the reader (age in years), off the colors of
cheeks and hair (L, a, b), and off the hair's outline (shares of hair beside the neck at the left
and right of the picture, of hair above the eyes, and of hair and ears beside the face)."""

ANSWERED: tuple[Field, ...] = (
    *(_yes_no(name, "expression", 0.7) for name in ("Smiling", "Mouth_Slightly_Open")),
    _yes_no("Male", "sex", 0.5),
    _yes_no("Young", "age"),
    _yes_no("Eyeglasses", "glasses", 0.5),
    *(_yes_no(name, "beard") for name in ("No_Beard", "Mustache")),
    *(_yes_no(name, "hair") for name in ("Bald", "Gray_Hair")),
    _yes_no("Bangs", "hair"),
    _yes_no("Wearing_Hat", "hair", 0.5),
    *(_yes_no(name, "makeup") for name in ("Heavy_Makeup", "Wearing_Lipstick")),
)
"""Attributes that are passed on by default; `attrs` adds any other of CelebA's forty."""

NAMES: tuple[str, ...] = (*CELEBA_ATTRIBUTES, *(field.name for field in MEASURED))
"""All numbers that are read; which of them are passed on is told by `fields_of`."""
PARTS = ("pose", "expression", "gaze", "sex", "age", "glasses", "beard", "hair", "skin", "makeup")
"""What `keep` may name."""


def fields_of(keep: tuple[str, ...], attrs: tuple[str, ...]) -> tuple[Field, ...]:
    """The fields that are passed on, for the parts in `keep` and the attributes in `attrs`."""
    fields = [field for field in (*MEASURED, *ANSWERED) if field.part in keep]
    have = {field.name for field in fields}
    return (*fields, *(_yes_no(name, "attrs") for name in attrs if name not in have))


def columns_of(fields: tuple[Field, ...]) -> NDArray[np.int64]:
    """The places of fields in NAMES."""
    return np.array([NAMES.index(field.name) for field in fields], np.int64)


def passed_on(numbers: Numbers, fields: tuple[Field, ...]) -> Numbers:
    """What is passed on of read numbers: (N, D) -> (N, fields), clipped and rounded."""
    found = numbers[:, columns_of(fields)].astype(np.float32)
    for column, field in enumerate(fields):
        values = found[:, column]
        if field.step == YES_NO:
            sure = np.abs(values) >= SURE
            found[:, column] = np.where(values < 0, -1, 1) * np.where(sure, LEVELS[1], LEVELS[0])
        else:
            values = np.clip(values, field.low, field.high)
            found[:, column] = np.round(values / field.step) * field.step if field.step else values
    return found
