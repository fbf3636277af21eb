"""k-Same: each face is replaced by the average of the k faces of its group.

Newton, Sweeney, Malin, "Preserving Privacy by De-identifying Face Images", IEEE TKDE 2005,
algorithm k-Same: take a face and its k - 1 nearest among those left, publish their average for
all of them, and go on; fewer than k left over join the last group. Since at least k people share
each published face, no recognizer can tell them apart: at most 1 in k is named rightly.

The guarantee is for a closed set with one picture a person. Where the source says who is who,
each person enters the grouping once (with the first picture that shows them alone) and all their
pictures get their group's average; otherwise each face counts as a person.

What departs from the paper: faces are aligned color chips of the whole head; nearness is the
distance between 32x32 gray chips (the paper's k-Same-Pixel at lower resolution); seeds decide
whose turn it is, so the result does not depend on the order of the files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from deidcli.errors import DeidError
from deidcli.faces.align import Image
from deidcli.faces.regions import HEAD_PADDING, Region, region_mask
from deidcli.methods.base import Chip, Context, OnPixels, Pixels, Plan, PlanFace

SIZE = 128
FEATURE_SIDE = 32
"""Side of the gray picture in which faces are compared, cut from the middle of the chip."""


@dataclass(frozen=True)
class Settings:
    """Settings of k-same."""

    k: int = 10
    """At least this many people share each published face."""
    region: Region = "head"
    """What is replaced: the whole head as far as it shows, or the face alone."""

    def __post_init__(self) -> None:
        if not 2 <= self.k <= 10_000:
            raise ValueError("k must lie between 2 and 10000")


class KSame(OnPixels):
    """Replace each face by the average of its group."""

    whole_set = True
    source_type = "composite"

    def __init__(self, settings: Settings, device: str) -> None:
        self.settings = settings
        self.chip = Chip(SIZE, HEAD_PADDING)
        self.mask = region_mask(settings.region, SIZE, HEAD_PADDING)

    def prepare(self, faces: Iterable[PlanFace]) -> Plan:
        """Group all faces and average each group.

        Returns:
            `seeds` (F,) uint64 sorted, `groups` (F,) int64 the group of each, `averages`
            (G, S, S, 3) uint8, `people` (G,) int64 the people in each group.

        Raises:
            DeidError: fewer than k people.
        """
        seeds, persons, features, chips = _collect(faces)
        count = len(features)
        if count < self.settings.k:
            raise DeidError(
                f"k-same needs at least k = {self.settings.k} people, the input has {count}",
                "give more pictures, or --set k=N with a smaller N",
            )
        group_of = group_nearest(np.stack(features), self.settings.k)
        averages = _averages(chips, group_of)
        order = np.argsort(seeds)
        return {
            "seeds": seeds[order],
            "groups": group_of[persons[order]],
            "averages": averages,
            "people": np.bincount(group_of),
        }

    def on_pixels(self, chips: Pixels, context: Context) -> Pixels:
        plan = context.plan
        if plan is None:
            raise ValueError("k-same runs on a plan")
        rows = np.searchsorted(plan["seeds"], context.seeds)
        rows = np.minimum(rows, len(plan["seeds"]) - 1)
        if not np.array_equal(plan["seeds"][rows], context.seeds):
            raise ValueError("a face that was not there when the groups were made")
        averages = np.asarray(plan["averages"][plan["groups"][rows]], np.float32)
        return np.asarray(averages / np.float32(255))


def _collect(
    faces: Iterable[PlanFace],
) -> tuple[NDArray[np.uint64], NDArray[np.int64], list[NDArray[np.float32]], list[Image]]:
    """Faces in the order of their seeds; who is who; one feature and one chip a person."""
    listed = sorted(faces, key=lambda face: face.seed)
    numbers: dict[str, int] = {}
    features: list[NDArray[np.float32]] = []
    chips: list[Image] = []
    persons = np.empty(len(listed), dtype=np.int64)
    for row, face in enumerate(listed):
        person = face.person if face.person is not None else f"\0{face.seed}"
        if person not in numbers:
            numbers[person] = len(numbers)
            features.append(_feature(face.chip))
            chips.append(face.chip)
        persons[row] = numbers[person]
    seeds = np.array([face.seed for face in listed], dtype=np.uint64)
    return seeds, persons, features, chips


def _feature(chip: Image) -> NDArray[np.float32]:
    """(FEATURE_SIDE ** 2,) gray values of the mean face's square, mean 0 and norm 1."""
    low = round(HEAD_PADDING / (2 * HEAD_PADDING + 1) * len(chip))
    inner = chip[low:-low, low:-low]
    gray = cv2.cvtColor(np.ascontiguousarray(inner), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (FEATURE_SIDE, FEATURE_SIDE), interpolation=cv2.INTER_AREA)
    values = small.astype(np.float32).ravel()
    values -= values.mean()
    return np.asarray(values / max(float(np.linalg.norm(values)), 1e-6), dtype=np.float32)


def group_nearest(features: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The k-Same grouping: (N,) group numbers, each group with k to 2k - 1 members.

    Args:
        features: (N, D), N >= k.
        k: smallest group.
    """
    import torch  # for its products of large matrices; nothing else here needs it

    count = len(features)
    data = torch.from_numpy(features)
    norms = (data * data).sum(1)
    groups = np.full(count, -1, dtype=np.int64)
    left = torch.arange(count)
    number = 0
    while len(left) >= 2 * k:
        first = left[0]
        distance = norms[left] - 2 * (data[left] @ data[first])
        distance[0] = -torch.inf  # the face itself, before any exact copy of it
        nearest = torch.topk(distance, k, largest=False).indices
        groups[left[nearest].numpy()] = number
        keep = torch.ones(len(left), dtype=torch.bool)
        keep[nearest] = False
        left = left[keep]
        number += 1
    groups[left.numpy()] = number
    return groups


def _averages(chips: list[Image], group_of: NDArray[np.int64]) -> NDArray[np.uint8]:
    count = int(group_of.max()) + 1
    averages = np.empty((count, *chips[0].shape), dtype=np.uint8)
    members: list[list[int]] = [[] for _ in range(count)]
    for row, group in enumerate(group_of):
        members[group].append(row)
    for group, rows in enumerate(members):
        total = np.zeros(chips[0].shape, dtype=np.float64)
        for row in rows:
            total += chips[row]
        averages[group] = np.rint(total / len(rows))
    return averages
