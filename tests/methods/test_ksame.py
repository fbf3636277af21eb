"""k-Same: grouping and its guarantee."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from deidcli.errors import DeidError
from deidcli.methods.base import Context, PlanFace
from deidcli.methods.ksame import SIZE, KSame, Settings, group_nearest
from tests.conftest import PEOPLE, Outcome
from tests.datasets import celeba


@pytest.mark.parametrize(("count", "k"), [(10, 10), (19, 10), (20, 10), (57, 5), (7, 3)])
def test_groups_have_k_to_2k_members(count: int, k: int) -> None:
    features = np.random.default_rng(count).normal(size=(count, 8)).astype(np.float32)
    sizes = Counter(group_nearest(features, k).tolist()).values()
    assert sum(sizes) == count and all(k <= size < 2 * k for size in sizes)


def test_groups_are_the_nearest() -> None:
    """Three far clusters of four: k-Same with k = 4 finds them."""
    centers = np.repeat(np.eye(3, dtype=np.float32) * 100, 4, axis=0)
    features = centers + np.random.default_rng(0).normal(size=centers.shape).astype(np.float32)
    order = np.random.default_rng(1).permutation(12)
    groups = group_nearest(features[order], 4)
    for cluster in range(3):
        assert len({int(g) for g in groups[np.flatnonzero(order // 4 == cluster)]}) == 1


def plan_faces(people: int, pictures: int) -> list[PlanFace]:
    rng = np.random.default_rng(3)
    chips = rng.integers(0, 256, (people * pictures, SIZE, SIZE, 3), dtype=np.uint8)
    return [
        PlanFace(seed=1000 - n, chip=chip, person=f"person {n // pictures}")
        for n, chip in enumerate(chips)
    ]


def test_every_published_face_is_shared_by_k_people() -> None:
    """The guarantee itself, with several pictures a person."""
    faces = plan_faces(people=11, pictures=3)
    method = KSame(Settings(k=5), "cpu")
    plan = method.prepare(faces)
    context = Context(
        seeds=np.array([face.seed for face in faces], dtype=np.uint64),
        scales=np.ones(len(faces)),
        plan=plan,
    )
    out = method(torch.zeros(len(faces), 3, SIZE, SIZE), context)
    people_of: dict[bytes, set[str]] = {}
    for face, chip in zip(faces, out, strict=True):
        people_of.setdefault(chip.numpy().tobytes(), set()).add(str(face.person))
    assert len(people_of) == 2
    assert all(len(people) >= 5 for people in people_of.values())
    assert (plan["people"] >= 5).all()


def test_average_is_the_average_and_input_order_does_not_matter() -> None:
    faces = plan_faces(people=4, pictures=1)
    method = KSame(Settings(k=4), "cpu")
    plan = method.prepare(faces)
    mean = np.mean([face.chip for face in faces], axis=0)
    assert np.abs(plan["averages"][0] - mean).max() <= 0.5
    again = method.prepare(list(reversed(faces)))
    assert all(np.array_equal(plan[key], again[key]) for key in plan)


def test_too_few_people_is_an_error() -> None:
    with pytest.raises(DeidError, match="has 3"):
        KSame(Settings(k=4), "cpu").prepare(plan_faces(people=3, pictures=2))


def test_on_a_folder_with_identities(tmp_path: Path, deid: Callable[..., Outcome]) -> None:
    """12 pictures of 6 people, k = 3: published crops come in groups of at least 3 people."""
    root = celeba(tmp_path / "celeba")
    args = ["anonymize", root, "--method", "k-same", "--set", "k=3", "--output", "crops"]
    args += ["--set", "region=head", "--names", "keep"]
    outcome = deid(*args, "--no-gate", "--workers", 2)
    assert outcome.code == 0, outcome.stderr
    out = tmp_path / "celeba-deid"
    groups: dict[bytes, set[int]] = {}
    for row in pq.read_table(out / "metadata.parquet").to_pylist():
        number = int(Path(row["file_name"]).name[:6]) - 1
        pixels = np.asarray(Image.open(out / row["file_name"]))
        center = pixels[40:90, 40:90].tobytes()  # inside the mask nothing of the original is left
        groups.setdefault(center, set()).add(number // 2)
    assert all(len(people) >= 3 for people in groups.values())
    assert len(groups) == 2


def test_examples_have_people() -> None:
    assert len(list((PEOPLE / "portraits").glob("*.jpg"))) >= 20
