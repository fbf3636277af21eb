"""Labeled face chips for training: found once, cut once, kept on disk, augmented in batches.

A data set (a folder or parquet) becomes two entries in a cache folder: the landmarks, labels and
persons of its pictures, which finding the faces costs, and for each size and padding the chips
(N, S, S, 3) uint8 RGB. Training reads the chips as a memory map, so no Python runs per sample.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.data.images import BadImage, decode
from deidcli.data.samples import Sample, read_samples
from deidcli.data.source import Source, content_signature, open_source
from deidcli.errors import DeidError
from deidcli.faces import align, dlib_hog, landmarks
from deidcli.training.loop import log

_FORMAT = 2
"""Raise it when the arrays of a cache entry change their meaning."""
WORD_COLUMNS = {
    "sex": ("Male", "male"),
    "gender": ("Male", "male"),
    "emotion": ("Smiling", "happiness"),
}
"""Columns of words in other sets -> the attribute nearest to them and the word that means yes."""


@dataclass(frozen=True)
class Chips:
    """The chips of one data set or of several."""

    chips: NDArray[np.uint8]
    """(N, S, S, 3) RGB in [0, 255]."""
    found: NDArray[np.bool_]
    """(N,) whether the detector found a face; where not, the chip is cut at the set's usual
    place of a face."""
    labels: NDArray[np.int8]
    """(N, 40) in the order of CELEBA_ATTRIBUTES: 1 present, -1 absent, 0 not labeled."""
    persons: NDArray[np.object_]
    """(N,) str, who it is; a picture of an unknown person has a name of its own."""

    def __len__(self) -> int:
        return len(self.labels)

    def keep(self, mask: NDArray[np.bool_]) -> Chips:
        """Return the rows where `mask` (N,) holds."""
        return Chips(self.chips[mask], self.found[mask], self.labels[mask], self.persons[mask])


P = ParamSpec("P")
R = TypeVar("R")


def with_own_faces(train: Callable[P, R]) -> Callable[P, R]:
    """Keep the cut faces of a training in `OUT/faces` for as long as it lasts.

    They are faces as they are. An interrupted training finds them again; a finished one removes
    them. A `cache` that is named by the caller is used instead, and stays.

    Args:
        train: has the arguments `out` and `cache`; returns None when it was stopped early.
    """
    signature = inspect.signature(train)

    @functools.wraps(train)
    def trained(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs)
        if given.arguments.get("cache") is not None:
            return train(*args, **kwargs)
        given.arguments["cache"] = folder = given.arguments["out"] / "faces"
        made = train(*given.args, **given.kwargs)
        if made is not None:
            shutil.rmtree(folder, ignore_errors=True)
        return made

    return trained


def load_all(
    paths: Sequence[Path], side: int, padding: float, cache: Path, extend: bool = False
) -> Chips:
    """Load the chips of several data sets, one after the other; see `load_chips`.

    Files of one folder name the same people; different folders different ones.
    """
    parts = [load_chips(path, side, padding, cache, extend) for path in _named(paths)]
    return _joined(paths, parts)


def find_all(paths: Sequence[Path], cache: Path) -> Chips:
    """Return what is known of the rows of `load_all` before anything is cut: chips of 0 px."""
    parts = []
    for path in _named(paths):
        faces, *_ = _found_faces(path, cache)
        rows = [np.load(faces / f"{name}.npy") for name in ("found", "labels", "persons")]
        chips = np.zeros((len(rows[0]), 0, 0, 3), np.uint8)
        parts.append(Chips(chips, rows[0], rows[1], rows[2].astype(object)))
    return _joined(paths, parts)


def frames_of(paths: Sequence[Path], cache: Path) -> Iterator[tuple[align.Image, align.Points]]:
    """Yield the pictures of the rows of `load_all`, whole, in order.

    Yields:
        (H, W, 3) uint8 RGB, and the landmarks (5, 2) in its pixels; where no face was found, at the
        set's usual place of a face.
    """
    for path in _named(paths):
        faces, source, _ = _found_faces(path, cache)
        shares = np.load(faces / "points.npy")
        for index, (_, frame) in enumerate(_frames(source)):
            yield frame, shares[index] * np.array([frame.shape[1], frame.shape[0]])


def _named(paths: Sequence[Path]) -> Sequence[Path]:
    if not paths:
        raise DeidError("no data to train on", "name folders of pictures or parquet files")
    return paths


def _joined(paths: Sequence[Path], parts: Sequence[Chips]) -> Chips:
    names = [
        [f"{path.parent if path.is_file() else path}\0{name}" for name in part.persons]
        for path, part in zip(paths, parts, strict=True)
    ]
    return Chips(
        np.concatenate([part.chips for part in parts]),
        np.concatenate([part.found for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([np.array(rows, dtype=object) for rows in names]),
    )


def load_chips(path: Path, side: int, padding: float, cache: Path, extend: bool = False) -> Chips:
    """Load the chips of one data set, from the cache or cut now.

    Args:
        path: a folder of pictures, a parquet file or a folder of them, as `deid anonymize` takes
            them, with CelebA's attributes (+1/-1) or the columns of WORD_COLUMNS as labels.
        side, padding: of the chip, see `align.chip_affine`.
        cache: folder of the cached arrays; made when missing.
        extend: repeat the frame's edge outside it (as methods' chips do) instead of black.
    """
    faces, source, told = _found_faces(path, cache)
    points, found = np.load(faces / "points.npy"), np.load(faces / "found.npy")
    cut = _entry(cache, path, [told, side, padding, extend])
    if not (cut / "chips.npy").is_file():
        log(f"the faces of {source.root.name}, as they are, are kept in {cache}")
        _cut(source, points, cut, side, padding, extend)
    chips = np.load(cut / "chips.npy", mmap_mode="r")
    persons = np.load(faces / "persons.npy").astype(object)
    return Chips(chips, found, np.load(faces / "labels.npy"), persons)


LABELS_HINT = (
    "labels are parquet columns, list_attr_celeba.txt or a metadata.csv with CelebA's names "
    "and 1 or -1"
)


def require_labels(faces: Chips, names: Sequence[str] = ()) -> None:
    """Make sure that there is something to learn, before the first step.

    Args:
        names: attributes that are all needed; none: any will do.

    Raises:
        DeidError: no face of the data has, or none lacks, one of these attributes.
    """
    labels = faces.labels[faces.found]
    kinds = (labels == 1).any(0) & (labels == -1).any(0)
    for name in names:
        if not kinds[CELEBA_ATTRIBUTES.index(name)]:
            raise DeidError(f"the data has no two kinds of {name}", LABELS_HINT)
    if not kinds.any():
        raise DeidError("the data has no labels with two kinds of faces", LABELS_HINT)


def load_landmarks(paths: Sequence[Path], cache: Path) -> NDArray[np.float32]:
    """Return the landmarks (N, 5, 2) of the rows of `load_all`, in the mean face's unit square.

    What they differ by from `align.MEAN_FACE_5` is pose and the shape of the face.
    """
    parts = []
    for path in paths:
        source = open_source(path)
        faces = _entry(cache, path, [content_signature(source)])
        if not (faces / "unit.npy").is_file():
            shares = np.load(faces / "points.npy")
            unit = np.empty(shares.shape, np.float32)
            for index, (_, frame) in enumerate(_frames(source)):
                points = shares[index] * np.array([frame.shape[1], frame.shape[0]])
                unit[index] = align.apply_affine(align.unit_affine(points), points)
            np.save(faces / "unit.npy", unit)
        parts.append(np.load(faces / "unit.npy"))
    return np.concatenate(parts)


def _found_faces(path: Path, cache: Path) -> tuple[Path, Source, str]:
    """The entry of what is known of a data set's pictures, made now where it is missing; the set;
    its signature."""
    source = open_source(path)
    told = content_signature(source)
    faces = _entry(cache, path, [told])
    if not (faces / "labels.npy").is_file():
        _find_faces(source, faces)
    return faces, source, told


def _entry(cache: Path, path: Path, key: list[object]) -> Path:
    digest = hashlib.sha256(json.dumps([_FORMAT, str(path.resolve()), *key]).encode())
    return cache / f"{path.stem}-{digest.hexdigest()[:16]}"


def _make_private(folder: Path) -> None:
    """Nobody but the owner may look at the faces; the cache's folder has no other content."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.parent.chmod(0o700)


