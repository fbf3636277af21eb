"""Attribute labels and the label files of known data sets."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.data.identifying import is_identity_column

PARTITION = "partition"
_PARTITIONS = ("train", "valid", "test")
SPLITS = ("train", "training", "valid", "validation", "val", "dev", "test", "testing")
"""Allowed partition values if the column was not requested by name."""

Labels = Mapping[str, int]
"""Attribute name -> +1 (present) or -1 (absent); attributes without a label are missing."""


def known_split(value: object) -> str | None:
    """Return a partition's value if it is a common one; None otherwise, as it could be anything."""
    text = str(value)
    return text if text.lower() in SPLITS or text in ("0", "1", "2") else None


@dataclass
class LabelFiles:
    """The labels of a folder's pictures, from its label files."""

    labels: dict[str, Labels] = field(default_factory=dict)
    """Labels by relative path, or by bare file name if the label file has only that."""
    partitions: dict[str, str] = field(default_factory=dict)
    identities: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    """Relative paths of the files that were read."""
    warnings: list[str] = field(default_factory=list)
    seen: dict[str, None] = field(default_factory=dict)
    """The names of all columns, in order of appearance."""
    cells: dict[str, dict[str, object]] = field(default_factory=dict)
    """Requested columns of ImageFolder's tables: name -> relative path -> value."""
    wanted: Callable[[str], bool] = lambda name: False
    """Returns whether a column is requested, by name."""

    def of(self, key: str) -> tuple[Labels, str | None, str | None]:
        """Return labels, partition and identity of the picture with this relative path."""
        base = key.rsplit("/", 1)[-1]
        labels = self.labels.get(key) or self.labels.get(base) or {}
        partition = self.partitions.get(key, self.partitions.get(base))
        identity = self.identities.get(key, self.identities.get(base))
        return labels, partition, identity or lfw_identity(key)


def lfw_identity(key: str) -> str | None:
    """Return the person of a picture in LFW's layout, `Name/Name_0001.jpg`, else None."""
    parts = key.split("/")
    if len(parts) < 2:
        return None
    match = re.fullmatch(r"(.+)_\d{3,5}\.\w+", parts[-1])
    return parts[-2] if match and match.group(1) == parts[-2] else None


def read_label_files(
    files: Iterable[tuple[str, Path]], wanted: Callable[[str], bool] = lambda name: False
) -> LabelFiles:
    """Read the CelebA, LFW and Hugging Face ImageFolder label files among some files.

    Args:
        files: (relative path, path) of all files of a folder.
        wanted: which columns of ImageFolder's tables to read in addition to the labels.

    A label file that cannot be read gives a warning, never an error: labels may be missing, but no
    picture is lost because of them.
    """
    found = LabelFiles(wanted=wanted)
    for key, path in files:
        base = key.rsplit("/", 1)[-1].lower()
        reader = _READERS.get(base)
        if reader is None:
            continue
        try:
            reader(path, key.rpartition("/")[0], found)
            found.used.add(key)
        except Exception as error:  # labels may be missing; no picture is lost because of them
            found.warnings.append(
                f"the label file {key} cannot be read and is left out ({type(error).__name__})"
            )
    return found


def to_label(value: object) -> int | None:
    """Convert the usual notations of a binary attribute to +1 or -1; None for other values."""
    if isinstance(value, bool):
        return 1 if value else -1
    text = str(value).strip().lower()
    if text in ("1", "1.0", "true", "yes"):
        return 1
    return -1 if text in ("-1", "-1.0", "0", "0.0", "false", "no") else None


def _rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        if path.suffix.lower() == ".csv":
            return [row for row in csv.reader(file) if row]
        return [line.split() for line in file if line.strip()]


def _celeba_attributes(path: Path, folder: str, found: LabelFiles) -> None:
    rows = _rows(path)
    if path.suffix.lower() == ".csv":
        names, rows = rows[0][1:], rows[1:]
    else:
        names, rows = rows[1], rows[2:]
    found.seen.update(dict.fromkeys(names))
    for row in rows:
        pairs = ((name, to_label(value)) for name, value in zip(names, row[1:], strict=True))
        found.labels[row[0]] = {name: value for name, value in pairs if value is not None}


