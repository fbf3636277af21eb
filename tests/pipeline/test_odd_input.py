"""Odd inputs: none ends a run, none leaks, each is accounted for."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import Outcome, picture_bytes, statuses
from tests.datasets import odd_pictures

Deid = Callable[..., Outcome]


def hopeless() -> dict[str, bytes]:
    """Name -> bytes of files that no picture can be had from, though their names promise one."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return {
        "zero.jpg": b"",
        "garbage.png": os.urandom(500),
        "text.jpg": b"this is no picture",
        "cut.jpg": picture_bytes(noise)[:-1500],
        "cut.png": picture_bytes(noise, "PNG")[:-1500],
    }


def test_odd_inputs_together(tmp_path: Path, portrait: np.ndarray, deid: Deid) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "deep/er").mkdir(parents=True)
    good, bad = odd_pictures(portrait), hopeless()
    for name, data in {**good, **bad}.items():
        (folder / name).write_bytes(data)
    (folder / "deep/er/one.jpg").write_bytes(good["plain.jpg"])
    (folder / "tiny.png").write_bytes(picture_bytes(portrait[::10, ::7], "PNG"))
    slope = np.repeat(np.linspace(60, 190, 28).astype(np.uint8)[None, :, None], 20, axis=0)
    (folder / "faceless.png").write_bytes(picture_bytes(slope.repeat(3, axis=2), "PNG"))
    bits = io.BytesIO()
    Image.fromarray(portrait).convert("1").save(bits, "PNG")
    (folder / "one_bit.png").write_bytes(bits.getvalue())
    (folder / "notes.txt").write_text("hello")
    (folder / ".hidden.jpg").write_bytes(good["plain.jpg"])
    (folder / "broken.jpg").symlink_to(folder / "nowhere.jpg")
    outside = tmp_path / "outside.jpg"
    outside.write_bytes(good["plain.jpg"])
    (folder / "leads_out.jpg").symlink_to(outside)
    os.mkfifo(folder / "pipe.jpg")

    args = ["anonymize", folder, "--out", out, "--names", "keep", "--workers", 1, "--json"]
    outcome = deid(*args)
    found = statuses(out)
    assert outcome.code == 3, outcome.stderr
    published = {name for name, (status, _) in found.items() if status in ("ok", "fallback")}
    assert published >= {*good, "deep/er/one.jpg"}
    assert {name for name, (status, _) in found.items() if status == "failed"} == {
        *bad,
        "broken.jpg",
    }
    assert found["tiny.png"][0] in ("ok", "fallback")  # 20 px high, and a face all the same
    assert found["faceless.png"][0] == "no_face"
    assert found["one_bit.png"][0] in ("ok", "fallback", "no_face")
    for name in ("notes.txt", ".hidden.jpg", "leads_out.jpg", "pipe.jpg"):
        assert found[name][0] == "skipped", name
    files = sum(1 for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    counts = outcome.json["counts"]
    assert len(found) == files == counts["inputs"]
    assert sum(counts[s] for s in ("ok", "fallback", "no_face", "failed", "skipped")) == files
    conversions = outcome.json["conversions"]
    assert conversions["16 bit to 8 bit"] == 2
    assert conversions["CMYK to RGB"] == 1
    assert conversions["first frame of several"] == 3
    assert conversions["transparency over white"] == 1
    assert (out / "images/no_extension.png").is_file()
    assert deid("verify", out).code == 0