def _find_faces(source: Source, folder: Path) -> None:
    """Write what is known of each picture that decodes: points, found, persons, labels."""
    log(f"finding the faces of {source.root.name} ({source.total} pictures)")
    points, labels, names = [], [], []
    for sample, frame in _frames(source):
        points.append(_find(frame))
        labels.append(_labels(sample))
        names.append(sample.identity or f"unknown {sample.key}")
    found = np.array([item is not None for item in points], dtype=np.bool_)
    if not found.any():
        raise DeidError(
            f"no face was found in any picture of {source.root}", "is it a face dataset?"
        )
    usual = np.median(np.stack([item for item in points if item is not None]), axis=0)
    _make_private(folder)
    np.save(folder / "points.npy", np.stack([usual if p is None else p for p in points]))
    np.save(folder / "found.npy", found)
    np.save(folder / "persons.npy", np.array(names))
    # Last, for its presence says that the entry is whole.
    np.save(folder / "labels.npy", np.stack(labels))


def _cut(
    source: Source,
    points: NDArray[np.float64],
    folder: Path,
    side: int,
    padding: float,
    extend: bool,
) -> None:
    chips = np.zeros((len(points), side, side, 3), np.uint8)
    for index, (_, frame) in enumerate(_frames(source)):
        size = np.array([frame.shape[1], frame.shape[0]])
        affine = align.chip_affine(points[index] * size, side, padding)
        chips[index] = align.crop(frame, affine, side, extend)
    _make_private(folder)
    partial = folder / "partial.npy"
    np.save(partial, chips)
    partial.replace(folder / "chips.npy")


def _frames(source: Source) -> Iterator[tuple[Sample, align.Image]]:
    """Yield the inputs that are pictures and decode, in order."""
    for shard in source.shards:
        for sample in read_samples(shard, None):
            if sample.status:
                continue
            try:
                frame = decode(sample.data).pixels
            except BadImage as error:
                log(f"left out: {sample.key}: {error}")
                continue
            yield sample, frame


def _find(frame: align.Image) -> align.Points | None:
    """Return the landmarks of the face nearest to the picture's center, as shares of its sides."""
    faces = [box for box, _ in dlib_hog.detect_hog(frame)]
    if not faces:
        return None
    height, width = frame.shape[:2]
    box = min(faces, key=lambda b: np.hypot(b[0] + b[2] - width, b[1] + b[3] - height))
    points = landmarks.landmarks(frame, box) / np.array([width, height])
    return np.asarray(points, np.float64)


def _labels(sample: Sample) -> NDArray[np.int8]:
    """Return the labels (40,) int8 of a sample and of its columns of WORD_COLUMNS."""
    labels = np.array([sample.labels.get(name, 0) for name in CELEBA_ATTRIBUTES], np.int8)
    if sample.row is None:
        return labels
    for column, (attribute, word) in WORD_COLUMNS.items():
        if column in sample.row.schema.names:
            value = sample.row.column(column)[0].as_py()
            if isinstance(value, str):
                labels[CELEBA_ATTRIBUTES.index(attribute)] = 1 if value == word else -1
    return labels
