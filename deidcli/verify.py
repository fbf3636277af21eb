"""`deid verify`: prove that an output is what its manifest says.

Works on OUT alone, as its recipients hold it; where OUT.private lies beside it, the link table is
checked too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deidcli.data.journal import private_folder
from deidcli.data.manifest import STATUSES, read_manifest
from deidcli.errors import DeidError
from deidcli.weights import file_sha256

_LINE = re.compile(r"(\\?)([0-9a-f]{64})  (.+)")
_OWN = {"manifest.json", "metadata.parquet", "README.md", "SHA256SUMS"}


def verify_output(out: Path) -> dict[str, Any]:
    """Check an output.

    Returns:
        `ok` and `checks`: a list of name, ok, detail.

    Raises:
        DeidError: OUT is no finished output.
    """
    record = read_manifest(out)
    if record is None:
        hint = "run deid anonymize again, it resumes" if out.is_dir() else "give an output folder"
        raise DeidError(f"{out} is not a finished output (no manifest.json)", hint)
    checks = [
        _accounting(record),
        _own_files(out, record),
        *_published(out, record),
        _metadata(out, record),
    ]
    link = private_folder(out) / "link.parquet"
    if link.exists():
        checks.append(_links(link, record))
    return {"ok": all(check["ok"] for check in checks), "checks": checks}


def _check(name: str, ok: bool, detail: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "detail": detail}


def _accounting(record: dict[str, Any]) -> dict[str, Any]:
    counts = record["counts"]
    parts = [counts[status] for status in STATUSES]
    text = " + ".join(f"{counts[status]} {status}" for status in STATUSES)
    return _check("accounting", sum(parts) == counts["inputs"], f"{counts['inputs']} = {text}")


def _own_files(out: Path, record: dict[str, Any]) -> dict[str, Any]:
    wrong = [
        name
        for name, sha256 in record["files"].items()
        if not (out / name).is_file() or file_sha256(out / name) != sha256
    ]
    return _check("tables", not wrong, f"altered: {', '.join(wrong)}" if wrong else "unaltered")


def _published(out: Path, record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    sums = dict(_read_sums(out / "SHA256SUMS")) if (out / "SHA256SUMS").is_file() else {}
    wrong, missing = [], []
    for name, sha256 in sums.items():
        if not (out / name).is_file():
            missing.append(name)
        elif file_sha256(out / name) != sha256:
            wrong.append(name)
    problems = [f"altered: {name}" for name in wrong] + [f"missing: {name}" for name in missing]
    detail = "; ".join(problems[:5]) if problems else f"{len(sums)} files match SHA256SUMS"
    yield _check("checksums", not problems, detail)
    extra = sorted(set(_files(out)) - set(sums) - _OWN)
    detail = f"not of this run: {', '.join(extra[:5])}" if extra else "nothing else lies in OUT"
    yield _check("no other files", not extra, detail)


def _files(out: Path) -> Iterator[str]:
    for path in out.rglob("*"):
        if not path.is_dir():
            yield path.relative_to(out).as_posix()


def _read_sums(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text("utf-8").split("\n"):
        match = _LINE.fullmatch(line)
        if match:
            escaped, sha256, name = match.groups()
            if escaped:
                name = name.replace("\\n", "\n").replace("\\\\", "\\")
            yield name, sha256


def _metadata(out: Path, record: dict[str, Any]) -> dict[str, Any]:
    try:
        names = pq.read_table(out / "metadata.parquet", columns=["file_name"])["file_name"]
    except (pa.ArrowException, OSError) as error:
        return _check("metadata", False, str(error)[:120])
    listed = names.to_pylist()
    published = record["counts"]["published"]
    if record["input"]["kind"] == "folder":
        there = all((out / name).is_file() for name in listed)
    else:
        rows = Counter(name.rpartition("#")[0] for name in listed)
        there = all(
            (out / name).is_file() and pq.read_metadata(out / name).num_rows == count
            for name, count in rows.items()
        )
    ok = len(listed) == published == len(set(listed)) and there
    return _check("metadata", ok, f"{len(listed)} rows for {published} published pictures")


def _links(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    table = pq.read_table(path, columns=["source", "status", "outputs"])
    found = Counter(table["status"].to_pylist())
    unique = len(set(table["source"].to_pylist())) == table.num_rows
    same = all(found[status] == record["counts"][status] for status in STATUSES)
    outputs = sum(len(names) for names in table["outputs"].to_pylist())
    ok = unique and same and outputs == record["counts"]["published"]
    return _check("links", ok, f"{table.num_rows} inputs, {outputs} outputs")
