"""Labeled face chips for the attribute classifier: cut once, kept on disk, augmented in batches.

A data file becomes three arrays in a cache folder: `chips` (N, S, S, 3) uint8 RGB, `found` (N,)
bool (whether the detector found a face) and `labels` (N, 40) int8. Training reads them as memory
maps, so no Python runs per sample.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from deidcli.errors import DeidError
from deidcli.evaluate.attributes import NAMES
from deidcli.faces import align, detect
from deidcli.training import log

_FORMAT = 1
"""Raise it when the arrays of a cache entry change their meaning."""
WORD_COLUMNS = {
    "sex": ("Male", "male"),
    "gender": ("Male", "male"),
    "emotion": ("Smiling", "happiness"),
}
"""Columns of words in other sets -> the attribute nearest to them and the word that means yes."""


@dataclass(frozen=True)
class Chips:
    """The chips of one data file or of several."""

    chips: NDArray[np.uint8]
    """(N, S, S, 3) RGB in [0, 255]."""
    found: NDArray[np.bool_]
    """(N,) whether the detector found a face; where not, the chip is cut at the file's usual
    place of a face."""
    labels: NDArray[np.int8]
    """(N, 40) in the order of NAMES: 1 present, -1 absent, 0 not labeled."""

    def keep(self, mask: NDArray[np.bool_]) -> Chips:
        """The rows where `mask` (N,) holds."""
        return Chips(self.chips[mask], self.found[mask], self.labels[mask])


def join(parts: Sequence[Chips]) -> Chips:
    """Several files' chips, one after the other."""
    return Chips(
        np.concatenate([part.chips for part in parts]),
        np.concatenate([part.found for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


def data_files(paths: Sequence[Path]) -> list[Path]:
    """The parquet files of a list of files and folders, folders in sorted order."""
    files: list[Path] = []
    for path in paths:
        files += sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    missing = [str(path) for path in files if not path.is_file()]
    if missing or not files:
        named = ", ".join(missing) or ", ".join(str(path) for path in paths)
        raise DeidError(f"no parquet file at {named}", "name parquet files or folders of them")
    return files


def load_chips(path: Path, side: int, padding: float, cache: Path) -> Chips:
    """The chips of one parquet file, from the cache or cut now.

    Args:
        path: parquet with an `image` column (struct of bytes and path) and any of CelebA's
            columns (+1/-1) or those of WORD_COLUMNS.
        side, padding: of the chip, see `align.chip_affine`.
        cache: folder of the cached arrays; made when missing.
    """
    stat = path.stat()
    key = json.dumps([_FORMAT, str(path.resolve()), stat.st_size, stat.st_mtime_ns, side, padding])
    folder = cache / f"{path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not (folder / "labels.npy").is_file():
        _write_entry(path, folder, side, padding)
    mapped = np.load(folder / "chips.npy", mmap_mode="r")
    return Chips(mapped, np.load(folder / "found.npy"), np.load(folder / "labels.npy"))


def _write_entry(path: Path, folder: Path, side: int, padding: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    log(f"cutting the chips of {path.name}")
    table = pq.ParquetFile(path)
    count = table.metadata.num_rows
    points = [_find(frame) for frame in _frames(table)]
    found = np.array([item is not None for item in points], dtype=np.bool_)
    if not found.any():
        raise DeidError(f"no face was found in any picture of {path}", "is it a face dataset?")
    usual = np.median(np.stack([item for item in points if item is not None]), axis=0)
    chips = np.zeros((count, side, side, 3), np.uint8)
    for index, frame in enumerate(_frames(table)):
        relative = points[index]
        scale = np.array([frame.shape[1], frame.shape[0]])
        affine = align.chip_affine((usual if relative is None else relative) * scale, side, padding)
        chips[index] = align.crop(frame, affine, side)
    np.save(folder / "chips.npy", chips)
    np.save(folder / "found.npy", found)
    # Last, for its presence says that the entry is whole.
    np.save(folder / "labels.npy", _labels(table))


def _frames(table: pq.ParquetFile) -> Iterator[align.Image]:
    for batch in table.iter_batches(256, columns=["image"]):
        for row in batch.column(0).to_pylist():
            encoded = np.frombuffer(row["bytes"], np.uint8)
            picture = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
            assert picture is not None, "an image of the training data does not decode"
            yield np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def _find(frame: align.Image) -> align.Points | None:
    """The five landmarks of the face nearest to the picture's center, as shares of its sides."""
    faces = [box for box, _ in detect.detect_hog(frame)]
    if not faces:
        return None
    height, width = frame.shape[:2]
    box = min(faces, key=lambda b: np.hypot(b[0] + b[2] - width, b[1] + b[3] - height))
    points = detect.landmarks(frame, box) / np.array([width, height])
    return np.asarray(points, np.float64)


def _labels(table: pq.ParquetFile) -> NDArray[np.int8]:
    """(N, 40) int8 from CelebA's columns and from those of WORD_COLUMNS."""
    labels = np.zeros((table.metadata.num_rows, len(NAMES)), np.int8)
    wanted = [name for name in (*NAMES, *WORD_COLUMNS) if name in table.schema_arrow.names]
    for name, column in zip(wanted, table.read(columns=wanted).columns, strict=True):
        if name in NAMES:
            labels[:, NAMES.index(name)] = column.to_numpy()
        else:
            attribute, word = WORD_COLUMNS[name]
            values = [
                0 if value is None else 1 if value == word else -1 for value in column.to_pylist()
            ]
            labels[:, NAMES.index(attribute)] = values
    return labels


def resized(chips: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(N, S, S, 3) uint8 chips at another side."""
    if chips.shape[1] == side:
        return chips
    return np.stack([np.asarray(cv2.resize(chip, (side, side)), np.uint8) for chip in chips])


def augment(chips: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Vary a batch: flip, turn, scale, shift, resolution, color.

    Args:
        chips: (N, S, S, 3) uint8 RGB.
        side: of the result, px.

    Returns:
        (N, 3, side, side) float32 RGB in [0, 255], channels-last in memory.
    """
    images = chips.permute(0, 3, 1, 2).float()  # stays channels-last
    images = _move(images, side, generator)
    images = _blur(images, generator)
    return _recolor(images, generator).contiguous(memory_format=torch.channels_last)


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _move(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Mirror half of them, turn by up to 8 degrees, scale by up to 10 %, shift by up to 4 %."""
    count = len(images)
    mirror = (_uniform(count, -1, 1, generator) > 0).float() * 2 - 1
    angle = _uniform(count, -0.14, 0.14, generator)
    scale = torch.exp(_uniform(count, -0.1, 0.1, generator))
    cosines, sines = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift = _uniform(2 * count, -0.08, 0.08, generator).view(2, count)  # of half the side
    rows = [cosines * mirror, -sines, shift[0], sines * mirror, cosines, shift[1]]
    grid = functional.affine_grid(
        torch.stack(rows, 1).view(count, 2, 3), [count, 3, side, side], align_corners=False
    )
    # Black outside, as align.crop leaves it.
    return functional.grid_sample(images, grid, align_corners=False)


def _blur(images: Tensor, generator: torch.Generator) -> Tensor:
    """Bring a third of them to a lower resolution and back: published sets have small faces."""
    chosen = _uniform(len(images), 0, 1, generator) < 1 / 3
    side = images.shape[-1]
    small = max(8, round(side * float(_uniform(1, 0.3, 0.9, generator))))
    if not chosen.any():
        return images
    reduced = functional.interpolate(
        images[chosen], (small, small), mode="bilinear", antialias=True, align_corners=False
    )
    images[chosen] = functional.interpolate(
        reduced, (side, side), mode="bilinear", align_corners=False
    )
    return images


def _recolor(images: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation by up to 25 %, a slight cast; 5 % turn gray."""
    count = len(images)

    def each(low: float, high: float, channels: int = 1) -> Tensor:
        return _uniform(count * channels, low, high, generator).view(count, channels, 1, 1)

    gray = images.mean(1, keepdim=True)
    saturation = each(0.75, 1.25) * (each(0, 1) > 0.05)
    images = gray + (images - gray) * saturation
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * each(0.75, 1.25)
    return (images * each(0.8, 1.2) * each(0.95, 1.05, 3)).clamp(0, 255)
