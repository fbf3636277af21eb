"""What is listed as an input: links, odd names, folders that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deidcli.data.listing import printable
from deidcli.data.source import open_source
from deidcli.errors import DeidError
from deidcli.pipeline import output
from tests.conftest import Outcome, copy_people, picture_bytes, statuses
from tests.datasets import keys

Deid = Callable[..., Outcome]
LIGHT = ("--names", "keep", "--no-gate", "--detector", "hog", "--workers", 1)


def test_folder_without_read_permission(
    tmp_path: Path, portrait: np.ndarray, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so the refusal itself is played."""
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "locked").mkdir(parents=True)
    (folder / "locked/p.jpg").write_bytes(picture_bytes(portrait))
    (folder / "open.jpg").write_bytes(picture_bytes(portrait))
    real = os.scandir

    def scandir(path: object) -> object:
        if str(path).endswith("/locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", scandir)
    outcome = deid("anonymize", folder, "--out", out, "--workers", 1)
    assert outcome.code == 3
    found = statuses(out)
    assert found["locked"] == ("failed", "folder cannot be read: Permission denied")
    assert found["open.jpg"][0] == "ok"


def test_link_out_is_followed_when_asked(tmp_path: Path, portrait: np.ndarray, deid: Deid) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    elsewhere = tmp_path / "store"
    elsewhere.mkdir()
    (elsewhere / "p.jpg").write_bytes(picture_bytes(portrait))
    (folder / "q.jpg").symlink_to(elsewhere / "p.jpg")
    (folder / "sub").symlink_to(elsewhere)
    (folder / "loop").symlink_to(folder)
    outcome = deid("anonymize", folder, "--out", out, "--follow-links", "--workers", 1)
    assert outcome.code == 0, outcome.stderr
    found = statuses(out)
    assert {found["q.jpg"][0], found["sub/p.jpg"][0]} == {"ok"}
    assert found["loop"][0] == "skipped"


def test_undecodable_file_name(tmp_path: Path, portrait: np.ndarray, deid: Deid) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff\nname.jpg"))).write_bytes(
        picture_bytes(portrait)
    )
    args = ["anonymize", folder, "--out", out, "--names", "keep", "--workers", 1]
    assert deid(*args).code == 0
    assert (out / "images/bad%FF\nname.jpg").is_file()
    assert deid("verify", out).code == 0


def test_nothing_is_executed_from_names(tmp_path: Path, portrait: np.ndarray, deid: Deid) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "$(touch pwned).jpg").write_bytes(picture_bytes(portrait))
    deid("anonymize", folder, "--out", tmp_path / "out", "--workers", 1)
    assert not Path("pwned").exists() and not (tmp_path / "pwned").exists()


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


def test_names_for_messages(portrait: np.ndarray) -> None:
    assert printable("a\udcffb") == "a%FFb"
    assert picture_bytes(portrait)[:2] == b"\xff\xd8"
