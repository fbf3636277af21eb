"""Whom published faces give away: attackers on finished runs of `surrogate`, and controls.

Called by `benchmarks/surrogate.py`, which says how. The gallery of an attacker is the originals,
the very photographs among them; *other pictures* leaves a probe's own original out, and asks for
the person. Each figure stands beside chance and beside what the description alone gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.surrogate_faces import (
    RESAMPLES,
    Faces,
    Looks,
    Meter,
    People,
    Values,
    items,
    mean_of,
    table,
)
from benchmarks.surrogate_kept import made
from deidcli.evaluate import identity
from deidcli.faces import recognizers
from deidcli.methods.surrogate.description import PARTS as PARTS_OF_FACES
from deidcli.methods.surrogate.description import Field, fields_of, passed_on
from deidcli.methods.surrogate.method import Surrogate
from deidcli.methods.surrogate.search import APART
from deidcli.methods.surrogate.settings import SurrogateSettings

PERMANENT = ("sex", "age", "glasses", "beard", "hair", "skin")
CONTROL = ("sex", "age", "skin")
OTHER_SEED = 982451653
"""Of the attacker without the key."""
TWO_KEYS = 200
"""Pictures that two keys are compared on, at the most."""
RIDGES = tuple(10.0**k for k in range(-3, 4))
"""Of these the parrot's ridge is chosen, in shares of the mean variance."""

Embeddings = NDArray[np.float32]
CHANCE = "chance"


# ---------------------------------------------------------------------------- descriptions


def described(looks: Looks, parts: Sequence[str]) -> Embeddings:
    """(N, F) what is passed on of some parts, in tolerances; far from all where nothing was read,
    and there the same for everybody."""
    fields: tuple[Field, ...] = fields_of(tuple(parts), ())
    rows = passed_on(np.nan_to_num(looks.numbers), fields)
    rows /= np.array([field.tolerance for field in fields], np.float32)
    rows[np.isnan(looks.numbers[:, -1])] = 1e3
    return np.asarray(rows, np.float32)


