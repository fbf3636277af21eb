"""The figures of `deid score`, each a Row: value, interval, definition, reference levels.

The metrics themselves are pure functions in identity.py and quality.py; here they meet the
features of the faces that are scored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.evaluate import features, identity, quality
from deidcli.evaluate.intervals import Interval, bootstrap, wilson
from deidcli.evaluate.pairs import PairRef
from deidcli.faces import recognizers

GROUPS = ("Male", "Young")
"""Attributes by which every privacy figure is given again, and the worst group named."""
FAR = 1e-3
SMALL_FID = 2048
"""Below this many faces the covariance of Inception's 2,048 features is singular."""


@dataclass(frozen=True)
class Row:
    """One figure."""

    metric: str
    value: float | None
    """None: not available, `definition` says why."""
    n: int
    definition: str
    better: str
    """`higher` or `lower`, or empty where neither is."""
    low: float | None = None
    high: float | None = None
    recognizer: str = ""
    group: str = ""
    """Empty: all faces."""
    original: float | None = None
    """The same figure on the originals."""
    chance: float | None = None
    with_withheld: float | None = None
    """The same share with withheld pictures in the denominator: one face each, counted as not
    found for utility and as not recognized for privacy."""


@dataclass(frozen=True)
class Faces:
    """The features of all scored faces, and what is known of each."""

    data: features.Features
    refs: tuple[PairRef, ...]
    """The pair of each face."""
    withheld: int
    attributes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.refs)

    @property
    def persons(self) -> list[str | None]:
        return [ref.person for ref in self.refs]

    def labels(self, name: str) -> NDArray[np.int8]:
        """(F,) +1, -1, or 0 where unknown."""
        return np.array([ref.labels.get(name, 0) for ref in self.refs], dtype=np.int8)

    def only(self, rows: NDArray[np.int64]) -> Faces:
        """Some of the faces."""
        data = {key: values[rows] for key, values in self.data.items()}
        return Faces(data, tuple(self.refs[row] for row in rows), 0, self.attributes)


def all_rows(faces: Faces, names: Sequence[str]) -> list[Row]:
    """Every figure, in the order of the papers."""
    rows = [*deep_autoencoder_rows(faces)]
    for name in names:
        rows += recognizer_rows(faces, name)
    rows += attribute_rows(faces)
    rows += detection_rows(faces)
    rows += quality_rows(faces)
    rows += [row for group in GROUPS for row in group_rows(faces, names, group)]
    return rows


def _share(hits: NDArray[Any]) -> tuple[float, Interval]:
    n = len(hits)
    total = float(np.sum(hits))
    return (total / n if n else math.nan), wilson(total, n)


def _share_row(
    metric: str,
    hits: NDArray[Any],
    definition: str,
    better: str,
    withheld: int | None = None,
    **more: Any,
) -> Row:
    """A row for a share; withheld faces count as hits where higher is more private."""
    value, (low, high) = _share(hits)
    with_withheld = None
    if withheld is not None:
        extra = withheld if better == "higher" and more.get("recognizer") else 0
        with_withheld = (float(np.sum(hits)) + extra) / max(len(hits) + withheld, 1)
    return Row(metric, value, len(hits), definition, better, low, high,
               with_withheld=with_withheld, **more)  # fmt: skip


def _distances(name: str) -> identity.Distances:
    return partial(recognizers.distances, name)


