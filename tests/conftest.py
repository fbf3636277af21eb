"""Fixtures: pictures of people who do not exist, and a way to run `deid` in this process."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deidcli.cli import run
from deidcli.crypto import keys as crypto_keys
from deidcli.methods import METHODS

ROOT = Path(__file__).parents[1]
PEOPLE = ROOT / "examples" / "people"
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def people() -> Path:
    return PEOPLE


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real pictures beside the repository; never needed by a user."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("../shared/data is not here: real pictures are not part of the repository")
    return folder


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """(192, 192, 3) uint8 RGB: a face that HOG finds."""
    picture = Image.open(PEOPLE / "portraits" / "person_01.jpg").convert("RGB")
    return np.asarray(picture.resize((192, 192), Image.Resampling.LANCZOS))


@pytest.fixture
def small_portraits(tmp_path: Path) -> Path:
    """A folder with twelve portraits of 160 px in two sub-folders."""
    folder = tmp_path / "in"
    for number in range(1, 13):
        picture = Image.open(PEOPLE / "portraits" / f"person_{number:02d}.jpg").convert("RGB")
        target = folder / ("a" if number % 2 else "b/c") / f"p{number:02d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.resize((160, 160), Image.Resampling.LANCZOS).save(target, quality=92)
    return folder


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least cost that a manifest may ask for, and the reversible methods."""
    monkeypatch.setattr(crypto_keys, "SCRYPT_N", crypto_keys.COSTS[0])
    monkeypatch.setitem(METHODS, "cells", "tests.reversible:Cells")
    monkeypatch.setitem(METHODS, "whole-cells", "tests.reversible:WholeCells")


def picture_bytes(pixels: np.ndarray, format: str = "JPEG", **options: Any) -> bytes:
    """Encode uint8 pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


@dataclass
class Outcome:
    """What a command did."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.stdout)
        return value


@pytest.fixture
def deid(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a `deid` command in this process."""

    def call(*args: object) -> Outcome:
        capsys.readouterr()
        code = run([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Outcome(int(code), captured.out, captured.err)

    return call


def statuses(out: Path) -> dict[str, tuple[str, str]]:
    """Source -> (status, reason), from the private link table."""
    rows = pq.read_table(out.with_name(out.name + ".private") / "link.parquet").to_pylist()
    return {row["source"]: (row["status"], row["reason"]) for row in rows}


def private_faces(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Published name -> its faces with their geometry, from OUT.private."""
    rows = pq.read_table(out.with_name(out.name + ".private") / "faces.parquet").to_pylist()
    return {row["file_name"]: row["faces"] for row in rows}


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but manifest.json, whose times differ between runs."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def manifest_without_times(out: Path) -> dict[str, Any]:
    """manifest.json without the two times in it, and what is of the run's own secret."""
    record: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    for name in ("started", "finished", "fingerprint", "digest"):
        record.pop(name)
    return record


def copy_people(target: Path, count: int = 4) -> Path:
    """Some example portraits in a fresh folder."""
    target.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        shutil.copy(PEOPLE / "portraits" / f"person_{number:02d}.jpg", target)
    return target


def everything_in(out: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of OUT as it is, and its parquet files as they read, uncompressed."""
    for path in sorted(out.rglob("*")):
        if path.is_file():
            name = path.relative_to(out).as_posix()
            yield name, path.name.encode() + path.read_bytes()
            if path.suffix == ".parquet":
                file = pq.ParquetFile(path)
                schema = file.schema_arrow
                yield name, repr((schema, schema.metadata, file.metadata.metadata)).encode()
                for column in file.read().columns:
                    for value in column.to_pylist():
                        yield name, value if isinstance(value, bytes) else repr(value).encode()


def assert_gone(out: Path, *words: bytes) -> None:
    for name, data in everything_in(out):
        for word in words:
            assert word not in data, (name, word)


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
