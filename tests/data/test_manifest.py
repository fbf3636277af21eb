"""manifest.json names no source file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deidcli.data.manifest import card, environment, manifest_digest, read_manifest
from deidcli.data.source import Source
from deidcli.errors import DeidError
from tests.conftest import Outcome
from tests.datasets import images

Deid = Callable[..., Outcome]


def test_manifest_names_no_source_file(tmp_path: Path, deid: Deid) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"image": images(1)}), tmp_path / "in/good.parquet")
    (tmp_path / "in/John_Smith.parquet").write_bytes(b"PAR1 broken")
    deid("anonymize", tmp_path / "in", "--out", tmp_path / "out", "--workers", 1)
    assert "John_Smith" not in (tmp_path / "out/manifest.json").read_text()


def test_the_digest_holds_all_but_times_scores_and_the_seal() -> None:
    record = {"counts": {"ok": 3}, "seed": 1, "started": "a", "scores": 1, "digest": "x"}
    digest = manifest_digest(record)
    free = {"started": "b", "finished": "c", "scores": 9, "digest": "y", "seal_mac": "m"}
    assert manifest_digest({**record, **free}) == digest
    assert manifest_digest({**record, "seed": 2}) != digest
    assert manifest_digest({**record, "counts": {"ok": 2}}) != digest
    assert manifest_digest(dict(reversed(record.items()))) == digest


def test_a_manifest_that_is_none_is_an_error(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    path = tmp_path / "manifest.json"
    for text in ("{", "[]", '{"method": "blur"}'):
        path.write_text(text)
        with pytest.raises(DeidError, match=r"manifest\.json"):
            read_manifest(tmp_path)
    path.write_text('{"counts": {}}')
    assert read_manifest(tmp_path) == {"counts": {}}


RECORD = {
    "method": "blur",
    "counts": {"ok": 5, "fallback": 2, "no_face": 4, "failed": 6, "skipped": 7, "inputs": 24,
               "published": 9, "faces": 11, "covered": 3, "copied": 1},
    "gate": 0.6, "attributes": ["Male"],
    "settings": {"output": "frames", "on_no_face": "copy"},
}  # fmt: skip


def test_the_card_says_what_was_published_and_what_was_not() -> None:
    folder = Source("folder", Path("in"), (), 0, "")
    said = " ".join(card(folder, RECORD, []).split())
    assert "published: 9 of 24 inputs, 1 of them without a face found and copied as it is" in said
    assert "withheld: 3 without a face, 6 unreadable, 7 not pictures" in said
    assert "faces: 11 replaced, 3 of them blacked out" in said
    assert "at most 0.6 were blacked out (2 pictures)" in said and "metadata: Male" in said
    assert "password" not in said and "sealed" not in said
    secret = {**RECORD, "password": {}, "seal": {"file": "sealed/faces.parquet"}, "gate": None}
    said = card(folder, secret, [])
    assert "a password exists" in said and "sealed/faces.parquet" in said and "gate: off" in said


def test_the_card_tells_the_loader_its_files() -> None:
    shards = ["data/train-0.parquet", "data/test-0.parquet", "data/train-1.parquet"]
    said = card(Source("parquet", Path("in"), (), 0, ""), RECORD, shards)
    order = ["split: train", "train-0", "train-1", "split: test", "test-0"]
    assert [said.index(word) for word in order] == sorted(said.index(word) for word in order)
    assert "images/**" not in said and 'metadata.parquet"' not in said
    mixed = card(Source("mixed", Path("in"), (), 0, ""), RECORD, shards)
    assert '- "images/**"' in mixed and 'metadata.parquet"' not in mixed


def test_the_environment_names_nobody() -> None:
    import getpass
    import platform

    said = json.dumps(environment())
    assert platform.node() not in said or len(platform.node()) < 4
    assert getpass.getuser() not in said and environment()["numpy"]