def euclidean(left: Embeddings, right: Embeddings) -> Values:
    """(N, D), (M, D) -> (N, M); exact, so that equal rows are at 0 and tie."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    return np.stack([np.sqrt(((row - b) ** 2).sum(1)) for row in a])


def other_pictures(
    gallery: Embeddings, probes: Embeddings, codes: NDArray[np.int64], distances: identity.Distances
) -> tuple[Values, Values]:
    """Rank-1 by person among all pictures but the probe's own; and chance.

    Returns:
        (N,) each, nan for probes whose person has no other picture; ties count as a draw by lot.
    """
    hits, chance = np.full(len(probes), np.nan), np.full(len(probes), np.nan)
    for row in range(len(probes)):
        same = codes == codes[row]
        same[row] = False
        if not same.any():
            continue
        line = np.array(distances(probes[row : row + 1], gallery)[0])
        line[row] = np.inf
        nearest = line == line.min()
        hits[row] = (nearest & same).sum() / nearest.sum()
        chance[row] = same.sum() / (len(line) - 1)
    return hits, chance


def description(faces: Faces) -> None:
    """Print what the descriptions alone give away."""
    people = People(faces.persons)
    lines = []
    for title, parts in (("all parts", PARTS_OF_FACES), ("permanent parts", PERMANENT),
                         ("sex, age and skin", CONTROL)):  # fmt: skip
        gallery = described(faces.before, parts)
        for whose, probes in (
            ("the original's", gallery),
            ("read off the published face", described(faces.after, parts)),
        ):
            hits, chance = other_pictures(gallery, probes, people.codes, euclidean)
            known = identity.identify(gallery, probes, faces.persons, euclidean)
            cells = [people.cell(mean_of(v), 2) for v in (hits, chance, known.rank1)]
            lines.append([title, whose, str(int(np.isfinite(hits).sum())), *cells])
    chance_by_picture = 100 * identity.chance_by_picture(len(faces))
    note = (
        "A person is sought by nothing but the description that is passed on, distances in "
        "tolerances. Person: among everybody's pictures but the probe's own. Own picture: among "
        f"all {len(faces)}, chance {chance_by_picture:.2f} %; for the original's own description "
        "it falls short of 100 only where several pictures have the same one."
    )
    head = ("parts", "probe", "n", "rank-1 by person, %", CHANCE, "own picture, %")
    table(f"The description alone: {faces.name}", note, head, lines)
    sets = []
    for title, some in {"permanent parts": PERMANENT, **{p: (p,) for p in PERMANENT}}.items():
        rows = described(faces.before, some)
        _, places, counts = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
        sizes = counts[places.ravel()]
        quarters = " / ".join(f"{value:.0f}" for value in np.quantile(sizes, [0.25, 0.5, 0.75]))
        sets.append([title, str(len(counts)), quarters, f"{100 * (sizes == 1).mean():.1f}"])
    note = (
        f"Of {len(faces)} originals: how many share a picture's rounded parts, itself among them."
    )
    columns = ("parts", "different", "set size, quartiles", "alone, %")
    table(f"Anonymity sets: {faces.name}", note, columns, sets)


# ---------------------------------------------------------------------------- linkability


def link(meter: Meter, faces: Faces) -> None:
    """Print linkability, as `deid score` has it, beside what sex, age and skin tone alone give."""
    people = People(faces.persons)
    control: list[tuple[str, Embeddings, identity.Distances]] = []
    for title, looks in (("passed on", faces.before), ("read off the published face", faces.after)):
        for name, parts in (("sex, age and skin", CONTROL), ("permanent parts", PERMANENT)):
            control.append((f"{name}, {title}", described(looks, parts), euclidean))
    lines = []
    for name in meter.names:
        after, before = faces.after.embeddings[name], faces.before.embeddings[name]
        control.append((f"{name}, published", after, partial(recognizers.distances, name)))
        control.append((f"{name}, originals", before, partial(recognizers.distances, name)))
    for name, rows, distances in control:
        same, other = identity.linkability(rows, faces.persons, distances)
        value = identity.auc(same, other)
        low, high = _auc_interval(rows, people, distances)
        lines.append([name, str(len(same)), f"{value:.3f} ({low:.3f} to {high:.3f})"])
    note = (
        "AUC of telling who is who from pairs of published faces, as in `deid score`; chance 0.5."
    )
    table(f"Linkability: {faces.name}", note, ("by", "pairs of one person", "AUC (95 %)"), lines)


def _auc_interval(
    rows: Embeddings, people: People, distances: identity.Distances
) -> tuple[float, float]:
    """95 % by person: a person's pairs are drawn together, and two people's with both of them.

    Each of the seeded pairs weighs as often as its people are drawn.
    """
    codes = people.codes
    pairs = np.array(
        [(a, b) for group in people.rows for k, a in enumerate(group) for b in group[k + 1 :]]
    ).reshape(-1, 2)
    others = identity.random_pairs(len(codes), [str(code) for code in codes], len(pairs))
    if not len(pairs) or not len(others):
        return np.nan, np.nan
    same = identity.pair_values(rows, pairs, distances)
    other = identity.pair_values(rows, others, distances)
    order = np.argsort(other, kind="stable")
    low, high = (np.searchsorted(other[order], same, side) for side in ("left", "right"))
    found, source = [], np.random.default_rng(0)
    for _ in range(RESAMPLES):
        drawn = np.bincount(
            source.integers(0, len(people.rows), len(people.rows)), minlength=len(people.rows)
        )
        weight = drawn[codes[pairs[:, 0]]]
        by_pair = (drawn[codes[others[:, 0]]] * drawn[codes[others[:, 1]]])[order]
        up = np.concatenate([[0], np.cumsum(by_pair)])
        nearer = (up[-1] - (up[low] + up[high]) / 2) * weight
        if weight.sum() and up[-1]:
            found.append(nearer.sum() / (weight.sum() * up[-1]))
    return tuple(float(v) for v in np.quantile(found, [0.025, 0.975]))  # type: ignore[return-value]


# ---------------------------------------------------------------------------- attackers


def redraw(meter: Meter, faces: Faces, data: Path, out: Path, limit: int | None) -> None:
    """Print who is found by an attacker who draws his gallery again, without the key."""
    again: dict[str, list[NDArray[np.float32]]] = {name: [] for name in meter.names}
    drawn = 0
    for item in made(Surrogate(SurrogateSettings(), "cpu"), items(data, out, limit), OTHER_SEED):
        drawn += item.replaced
        frame = item.published if item.replaced else np.zeros_like(item.original)
        for name in meter.names:
            chip = recognizers.cut(name, frame, item.points)
            again[name].append(recognizers.embed(name, [chip])[0])
    people = People(faces.persons)
    lines = []
    galleries: list[tuple[str, Embeddings, Embeddings, identity.Distances]] = []
    for name in meter.names:
        probes, apart = faces.after.embeddings[name], partial(recognizers.distances, name)
        galleries.append((f"{name}, redrawn", np.stack(again[name]), probes, apart))
        galleries.append((f"{name}, originals", faces.before.embeddings[name], probes, apart))
    for title, parts in (("the description", PARTS_OF_FACES), ("its permanent parts", PERMANENT)):
        both = described(faces.before, parts), described(faces.after, parts)
        galleries.append((f"{title} alone", *both, euclidean))
    for name, gallery, probes, distances in galleries:
        found = identity.identify(gallery, probes, faces.persons, distances)
        hits, chance = other_pictures(gallery, probes, people.codes, distances)
        cells = [people.cell(mean_of(v), 2) for v in (found.rank1, found.rank1_person, hits)]
        lines.append([name, *cells, f"{mean_of(chance)(np.arange(len(chance))):.2f}"])
    by_picture = 100 * identity.chance_by_picture(len(faces))
    by_person = 100 * identity.chance_by_person(faces.persons)
    note = (
        f"Published faces against each gallery; {drawn} of {len(faces)} could be redrawn. "
        f"Chance: {by_picture:.2f} % by picture, {by_person:.2f} % by person."
    )
    head = ("gallery", "own picture, %", "by person, %", "by person, other pictures, %", CHANCE)
    table(f"Without the key: {faces.name}", note, head, lines)


def _ridge(before: Embeddings, after: Embeddings, ridge: float) -> tuple[Values, Values]:
    """Least squares from published to original embeddings: slope (D, D), offset (D,)."""
    x, y = after.astype(np.float64), before.astype(np.float64)
    center, target = x.mean(0), y.mean(0)
    x, y = x - center, y - target
    square = x.T @ x / len(x)
    weight = ridge * np.trace(square) / len(square)
    slope = np.linalg.solve(square + weight * np.eye(len(square)), x.T @ y / len(x))
    return slope, target - center @ slope


def _mapped(name: str, rows: Embeddings, ridge: tuple[Values, Values]) -> Embeddings:
    out = rows @ ridge[0] + ridge[1]
    if recognizers.RECOGNIZERS[name].metric == "cosine":
        out = out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)
    return np.asarray(out, np.float32)


def parrot(meter: Meter, faces: Faces) -> None:
    """Print who is found through a linear map that was fitted to other people's pairs."""
    codes = People(faces.persons).codes
    count = int(codes.max()) + 1
    place = np.random.default_rng(0).permutation(count)[codes]
    test, held = place >= count // 2, place < max(1, count // 8)  # a quarter of the known half
    train = ~test
    persons = [person for person, chosen in zip(faces.persons, test, strict=True) if chosen]
    people, lines = People(persons), []
    for name in meter.names:
        before, after = faces.before.embeddings[name], faces.after.embeddings[name]
        distances = partial(recognizers.distances, name)
        if not held.any() or not (train & ~held).any():
            continue

        def missed(
            ridge: float, before: Embeddings = before, after: Embeddings = after, name: str = name
        ) -> float:
            fitted = _ridge(before[train & ~held], after[train & ~held], ridge)
            said = _mapped(name, after[held], fitted)
            return float(recognizers.pair_distances(name, said, before[held]).mean())

        ridge = min(RIDGES, key=missed)
        said = _mapped(name, after[test], _ridge(before[train], after[train], ridge))
        mapped = identity.identify(before[test], said, persons, distances).rank1
        plain = identity.identify(before[test], after[test], persons, distances).rank1
        cells = [people.cell(mean_of(v), 2) for v in (mapped, plain, mapped - plain)]
        lines.append([name, f"{ridge:g}", *cells])
    chance = 100 * identity.chance_by_picture(int(test.sum()))
    note = (
        f"A ridge regression from published to original embeddings, fitted to {int(train.sum())} "
        f"pairs of half of the people; {int(test.sum())} faces of the others are sought among "
        f"their originals. Chance {chance:.2f} %."
    )
    head = ("by", "ridge", "rank-1 mapped, %", "rank-1 plain, %", "difference")
    table(f"Parrot: {faces.name}", note, head, lines)


