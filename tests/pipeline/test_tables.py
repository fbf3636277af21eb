"""metadata.parquet, as Hugging Face's own loader reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Outcome, copy_people
from tests.datasets import celeba, plain_shard, portraits, write_shard

Deid = Callable[..., Outcome]


def load(out: Path, tmp_path: Path) -> Any:
    datasets = pytest.importorskip("datasets", reason="the dev extra brings datasets")
    return datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))


def test_load_dataset_reads_a_folder(tmp_path: Path, deid: Deid) -> None:
    root, out = celeba(tmp_path / "celeba", 4), tmp_path / "out"
    assert deid("anonymize", root, "--out", out, "--workers", 1).code == 0
    loaded = load(out, tmp_path)["train"]
    assert len(loaded) == 4
    row = loaded[0]
    assert row["image"].size == (144, 144) and row["Male"] in (-1, 1) and len(row["faces"]) == 1


def test_load_dataset_reads_parquet(tmp_path: Path, deid: Deid) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write_shard(source / "train-00000-of-00001.parquet", [*portraits(3)])
    write_shard(source / "test-00000-of-00001.parquet", [*portraits(2)])
    assert deid("anonymize", source, "--out", out, "--workers", 1).code == 0
    loaded = load(out, tmp_path)
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 3, "test": 2}
    assert loaded["test"][0]["image"].size == (144, 144)


def test_both_halves_of_a_mixed_output_can_be_loaded(tmp_path: Path, deid: Deid) -> None:
    datasets = pytest.importorskip("datasets")
    folder, out = copy_people(tmp_path / "in", 1), tmp_path / "out"
    plain_shard(folder / "train.parquet", 2)
    assert deid("anonymize", folder, "--out", out, "--workers", 1).code == 0
    cache = str(tmp_path / "cache")
    pictures = datasets.load_dataset(str(out), split="train", cache_dir=cache)
    files = str(out / "data/**/*.parquet")
    shards = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
    assert len(pictures) == 1 and pictures[0]["image"].size
    assert len(shards) == 2 and 'data_files="data/**/*.parquet"' in (out / "README.md").read_text()
