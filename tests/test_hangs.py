"""What made a run wait for ever, read what it should not, or stop without a way out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from deidcli.data.listing import printable
from deidcli.data.reading import Unreadable, file_print, open_regular, read_regular
from deidcli.data.source import open_source
from deidcli.errors import DeidError
from deidcli.methods.base import PlanFace
from deidcli.pipeline import output, plans, steps
from tests.conftest import ROOT, Outcome, copy_people, picture_bytes, statuses
from tests.test_source import keys, write_shard

Deid = Callable[..., Outcome]
LIGHT = ("--names", "keep", "--no-gate", "--detector", "hog", "--workers", 1)


def command(*args: object, **more: object) -> subprocess.CompletedProcess[str]:
    """`python -m deidcli` in a process of its own, for a minute or two at most."""
    line = [sys.executable, "-m", "deidcli", *(str(arg) for arg in args)]
    options: dict[str, object] = {"capture_output": True, "text": True, "timeout": 240, "cwd": ROOT}
    return subprocess.run(line, check=False, **{**options, **more})  # type: ignore[call-overload, no-any-return]


# ---------------------------------------------------------------------------- replaced files


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
    path, out = write_shard(tmp_path / "in/x.parquet", 1), tmp_path / "out"

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


def test_links_within_the_input_are_read_and_others_when_asked(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 1), tmp_path / "out"
    (folder / "again.jpg").symlink_to(folder / "person_01.jpg")
    elsewhere = copy_people(tmp_path / "elsewhere", 2)
    (folder / "out.jpg").symlink_to(elsewhere / "person_02.jpg")
    outcome = deid("anonymize", folder, "--out", out, *LIGHT)
    assert outcome.code == 0 and statuses(out)["again.jpg"][0] == "ok"
    assert statuses(out)["out.jpg"][0] == "skipped"
    followed = tmp_path / "followed"
    assert deid("anonymize", folder, "--out", followed, "--follow-links", *LIGHT).code == 0
    assert statuses(followed)["out.jpg"][0] == "ok"


def test_a_link_into_another_of_the_inputs_is_read(tmp_path: Path, deid: Deid) -> None:
    a, b = copy_people(tmp_path / "a", 1), copy_people(tmp_path / "b", 2)
    (a / "link.jpg").symlink_to(b / "person_02.jpg")
    out = tmp_path / "out"
    outcome = deid("anonymize", a, b, "--out", out, *LIGHT)
    assert outcome.code == 0, outcome.stderr
    assert statuses(out)["a/link.jpg"][0] == "ok"


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


# ---------------------------------------------------------------------------- links


def test_a_link_to_the_parent_lists_nothing_twice(tmp_path: Path) -> None:
    folder = copy_people(tmp_path / "above/in", 2)
    copy_people(tmp_path / "above/in-deid", 1)
    (folder / "up").symlink_to(folder.parent)
    source = open_source(folder, follow_links=True)
    assert keys(source) == ["person_01.jpg", "person_02.jpg"]
    reasons = {i.key: i.reason for s in source.shards for i in s.items}  # type: ignore[union-attr]
    assert reasons["up"] == "link to a folder that holds the input"


def test_followed_folders_are_listed_once_under_their_own_path(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    copy_people(folder / "z/real", 1)
    copy_people(tmp_path / "store/deep", 1)
    (folder / "a").symlink_to(folder / "z")
    (folder / "b").symlink_to(tmp_path / "store/deep")
    (folder / "c").symlink_to(tmp_path / "store")
    (tmp_path / "store/back").symlink_to(folder / "z")
    source = open_source(folder, follow_links=True)
    assert keys(source) == ["z/real/person_01.jpg", "b/person_01.jpg"]
    assert set(source.linked) == {tmp_path / "store", tmp_path / "store/deep"}
    with pytest.raises(DeidError, match="one in the other"):
        output.check_output(tmp_path / "store/out", source)


# ---------------------------------------------------------------------------- no way out


def test_a_long_tmpdir(tmp_path: Path) -> None:
    folder = copy_people(tmp_path / "in", 4)
    long = tmp_path / ("x" * 120)
    long.mkdir()
    environment = {**os.environ, "TMPDIR": str(long), "PYTHONPATH": str(ROOT)}
    args = ["anonymize", folder, "--out", tmp_path / "out", *LIGHT[:-1], 2]
    before = set(Path(tempfile.gettempdir()).glob("pymp-*"))
    done = command(*args, env=environment)
    assert done.returncode == 0, done.stderr
    mine = {p for p in set(Path("/tmp").glob("pymp-*")) - before if p.stat().st_uid == os.getuid()}
    assert "Traceback" not in done.stderr and not list(long.glob("pymp-*"))
    assert not [p for p in mine if not list(p.glob("listener-*"))]


def test_no_folder_for_sockets_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from deidcli import processes

    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * 200)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(processes.multiprocessing, "current_process", object)
    with pytest.raises(DeidError, match="TMPDIR is too long") as caught:
        processes._shorten_temporary_folder()
    assert "--workers 1" in caught.value.hint


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-", ">/dev/null | true"])
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    """No traceback, the same exit code; and nothing that is printed lands in a file of OUT."""
    folder = copy_people(tmp_path / "in", 2)
    out = tmp_path / "out"
    light = " ".join(str(arg) for arg in LIGHT)
    line = f"{sys.executable} -m deidcli anonymize {folder} --out {out} {light} {closed}"
    shell = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, cwd=ROOT, timeout=240
    )
    assert shell.returncode == 0 and "Traceback" not in shell.stderr, shell.stderr
    assert command("verify", out).returncode == 0


def test_a_reader_that_is_gone(tmp_path: Path) -> None:
    line = f"{sys.executable} -m deidcli methods | true; echo ${{PIPESTATUS[0]}}"
    shell = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, cwd=ROOT, timeout=240
    )
    assert shell.stdout.strip() in ("0", "1") and shell.stderr == ""


def small_disk(folder: Path, size: str) -> None:
    """A file system of this size, or the test is skipped."""
    folder.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(line, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")


@pytest.mark.parametrize("step", ["scan", "plan"])
def test_a_full_disk_in_the_pass_over_the_whole_set(tmp_path: Path, step: str) -> None:
    disk = tmp_path / "disk"
    small_disk(disk, "200k")
    try:
        chip = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        faces = [PlanFace(seed, chip, None) for seed in range(4)]
        with pytest.raises(DeidError, match="no space left") as caught:
            if step == "scan":
                plans.write_scan(disk / "scan", 0, faces)
            else:
                plans.write_plan(disk / "plan", {"averages": np.stack([chip] * 4)})
        assert "it resumes" in caught.value.hint
        assert not plans.is_scanned(disk / "scan", 0) and not plans.has_plan(disk / "plan")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_scans_are_read_back(tmp_path: Path) -> None:
    chip = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    plans.write_scan(tmp_path, 0, [PlanFace(5, chip, "a"), PlanFace(6, chip + 1, None)])
    plans.write_scan(tmp_path, 1, [])
    found = list(plans.read_scans(tmp_path, 2))
    assert [(face.seed, face.person) for face in found] == [(5, "a"), (6, None)]
    assert np.array_equal(found[1].chip, chip + 1)


# ---------------------------------------------------------------------------- what is no input


REFUSED = {
    "photos.tar": "unpack",
    "photos.tar.gz": "unpack",
    "photos.zip": "unpack",
    "data.jsonl": "to_parquet",
    "data-00000-of-00001.arrow": "load_from_disk",
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("alone", [True, False])
def test_containers_are_refused_with_a_way_out(
    tmp_path: Path, deid: Deid, name: str, alone: bool
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / name).write_bytes(b"PK\3\4")
    (folder / "state.json").write_text("{}")
    outcome = deid("anonymize", folder / name if alone else folder, *LIGHT)
    assert outcome.code == 1, outcome.stderr
    assert "deid reads folders of pictures and parquet" in outcome.stderr
    assert REFUSED[name] in outcome.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    assert len(list(folder.iterdir())) == 2


def test_a_single_picture_of_an_unread_format(tmp_path: Path, deid: Deid) -> None:
    (tmp_path / "x.svg").write_text("<svg/>")
    outcome = deid("anonymize", tmp_path / "x.svg", *LIGHT)
    assert outcome.code == 1 and "not read (SVG): convert it to PNG" in outcome.stderr


def test_names_for_messages(portrait: np.ndarray) -> None:
    assert printable("a\udcffb") == "a%FFb"
    assert picture_bytes(portrait)[:2] == b"\xff\xd8"