def deep_autoencoder_rows(faces: Faces) -> list[Row]:
    """FCNS, DEID, DIV, ANON: Nousi et al., sec. 4.1 and 4.4, by dlib's networks."""
    data, persons = faces.data, faces.persons
    rows = [
        _share_row(
            "FCNS",
            data["cnn_published"],
            "share of published faces that dlib's CNN detector finds (Nousi et al., eq. 12)",
            "higher",
            faces.withheld,
            original=float(data["cnn_original"].mean()),
        )
    ]
    if "dlib/published" not in data:
        return rows
    published, originals = data["dlib/published"], data["dlib/original"]
    own = recognizers.pair_distances("dlib", published, originals)
    rows.append(
        _share_row(
            "DEID",
            identity.deid(own),
            "share of published faces farther than 0.6 from their original (eq. 13)",
            "higher",
            faces.withheld,
            recognizer="dlib",
            original=_strangers(originals, persons),
        )
    )
    pairs = identity.random_pairs(len(faces), persons)
    if len(pairs):
        dist = _distances("dlib")
        apart = identity.diversity(identity.pair_values(published, pairs, dist))
        as_before = identity.diversity(identity.pair_values(originals, pairs, dist))
        rows.append(
            _share_row(
                "DIV",
                apart,
                "share of 10,000 random pairs of published faces farther apart than 0.6 (eq. 14)",
                "higher",
                recognizer="dlib",
                original=float(as_before.mean()),
            )
        )
    anon = identity.anonymity(published, _distances("dlib"))
    before = identity.anonymity(originals, _distances("dlib"))
    told = "number of published faces that a distance below 0.6 does not tell apart (sec. 4.4)"
    for metric, statistic in (("ANON", np.min), ("ANON median", np.median)):
        low, high = bootstrap(anon.astype(np.float64), lambda v, s=statistic: float(s(v)))  # type: ignore[misc]
        rows.append(
            Row(metric, float(statistic(anon)), len(anon), told, "higher", low, high, "dlib",
                original=float(statistic(before)))
        )  # fmt: skip
    return rows


def _strangers(originals: NDArray[np.float32], persons: Sequence[str | None]) -> float | None:
    """DEID's reference level: the share of other people's originals farther than 0.6."""
    pairs = identity.random_pairs(len(originals), persons)
    if not len(pairs):
        return None
    distances = identity.pair_values(originals, pairs, _distances("dlib"))
    return float(identity.deid(distances).mean())


def recognizer_rows(faces: Faces, name: str) -> list[Row]:
    """Identification, verification, ID-distance, SPR and linkability by one recognizer."""
    data, persons = faces.data, faces.persons
    entry = recognizers.RECOGNIZERS[name]
    dist = _distances(name)
    gallery, probes = data[f"{name}/original"], data[f"{name}/published"]
    found = identity.identify(gallery, probes, persons, dist)
    blurred = identity.identify(
        data[f"{name}/original_blurred"], data[f"{name}/published_blurred"], persons, dist
    )
    jpeg = identity.identify(gallery, data[f"{name}/published_jpeg"], persons, dist)
    by_picture = identity.chance_by_picture(len(faces))
    text = f"gallery = {len(faces)} originals, probe = published face, nearest is the own original"
    rows = [
        _share_row(metric, values, definition, "lower", faces.withheld, recognizer=name,
                   chance=chance)
        for metric, values, definition, chance in (
            ("rank-1", found.rank1, text + " (Liu et al., sec. IV)", by_picture),
            ("rank-1 by person", found.rank1_person, "nearest original shows the same person",
             identity.chance_by_person(persons)),
            ("rank-1 both blurred", blurred.rank1, "after a blur of gallery and probe", by_picture),
            ("rank-1 after JPEG 90", jpeg.rank1, "published frame saved as JPEG 90", by_picture),
            ("farthest match", found.farthest, "the own original is the farthest", by_picture),
        )
    ]  # fmt: skip
    rows.append(
        _share_row(
            "verification",
            found.own <= entry.threshold,
            f"distance to the own original at most {entry.threshold} (FAR 1e-3 on LFW)",
            "lower",
            faces.withheld,
            recognizer=name,
        )
    )
    rows += _far_rows(faces, name, found.own)
    low, high = bootstrap(found.own)
    distance = float(found.own.mean())
    text = "mean distance to the own original (Pan et al., eq. 22)"
    rows.append(Row("ID-distance", distance, len(faces), text, "higher", low, high, name))
    rows.append(
        _share_row(
            "SPR",
            found.own >= entry.threshold,
            f"share with an ID-distance of at least {entry.threshold} (Pan et al., eq. 23, 24)",
            "higher",
            faces.withheld,
            recognizer=name,
        )
    )
    return [*rows, *_link_rows(faces, name)]


