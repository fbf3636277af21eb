"""What is an input: one, several, pictures and parquet in one tree, and what is none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deidcli.data.listing import Locator
from deidcli.data.source import FolderShard, Source, open_source
from deidcli.errors import DeidError, UsageError
from deidcli.pipeline import output
from tests.conftest import PEOPLE, Outcome, copy_people, statuses
from tests.test_datasets import portraits

Deid = Callable[..., Outcome]


def keys(source: Source) -> list[str]:
    """Keys of the pictures of a source, in order; of parquet shards, the file's."""
    found: list[str] = []
    for shard in source.shards:
        if isinstance(shard, FolderShard):
            found += [item.key for item in shard.items if not item.status]
        else:
            found.append(shard.key)
    return found


def write_shard(path: Path, count: int = 2) -> Path:
    """A parquet file of portraits."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(portraits(count))]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": pa.array(rows, type=kind)}), path)
    return path


def run_source(roots: list[Path], out: Path) -> tuple[Source, dict[str, object]]:
    """De-identify several inputs without the command line."""
    from deidcli.pipeline import engines, prepare
    from deidcli.settings import RunSettings

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


def test_default_output_lies_in_no_input(tmp_path: Path) -> None:
    folder = copy_people(tmp_path / "photos", 2)
    several = sorted(folder.glob("*.jpg"))
    assert output.default_output(several) == tmp_path / "photos-deid"
    assert output.default_output([folder]) == tmp_path / "photos-deid"
    assert output.default_output(tmp_path / "train.parquet") == tmp_path / "train-deid"
    with pytest.raises(UsageError, match="no folder in common"):
        output.default_output([Path("/a.jpg"), Path("/b.jpg")])


def test_output_inside_any_of_the_inputs_is_refused(tmp_path: Path) -> None:
    a, b = copy_people(tmp_path / "a", 1), copy_people(tmp_path / "b", 1)
    with pytest.raises(DeidError, match="one in the other"):
        output.check_output(b / "out", open_source([a, b]))


def test_pictures_beside_parquet_shards_are_all_read(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 1), tmp_path / "out"
    write_shard(folder / "deep/train.parquet", 3)
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


def test_columns_of_pictures_and_of_parquet_shards(tmp_path: Path, deid: Deid) -> None:
    """One rule for both halves, and each keeps its values beside its own pictures."""
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    shard = write_shard(folder / "train.parquet", 2)
    table = pq.read_table(shard).append_column("note", pa.array(["n0", "n1"]))
    pq.write_table(table.append_column("mrn", pa.array(["m0", "m1"])), shard)
    lines = "file_name,caption,age,width\nperson_01.jpg,a man,30,7\nperson_02.jpg,a woman,40,7\n"
    (folder / "metadata.csv").write_text(lines)
    base = ["anonymize", folder, "--workers", 1, "--json"]
    outcome = deid(*base, "--out", out, "--columns", "note,age")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["columns"] == {
        "kept": ["age", "note"], "dropped": ["caption", "width", "mrn"]
    }  # fmt: skip
    links = pq.read_table(tmp_path / "out.private/link.parquet").to_pylist()
    sources = {name: row["source"] for row in links for name in row["outputs"]}
    ages = pq.read_table(out / "metadata.parquet").to_pylist()
    assert {sources[row["file_name"]]: row["age"] for row in ages} == {
        "person_01.jpg": 30, "person_02.jpg": 40, "train.parquet#0": None, "train.parquet#1": None
    }  # fmt: skip
    after = pq.read_table(next((out / "data").iterdir()))
    assert after.column_names == ["image", "note"]
    assert sorted(after["note"].to_pylist()) == ["n0", "n1"]
    assert deid("verify", out).code == 0
    for name, words in {"weight": "no input has such", "width": "column of its own"}.items():
        refused = deid(*base, "--out", tmp_path / "no", "--columns", name)
        assert refused.code == 2 and words in refused.stderr
    assert not (tmp_path / "no").exists()


def test_columns_of_a_table_that_describes_no_picture(tmp_path: Path, deid: Deid) -> None:
    shard, out = write_shard(tmp_path / "in/train.parquet", 1), tmp_path / "out"
    (shard.parent / "metadata.csv").write_text("file_name,caption\nperson_01.jpg,a man\n")
    base = ["anonymize", shard.parent, "--out", out, "--workers", 1, "--json"]
    refused = deid(*base, "--columns", "caption")
    assert refused.code == 2 and "no input has such" in refused.stderr
    outcome = deid(*base)
    assert outcome.json["columns"] == {"kept": [], "dropped": ["caption"]}
    assert "caption" not in pq.read_schema(out / "metadata.parquet").names


def test_both_halves_of_a_mixed_output_can_be_loaded(tmp_path: Path, deid: Deid) -> None:
    datasets = pytest.importorskip("datasets")
    folder, out = copy_people(tmp_path / "in", 1), tmp_path / "out"
    write_shard(folder / "train.parquet", 2)
    assert deid("anonymize", folder, "--out", out, "--workers", 1).code == 0
    cache = str(tmp_path / "cache")
    pictures = datasets.load_dataset(str(out), split="train", cache_dir=cache)
    files = str(out / "data/**/*.parquet")
    shards = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
    assert len(pictures) == 1 and pictures[0]["image"].size
    assert len(shards) == 2 and 'data_files="data/**/*.parquet"' in (out / "README.md").read_text()


def test_a_mixed_output_is_restored_whole(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out, to = copy_people(tmp_path / "in", 1), tmp_path / "out", tmp_path / "to"
    write_shard(folder / "train.parquet", 2)
    args = ["anonymize", folder, "--out", out, "--seal", "--names", "keep", "--workers", 1]
    monkeypatch.setenv("DEID_PASSWORD", "four gray herons wait")
    assert deid(*args).code == 0
    assert deid("verify", out).code == 0
    monkeypatch.setenv("DEID_PASSWORD", "four gray herons wait")
    outcome = deid("restore", out, "--to", to, "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["counts"]["exact"] == 3
    assert len(list((to / "images").iterdir())) == 1
    assert pq.read_metadata(to / "data/train.parquet").num_rows == 2


def test_one_bad_parquet_file_stops_no_other(tmp_path: Path, deid: Deid) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_shard(folder / "b.parquet")
    (folder / "a.parquet").write_bytes(b"PAR1 broken")
    empty = pq.read_table(folder / "b.parquet").slice(0, 0)
    pq.write_table(empty, folder / "c.parquet")
    pq.ParquetWriter(folder / "d.parquet", empty.schema).close()  # no row group at all
    outcome = deid("anonymize", folder, "--out", out, "--names", "keep", "--workers", 1)
    assert outcome.code == 3, outcome.stderr
    found = statuses(out)
    assert found["a.parquet"][0] == "failed"
    for name in ("c.parquet", "d.parquet"):
        assert found[name] == ("skipped", "a parquet file without rows")
    assert pq.read_metadata(out / "data/b.parquet").num_rows == 2


def test_parquet_without_rows_alone(tmp_path: Path, deid: Deid) -> None:
    path = write_shard(tmp_path / "in/x.parquet")
    pq.ParquetWriter(tmp_path / "y.parquet", pq.read_schema(path)).close()
    outcome = deid("anonymize", tmp_path / "y.parquet", "--workers", 1)
    assert outcome.code == 1 and "without rows" in outcome.stderr
    assert not (tmp_path / "y-deid").exists()


@pytest.mark.parametrize("address", ["s3://bucket/x", "https://a.org/b.zip", "hf://datasets/a/b"])
def test_an_address_gets_a_sentence(address: str, deid: Deid) -> None:
    outcome = deid("anonymize", address)
    assert outcome.code == 1
    assert f"{address} is an address" in outcome.stderr and "download" in outcome.stderr
