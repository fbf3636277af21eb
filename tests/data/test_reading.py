"""Files are read if they are regular files below the input; nothing waits for ever."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deidcli.data import reading
from deidcli.data.reading import Unreadable, file_print, open_regular, read_regular
from deidcli.pipeline import steps
from tests.conftest import Outcome, copy_people, statuses
from tests.datasets import plain_shard

Deid = Callable[..., Outcome]
LIGHT = ("--names", "keep", "--no-gate", "--detector", "hog", "--workers", 1)


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Let something happen between the listing and the first picture."""
    real = steps.run_shard
    todo: list[Callable[[], None]] = []

    def run_shard(*args: object) -> int:
        while todo:
            todo.pop()()
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(steps, "run_shard", run_shard)
    yield todo.append


def test_a_picture_that_became_a_pipe_is_not_waited_for(
    tmp_path: Path, deid: Deid, replaced: Callable[[Callable[[], None]], None]
) -> None:
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    path = folder / "person_02.jpg"
    kept = path.read_bytes()

    def pipe() -> None:
        path.unlink()
        os.mkfifo(path)

    replaced(pipe)
    assert deid("anonymize", folder, "--out", out, *LIGHT).code == 3
    assert statuses(out)["person_02.jpg"] == ("failed", "no longer a regular file")
    assert '"reason": "no longer a regular file"' in (out / "manifest.json").read_text()
    path.unlink()
    path.write_bytes(kept)
    assert deid("anonymize", folder, "--out", out, *LIGHT).code == 0


def test_a_parquet_file_that_became_a_pipe_is_not_waited_for(
    tmp_path: Path, deid: Deid, replaced: Callable[[Callable[[], None]], None]
) -> None:
    path, out = plain_shard(tmp_path / "in/x.parquet", 1), tmp_path / "out"

    def pipe() -> None:
        path.unlink()
        os.mkfifo(path)

    replaced(pipe)
    assert deid("anonymize", tmp_path / "in", "--out", out, *LIGHT).code == 3
    assert statuses(out)["x.parquet#0"] == ("failed", "no longer a regular file")


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_picture_that_became_a_link_out_of_the_input_is_not_read(
    tmp_path: Path, deid: Deid, replaced: Callable[[Callable[[], None]], None], what: str
) -> None:
    folder, out = copy_people(tmp_path / "in/sub", 2), tmp_path / "out"
    secret = copy_people(tmp_path / "secret", 2)

    def link() -> None:
        place = folder / "person_02.jpg" if what == "file" else folder
        target = secret / "person_02.jpg" if what == "file" else secret
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        place.symlink_to(target)

    replaced(link)
    assert deid("anonymize", tmp_path / "in", "--out", out, *LIGHT).code == 3
    found = statuses(out)["sub/person_02.jpg"]
    assert found[0] == "failed" and found[1].startswith("became a link out of the input")
    assert not (out / "images/sub/person_02.jpg").exists()


def test_regular_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder", "none"):
        with pytest.raises(Unreadable):
            open_regular(tmp_path / name)
    with pytest.raises(Unreadable):
        open_regular("/dev/zero")
    assert file_print(tmp_path / "pipe") == ""
    (tmp_path / "x").write_bytes(b"abc")
    assert read_regular(tmp_path / "x", str(tmp_path.resolve())) == b"abc"
    assert read_regular(tmp_path / "x", str((tmp_path / "x").resolve())) == b"abc"
    with pytest.raises(Unreadable, match="link out"):
        read_regular(tmp_path / "x", str(tmp_path.resolve() / "folder"))


def test_prints_of_data_and_of_files_are_the_same(tmp_path: Path) -> None:
    for size in (0, 1, 4095, 4096, 4097, 8192, 12287, 12289, 50_000):
        data = os.urandom(size)
        (tmp_path / "x").write_bytes(data)
        assert reading.file_print(tmp_path / "x") == reading.data_print(data)
    assert reading.file_print(tmp_path / "none") == ""