def farthest(meter: Meter, faces: Faces) -> None:
    """Print who is found by guessing the farthest face, or the nearest one that is far enough."""
    people, lines = People(faces.persons), []
    for name in meter.names:
        gallery, probes = faces.before.embeddings[name], faces.after.embeddings[name]
        distances = partial(recognizers.distances, name)
        found = identity.identify(gallery, probes, faces.persons, distances)
        lines.append([f"{name}: the farthest", people.cell(mean_of(found.farthest), 2)])
        if name == "dlib":
            for limit in (identity.DLIB_THRESHOLD, APART):
                beyond = partial(_beyond, name, limit)
                found = identity.identify(gallery, probes, faces.persons, beyond)
                cell = people.cell(mean_of(found.rank1 * np.isfinite(found.own)), 2)
                lines.append([f"{name}: the nearest beyond {limit}", cell])
    note = (
        f"Among {len(faces)} originals, by picture; chance "
        f"{100 * identity.chance_by_picture(len(faces)):.2f} %. The search keeps {APART} from the "
        "old face's descriptor, the gate 0.6."
    )
    table(f"Farthest: {faces.name}", note, ("guess", "own picture, %"), lines)


def _beyond(name: str, limit: float, left: Embeddings, right: Embeddings) -> Values:
    found = recognizers.distances(name, left, right)
    return np.where(found > limit, found, np.inf)