def _celeba_partitions(path: Path, folder: str, found: LabelFiles) -> None:
    found.seen[PARTITION] = None
    for row in _rows(path):
        if row[1].isdigit():
            found.partitions[row[0]] = _PARTITIONS[int(row[1])]


def _celeba_identities(path: Path, folder: str, found: LabelFiles) -> None:
    found.seen["identity"] = None
    for row in _rows(path):
        if row[1].isdigit():
            found.identities[row[0]] = row[1]


def _lfw_attributes(path: Path, folder: str, found: LabelFiles) -> None:
    """Read Kumar et al.'s attribute scores; positive means present."""
    with path.open(encoding="utf-8") as file:
        lines = [line.rstrip("\n").split("\t") for line in file if line.strip()]
    header = next(line for line in lines if "person" in line)
    names = [name.strip().replace(" ", "_") for name in header if name.strip() != "#"]
    found.seen.update(dict.fromkeys(n for n in names if n not in ("person", "imagenum")))
    for line in lines[lines.index(header) + 1 :]:
        values = dict(zip(names, line, strict=True))
        person = values.pop("person").replace(" ", "_")
        number = int(values.pop("imagenum"))
        scores = {name: 1 if float(score) > 0 else -1 for name, score in values.items()}
        labels = {name: score for name, score in scores.items() if name in CELEBA_ATTRIBUTES}
        found.labels[f"{person}_{number:04d}.jpg"] = labels


def _lfw_people(path: Path, folder: str, found: LabelFiles) -> None:
    found.seen[PARTITION] = None
    partition = "train" if "train" in path.name.lower() else "test"
    with path.open(encoding="utf-8") as file:
        for line in file:
            parts = line.split()
            if len(parts) == 2 and parts[1].isdigit():
                for number in range(1, int(parts[1]) + 1):
                    found.partitions[f"{parts[0]}_{number:04d}.jpg"] = partition


def _image_folder(path: Path, folder: str, found: LabelFiles) -> None:
    """Read Hugging Face's `metadata.csv`, `.jsonl` or `.parquet`; `file_name` is relative to it."""
    for row in _table_rows(path):
        name = str(row["file_name"])
        key = f"{folder}/{name}" if folder else name
        pairs = ((column, to_label(row[column])) for column in row if column in CELEBA_ATTRIBUTES)
        found.labels[key] = {column: label for column, label in pairs if label is not None}
        split = row.get(PARTITION) or row.get("split")
        if (known := known_split(split)) is not None:
            found.partitions[key] = known
        for column, value in row.items():
            if not isinstance(column, str) or column == "file_name":  # None: more values than names
                continue
            found.seen[column] = None
            if is_identity_column(column) and value is not None:
                found.identities[key] = str(value)
            if found.wanted(column):
                found.cells.setdefault(column, {})[key] = value


def _table_rows(path: Path) -> list[dict[str, object]]:
    if path.suffix.lower() == ".jsonl":
        lines = path.read_text("utf-8-sig").splitlines()
        return [json.loads(line) for line in lines if line.strip()]
    if path.suffix.lower() == ".csv":
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [dict(row) for row in csv.DictReader(file)]
    import pyarrow.parquet as pq

    rows: list[dict[str, object]] = pq.read_table(path).to_pylist()
    return rows


_READERS = {
    "list_attr_celeba.txt": _celeba_attributes,
    "list_attr_celeba.csv": _celeba_attributes,
    "list_eval_partition.txt": _celeba_partitions,
    "list_eval_partition.csv": _celeba_partitions,
    "identity_celeba.txt": _celeba_identities,
    "identity_celeba.csv": _celeba_identities,
    "lfw_attributes.txt": _lfw_attributes,
    "peopledevtrain.txt": _lfw_people,
    "peopledevtest.txt": _lfw_people,
    "metadata.csv": _image_folder,
    "metadata.jsonl": _image_folder,
    "metadata.parquet": _image_folder,
}
