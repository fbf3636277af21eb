"""The figures of privacy, attributes and detection, each a Row of `deid score`.

The metrics are pure functions in identity.py and quality.py; this module applies them to the
features of the scored faces.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.evaluate import identity
from deidcli.evaluate.group_figures import GROUPS, group_rows
from deidcli.evaluate.intervals import bootstrap
from deidcli.evaluate.quality_figures import quality_rows
from deidcli.evaluate.rows import Faces, Row, distances_of, share_row
from deidcli.faces import recognizers

FAR = 1e-3


def all_rows(faces: Faces, names: Sequence[str]) -> list[Row]:
    """Return every figure, in the order of the papers."""
    rows = [*deep_autoencoder_rows(faces)]
    for name in names:
        rows += recognizer_rows(faces, name)
    rows += attribute_rows(faces)
    rows += detection_rows(faces)
    rows += quality_rows(faces)
    rows += [row for group in GROUPS for row in group_rows(faces, names, group)]
    return rows


def deep_autoencoder_rows(faces: Faces) -> list[Row]:
    """Return FCNS, DEID, DIV and ANON by dlib's networks (Nousi et al., sec. 4.1 and 4.4)."""
    data, persons = faces.data, faces.persons
    rows = [
        share_row(
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
        share_row(
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
        dist = distances_of("dlib")
        apart = identity.diversity(identity.pair_values(published, pairs, dist))
        as_before = identity.diversity(identity.pair_values(originals, pairs, dist))
        rows.append(
            share_row(
                "DIV",
                apart,
                "share of 10,000 random pairs of published faces farther apart than 0.6 (eq. 14)",
                "higher",
                recognizer="dlib",
                original=float(as_before.mean()),
            )
        )
    anon = identity.anonymity(published, distances_of("dlib"))
    before = identity.anonymity(originals, distances_of("dlib"))
    told = "number of published faces that a distance below 0.6 does not tell apart (sec. 4.4)"
    for metric, statistic in (("ANON", np.min), ("ANON median", np.median)):
        low, high = bootstrap(anon.astype(np.float64), lambda v, s=statistic: float(s(v)))  # type: ignore[misc]
        rows.append(
            Row(metric, float(statistic(anon)), len(anon), told, "higher", low, high, "dlib",
                original=float(statistic(before)))
        )  # fmt: skip
    return rows


def _strangers(originals: NDArray[np.float32], persons: Sequence[str | None]) -> float | None:
    """Return DEID's reference level: the share of other people's originals farther than 0.6."""
    pairs = identity.random_pairs(len(originals), persons)
    if not len(pairs):
        return None
    distances = identity.pair_values(originals, pairs, distances_of("dlib"))
    return float(identity.deid(distances).mean())


def recognizer_rows(faces: Faces, name: str) -> list[Row]:
    """Return identification, verification, ID-distance, SPR and linkability by a recognizer."""
    data, persons = faces.data, faces.persons
    entry = recognizers.RECOGNIZERS[name]
    dist = distances_of(name)
    gallery, probes = data[f"{name}/original"], data[f"{name}/published"]
    found = identity.identify(gallery, probes, persons, dist)
    blurred = identity.identify(
        data[f"{name}/original_blurred"], data[f"{name}/published_blurred"], persons, dist
    )
    jpeg = identity.identify(gallery, data[f"{name}/published_jpeg"], persons, dist)
    by_picture = identity.chance_by_picture(len(faces))
    text = f"gallery = {len(faces)} originals, probe = published face, nearest is the own original"
    rows = [
        share_row(metric, values, definition, "lower", faces.withheld, recognizer=name,
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
        share_row(
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
        share_row(
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
    """Return TAR at FAR 1e-3, with the threshold set on these originals' impostor pairs."""
    gallery = faces.data[f"{name}/original"]
    pairs = identity.random_pairs(len(faces), faces.persons, 100_000)
    if not len(pairs):
        return []
    impostors = identity.pair_values(gallery, pairs, distances_of(name))
    threshold = identity.threshold_at_far(impostors, FAR)
    return [
        share_row(
            "TAR at FAR 1e-3",
            own <= threshold,
            f"verified at {threshold:.4f}, the threshold of FAR 1e-3 between these originals",
            "lower",
            faces.withheld,
            recognizer=name,
        )
    ]


def _link_rows(faces: Faces, name: str) -> list[Row]:
    dist, persons = distances_of(name), faces.persons
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
    """Return ATTR, prediction accuracy, and rank-1 from the kept attributes alone."""
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
        share_row(
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
            share_row(
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
    """Return the face detection rates of two detectors (Zhai et al., table 5)."""
    return [
        share_row(
            f"detection {kind.upper()}",
            faces.data[f"{kind}_published"],
            f"share of published faces that dlib's {kind.upper()} detector finds",
            "higher",
            faces.withheld,
            original=float(faces.data[f"{kind}_original"].mean()),
        )
        for kind in ("cnn", "hog")
    ]
