"""The privacy figures within groups of people, and the worst group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.evaluate import identity
from deidcli.evaluate.rows import Faces, Row, distances_of, share_row
from deidcli.faces import recognizers

GROUPS = ("Male", "Young")
"""Attributes whose groups get their own privacy figures; the worst group is named."""


def group_rows(faces: Faces, names: Sequence[str], attribute: str) -> list[Row]:
    """Return DEID and each recognizer's rank-1 within the two groups of an attribute."""
    labels = _group_labels(faces, attribute)
    rows: list[Row] = []
    for sign, word in ((1, attribute), (-1, f"not {attribute}")):
        members = np.flatnonzero(labels == sign)
        if len(members) < 2:
            continue
        some = faces.only(members)
        for name in names:
            gallery, probes = some.data[f"{name}/original"], some.data[f"{name}/published"]
            found = identity.identify(gallery, probes, some.persons, distances_of(name))
            entry = recognizers.RECOGNIZERS[name]
            for metric, hits, better in (
                ("rank-1", found.rank1, "lower"),
                ("SPR", found.own >= entry.threshold, "higher"),
            ):
                rows.append(
                    share_row(metric, hits, f"among {len(some)} faces of this group", better,
                               recognizer=name, group=word,
                               chance=identity.chance_by_picture(len(some)) if metric == "rank-1"
                               else None)
                )  # fmt: skip
    return rows


def _group_labels(faces: Faces, attribute: str) -> NDArray[np.int8]:
    """Return the source's labels, or the classifier's result on originals without labels."""
    labels = faces.labels(attribute)
    if (labels != 0).any() or "attributes_original" not in faces.data:
        return labels
    said = faces.data["attributes_original"][:, CELEBA_ATTRIBUTES.index(attribute)]
    return np.where(said >= 0.5, 1, -1).astype(np.int8)


def worst_group(rows: Sequence[Row]) -> str:
    """Describe the group with the lowest SPR under any recognizer; empty without groups."""
    grouped = [row for row in rows if row.group and row.metric == "SPR" and row.value is not None]
    if not grouped:
        return ""
    worst = min(grouped, key=lambda row: row.value if row.value is not None else 1.0)
    return f"{worst.group} (SPR {100 * (worst.value or 0):.1f} % by {worst.recognizer})"
