"""`--config`: the settings of a finished run, and those of a TOML file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deidcli import __version__
from deidcli.cli.config import merged, read_config
from deidcli.errors import UsageError
from deidcli.pipeline.anonymize import run_settings
from deidcli.pipeline.options import Options


def manifest(folder: Path, options: Options) -> Path:
    """The settings of a run as its manifest.json has them."""
    path = folder / "manifest.json"
    record = {"deid_version": __version__, "settings": run_settings(options).published()}
    path.write_text(json.dumps(record))
    return path


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"columns": 'age,"with, comma",x"y', "keep_identity": True, "publish_geometry": True},
        {"columns": "all", "names": "keep", "seed": 0},
        {"no_mark": True, "no_gate": True, "attrs": "GS", "seed": 3},
        {"method": "a3gan", "attrs": "G", "gate": 0.7},
        {"method": "a3gan"},
        {
            "method": "k-same",
            "settings": {"k": "4"},
            "boxes": "column:bbox",
            "boxes_are": "replace",
        },
        {"on_no_face": "copy", "yes": True, "seal": True, "follow_links": True, "output": "crops"},
    ],
)
def test_a_manifest_gives_its_settings_again(tmp_path: Path, given: dict[str, Any]) -> None:
    options = Options(**given)
    config = read_config(manifest(tmp_path, options), {})
    assert not config.notes
    assert run_settings(Options(**config.values)) == run_settings(options)


def test_a_file_of_boxes_has_to_be_named_again(tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("file_name,x0,y0,x1,y1\n")
    values = read_config(manifest(tmp_path, Options(boxes=str(boxes))), {}).values
    with pytest.raises(UsageError, match="from a file") as caught:
        merged(values, {})
    assert "--boxes" in str(caught.value.hint)
    assert run_settings(Options(**merged(values, {"boxes": str(boxes)}))).boxes
