"""Labeled pictures of people who do not exist, and a recipe that is over in a moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import picture_bytes


@pytest.fixture(scope="session")
def labeled(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parquet file of eight portraits and one picture without a face, with two labels."""
    pictures = sorted((people / "portraits").glob("*.jpg"))[:8]
    rows = [{"bytes": path.read_bytes(), "path": None} for path in pictures]
    blank = np.full((64, 64, 3), 90, np.uint8)
    rows.append({"bytes": picture_bytes(blank, "PNG"), "path": None})
    signs = [1, -1] * 4 + [1]
    words = ["male", "female", None, *["male"] * 6]
    table = pa.table({"image": rows, "Young": pa.array(signs, pa.int8()), "sex": words})
    path = tmp_path_factory.mktemp("data") / "people.parquet"
    pq.write_table(table, path)
    return path


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cut faces, so that they are found once for all tests."""
    return tmp_path_factory.mktemp("cache")
