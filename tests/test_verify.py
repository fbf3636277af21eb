"""`deid verify` notices every change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deidcli.cli import run
from deidcli.data.journal import private_folder
from deidcli.data.manifest import manifest_digest
from deidcli.data.sealed import FILE
from deidcli.errors import DeidError
from deidcli.verify import verify_output
from deidcli.weights.files import file_sha256
from tests.conftest import (
    Outcome,
    copy_people,
)
from tests.reversible import chips, small_sealed

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


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an output and its private folder, of three chips."""
    base = tmp_path_factory.mktemp("verify")
    args = ["--detector", "none", "--no-gate", "--workers", "1", "--names", "keep"]
    code = run(["anonymize", str(chips(base / "in", 3)), "--out", str(base / "out"), *args])
    assert code == 0
    return base


def resum(out: Path) -> None:
    """Make all checksums fit again, as a forger would."""
    names = [p.relative_to(out).as_posix() for p in sorted((out / "images").iterdir())]
    sums = "".join(f"{file_sha256(out / name)}  {name}\n" for name in names)
    (out / "SHA256SUMS").write_text(sums)
    path = out / "manifest.json"
    record = json.loads(path.read_text())
    record["files"] = {name: file_sha256(out / name) for name in record["files"]}
    record["digest"] = manifest_digest(record)
    path.write_text(json.dumps(record))


def edit(out: Path, **counts: int) -> None:
    path = out / "manifest.json"
    record = json.loads(path.read_text())
    record["counts"].update(counts)
    path.write_text(json.dumps(record))


def rows(path: Path, change: Callable[[list[dict[str, object]]], object]) -> None:
    table = pq.read_table(path)
    found = table.to_pylist()
    change(found)
    pq.write_table(pa.Table.from_pylist(found, schema=table.schema), path)


def forged(out: Path) -> None:
    """Another picture in place of a published one."""
    Image.new("RGB", (48, 48)).save(out / "images/chip01.png")
    resum(out)


def linked(out: Path) -> None:
    """The same bytes, but they lie elsewhere and can change there."""
    picture = out / "images/chip01.png"
    picture.rename(out.parent / "elsewhere.png")
    picture.symlink_to(out.parent / "elsewhere.png")


CHANGES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "seed": (lambda out: edit(out, covered=1), {"manifest"}),
    "sums up": (lambda out: (edit(out, ok=2), resum(out)), {"accounting", "metadata", "links"}),
    "negative": (
        lambda out: (edit(out, ok=4, failed=-1), resum(out)),
        {"accounting", "metadata", "links"},
    ),
    "card": (lambda out: (out / "README.md").write_text("x"), {"tables"}),
    "gone": (lambda out: (out / "images/chip01.png").unlink(), {"checksums"}),
    "altered": (lambda out: Image.new("L", (9, 9)).save(out / "images/chip01.png"), {"checksums"}),
    "elsewhere": (linked, {"checksums"}),
    "more": (lambda out: (out / "images/x.png").write_bytes(b"x"), {"no other files"}),
    "hidden": (lambda out: (out / ".x").write_bytes(b"x"), {"no other files"}),
    "row gone": (
        lambda out: (rows(out / "metadata.parquet", lambda r: r.pop()), resum(out)),
        {"metadata"},
    ),
    "row double": (
        lambda out: (rows(out / "metadata.parquet", lambda r: r.append(r[0])), resum(out)),
        {"metadata"},
    ),
    "status": (
        lambda out: (
            rows(out / "metadata.parquet", lambda r: r[0].update(status="fallback")),
            resum(out),
        ),
        {"metadata"},
    ),
    "forged": (forged, {"links"}),
    "link": (
        lambda out: rows(private_folder(out) / "link.parquet", lambda r: r[0].update(source="x")),
        {"links"},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_fails_the_check_it_belongs_to(
    finished: Path, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished / "out", out)
    shutil.copytree(private_folder(finished / "out"), private_folder(out))
    assert verify_output(out)["ok"]
    alter, expected = CHANGES[change]
    alter(out)
    said = verify_output(out)
    assert not said["ok"]
    assert {check["name"] for check in said["checks"] if not check["ok"]} == expected, said


def test_an_output_without_manifest_is_not_checked(tmp_path: Path) -> None:
    with pytest.raises(DeidError, match="not a finished output") as caught:
        verify_output(tmp_path)
    assert "what deid anonymize wrote" in caught.value.hint
    private_folder(tmp_path).mkdir()
    with pytest.raises(DeidError) as caught:
        verify_output(tmp_path)
    assert "it resumes" in caught.value.hint
