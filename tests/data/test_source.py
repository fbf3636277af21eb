"""What is an input: one, several, pictures and parquet in one tree, and what is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from deidcli.data.listing import Locator
from deidcli.data.source import Source, content_signature, open_source
from deidcli.pipeline import engines, output, prepare
from deidcli.settings import RunSettings
from tests.conftest import PEOPLE, Outcome, copy_people
from tests.datasets import keys, plain_shard

Deid = Callable[..., Outcome]


def same_size(path: Path, change: Callable[[bytearray], None]) -> None:
    """Replace a file by another one of its size, and of its times."""
    info = path.stat()
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def test_the_content_decides_what_is_derived_from_the_inputs(tmp_path: Path) -> None:
    """A run that can be repeated derives secrets from it; training, where its chips are kept."""
    folder = copy_people(tmp_path / "in", 1)
    before = open_source(folder)

    def change(data: bytearray) -> None:
        data[700] ^= 1

    told = content_signature(before)
    same_size(folder / "person_01.jpg", change)
    after = open_source(folder)
    assert after.signature == before.signature and content_signature(after) != told


def run_source(roots: list[Path], out: Path) -> tuple[Source, dict[str, object]]:
    """De-identify several inputs without the command line."""

    source = open_source(roots)
    output.check_output(out, source)
    run = prepare.prepare_run(RunSettings("blackout", detector="hog", names="keep"), source, out)
    return source, engines.run_local(run, 1, lambda *_: None)


def test_one_picture_is_an_input(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 2)
    source = open_source(folder / "person_01.jpg")
    assert source.total == 1 and keys(source) == ["person_01.jpg"]
    assert output.default_output(folder / "person_01.jpg") == folder / "person_01-deid"
    args = ["anonymize", folder / "person_01.jpg", "--names", "keep", "--workers", 1]
    assert deid(*args).code == 0
    out = folder / "person_01-deid"
    assert [p.name for p in (out / "images").iterdir()] == ["person_01.jpg"]
    assert deid("verify", out).code == 0
    again = deid(*args)
    assert again.code == 0 and "already done" in again.stderr


def test_several_inputs_have_keys_of_their_own(tmp_path: Path, deid: Deid) -> None:
    a, b = copy_people(tmp_path / "a/photos", 2), copy_people(tmp_path / "b/photos", 1)
    lone = tmp_path / "c/person_01.jpg"
    lone.parent.mkdir()
    shutil.copy(PEOPLE / "portraits/person_03.jpg", lone)
    out = tmp_path / "out"
    source, record = run_source([lone, b, a], out)
    expected = ["photos/person_01.jpg", "photos/person_02.jpg", "photos-2/person_01.jpg"]
    assert sorted(keys(source)) == sorted([*expected, "person_01.jpg"])
    assert keys(open_source([a, b, lone])) == keys(source), "their order makes no difference"
    assert record["counts"]["inputs"] == 4  # type: ignore[index]
    assert sorted(p.relative_to(out / "images").as_posix() for p in out.rglob("*.jpg")) == sorted(
        keys(source)
    )
    assert deid("verify", out).code == 0
    locate = Locator(source.roots)
    assert locate("photos-2/person_01.jpg") == b / "person_01.jpg"
    assert locate("person_01.jpg") == lone


def test_files_of_one_name_from_several_folders(tmp_path: Path) -> None:
    files = []
    for folder in ("x", "y", "z"):
        (tmp_path / folder).mkdir()
        files.append(tmp_path / folder / "p.jpg")
        shutil.copy(PEOPLE / "portraits/person_01.jpg", files[-1])
    (tmp_path / "w").mkdir()
    files.append(tmp_path / "w/p-2.jpg")
    shutil.copy(PEOPLE / "portraits/person_01.jpg", files[-1])
    assert sorted(keys(open_source(files))) == ["p-2.jpg", "p-3.jpg", "p-4.jpg", "p.jpg"]


def test_what_is_named_twice_is_listed_once_and_said(tmp_path: Path) -> None:
    folder = copy_people(tmp_path / "in", 2)
    (folder / "sub").mkdir()
    shutil.copy(folder / "person_01.jpg", folder / "sub/q.jpg")
    shutil.copy(folder / "person_01.jpg", folder / ".hidden.jpg")
    (tmp_path / "link").symlink_to(folder)
    roots = [folder, tmp_path / "link", folder / "sub", folder / "person_01.jpg"]
    source = open_source(roots)
    assert keys(source) == ["in/person_01.jpg", "in/person_02.jpg", "in/sub/q.jpg"]
    assert source.warnings == ("inputs named twice, or within another one, and listed once: 3",)
    named = open_source([folder, folder / ".hidden.jpg"])
    assert "in/.hidden.jpg" in keys(named)


def test_pictures_beside_parquet_shards_are_all_read(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 1), tmp_path / "out"
    plain_shard(folder / "deep/train.parquet", 3)
    (folder / "notes.txt").write_text("x")
    pq.write_table(pa.table({"a": [1]}), folder / "numbers.parquet")
    args = ["anonymize", folder, "--out", out, "--names", "keep", "--workers", 1]
    outcome = deid(*args, "--json")
    assert outcome.code == 0, outcome.stderr
    counts = outcome.json["counts"]
    assert (counts["inputs"], counts["ok"], counts["skipped"]) == (6, 4, 2)
    assert outcome.json["input"] == {"kind": "mixed"}
    assert (out / "images/person_01.jpg").is_file()
    assert pq.read_metadata(out / "data/deep/train.parquet").num_rows == 3
    assert "1 parquet files have no column of pictures" in outcome.stderr
    assert deid("verify", out).code == 0, deid("verify", out).stdout
    again = deid(*args)
    assert again.code == 0 and "already done" in again.stderr
    (out / "data/deep/train.parquet").unlink()
    assert deid("verify", out).code == 1
    assert deid(*args).code == 0
    assert deid("verify", out).code == 0
