"""`deid verify` notices every change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from deidcli.data.manifest import manifest_digest
from deidcli.data.sealed import FILE
from deidcli.weights.files import file_sha256
from tests.conftest import (
    Outcome,
    copy_people,
)
from tests.datasets import portraits
from tests.reversible import chips, sealed_run

pytestmark = pytest.mark.usefixtures("cheap")

Deid = Callable[..., Outcome]


def test_verify_notices_every_change(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 3), tmp_path / "out"
    args = ["anonymize", folder, "--out", out, "--names", "keep", "--workers", 1, "--no-gate"]
    assert deid(*args).code == 0
    whole = tmp_path / "kept"
    shutil.copytree(out, whole)

    def tampered(change: Callable[[], object]) -> None:
        shutil.rmtree(out)
        shutil.copytree(whole, out)
        change()
        assert deid("verify", out).code == 1

    picture = out / "images/person_02.jpg"
    manifest = out / "manifest.json"
    tampered(lambda: picture.write_bytes(picture.read_bytes()[:-1] + b"x"))
    tampered(picture.unlink)
    tampered(lambda: shutil.copy(folder / "person_01.jpg", out / "images/extra.jpg"))
    tampered(lambda: (out / "metadata.parquet").write_bytes(b"PAR1"))
    text = manifest.read_text()
    tampered(lambda: manifest.write_text(text.replace('"ok": 3', '"ok": 2')))
    tampered(lambda: (out / "SHA256SUMS").write_text(""))


def images(count: int) -> pa.Array:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(portraits(count))]
    return pa.array(rows, type=kind)


def test_verify_is_not_fooled(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    args = ["anonymize", folder, "--out", out, "--names", "keep", "--workers", 1]
    assert deid(*args).code == 0
    kept = tmp_path / "kept"
    shutil.copytree(out, kept)

    def fails(change: Callable[[], object]) -> None:
        shutil.rmtree(out)
        shutil.copytree(kept, out)
        change()
        outcome = deid("verify", out)
        assert outcome.code == 1 and "Traceback" not in outcome.stderr

    manifest = out / "manifest.json"
    record = json.loads(manifest.read_text())
    fails(lambda: (out / "images/more").symlink_to(folder))
    fails((out / "images/John_Smith").mkdir)
    fails(lambda: manifest.write_text(json.dumps({**record, "gate": 0.9})))
    fails(lambda: manifest.write_text("{}"))
    fails(lambda: manifest.write_text("{"))
    fails(lambda: (out / "SHA256SUMS").write_bytes(b"\xff"))

    def swap() -> None:
        """An original in place of a published picture, all checksums made to fit."""

        target = out / "images/person_01.jpg"
        before = file_sha256(target)
        shutil.copy(folder / "person_01.jpg", target)
        sums = out / "SHA256SUMS"
        sums.write_text(sums.read_text().replace(before, file_sha256(target)))
        forged = {**record, "files": {**record["files"], "SHA256SUMS": file_sha256(sums)}}
        forged["digest"] = manifest_digest(forged)
        manifest.write_text(json.dumps(forged))

    fails(swap)


def small_sealed(tmp_path: Path, deid: Deid) -> Path:
    """Two sealed chips of 48 px: every byte matters and all is quick."""
    folder, out = chips(tmp_path / "in", 2), tmp_path / "out"
    sealed_run(deid, folder, out, "--detector", "none", "--no-gate")
    return out


def test_verify_knows_the_sealed_file(tmp_path: Path, deid: Deid) -> None:
    out = small_sealed(tmp_path, deid)
    outcome = deid("verify", out, "--json")
    assert outcome.code == 0
    assert {"sealed"} <= {check["name"] for check in outcome.json["checks"]}
    card = (out / "README.md").read_text()
    assert FILE in card and "pseudonymized" in card
    whole = (out / FILE).read_bytes()
    (out / FILE).write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    assert deid("verify", out).code == 1
    (out / FILE).unlink()
    assert deid("verify", out).code == 1
