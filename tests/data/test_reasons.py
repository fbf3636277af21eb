"""Reasons for failures: published in words of ours only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from deidcli.data.reasons import OTHER, published_reason
from tests.conftest import (
    Outcome,
    assert_gone,
    copy_people,
    picture_bytes,
    statuses,
)

Deid = Callable[..., Outcome]
CANARY = "CANARY-7391"
BASIC = ["--workers", 1, "--no-gate"]


def test_published_reasons_are_words_of_ours(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 1), tmp_path / "out"
    whole = bytearray(picture_bytes(np.zeros((64, 64, 3), np.uint8), "PNG"))
    whole[37:41] = b"Cy7x"  # a chunk named by the source, which Pillow quotes
    (folder / "bad.png").write_bytes(bytes(whole))
    (folder / "ppm.ppm").write_bytes(b"P6\n" + CANARY.encode() + b"\n" + bytes(99))
    outcome = deid("anonymize", folder, "--out", out, *BASIC, "--json")
    assert outcome.code == 3
    reasons = {entry["reason"] for entry in outcome.json["withheld"]}
    assert reasons <= {"cannot be decoded", "not a picture, or of an unknown format"}
    assert_gone(out, b"Cy7x", CANARY.encode()[:6])
    assert any(CANARY[:4] in reason or "Cy7x" in reason for _, reason in statuses(out).values())


def test_a_reason_that_is_not_listed_is_not_published() -> None:
    assert published_reason("cannot be read: Permission denied").endswith("Permission denied")
    assert published_reason("cannot be read: Jane") == "cannot be read"
    assert (
        published_reason("cannot be read as parquet (ArrowInvalid)") == "cannot be read as parquet"
    )
    assert published_reason("Jane Doe") == published_reason("Jane: x") == OTHER
    assert published_reason("link out of the input (--follow-links follows it)").startswith("link")
