"""`--config`: the settings of a finished run, and those of a TOML file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deidcli.cli.config import merged, read_config
from deidcli.errors import UsageError
from deidcli.pipeline.anonymize import run_settings
from deidcli.pipeline.options import Options
from deidcli.version import __version__
from tests.conftest import (
    Outcome,
    copy_people,
    tree,
)

Deid = Callable[..., Outcome]


def test_config_sets_options_and_the_command_line_wins(tmp_path: Path, deid: Deid) -> None:
    folder, config = copy_people(tmp_path / "in", 1), tmp_path / "deid.toml"
    config.write_text(
        'method = "blur"\non-no-face = "blackout"\nno-gate = true\nseed = 7\nkeep-identity = true\n'
        f'detector = "hog"\nworkers = 1\nout = "{tmp_path / "out"}"\n[set]\nsigma = 0.25\n'
    )
    args = ["anonymize", folder, "--config", config, "--json"]
    settings = deid(*args).json["settings"]
    assert (settings["method"], settings["seed"], settings["gate"]) == ("blur", 7, None)
    assert settings["on_no_face"] == "blackout" and settings["keep_identity"]
    assert settings["method_settings"] == {"sigma": 0.25, "kernel_px": 0, "region": "head"}
    typed = ["--seed", 3, "--gate", 0.7, "--no-keep-identity", "--set", "region=face"]
    other = deid(*args, *typed, "--out", tmp_path / "typed").json
    assert other["output"] == str(tmp_path / "typed")
    assert other["settings"]["seed"] == 3 and other["settings"]["gate"] == 0.7
    assert not other["settings"]["keep_identity"]
    assert other["settings"]["method_settings"] == {
        "sigma": 0.25,
        "kernel_px": 0,
        "region": "face",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("methode = 'blur'", "there is no option 'methode'"),
        ("seed = 'x'", "seed = 'x' is not a whole number"),
        ("seal = 1", "seal = 1 is not true or false"),
        ("set = 3", "set is not a table"),
        ("[set]\nk = [1]", "set.k is neither text nor number"),
        ("method = ", "is not TOML"),
        ("detector = 'eyes'", "--detector eyes is not known"),
        ("[set]\nzzz = 1", "blackout has no setting 'zzz'"),
    ],
)
def test_a_wrong_config_is_refused(text: str, words: str, tmp_path: Path, deid: Deid) -> None:
    config = tmp_path / "deid.toml"
    config.write_text(text)
    outcome = deid("anonymize", copy_people(tmp_path / "in", 1), "--config", config)
    assert outcome.code == 2 and words in outcome.stderr
    assert not (tmp_path / "in-deid.private").exists()


def test_a_finished_run_is_repeated(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 2)
    given = ["--method", "pixelate", "--set", "blocks=4", "--attrs", "G", "--seed", 5, "--no-mark"]
    more = ["--names", "keep", "--no-gate", "--detector", "hog", "--workers", 1]
    first = deid("anonymize", folder, *given, *more, "--json")
    assert first.code == 0, first.stderr
    manifest = tmp_path / "in-deid/manifest.json"
    args = ["anonymize", folder, "--config", manifest, "--out", tmp_path / "again", "--json"]
    again = deid(*args, "--workers", 1)
    assert again.json["settings"] == first.json["settings"]
    assert tree(tmp_path / "again") == tree(tmp_path / "in-deid")
    record = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**record, "deid_version": "0.0.1"}))
    older = deid(*args, "--workers", 1)
    assert older.code == 0 and "deid 0.0.1" in older.stderr
    record["settings"]["haircut"] = 1
    manifest.write_text(json.dumps(record))
    assert "haircut" in deid(*args).stderr
    (tmp_path / "no.json").write_text("{}")
    assert "not the manifest" in deid("anonymize", folder, "-c", tmp_path / "no.json").stderr


def test_settings_go_with_their_method() -> None:
    config = {"method": "blur", "settings": {"sigma": "0.3"}, "no_gate": True}
    assert merged(config, {"method": "k-same"}) == {"method": "k-same", "no_gate": True}
    assert merged(config, {"gate": 0.7, "settings": {"region": "face"}}) == {
        "method": "blur",
        "settings": {"sigma": "0.3", "region": "face"},
        "gate": 0.7,
    }


def test_what_a_manifest_says_in_other_words(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    said = {"method": "sdn", "seed": None, "gate": 0.6, "columns": ["a", "b"], "mark": False}
    path.write_text(json.dumps({"settings": {**said, "boxes": "table"}}))
    values = read_config(path, {}).values
    assert values["columns"] == "a,b" and values["no_mark"] and "seed" not in values
    with pytest.raises(UsageError, match="boxes from a file"):
        merged(values, {})
    assert merged(values, {"boxes": "mine.csv"})["boxes"] == "mine.csv"
    path.write_text(json.dumps({"settings": {**said, "seed": 0, "mark": True, "columns": []}}))
    values = read_config(path, {}).values
    assert values["seed"] == 0 and not {"columns", "no_mark"} & values.keys()


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


def test_a_finished_runs_settings_can_be_used_again(tmp_path: Path) -> None:
    from deidcli.cli.config import read_config
    from deidcli.pipeline.anonymize import run_settings
    from deidcli.pipeline.options import Options

    given = Options(columns='age,"a,b"', no_mark=True, names="keep", publish_geometry=True)
    settings = run_settings(given)
    record = {"settings": settings.published(), "deid_version": "x"}
    (tmp_path / "manifest.json").write_text(json.dumps(record, default=str))
    again = read_config(tmp_path / "manifest.json", {}).values
    assert run_settings(Options(**again)) == settings
