"""`--dry-run` tells what a run would do, and writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Outcome, copy_people, everything

Deid = Callable[..., Outcome]
LIGHT = ["--no-gate", "--detector", "hog", "--workers", 1, "--names", "keep"]
"""Options of a run that is over in a moment."""


def test_a_dry_run_tells_and_writes_nothing(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 3)
    (folder / "notes.txt").write_text("x")
    before = everything(tmp_path)
    outcome = deid("anonymize", folder, "--method", "blur", *LIGHT, "--dry-run", "--json")
    assert outcome.code == 0 and everything(tmp_path) == before
    told = outcome.json
    assert told["inputs"] == {
        "total": 4,
        "pictures": 3,
        "kinds": {".jpg": 3},
        "not_read": {"skipped: not a picture": 1},
    }
    assert told["settings"]["method"] == "blur" and told["settings"]["gate"] is None
    assert told["settings"]["method_settings"]["sigma"] == 0.5
    assert told["sample"] == {"pictures": 3, "faces": 3, "statuses": {"ok": 3}}
    assert told["estimate"]["faces"] == 3 and told["estimate"]["seconds"] > 0
    assert told["free_bytes"] > told["needs_bytes"] > 0 and told["state"] == "new"
    shown = deid("anonymize", folder, "--method", "blur", *LIGHT, "--dry-run")
    assert "nothing was written" in shown.stdout and "blur sigma=0.5" in shown.stdout
    assert everything(tmp_path) == before


def test_what_a_dry_run_estimates_is_written(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 5)
    told = deid("anonymize", folder, *LIGHT, "--dry-run", "--json").json
    assert deid("anonymize", folder, *LIGHT).code == 0
    written = sum(path.stat().st_size for path in (tmp_path / "in-deid/images").iterdir())
    assert abs(told["estimate"]["bytes"] - written) < 5_000
    again = deid("anonymize", folder, *LIGHT, "--dry-run", "--json")
    assert again.json["state"] == "finished"


def test_a_dry_run_of_every_kind_of_method(tmp_path: Path, deid: Deid) -> None:
    """k-same wants all faces first, sdn a password, --seal too: none is asked for, none written."""
    folder = copy_people(tmp_path / "in", 2)
    before = everything(tmp_path)
    for extra in (["--method", "k-same"], ["--method", "sdn"], ["--seal"]):
        outcome = deid("anonymize", folder, *LIGHT, *extra, "--dry-run", "--json")
        assert outcome.code == 0, outcome.stderr
        assert outcome.json["sample"]["faces"] == 2
        assert outcome.json["asks_for_password"] == (extra != ["--method", "k-same"])
    assert everything(tmp_path) == before


def test_a_dry_run_is_refused_where_the_run_would_be(tmp_path: Path, deid: Deid) -> None:
    folder = copy_people(tmp_path / "in", 1)
    assert deid("anonymize", folder, *LIGHT).code == 0
    other = deid("anonymize", folder, *LIGHT, "--method", "blur", "--dry-run")
    assert other.code == 1 and "method (blackout -> blur)" in other.stderr
    over = deid("anonymize", folder, *LIGHT, "-m", "blur", "--overwrite", "-n", "--json")
    assert over.json["state"] == "overwritten"
