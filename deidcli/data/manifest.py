"""The record of a run: metadata.parquet, link.parquet, checksums, dataset card, manifest.json.

manifest.json is written last; an output without it is not finished.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa

from deidcli import __version__
from deidcli.data import sealed
from deidcli.data.attributes import PARTITION
from deidcli.data.journal import FACE_TYPE, NONCE_FACE_TYPE, Journal
from deidcli.data.parquet import ParquetShard
from deidcli.data.sink import AtomicParquet, merge_parquet, scratch, staged_name, write_atomic
from deidcli.data.source import Shard, Source
from deidcli.errors import DeidError
from deidcli.passwords import Keys
from deidcli.sealing import manifest_mac
from deidcli.weights import file_sha256

STATUSES = ("ok", "fallback", "no_face", "failed", "skipped")
"""Every input has exactly one of these."""
ROWS_A_WRITE = 4096

LINK_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("status", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("notes", pa.list_(pa.string())),
        pa.field("faces", pa.int32()),
        pa.field("outputs", pa.list_(pa.string())),
    ]
)


def metadata_schema(
    attributes: Sequence[str], has_partition: bool, has_nonces: bool = False
) -> pa.Schema:
    """The schema of metadata.parquet.

    Args:
        has_nonces: the method needs a password.
    """
    return pa.schema(
        [
            pa.field("file_name", pa.string()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("status", pa.string()),
            *(pa.field(name, pa.int8()) for name in attributes),
            *([pa.field(PARTITION, pa.string())] if has_partition else []),
            pa.field("faces", pa.list_(NONCE_FACE_TYPE if has_nonces else FACE_TYPE)),
        ]
    )


@dataclass
class Tally:
    """What the parts add up to."""

    statuses: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    published: int = 0
    faces: int = 0
    covered: int = 0
    doubtful: int = 0
    copied: int = 0

    def add(self, row: dict[str, Any]) -> None:
        self.statuses[row["status"]] += 1
        self.notes.update(row["notes"])
        if row["status"] in ("failed", "skipped"):
            self.reasons[(row["status"], row["reason"])] += 1
        self.published += len(row["outputs"])
        self.faces += row["faces"]
        self.covered += row["covered"]
        self.copied += row["status"] == "no_face" and bool(row["outputs"])
        self.doubtful += bool(row["doubts"])

    def counts(self, inputs: int) -> dict[str, int]:
        """Inputs by status, the number that was listed before the run, and what was published."""
        by_status = {status: self.statuses[status] for status in STATUSES}
        assert sum(self.statuses.values()) == sum(by_status.values()) == inputs
        return {
            **by_status,
            "inputs": inputs,
            "published": self.published,
            "faces": self.faces,
            "covered": self.covered,
            "copied": self.copied,
            "doubtful": self.doubtful,
        }


class _Buffer:
    """Rows on their way into a parquet file, written in large row groups."""

    def __init__(self, file: AtomicParquet, schema: pa.Schema) -> None:
        self._file, self._schema = file, schema
        self._rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= ROWS_A_WRITE:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            self._file.write(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []


def _published_face(face: Mapping[str, Any]) -> dict[str, Any]:
    """A face as metadata.parquet has it: the two measured numbers rounded up to tenths.

    The exact distance to its original would help to find that original among a list of suspects,
    and the exact score is a fingerprint of the picture; the journal in OUT.private has both.
    """
    coarse = {name: _coarse(face[name]) for name in ("score", "gate_distance")}
    return {**face, **coarse}


def _coarse(value: float | None) -> float | None:
    return None if value is None else math.ceil(round(value * 10, 3)) / 10


def write_tables(
    out: Path,
    source: Source,
    attributes: Sequence[str],
    sort_names: bool,
    has_nonces: bool = False,
    has_seal: bool = False,
) -> tuple[Tally, list[str]]:
    """Write metadata.parquet, link.parquet, the published parquet files and the checksums.

    Args:
        sort_names: order the metadata by published name, so that it does not tell the source's
            order (`--names random`).
        has_nonces: the method needs a password.
        has_seal: the run was sealed; the sealed rows of all shards are joined too.

    Returns:
        What it all adds up to, and the relative paths of the parquet files.
    """
    journal, tally = Journal(out), Tally()
    schema = metadata_schema(attributes, source.has_partition, has_nonces)
    sums: list[tuple[str, str]] = []
    places: list[sealed.Staged] = []
    with ExitStack() as stack:
        metadata_file = AtomicParquet(out / "metadata.parquet", schema, scratch(out))
        link_file = AtomicParquet(journal.folder / "link.parquet", LINK_SCHEMA, journal.parts)
        published = _Buffer(stack.enter_context(metadata_file), schema)
        links = _Buffer(stack.enter_context(link_file), LINK_SCHEMA)
        rows = _joined_rows(journal, source, tally, links, attributes)
        if sort_names:
            rows = iter(sorted(rows, key=lambda row: str(row[0]["file_name"])))
        for row, sha256, place in rows:
            published.add({name: row.get(name) for name in schema.names})
            if has_seal:
                places.append(place)
            if str(row["file_name"]).startswith("images/"):
                sums.append((str(row["file_name"]), sha256))
        published.flush()
        links.flush()
    shards = _merge_shards(out, source)
    others = list(shards)
    if has_seal:
        if source.has_parquet:  # in the order of their rows, however the names are sorted
            places.sort(key=lambda place: (place.shard, place.row))
        sealed.merge(out, places, len(source.shards))
        others.append(sealed.FILE)
    sums += [(name, file_sha256(out / name)) for name in others]
    _write_sums(out, sums)
    return tally, shards


def _joined_rows(
    journal: Journal,
    source: Source,
    tally: Tally,
    links: _Buffer,
    attributes: Sequence[str],
) -> Iterator[tuple[dict[str, Any], str, sealed.Staged]]:
    """One row a published picture, its sha256, where its sealed row is staged.

    On the way, tallies and links every input.
    """
    row_numbers: Counter[str] = Counter()
    for shard, part in zip(source.shards, journal.read_parts(len(source.shards)), strict=True):
        number = 0
        for entry in part:
            tally.add(entry)
            labels = dict(entry["labels"])
            names = []
            for output in entry["outputs"]:
                name = _published_name(shard, output["name"], row_numbers)
                names.append(name)
                yield (
                    {
                        "file_name": name,
                        "width": output["width"],
                        "height": output["height"],
                        "status": entry["status"],
                        PARTITION: entry["partition"],
                        "faces": [_published_face(face) for face in output["faces"]],
                        **{attribute: labels.get(attribute) for attribute in attributes},
                    },
                    output["sha256"],
                    sealed.Staged(name, shard.index, number),
                )
                number += 1
            linked = {key: entry[key] for key in ("source", "status", "reason", "notes", "faces")}
            links.add({**linked, "outputs": names})


def _published_name(shard: Shard, name: str, row_numbers: Counter[str]) -> str:
    if not isinstance(shard, ParquetShard):
        return f"images/{name}"
    row = row_numbers[shard.key]
    row_numbers[shard.key] += 1
    return f"data/{shard.key}#{row}"


def _merge_shards(out: Path, source: Source) -> list[str]:
    staging = Journal(out).staging
    staged: dict[str, list[Path]] = {}
    for shard in source.shards:
        if isinstance(shard, ParquetShard):
            staged.setdefault(shard.key, []).append(staging / staged_name(shard.index))
    names = []
    for key, paths in staged.items():
        name = f"data/{key}"
        if not (out / name).exists() or all(path.exists() for path in paths):
            merge_parquet(paths, out / name, scratch(out))
        names.append(name)
    return names


def escape_sum_name(name: str) -> str:
    """A file name as `sha256sum` writes it."""
    return name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def unescape_sum_name(text: str) -> str:
    """The inverse of `escape_sum_name`."""
    back = {"\\n": "\n", "\\r": "\r", "\\\\": "\\"}
    return re.sub(r"\\[nr\\]", lambda match: back[match[0]], text)


def _write_sums(out: Path, sums: list[tuple[str, str]]) -> None:
    lines = []
    for name, sha256 in sorted(sums):
        escaped = escape_sum_name(name)
        lines.append(f"{'' if escaped == name else chr(92)}{sha256}  {escaped}\n")
    write_atomic(out / "SHA256SUMS", "".join(lines).encode(), scratch(out))


_PACKAGES = ("torch", "dlib-bin", "opencv-python-headless", "pillow", "pyarrow", "numpy")


def environment() -> dict[str, str]:
    """Versions of what decides the pixels. Nothing that names the machine or its user."""
    versions = {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
    }
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # another build of it, such as dlib for dlib-bin
            versions[package] = "unknown"
    return versions


def manifest_digest(record: dict[str, Any]) -> str:
    """sha256 of a manifest's content, without itself, the two times, later scores, the seal."""
    free = ("digest", "scores", "started", "finished", "seal_mac")
    values = {key: value for key, value in record.items() if key not in free}
    plain = json.loads(json.dumps(values, default=str))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def write_manifest(out: Path, record: dict[str, Any], keys: Keys | None = None) -> None:
    """Write manifest.json, the mark of a finished run.

    Args:
        keys: of a sealed run, whose manifest gets a MAC.
    """
    names = ["README.md", "SHA256SUMS", "metadata.parquet"]
    files = {name: file_sha256(out / name) for name in names}
    values = {"deid_version": __version__, **record, "files": files}
    values["digest"] = manifest_digest(values)
    if keys is not None:
        values["seal_mac"] = manifest_mac(keys, values)
    write_atomic(out / "manifest.json", manifest_bytes(values), scratch(out))


