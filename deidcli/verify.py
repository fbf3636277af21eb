"""`deid verify`: prove that an output is what its manifest says.

It needs only OUT, which is what recipients have; if OUT.private is beside it, the link table is
checked too.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from deidcli.data import geometry, sealed
from deidcli.data.journal import Journal, private_folder
from deidcli.data.manifest import (
    STATUSES,
    manifest_digest,
    read_manifest,
)
from deidcli.data.sums import read_sums
from deidcli.errors import DeidError
from deidcli.evaluate import missed
from deidcli.evaluate.missed import Progress
from deidcli.pipeline import review
from deidcli.weights.files import file_sha256

_OWN = {"manifest.json", "metadata.parquet", "README.md", "SHA256SUMS"}


def verify_output(out: Path) -> dict[str, Any]:
    """Check an output against its manifest.

    Returns:
        `ok` and `checks`, a list of name, ok, detail.

    Raises:
        DeidError: OUT is not a finished output.
    """
    record = read_manifest(out)
    if record is None:
        begun = private_folder(out).is_dir()
        hint = "run deid anonymize again, it resumes" if begun else "give what deid anonymize wrote"
        raise DeidError(f"{out} is not a finished output (no manifest.json)", hint)
    steps: list[tuple[str, Callable[[Path, dict[str, Any]], str]]] = [
        ("manifest", _manifest),
        ("accounting", _accounting),
        ("tables", _tables),
        ("checksums", _checksums),
        ("no other files", _no_others),
        ("metadata", _metadata),
    ]
    if "seal" in record or record["settings"].get("seal"):
        steps.append(("sealed", _sealed))
    if (private_folder(out) / "link.parquet").exists():
        steps.append(("links", _links))
    checks = [_run(name, step, out, record) for name, step in steps]
    return {"ok": all(check["ok"] for check in checks), "checks": checks}


def faces_left(
    out: Path, sample: int | None, device: str, workers: int, progress: Progress
) -> dict[str, Any]:
    """Search again for faces that were not replaced, and add the results to the review list.

    Args:
        sample: number of pictures to search, drawn at random; None: all.

    Returns:
        `missed.Missed.as_dict`.

    Raises:
        DeidError: OUT is not a finished output, or OUT.private is not beside it.
    """
    record = read_manifest(out)
    assert record is not None, "verify_output has read it"
    said = missed.kept_or_new(out, record, sample, device, workers, progress)
    why = "a second look sees a face"
    spots = {
        name: [spot for spot in found if spot.why != why]
        for name, found in review.read_spots(out).items()
    }
    for name, places in said.found.items():
        spots.setdefault(name, []).extend(
            # Adding 1 puts these first: they come from other detectors with their own scores.
            review.Spot(place.box, 1 + min(place.score, 1.0), why)
            for place in places
        )
    review.write_review(out, {name: found for name, found in spots.items() if found})
    return said.as_dict()


class Wrong(Exception):
    """A check failed; the text says how."""


def _run(
    name: str, step: Callable[[Path, dict[str, Any]], str], out: Path, record: dict[str, Any]
) -> dict[str, Any]:
    try:
        return {"name": name, "ok": True, "detail": step(out, record)}
    except Wrong as wrong:
        return {"name": name, "ok": False, "detail": str(wrong)}
    except Exception as error:  # a reader may raise anything on a damaged file
        return {"name": name, "ok": False, "detail": f"cannot be checked: {type(error).__name__}"}


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Wrong(otherwise)


def _manifest(out: Path, record: dict[str, Any]) -> str:
    _require(record["digest"] == manifest_digest(record), "manifest.json was edited")
    return "unaltered"


def _accounting(out: Path, record: dict[str, Any]) -> str:
    counts = record["counts"]
    parts = [counts[status] for status in STATUSES]
    text = f"{counts['inputs']} = " + " + ".join(f"{counts[s]} {s}" for s in STATUSES)
    _require(sum(parts) == counts["inputs"] and min(parts) >= 0, f"does not add up: {text}")
    return text


def _tables(out: Path, record: dict[str, Any]) -> str:
    wrong = [
        name
        for name, sha256 in record["files"].items()
        if not (out / name).is_file() or file_sha256(out / name) != sha256
    ]
    _require(not wrong, f"altered or missing: {', '.join(wrong)}")
    return "unaltered"


def _checksums(out: Path, record: dict[str, Any]) -> str:
    sums = read_sums(out)
    problems = []
    for name, sha256 in sums.items():
        path = out / name
        if path.is_symlink() or not path.is_file():
            problems.append(f"missing: {name}")
        elif file_sha256(path) != sha256:
            problems.append(f"altered: {name}")
    _require(not problems, "; ".join(problems[:5]))
    return f"{len(sums)} files match SHA256SUMS"


def _no_others(out: Path, record: dict[str, Any]) -> str:
    known = set(read_sums(out)) | _OWN
    extra = [name for name in _entries(out) if name not in known]
    _require(not extra, f"not of this run: {', '.join(extra[:5])}")
    return "nothing else lies in OUT"


def _entries(out: Path) -> Iterator[str]:
    """Yield every file, link and empty folder below OUT, relative to it."""
    for folder, folders, files in os.walk(out):
        path = Path(folder)
        links = [name for name in folders if (path / name).is_symlink()]
        for name in (*files, *links):
            yield (path / name).relative_to(out).as_posix()
        if not files and not folders and path != out:
            yield path.relative_to(out).as_posix() + "/"


def _metadata(out: Path, record: dict[str, Any]) -> str:
    table = pq.read_table(out / "metadata.parquet", columns=["file_name", "status"])
    listed, counts = table["file_name"].to_pylist(), record["counts"]
    _require(len(listed) == counts["published"] == len(set(listed)), "rows are missing or double")
    files = _pictures(out)
    pictures = {name for name in listed if name.startswith("images/")}
    _require(
        pictures == {name for name in files if name.startswith("images/")},
        "not the files of SHA256SUMS",
    )
    rows = Counter(name.rpartition("#")[0] for name in listed if name not in pictures)
    tables = files - pictures
    _require(rows.keys() <= tables, "not the files of SHA256SUMS")
    for name in tables:
        there = pq.read_metadata(out / name).num_rows
        _require(there == rows[name], f"{name} has {there} rows, not {rows[name]}")
    if record["settings"]["output"] == "frames":
        found = Counter(table["status"].to_pylist())
        _require(
            all(found[status] == counts[status] for status in ("ok", "fallback")),
            "the statuses are not those of manifest.json",
        )
    return f"{len(listed)} rows for {counts['published']} published pictures"


def _pictures(out: Path) -> set[str]:
    """Return everything in SHA256SUMS except the sealed files."""
    return set(read_sums(out)) - {sealed.FILE, geometry.SEALED}


def _sealed(out: Path, record: dict[str, Any]) -> str:
    """Check for one sealed region per face; only `deid restore` can check their content."""
    _require("seal_mac" in record, "the manifest has lost its seal")
    _require(sealed.FILE in read_sums(out), "not in SHA256SUMS")
    table = pq.read_table(out / "metadata.parquet", columns=["file_name", "faces"])
    faces = {row["file_name"]: len(row["faces"]) for row in table.to_pylist()}
    _require(sealed.count_faces(out) == faces, "not the faces of metadata.parquet")
    return f"{sum(faces.values())} faces; their content needs the password (deid restore)"


def _links(out: Path, record: dict[str, Any]) -> str:
    rows = pq.read_table(private_folder(out) / "link.parquet").to_pylist()
    found = Counter(row["status"] for row in rows)
    _require(len({row["source"] for row in rows}) == len(rows), "an input is listed twice")
    _require(all(found[s] == record["counts"][s] for s in STATUSES), "statuses differ")
    outputs = [name for row in rows for name in row["outputs"]]
    _require(len(outputs) == record["counts"]["published"], "outputs differ")
    sums = read_sums(out)
    linked = {row["source"]: row["outputs"] for row in rows}
    parts = Journal(out).parts.glob("*.parquet")
    for path in sorted(path for path in parts if path.stem.isdecimal()):  # not those left by a kill
        for part in pq.read_table(path, columns=["source", "outputs"]).to_pylist():
            for name, output in zip(linked[part["source"]], part["outputs"], strict=True):
                same = name.startswith("data/") or sums.get(name) == output["sha256"]
                _require(same, f"not what the run wrote: {name}")
    return f"{len(rows)} inputs, {len(outputs)} outputs"