def two_keys(meter: Meter, data: Path, outs: tuple[Path, Path], limit: int | None) -> None:
    """Print which share of pictures two keys make into two people."""
    most = min(limit or TWO_KEYS, TWO_KEYS)
    one, two = (meter.run(data, out, most) for out in outs)
    rows = {key: row for row, key in enumerate(two.keys)}
    left = [row for row, key in enumerate(one.keys) if key in rows]
    right = [rows[one.keys[row]] for row in left]
    persons = [one.persons[row] for row in left]
    people, lines = People(persons), []
    for name in meter.names:
        a, b = one.after.embeddings[name][left], two.after.embeddings[name][right]
        threshold = recognizers.RECOGNIZERS[name].threshold
        apart = recognizers.pair_distances(name, a, b)
        originals = one.before.embeddings[name][left]
        pairs = identity.random_pairs(len(left), persons)
        others = recognizers.pair_distances(name, originals[pairs[:, 0]], originals[pairs[:, 1]])
        strangers = mean_of(others > threshold)(np.arange(len(others)))
        drawn = recognizers.pair_distances(name, a[pairs[:, 0]], a[pairs[:, 1]])
        between = mean_of(drawn > threshold)(np.arange(len(drawn)))
        cell = people.cell(mean_of(apart > threshold))
        lines.append([name, f"{threshold}", cell, f"{between:.1f}", f"{strangers:.1f}"])
    note = f"{len(left)} pictures of {outs[0].name} and {outs[1].name}."
    head = ("by", "threshold", "one picture, two keys, %", "two people, one key, %",
            "two people's originals, %")  # fmt: skip
    table("Taken for two people", note, head, lines)


def report(
    meter: Meter, faces: Faces, parts: Sequence[str], data: Path, out: Path, limit: int | None
) -> None:
    """Print the tables that `parts` names."""
    if "description" in parts:
        description(faces)
    if "link" in parts:
        link(meter, faces)
    if "redraw" in parts:
        redraw(meter, faces, data, out, limit)
    if "parrot" in parts:
        parrot(meter, faces)
    if "farthest" in parts:
        farthest(meter, faces)
