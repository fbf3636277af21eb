"""Published names: none collide, all can be written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deidcli.data.listing import File
from deidcli.data.names import Names
from tests.conftest import Outcome, picture_bytes

Deid = Callable[..., Outcome]


def test_same_stem_crops_do_not_collide(tmp_path: Path, portrait: np.ndarray, deid: Deid) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(picture_bytes(portrait))
    (folder / "a.png").write_bytes(picture_bytes(portrait, "PNG"))
    (folder / "b.jpg").write_bytes(picture_bytes(portrait))
    args = ["anonymize", folder, "--out", out, "--output", "crops", "--workers", 1]
    assert deid(*args, "--names", "keep").code == 0
    names = sorted(path.name for path in (out / "images").iterdir())
    assert names == ["a.jpg_0.png", "a.png_0.png", "b_0.png"]


def test_names_that_collide_or_cannot_be_written(
    tmp_path: Path, portrait: np.ndarray, deid: Deid
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    data = picture_bytes(portrait)
    raw = [b"a\xff.jpg", b"a%FF.jpg", b"b.jpg", b"b.png", b"b.jpg.png", b"c\rd.jpg", b"e\\n.jpg"]
    for name in raw:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(data)
    (folder / "b_0.png").mkdir()
    (folder / "b_0.png/p.jpg").write_bytes(data)
    (folder / ("x" * 251 + ".jpg")).write_bytes(data)
    for kind in ("frames", "crops"):
        out = tmp_path / kind
        args = ["anonymize", folder, "--out", out, "--output", kind, "--workers", 1, "--no-gate"]
        outcome = deid(*args, "--names", "keep", "--json")
        counts = outcome.json["counts"]
        assert counts["inputs"] == 9 and counts["ok"] == (9 if kind == "frames" else 8)
        assert deid("verify", out).code == 0, deid("verify", out).stdout


def test_a_name_changes_only_where_two_would_collide() -> None:
    keys = ["a.jpg", "a.png", "b.jpg", "c.heic", "c.heic.png", "d"]
    names = Names([File(key, Path(key), is_picture=True) for key in keys])
    assert [names.name(key) for key in keys] == [
        "a.jpg", "a.png", "b.jpg", "c.heic_.png", "c.heic.png", "d.png"
    ]  # fmt: skip
    assert [names.stem(key) for key in keys] == [
        "a.jpg", "a.png", "b", "c", "c.heic.png", "d"
    ]  # fmt: skip
