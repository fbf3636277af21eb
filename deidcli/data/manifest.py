"""The record of a run: checksums, dataset card, manifest.json. For its tables, see tables.py.

manifest.json is written last; an output without it is unfinished.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from deidcli.crypto.keys import Keys
from deidcli.crypto.sealing import manifest_mac
from deidcli.data.order import split_of
from deidcli.data.sink import scratch, write_atomic
from deidcli.data.source import Source
from deidcli.data.sums import escape_sum_name
from deidcli.errors import DeidError
from deidcli.version import __version__
from deidcli.weights.files import file_sha256

STATUSES = ("ok", "fallback", "no_face", "failed", "skipped")
"""Every input has exactly one of these."""


def write_sums(out: Path, sums: list[tuple[str, str]]) -> None:
    """Write SHA256SUMS of everything published, from (name, sha256) pairs."""
    lines = []
    for name, sha256 in sorted(sums):
        escaped = escape_sum_name(name)
        lines.append(f"{'' if escaped == name else chr(92)}{sha256}  {escaped}\n")
    write_atomic(out / "SHA256SUMS", "".join(lines).encode(), scratch(out))


_PACKAGES = ("torch", "dlib-bin", "opencv-python-headless", "pillow", "pyarrow", "numpy")


def environment() -> dict[str, str]:
    """Return versions of everything that affects the pixels; nothing identifies machine or user."""
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
    """Return the sha256 of a manifest without itself, the two times, later scores and the seal."""
    free = ("digest", "scores", "started", "finished", "seal_mac")
    values = {key: value for key, value in record.items() if key not in free}
    plain = json.loads(json.dumps(values, default=str))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def write_manifest(out: Path, record: dict[str, Any], keys: Keys | None = None) -> None:
    """Write manifest.json, which marks a run as finished.

    Args:
        keys: the keys of a sealed run, whose manifest gets a MAC.
    """
    names = ["README.md", "SHA256SUMS", "metadata.parquet"]
    files = {name: file_sha256(out / name) for name in names}
    values = {"deid_version": __version__, **record, "files": files}
    values["digest"] = manifest_digest(values)
    if keys is not None:
        values["seal_mac"] = manifest_mac(keys, values)
    write_atomic(out / "manifest.json", manifest_bytes(values), scratch(out))


def manifest_bytes(record: dict[str, Any]) -> bytes:
    """Return manifest.json's bytes as they are written."""
    return json.dumps(record, indent=2, default=str, ensure_ascii=False).encode() + b"\n"


def read_manifest(out: Path) -> dict[str, Any] | None:
    """Read manifest.json of a finished run; None if there is none."""
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
    """Write README.md, a dataset card that tells Hugging Face's loader which files are data."""
    write_atomic(out / "README.md", card(source, record, shards).encode(), scratch(out))


def card(source: Source, record: dict[str, Any], shards: Sequence[str]) -> str:
    """Return the text of the dataset card."""
    lines = ["---", "configs:", *_configs(source, shards)]
    counts = record["counts"]
    gate = record["gate"]
    gate_text = (
        "faces that the method could not replace or whose dlib distance to their original was at "
        f"most {gate} were blacked out ({counts['fallback']} pictures)"
        if gate is not None
        else "off"
    )
    if gate is None and counts["fallback"]:
        gate_text += (
            "; faces that the method could not replace were blacked out "
            f"({counts['fallback']} pictures)"
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
    """Return the loader configuration for Hugging Face. For mixed outputs it only names the
    pictures, because the loader reads one kind of files per repository."""
    if source.kind == "parquet":
        splits = _splits(shards)
    elif source.kind == "folder":
        splits = {"train": ["metadata.parquet", "images/**"]}
    else:  # metadata.parquet has rows of both, and a picture loader would miss the others
        splits = {"train": ["images/**"]}
    lines = ["- config_name: default", "  data_files:"]
    for split, paths in splits.items():
        lines += [f"  - split: {split}", "    path:", *(f"    - {json.dumps(p)}" for p in paths)]
    return lines


def _mixed_lines(source: Source) -> list[str]:
    """Return how to load the other half of a mixed output."""
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
    """Return what the card's reader must know if a password can restore the faces."""
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


def _splits(shards: Sequence[str]) -> dict[str, list[str]]:
    """Assign parquet files to splits, by common names."""
    splits: dict[str, list[str]] = {}
    for shard in shards:
        split = split_of(shard)
        splits.setdefault(split, []).append(shard)
    return splits