def manifest_bytes(record: dict[str, Any]) -> bytes:
    """manifest.json as it is written."""
    return json.dumps(record, indent=2, default=str, ensure_ascii=False).encode() + b"\n"


def read_manifest(out: Path) -> dict[str, Any] | None:
    """manifest.json of a finished run, or None where there is none."""
    try:
        record = json.loads((out / "manifest.json").read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DeidError(
            f"{out / 'manifest.json'} cannot be read: {type(error).__name__}",
            "restore it, or make the output anew with --overwrite",
        ) from None
    if not isinstance(record, dict) or "counts" not in record:
        raise DeidError(
            f"{out / 'manifest.json'} is not a manifest of deid",
            "restore it, or make the output anew with --overwrite",
        )
    return record


def write_card(out: Path, source: Source, record: dict[str, Any], shards: Sequence[str]) -> None:
    """README.md: a dataset card that tells Hugging Face's loader which files are data."""
    write_atomic(out / "README.md", card(source, record, shards).encode(), scratch(out))


def card(source: Source, record: dict[str, Any], shards: Sequence[str]) -> str:
    """The text of the dataset card."""
    lines = ["---", "configs:", *_configs(source, shards)]
    counts = record["counts"]
    gate = record["gate"]
    gate_text = (
        f"faces whose dlib distance to their original was at most {gate} were blacked out "
        f"({counts['fallback']} pictures)"
        if gate is not None
        else "off"
    )
    kept = ", ".join(record["attributes"]) or "none"
    without = "copied as it is" if record["settings"]["on_no_face"] == "copy" else "blacked out"
    copied = (
        f", {counts['copied']} of them without a face found and {without}"
        if counts["copied"]
        else ""
    )
    lines += [
        "---",
        "",
        "# De-identified pictures of faces",
        "",
        f"Made by deid {__version__}, method `{record['method']}`. Every setting and count is in",
        "`manifest.json`; `metadata.parquet` has one row a picture.",
        "",
        f"- published: {_published(record)}{copied}; withheld: "
        f"{counts['no_face'] - counts['copied']} without a face, {counts['failed']} unreadable, "
        f"{counts['skipped']} not pictures",
        f"- faces: {counts['faces']} replaced, {counts['covered']} of them blacked out because no "
        "landmarks were found",
        f"- attribute labels in the metadata: {kept}",
        f"- gate: {gate_text}",
        *_mixed_lines(source),
        *_password_lines(record),
        "",
        "De-identified means that faces were replaced and checked as the manifest says. It is no",
        "promise that nobody can be recognized: clothes, places, captions and faces that the",
        "detector missed are not covered.",
        "",
        "Check the files with `deid verify` or `sha256sum -c SHA256SUMS`.",
        "",
    ]
    return "\n".join(lines)


def _configs(source: Source, shards: Sequence[str]) -> list[str]:
    """What Hugging Face's loader is to read: of a mixed output the pictures alone, for it reads
    one kind of files a repository."""
    if source.kind == "parquet":
        splits = _splits(shards)
    elif source.kind == "folder":
        splits = {"train": ["metadata.parquet", "images/**"]}
    else:  # metadata.parquet has rows of both, and a reader of pictures would miss the others
        splits = {"train": ["images/**"]}
    lines = ["- config_name: default", "  data_files:"]
    for split, paths in splits.items():
        lines += [f"  - split: {split}", "    path:", *(f"    - {json.dumps(p)}" for p in paths)]
    return lines


def _mixed_lines(source: Source) -> list[str]:
    """How the other half of a mixed output is loaded."""
    if source.kind != "mixed":
        return []
    return [
        "- pictures lie in `images/`, the rows of parquet inputs in `data/`: load those with",
        '  `load_dataset("parquet", data_files="data/**/*.parquet")`',
    ]


def _published(record: dict[str, Any]) -> str:
    counts = record["counts"]
    crops = "crops from " if record["settings"]["output"] == "crops" else "of "
    return f"{counts['published']} {crops}{counts['inputs']} inputs"


def _password_lines(record: dict[str, Any]) -> list[str]:
    """What a reader of the card must know where a password opens the faces."""
    lines = []
    if "password" in record:
        lines += [
            "- a password exists that brings faces back (`deid restore`): as long as anybody has",
            "  it, this data set is pseudonymized, not more",
        ]
    if "seal" in record:
        lines += [
            f"- `{record['seal']['file']}` holds the original pixels of every replaced face,",
            "  encrypted; without that file the pictures stay as they are",
        ]
    return lines


_SPLIT_WORDS = {"test": ("test",), "validation": ("validation", "valid", "val", "dev")}


def _splits(shards: Sequence[str]) -> dict[str, list[str]]:
    """Which parquet file belongs to which split, by the usual names."""
    splits: dict[str, list[str]] = {}
    for shard in shards:
        base = shard.removeprefix("data/").lower()
        split = "train"
        for name, words in _SPLIT_WORDS.items():
            if any(word in base for word in words):
                split = name
                break
        splits.setdefault(split, []).append(shard)
    return splits
