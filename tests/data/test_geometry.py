"""Where faces were: private, rounded where it is published, sealed with the password."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deidcli.crypto import keys as crypto_keys
from deidcli.data import geometry
from deidcli.data.geometry import SEALED
from deidcli.errors import DeidError
from tests.conftest import (
    Outcome,
    assert_gone,
    copy_people,
    private_faces,
)
from tests.reversible import password_file, sealed_places

pytestmark = pytest.mark.usefixtures("cheap")

Deid = Callable[..., Outcome]
BASIC = ["--workers", 1, "--no-gate"]


def test_where_faces_were_is_private(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 2), tmp_path / "out"
    assert deid("anonymize", folder, "--out", out, "--workers", 1).code == 0
    kind = pq.read_schema(out / "metadata.parquet").field("faces").type.value_type
    assert [kind.field(n).name for n in range(kind.num_fields)] == ["method"]
    faces = private_faces(out)
    assert set(faces) == set(pq.read_table(out / "metadata.parquet")["file_name"].to_pylist())
    assert all(len(face["affine"]) == 6 and face["gate_distance"] for (face,) in faces.values())
    assert deid("score", out, "--recognizer", "dlib", "--workers", 1).code == 0
    assert_gone(out, *(repr(face["affine"][2]).encode() for (face,) in faces.values()))


def test_published_boxes_are_rounded_and_all_there_is(tmp_path: Path, deid: Deid) -> None:
    folder, out = copy_people(tmp_path / "in", 3), tmp_path / "out"
    assert deid("anonymize", folder, "--out", out, "--publish-geometry", *BASIC).code == 0
    exact = private_faces(out)
    for row in pq.read_table(out / "metadata.parquet").to_pylist():
        (face,) = row["faces"]
        assert set(face) == {"method", "box"} and all(v % 8 == 0 for v in face["box"])
        x0, y0, x1, y1 = exact[row["file_name"]][0]["box"]
        assert all(0 <= a - b < 8 for a, b in zip((x0, y0), face["box"][:2], strict=True))
        assert all(0 <= b - a < 8 for a, b in zip((x1, y1), face["box"][2:], strict=True))


def test_where_faces_were_is_opened_by_the_password_alone(tmp_path: Path, deid: Deid) -> None:
    """And stands in no byte of OUT for who has not got it."""
    out, to = sealed_places(tmp_path, deid), tmp_path / "to"
    assert deid("verify", out).code == 0
    kind = pq.read_schema(out / "metadata.parquet").field("faces").type.value_type
    assert {kind.field(n).name for n in range(kind.num_fields)} == {"method", "nonce"}
    wrong = password_file(tmp_path, "quite another one")
    outcome = deid("restore", out, "--to", to, "--password-file", wrong)
    assert outcome.code == 1 and "the password is not the one" in outcome.stderr
    assert not to.exists()
    (out / SEALED).rename(tmp_path / "away")
    secret = ["--password-file", password_file(tmp_path)]
    outcome = deid("restore", out, "--to", to, *secret)
    assert outcome.code == 1 and "geometry.parquet is missing" in outcome.stderr
    assert not to.exists()


def test_places_of_other_pictures_do_not_fit(tmp_path: Path, deid: Deid) -> None:
    out, to = sealed_places(tmp_path, deid), tmp_path / "to"
    rows = pq.read_table(out / SEALED)
    swapped = rows.set_column(2, "data", rows["data"].take([1, 0, 2]))
    pq.write_table(swapped.set_column(1, "nonce", rows["nonce"].take([1, 0, 2])), out / SEALED)
    secret = ["--password-file", password_file(tmp_path)]
    outcome = deid("restore", out, "--to", to, *secret, "--json")
    assert outcome.code == 3
    counts = outcome.json["counts"]
    assert (counts["network"], counts["failed"]) == (1, 2)
    assert "not what was sealed" in outcome.json["failed"][0]["reason"]


def test_a_box_is_rounded_outwards() -> None:
    assert geometry.rounded((8.0, 15.9, 16.0, 16.1)) == [8, 8, 16, 24]
    assert geometry.rounded((-0.1, 0.0, 7.9, 8.0)) == [-8, 0, 8, 8]


def test_a_face_has_a_place_in_the_metadata_only_when_asked() -> None:
    def names(nonces: bool, boxes: bool) -> list[str]:
        kind = geometry.face_type(nonces, boxes)
        return [kind.field(number).name for number in range(kind.num_fields)]

    assert names(False, False) == ["method"] and names(True, False) == ["method", "nonce"]
    assert names(False, True) == ["method", "box"]


def test_sealed_places_are_bound_to_their_picture_and_run(tmp_path: Path) -> None:
    keys = crypto_keys.derive(
        b"some words of mine", crypto_keys.Kdf(bytes(16), crypto_keys.COSTS[0])
    )
    affine = [1.0, 0.0, 3.0, 0.0, 2.0, 4.0]
    row = geometry.sealed_row(keys, "f" * 64, "images/a.png", [{"affine": affine}])
    out = tmp_path / "out"
    (out / "sealed").mkdir(parents=True)

    def write(name: str) -> None:
        rows = [{**row, "file_name": name}]
        pq.write_table(pa.Table.from_pylist(rows, geometry.SEALED_SCHEMA), out / geometry.SEALED)

    write("images/a.png")
    places = geometry.Places(out, "f" * 64, keys)
    assert places.affines("images/a.png", 1)[0].tolist() == [[1, 0, 3], [0, 2, 4]]
    with pytest.raises(ValueError, match="another number"):
        places.affines("images/a.png", 2)
    with pytest.raises(DeidError, match="password"):
        geometry.Places(out, "e" * 64, keys)
    write("images/b.png")
    with pytest.raises(DeidError, match="password"):
        geometry.Places(out, "f" * 64, keys)