def _far_rows(faces: Faces, name: str, own: NDArray[np.float64]) -> list[Row]:
    """TAR at FAR 1e-3, the threshold set on these originals' own impostor pairs."""
    gallery = faces.data[f"{name}/original"]
    pairs = identity.random_pairs(len(faces), faces.persons, 100_000)
    if not len(pairs):
        return []
    impostors = identity.pair_values(gallery, pairs, _distances(name))
    threshold = identity.threshold_at_far(impostors, FAR)
    return [
        _share_row(
            "TAR at FAR 1e-3",
            own <= threshold,
            f"verified at {threshold:.4f}, the threshold of FAR 1e-3 between these originals",
            "lower",
            faces.withheld,
            recognizer=name,
        )
    ]


def _link_rows(faces: Faces, name: str) -> list[Row]:
    dist, persons = _distances(name), faces.persons
    same, other = identity.linkability(faces.data[f"{name}/published"], persons, dist)
    if len(same) == 0:
        return []
    before = identity.linkability(faces.data[f"{name}/original"], persons, dist)
    rows = np.arange(len(same), dtype=np.float64)

    def resampled(picked: NDArray[np.float64]) -> float:
        index = picked.astype(np.int64)
        return identity.auc(same[index], other[index])

    low, high = bootstrap(rows, resampled)
    text = f"AUC of telling by published faces alone who is who, {len(same)} pairs; 0.5 is perfect"
    value, original = identity.auc(same, other), identity.auc(*before)
    return [
        Row("linkability", value, len(same), text, "lower", low, high, name, original=original,
            chance=0.5)
    ]  # fmt: skip


def attribute_rows(faces: Faces) -> list[Row]:
    """ATTR, prediction accuracy, and what the kept attributes alone give away."""
    kept = [n for n in faces.attributes if (faces.labels(n) != 0).any()]
    if not kept:
        return []
    labels = np.stack([faces.labels(name) for name in kept], axis=1)
    n, known = len(faces), float(identity.known_by_attributes(labels))
    text = f"rank-1 of who knows only {', '.join(kept[:6])}{'...' if len(kept) > 6 else ''}"
    chance = identity.chance_by_picture(n)
    rows = [Row("rank-1 by kept attributes alone", known, n, text, "lower", chance=chance)]
    if "attributes_published" not in faces.data:
        return rows
    columns = [CELEBA_ATTRIBUTES.index(name) for name in kept]
    after = np.where(faces.data["attributes_published"][:, columns] >= 0.5, 1, -1)
    before = np.where(faces.data["attributes_original"][:, columns] >= 0.5, 1, -1)
    said = (after == 1) & (labels != 0)
    rows.append(
        _share_row(
            "ATTR",
            (labels == 1)[said],
            "micro-averaged precision of kept attributes predicted present (Nousi et al., 4.4)",
            "higher",
            original=float((labels == 1)[(before == 1) & (labels != 0)].mean()),
        )
    )
    for column, name in enumerate(kept):
        there = labels[:, column] != 0
        right = (after == labels)[there, column]
        rows.append(
            _share_row(
                f"prediction accuracy {name}",
                right,
                "share predicted as labeled (Liu et al., sec. IV)",
                "higher",
                faces.withheld,
                original=float((before == labels)[there, column].mean()),
            )
        )
    return rows


def detection_rows(faces: Faces) -> list[Row]:
    """Face detection rate by two detectors: Zhai et al., table 5."""
    return [
        _share_row(
            f"detection {kind.upper()}",
            faces.data[f"{kind}_published"],
            f"share of published faces that dlib's {kind.upper()} detector finds",
            "higher",
            faces.withheld,
            original=float(faces.data[f"{kind}_original"].mean()),
        )
        for kind in ("cnn", "hog")
    ]


_QUALITY = {
    "ssim": ("SSIM", "higher", "structural similarity of the face chip with its original"),
    "psnr": ("PSNR", "higher", "peak signal-to-noise ratio in dB, mean over finite values"),
    "lpips": ("LPIPS", "lower", "learned perceptual distance (AlexNet) of the face chip"),
}


