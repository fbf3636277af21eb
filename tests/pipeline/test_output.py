"""Where an output may be, and how it is named when nobody names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from deidcli.data.journal import private_folder
from deidcli.data.sink import scratch
from deidcli.data.source import open_source
from deidcli.errors import DeidError, UsageError
from deidcli.pipeline import output
from tests.conftest import copy_people


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


def test_an_output_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    source, out = open_source(copy_people(tmp_path / "in", 1)), tmp_path / "out"
    output.check_output(out, source)
    output.open_output(out)
    assert scratch(out).is_dir() and not any(scratch(out).iterdir())
    output.check_output(out, source)  # a run that was killed before it wrote its record
    (out / "mine.txt").write_text("x")
    with pytest.raises(DeidError, match="did not write there"):
        output.check_output(out, source)
    (out / "mine.txt").unlink()
    private = private_folder(out)
    (private / "parts").mkdir(parents=True)
    (private / "lock").write_text("")
    output.check_output(out, source)
    (private / "thesis.txt").write_text("x")
    with pytest.raises(DeidError, match=r"out\.private holds something"):
        output.check_output(out, source)


def test_an_output_may_be_no_file_and_hold_no_input(tmp_path: Path) -> None:
    source = open_source(copy_people(tmp_path / "a/in", 1))
    (tmp_path / "file").write_text("x")
    with pytest.raises(DeidError, match="is a file"):
        output.check_output(tmp_path / "file", source)
    with pytest.raises(DeidError, match="one in the other"):
        output.check_output(tmp_path / "a", source)
    with pytest.raises(DeidError, match="cannot be used"):
        output.check_output(tmp_path / ("x" * 300), source)


def test_a_single_picture_names_the_output(tmp_path: Path) -> None:
    picture = copy_people(tmp_path / "in", 1) / "person_01.jpg"
    assert output.default_output(picture) == tmp_path / "in" / "person_01-deid"
    (tmp_path / "album.jpg").mkdir()
    assert output.default_output(tmp_path / "album.jpg") == tmp_path / "album.jpg-deid"
