"""One sealed region: it comes back whole and in its place, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from deidcli.crypto import keys as crypto_keys
from deidcli.crypto.sealing import Place, Unsealable, changed_box, seal, unseal
from deidcli.data.sealed import SealedRows
from tests.reversible import KDF, WORDS

pytestmark = pytest.mark.usefixtures("cheap")

KEYS = crypto_keys.derive(WORDS, KDF)
PLACE = Place("f" * 64, "a" * 64, 0)


def test_a_region_comes_back_only_whole_and_in_its_place() -> None:
    chance = np.random.default_rng(1)
    region = chance.integers(0, 256, (7, 5, 3), dtype=np.uint8)
    box = (2, 3, 7, 10)
    face = seal(KEYS, PLACE, box, region)
    where, pixels_back = unseal(KEYS, PLACE, face)
    assert where == box and (pixels_back == region).all()
    assert region.tobytes() not in face.data and len(face.data) == region.size + 32
    assert not hasattr(face, "box")  # who has the photograph could tell it by that
    others = [
        (KEYS, Place("e" * 64, PLACE.picture, 0), face),
        (KEYS, Place(PLACE.fingerprint, "b" * 64, 0), face),
        (KEYS, Place(PLACE.fingerprint, PLACE.picture, 1), face),
        (KEYS, PLACE, type(face)(bytes(12), face.data)),
        (KEYS, PLACE, type(face)(b"", face.data)),
        (KEYS, PLACE, type(face)(face.nonce, face.data[:-1])),
        (KEYS, PLACE, type(face)(face.nonce, b"")),
        (crypto_keys.derive(b"another", KDF), PLACE, face),
    ]
    for keys, place, changed in others:
        with pytest.raises(Unsealable):
            unseal(keys, place, changed)
    empty = seal(KEYS, PLACE, (4, 4, 4, 4), region[:0, :0])
    assert unseal(KEYS, PLACE, empty)[1].shape == (0, 0, 3)


def test_nonces_meet_one_message_each() -> None:
    """Other pixels, places or boxes have another nonce; the same region the same bytes."""
    region = np.zeros((4, 4, 3), np.uint8)
    seen = set()
    for face in range(200):
        for value in range(5):
            place = Place(PLACE.fingerprint, PLACE.picture, face)
            seen.add(seal(KEYS, place, (0, 0, 4, 4), region + np.uint8(value)).nonce)
    assert len(seen) == 1000
    assert seal(KEYS, PLACE, (0, 0, 4, 4), region) == seal(KEYS, PLACE, (0, 0, 4, 4), region)
    assert seal(KEYS, PLACE, (1, 0, 5, 4), region).nonce not in seen


def test_changed_box() -> None:
    before = np.zeros((9, 8, 3), np.uint8)
    after = before.copy()
    assert changed_box(before, after) == (0, 0, 0, 0)
    after[2, 6, 1] = after[7, 3, 0] = 1
    assert changed_box(before, after) == (3, 2, 7, 8)


def boxes(out: Path, name: str) -> list[tuple[int, int, int, int]]:
    """Where the sealed regions of a picture lie, by the password."""
    record = json.loads((out / "manifest.json").read_text())
    keys = crypto_keys.derive(WORDS, crypto_keys.Kdf.from_dict(record["password"]))
    data = (out / name).read_bytes()
    return [
        unseal(keys, Place.of(record["fingerprint"], data, index), face)[0]
        for index, face in enumerate(SealedRows(out).faces(name))
    ]
