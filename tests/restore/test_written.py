"""What `deid restore` writes: names that lead nowhere, and targets that are another's."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deidcli.data.journal import private_folder
from deidcli.errors import DeidError
from deidcli.restore import dataset
from deidcli.restore.written import Restored, RestoredFiles
from tests.conftest import Outcome, copy_people, picture_bytes, tree
from tests.reversible import WORDS, password_file, png_people, published_rows, small_sealed

pytestmark = pytest.mark.usefixtures("cheap")

Deid = Callable[..., Outcome]


def test_lossy_formats_become_png_under_free_names(tmp_path: Path, deid: Deid) -> None:
    folder, out, to = copy_people(tmp_path / "in", 1), tmp_path / "out", tmp_path / "to"
    picture = Image.open(folder / "person_01.jpg").resize((160, 160))
    for name in ("a.jpg", "a.jpg.png", "a.webp", "a.bmp", "b.tif", "c.gif"):
        picture.save(folder / name)
    (folder / "person_01.jpg").unlink()
    (folder / "wall.jpg").write_bytes(picture_bytes(np.full((90, 90, 3), 99, np.uint8)))
    secret = ["--password-file", password_file(tmp_path)]
    args = [
        "anonymize",
        folder,
        "--names",
        "keep",
        "--out",
        out,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--no-gate",
    ]
    assert deid(*args, "--on-no-face", "copy", *secret).code == 0
    outcome = deid("restore", out, "--to", to, *secret, "--json")
    assert outcome.json["counts"]["copied"] == 1 and outcome.json["counts"]["network"] == 6
    names = {path.name for path in (to / "images").iterdir()}
    assert names == {
        "a.png", "a.jpg.png", "a_.png", "a.bmp", "b.tif", "c.png", "wall.jpg"
    }  # fmt: skip
    listed = {str(row["file_name"]) for row in published_rows(to)}
    assert listed == {f"images/{name}" for name in names}
    assert (to / "images/wall.jpg").read_bytes() == (out / "images/wall.jpg").read_bytes()
    for name in names - {"wall.jpg"}:
        with Image.open(to / "images" / name) as opened:
            assert opened.format in ("PNG", "BMP", "TIFF")


@pytest.mark.parametrize("name", ["images/../../secret.png", "/etc/hostname", "data/x", "images"])
def test_hostile_names_lead_nowhere(tmp_path: Path, deid: Deid, name: str) -> None:
    folder, out, to = png_people(tmp_path / "in", 2), tmp_path / "out", tmp_path / "to"
    secret = ["--password-file", password_file(tmp_path)]
    args = [
        "anonymize",
        folder,
        "--names",
        "keep",
        "--out",
        out,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--no-gate",
    ]
    assert deid(*args, *secret).code == 0
    shutil.copy(folder / "person_01.png", tmp_path / "secret.png")
    table = pq.read_table(out / "metadata.parquet")
    names = [name, *table["file_name"].to_pylist()[1:]]
    pq.write_table(table.set_column(0, "file_name", [names]), out / "metadata.parquet")
    before = {path.name for path in tmp_path.iterdir()}
    outcome = deid("restore", out, "--to", to, *secret, "--json")
    assert outcome.code == 3 and outcome.json["counts"]["failed"] == 1
    assert {path.name for path in tmp_path.iterdir()} == before | {"to"}


def test_the_target_is_nobody_elses(tmp_path: Path, deid: Deid) -> None:
    folder, out, to = png_people(tmp_path / "in", 1), tmp_path / "deep/out", tmp_path / "to"
    secret = ["--password-file", password_file(tmp_path)]
    args = [
        "anonymize",
        folder,
        "--names",
        "keep",
        "--out",
        out,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--no-gate",
    ]
    assert deid(*args, *secret).code == 0
    before = tree(tmp_path)
    (tmp_path / "link").symlink_to(out)
    for refused in (out, out / "new", out.parent, private_folder(out), tmp_path / "link/x"):
        outcome = deid("restore", out, "--to", refused, *secret, "--overwrite")
        assert outcome.code == 1 and "one in the other" in outcome.stderr, refused
    assert deid("restore", out, "--to", folder, *secret, "--overwrite").code == 1
    file = next(path for path in folder.iterdir())
    assert deid("restore", out, "--to", file, *secret).code == 1
    (tmp_path / "link").unlink()
    assert tree(tmp_path) == before

    assert deid("restore", out, "--to", to, *secret).code == 0
    first = tree(to)
    again = deid("restore", out, "--to", to, *secret)
    assert again.code == 1 and "--overwrite" in again.stderr
    assert deid("restore", out, "--to", to, *secret, "--overwrite").code == 0
    assert tree(to) == first
    (to / "thesis.txt").write_text("precious")
    assert deid("restore", out, "--to", to, *secret, "--overwrite").code == 1
    assert (to / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DeidError),
        (DeidError("any"), DeidError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_restore_that_fails_leaves_no_faces_behind(
    tmp_path: Path,
    deid: Deid,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    raised: type[BaseException],
) -> None:
    """It fails at the second picture; the first is an original by then."""
    out, to = small_sealed(tmp_path, deid), tmp_path / "to"
    unfinished, real = to.with_name("to.incomplete"), RestoredFiles.write
    there: list[int] = []

    def write(files: RestoredFiles, result: Restored) -> None:
        there.append(len(list(unfinished.glob("images/*"))))
        if len(there) == 2:
            raise error
        real(files, result)

    monkeypatch.setattr(RestoredFiles, "write", write)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(raised):
        dataset.restore(out, to, WORDS)
    assert there == [0, 1] and {path.name for path in tmp_path.iterdir()} == before
