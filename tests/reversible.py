"""Methods that can be reversed, and runs that are sealed, for tests of passwords and `restore`."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deidcli.crypto import keys as crypto_keys
from deidcli.data.journal import private_folder
from deidcli.faces.regions import region_mask
from deidcli.methods.base import Chip, Context, Method
from tests.conftest import (
    Outcome,
    copy_people,
)

SIZE, PADDING = 128, 0.4
Deid = Callable[..., Outcome]
WORDS = b"a passphrase of several words"
KDF = crypto_keys.Kdf(bytes(16), crypto_keys.COSTS[0])


@dataclass(frozen=True)
class CellsSettings:
    """Settings of cells."""


class Cells(Method):
    """Inverts 8 by 16 cells of a chip, one a bit: its own way back, and no protection."""

    needs_password = True

    def __init__(self, settings: CellsSettings, device: str) -> None:
        self.settings = settings
        self.chip = Chip(SIZE, PADDING)
        self.mask = region_mask("face", SIZE, PADDING)

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        assert context.bits is not None
        return self.restore(chips, context.bits)

    def restore(self, chips: Tensor, bits: NDArray[np.uint8]) -> Tensor:
        cells = torch.from_numpy(bits.astype(np.float32)).view(-1, 1, 8, 16)
        inverted = cells.repeat_interleave(SIZE // 8, 2).repeat_interleave(SIZE // 16, 3)
        return chips + inverted * (1 - 2 * chips)


class WholeCells(Cells):
    """The same, its crops published to their edges."""

    whole_chips = True


def password_file(folder: Path, text: str = "a passphrase of several words") -> Path:
    path = folder / f"password-{abs(hash(text))}"
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


def pixels(source: Path | bytes) -> NDArray[np.int64]:
    data = source.read_bytes() if isinstance(source, Path) else source
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def inner(face: dict[str, list[float]]) -> tuple[slice, slice]:
    """The middle of a face, where a mask is 1."""
    x0, y0, x1, y1 = (round(v) for v in face["box"])
    rim = (x1 - x0) // 5
    return slice(y0 + rim, y1 - rim), slice(x0 + rim, x1 - rim)


def png_people(folder: Path, count: int) -> Path:
    """Portraits of 160 px as PNG, so that nothing is lost but by the method."""
    folder.mkdir(parents=True)
    for path in sorted(copy_people(folder / "full", count).iterdir()):
        small = Image.open(path).convert("RGB").resize((160, 160))
        small.save(folder / f"{path.stem}.png")
    shutil.rmtree(folder / "full")
    return folder


def parquet_people(folder: Path, source: Path) -> Path:
    """The same pictures as rows of a parquet shard, with a column beside."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(source.iterdir())]
    folder.mkdir()
    table = pa.table({"image": pa.array(rows, kind), "note": [f"n{n}" for n in range(len(rows))]})
    pq.write_table(table, folder / "train-00000.parquet")
    return folder


def published_rows(out: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(out / "metadata.parquet").to_pylist()
    return rows


def sealed_run(deid: Deid, folder: Path, out: Path, *extra: object) -> None:
    """Black ellipses, sealed."""
    secret = ["--password-file", password_file(out.parent)]
    args = ["anonymize", folder, "--out", out, "--seal", "--workers", 1, "--seed", 5]
    args += [] if "--detector" in extra else ["--detector", "hog"]
    args += [] if "--names" in extra else ["--names", "keep"]
    args += [] if "--gate" in extra else ["--no-gate"]
    outcome = deid(*args, *secret, *extra)
    assert outcome.code == 0, outcome.stderr


def restored(deid: Deid, out: Path, to: Path, *extra: object) -> Outcome:
    return deid("restore", out, "--to", to, "--password-file", password_file(out.parent), *extra)


def chips(folder: Path, count: int) -> Path:
    """Pictures of 48 px that are wholly noise, for --detector none."""
    folder.mkdir()
    for number in range(count):
        chance = np.random.default_rng(number)
        chip = chance.integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(chip).save(folder / f"chip{number:02d}.png")
    return folder


def small_sealed(tmp_path: Path, deid: Deid) -> Path:
    """Two sealed chips of 48 px: every byte matters and all is quick."""
    folder, out = chips(tmp_path / "in", 2), tmp_path / "out"
    sealed_run(deid, folder, out, "--detector", "none", "--no-gate")
    return out


def sealed_places(tmp_path: Path, deid: Deid) -> Path:
    """An output of three pictures without its OUT.private, named `out`."""
    folder, out = png_people(tmp_path / "in", 3), tmp_path / "out"
    args = ["anonymize", folder, "--out", out, "--method", "cells", "--detector", "hog"]
    args += ["--workers", 1, "--no-gate", "--password-file", password_file(tmp_path)]
    assert deid(*args).code == 0
    shutil.rmtree(private_folder(out))
    return out