def quality_rows(faces: Faces) -> list[Row]:
    """SSIM, PSNR, LPIPS, BRISQUE, FID, as far as installed; a line why not for the others."""
    missing = quality.available()
    rows = []
    for key, (metric, better, definition) in _QUALITY.items():
        if key in faces.data:
            values = faces.data[key].astype(np.float64)
            values = values[np.isfinite(values)]
            if len(values):
                low, high = bootstrap(values)
                mean = float(values.mean())
                rows.append(Row(metric, mean, len(values), definition, better, low, high))
        else:
            rows.append(Row(metric, None, 0, missing.get(key, "") or "not measured", better))
    rows += [_brisque_row(faces, missing), _fid_row(faces, missing)]
    rows.append(Row("PieAPP", None, 0, quality.PIEAPP, "lower"))
    return rows


def _brisque_row(faces: Faces, missing: dict[str, str]) -> Row:
    if "brisque_published" not in faces.data:
        return Row("BRISQUE", None, 0, missing.get("brisque", "") or "not measured", "lower")
    values = faces.data["brisque_published"].astype(np.float64)
    before = float(faces.data["brisque_original"].mean())
    low, high = bootstrap(values)
    text = "blind picture quality of the face chip"
    return Row("BRISQUE", float(values.mean()), len(values), text, "lower", low, high,
               original=before)  # fmt: skip


def _fid_row(faces: Faces, missing: dict[str, str]) -> Row:
    if "fid_published" not in faces.data:
        return Row("FID", None, 0, missing.get("fid", "") or "not measured", "lower")
    before, after = faces.data["fid_original"], faces.data["fid_published"]
    value = quality.fid(before, after)
    half = len(before) // 2
    order = np.random.default_rng(0).permutation(len(before))
    halves = quality.fid(before[order[:half]], before[order[half:]]) if half > 1 else None
    small = "; few faces, so the value is too high" if len(before) < SMALL_FID else ""
    text = f"Frechet distance of Inception features{small}; original: between two halves of them"
    return Row("FID", value, len(before), text, "lower", original=halves)


def group_rows(faces: Faces, names: Sequence[str], attribute: str) -> list[Row]:
    """DEID and each recognizer's rank-1 within the two groups of an attribute."""
    labels = _group_labels(faces, attribute)
    rows: list[Row] = []
    for sign, word in ((1, attribute), (-1, f"not {attribute}")):
        members = np.flatnonzero(labels == sign)
        if len(members) < 2:
            continue
        some = faces.only(members)
        for name in names:
            gallery, probes = some.data[f"{name}/original"], some.data[f"{name}/published"]
            found = identity.identify(gallery, probes, some.persons, _distances(name))
            entry = recognizers.RECOGNIZERS[name]
            for metric, hits, better in (
                ("rank-1", found.rank1, "lower"),
                ("SPR", found.own >= entry.threshold, "higher"),
            ):
                rows.append(
                    _share_row(metric, hits, f"among {len(some)} faces of this group", better,
                               recognizer=name, group=word,
                               chance=identity.chance_by_picture(len(some)) if metric == "rank-1"
                               else None)
                )  # fmt: skip
    return rows


def _group_labels(faces: Faces, attribute: str) -> NDArray[np.int8]:
    """The source's labels, or the classifier's word on the originals where it has none."""
    labels = faces.labels(attribute)
    if (labels != 0).any() or "attributes_original" not in faces.data:
        return labels
    said = faces.data["attributes_original"][:, CELEBA_ATTRIBUTES.index(attribute)]
    return np.where(said >= 0.5, 1, -1).astype(np.int8)


def worst_group(rows: Sequence[Row]) -> str:
    """The group with the lowest SPR under any recognizer, in words; empty without groups."""
    grouped = [row for row in rows if row.group and row.metric == "SPR" and row.value is not None]
    if not grouped:
        return ""
    worst = min(grouped, key=lambda row: row.value if row.value is not None else 1.0)
    return f"{worst.group} (SPR {100 * (worst.value or 0):.1f} % by {worst.recognizer})"
