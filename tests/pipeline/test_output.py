"""Where an output may be, and how it is named when nobody names it."""

from __future__ import annotations

from pathlib import Path

import pytest

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
