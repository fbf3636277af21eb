"""`--seal`: the original pixels come back exactly, or nothing is written."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deidcli.crypto import keys as crypto_keys
from deidcli.crypto.sealing import Place, Unsealable, unseal
from deidcli.data.journal import private_folder
from deidcli.data.manifest import manifest_bytes, manifest_digest
from deidcli.data.sealed import FILE, SealedRows
from deidcli.errors import DeidError
from deidcli.faces.align import crop
from deidcli.restore import dataset as restore
from deidcli.weights.files import file_sha256
from tests.conftest import PEOPLE, Outcome, private_faces
from tests.reversible import (
    WORDS,
    parquet_people,
    password_file,
    pixels,
    png_people,
    restored,
    sealed_run,
    small_sealed,
)

pytestmark = pytest.mark.usefixtures("cheap")

Deid = Callable[..., Outcome]


def boxes(out: Path, name: str) -> list[tuple[int, int, int, int]]:
    """Where the sealed regions of a picture lie, by the password."""
    record = json.loads((out / "manifest.json").read_text())
    keys = crypto_keys.derive(WORDS, crypto_keys.Kdf.from_dict(record["password"]))
    data = (out / name).read_bytes()
    return [
        unseal(keys, Place.of(record["fingerprint"], data, index), face)[0]
        for index, face in enumerate(SealedRows(out).faces(name))
    ]


def check_exact(out: Path, to: Path, originals: dict[str, np.ndarray]) -> int:
    """Each box of each frame holds the original's pixels. Returns the number of faces."""
    faces = 0
    names = pq.read_table(to / "metadata.parquet")["file_name"].to_pylist()
    published = pq.read_table(out / "metadata.parquet").to_pylist()
    for row, name in zip(published, names, strict=True):
        after, before = pixels(to / name), originals[row["file_name"]]
        black, left = pixels(out / row["file_name"]), after.copy()
        for x0, y0, x1, y1 in boxes(out, row["file_name"]):
            where = (slice(y0, y1), slice(x0, x1))
            assert (after[where] == before[where]).all()
            assert np.abs(black[where] - before[where]).mean() > 8
            left[where] = black[where]
            faces += 1
        assert (left == black).all()
    return faces


def test_folders_come_back_exactly(tmp_path: Path, deid: Deid) -> None:
    """Lossy and lossless, one face and several that overlap, from OUT alone."""
    folder, out, to = png_people(tmp_path / "in", 3), tmp_path / "out", tmp_path / "to"
    one = Image.open(PEOPLE / "portraits" / "person_04.jpg").resize((160, 160))
    (folder / "deep").mkdir()
    one.save(folder / "deep/four.jpg")
    left, right = (pixels(folder / f"person_{n:02d}.png") for n in (2, 3))
    both = np.concatenate([left[:, :115], right[:, 40:]], axis=1).astype(np.uint8)
    both = np.asarray(Image.fromarray(both).resize((470, 320)))
    Image.fromarray(both).save(folder / "two.png")
    sealed_run(deid, folder, out)
    assert deid("verify", out).code == 0
    shutil.rmtree(private_folder(out))
    outcome = restored(deid, out, to, "--json")
    assert outcome.code == 0, outcome.stderr
    rows = {r["file_name"]: r for r in pq.read_table(out / "metadata.parquet").to_pylist()}
    assert len(rows["images/two.png"]["faces"]) == 2
    originals = {name: pixels(folder / name.removeprefix("images/")) for name in rows}
    assert check_exact(out, to, originals) == outcome.json["counts"]["faces"] == 6
    for name in ("two.png", "person_01.png"):  # nothing else changed, so the whole is back
        assert (pixels(to / "images" / name) == originals[f"images/{name}"]).all()
    assert (to / "images/deep/four.png").exists()


def test_parquet_comes_back_exactly(tmp_path: Path, deid: Deid) -> None:
    source = png_people(tmp_path / "png", 4)
    folder = parquet_people(tmp_path / "in", source)
    for names in ("keep", "random"):
        out, to = tmp_path / f"out-{names}", tmp_path / f"to-{names}"
        sealed_run(deid, folder, out, "--names", names, "--columns", "note")
        assert deid("verify", out).code == 0
        assert restored(deid, out, to).code == 0
        after = pq.read_table(next((to / "data").iterdir()))
        notes = after["note"].to_pylist()
        assert sorted(notes) == ["n0", "n1", "n2", "n3"]
        assert names == "random" or notes == sorted(notes)
        for note, entry in zip(notes, after["image"].to_pylist(), strict=True):
            original = pixels(source / f"person_{int(note[1:]) + 1:02d}.png")
            assert (pixels(entry["bytes"]) == original).all()


def test_crops_come_back_exactly(tmp_path: Path, deid: Deid) -> None:
    folder, out, to = png_people(tmp_path / "in", 2), tmp_path / "out", tmp_path / "to"
    sealed_run(deid, folder, out, "--output", "crops")
    assert restored(deid, out, to).code == 0
    for row in pq.read_table(out / "metadata.parquet").to_pylist():
        name = Path(row["file_name"]).name
        frame = pixels(folder / name.replace("_0.png", ".png")).astype(np.uint8)
        affine = np.array(private_faces(out)[row["file_name"]][0]["affine"]).reshape(2, 3)
        side = row["width"]
        assert (pixels(to / "images" / name) == crop(frame, affine, side)).all()
        assert (pixels(out / "images" / name) == 0).mean() > 0.3


def test_what_the_gate_blacked_out_comes_back_too(tmp_path: Path, deid: Deid) -> None:
    """Both the method and the gate changed the frame; the box holds both."""
    folder, out, to = png_people(tmp_path / "in", 2), tmp_path / "out", tmp_path / "to"
    sealed_run(deid, folder, out, "--method", "blur", "--gate", 2, "--set", "region=face")
    record = json.loads((out / "manifest.json").read_text())
    assert record["counts"]["fallback"] == 2
    assert restored(deid, out, to).code == 0
    for path in folder.iterdir():
        assert (pixels(to / "images" / path.name) == pixels(path)).all()


def test_random_names_and_sealed_rows_tell_no_order(tmp_path: Path, deid: Deid) -> None:
    folder, out, to = png_people(tmp_path / "in", 6), tmp_path / "out", tmp_path / "to"
    sealed_run(deid, folder, out, "--names", "random")
    names = pq.read_table(out / FILE)["file_name"].to_pylist()
    assert (
        names == sorted(names) == pq.read_table(out / "metadata.parquet")["file_name"].to_pylist()
    )
    assert restored(deid, out, to).code == 0
    links = pq.read_table(private_folder(out) / "link.parquet").to_pylist()
    for row in links:
        assert (pixels(to / row["outputs"][0]) == pixels(folder / row["source"])).all()


def test_the_network_alone_where_both_are_there(tmp_path: Path, deid: Deid) -> None:
    folder, out = png_people(tmp_path / "in", 1), tmp_path / "out"
    sealed_run(deid, folder, out, "--method", "cells", "--no-gate")
    exact = restored(deid, out, tmp_path / "exact", "--json").json
    network = restored(deid, out, tmp_path / "network", "--networks-only", "--json").json
    assert (exact["by"], network["by"]) == ("seal", "network")
    original = pixels(folder / "person_01.png")
    assert (pixels(tmp_path / "exact/images/person_01.png") == original).all()
    assert (pixels(tmp_path / "network/images/person_01.png") != original).any()
    other = tmp_path / "blacked"
    sealed_run(deid, folder, other)
    assert restored(deid, other, tmp_path / "to", "--networks-only").code == 1


def refused(out: Path, to: Path, words: bytes = WORDS) -> bool:
    """Whether `restore` raises and leaves nothing behind."""
    try:
        restore.restore(out, to, words)
    except DeidError:
        return not to.exists() and not to.with_name(to.name + ".incomplete").exists()
    return False


def test_a_thousand_changed_bytes_are_a_thousand_errors(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, to = small_sealed(tmp_path, deid), tmp_path / "to"
    monkeypatch.setattr(restore, "derive", lru_cache(crypto_keys.derive))
    names = [FILE, "manifest.json", "metadata.parquet", "SHA256SUMS", "images/chip00.png"]
    shares = [600, 250, 70, 40, 40]
    chance = random.Random(7)
    caught = 0
    for name, count in zip(names, shares, strict=True):
        whole = (out / name).read_bytes()
        for _ in range(count):
            torn = bytearray(whole)
            torn[chance.randrange(len(torn))] ^= chance.randrange(1, 256)
            (out / name).write_bytes(torn)
            assert refused(out, to), name
            caught += 1
        (out / name).write_bytes(whole)
    assert caught == 1000
    assert restore.restore(out, to, WORDS)["counts"]["exact"] == 2


def test_missing_and_exchanged_files_are_errors(tmp_path: Path, deid: Deid) -> None:
    out, to = small_sealed(tmp_path, deid), tmp_path / "to"
    for name in (FILE, "metadata.parquet", "SHA256SUMS", "images/chip00.png"):
        (out / name).rename(tmp_path / "away")
        assert refused(out, to), name
        (tmp_path / "away").rename(out / name)
    (out / "images/chip00.png").rename(tmp_path / "one")
    (out / "images/chip01.png").rename(out / "images/chip00.png")
    (tmp_path / "one").rename(out / "images/chip01.png")
    assert refused(out, to)


def test_checksums_made_to_fit_do_not_help(tmp_path: Path, deid: Deid) -> None:
    """Who changes a file and every unkeyed digest still lacks the passphrase's MAC."""
    out, to = small_sealed(tmp_path, deid), tmp_path / "to"
    kept = tmp_path / "kept"
    shutil.copytree(out, kept)

    def forged(change: Callable[[dict[str, object]], None]) -> bool:
        shutil.rmtree(out)
        shutil.copytree(kept, out)
        record = json.loads((out / "manifest.json").read_text())
        sums = dict(
            reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines()
        )
        change(record)
        text = "".join(f"{file_sha256(out / n)}  {n}\n" for n in sums if (out / n).exists())
        (out / "SHA256SUMS").write_text(text)
        record["files"] = {name: file_sha256(out / name) for name in record["files"]}
        record["digest"] = manifest_digest(record)
        (out / "manifest.json").write_bytes(manifest_bytes(record))
        return refused(out, to)

    def rewrite(name: str, change: Callable[[pa.Table], pa.Table]) -> None:
        pq.write_table(change(pq.read_table(out / name)), out / name)

    def swap_rows(record: object) -> None:
        rewrite(FILE, lambda t: t.set_column(1, "faces", t["faces"].take([1, 0])))

    def rename_rows(record: object) -> None:
        rewrite("metadata.parquet", lambda t: t.take([1, 0]))

    def new_score(record: dict[str, object]) -> None:
        record["scores"] = {"rows": []}

    def unseal_it(record: dict[str, object]) -> None:
        del record["seal"], record["seal_mac"]
        (out / FILE).unlink()

    assert forged(swap_rows)
    assert forged(rename_rows)
    assert forged(lambda record: record.update(gate=0.1))
    assert forged(lambda record: record.update(fingerprint="0" * 64))
    assert forged(unseal_it)
    assert not forged(new_score)  # `deid score` adds these without a password
    assert not (to / "restored.json").read_text().count("rows")


def test_a_seal_of_another_run_does_not_fit(tmp_path: Path, deid: Deid) -> None:
    """The same passphrase, seed and inputs, so the same key: the run is bound too."""
    out, other = small_sealed(tmp_path, deid), tmp_path / "other"
    sealed_run(deid, tmp_path / "in", other, "--detector", "none", "--no-gate", "--method", "blur")
    records = [json.loads((path / "manifest.json").read_text()) for path in (out, other)]
    assert records[0]["password"] == records[1]["password"]
    rows = SealedRows(other)
    data = (other / "images/chip00.png").read_bytes()
    keys = crypto_keys.derive(WORDS, crypto_keys.Kdf.from_dict(records[0]["password"]))
    face = rows.faces("images/chip00.png")[0]
    place = Place(records[1]["fingerprint"], hashlib.sha256(data).hexdigest(), 0)
    (x0, y0, x1, y1), region = unseal(keys, place, face)
    assert (region == pixels(tmp_path / "in/chip00.png")[y0:y1, x0:x1]).all()
    with pytest.raises(Unsealable):
        unseal(keys, Place(records[0]["fingerprint"], place.picture, 0), face)
    shutil.copy(other / FILE, out / FILE)
    assert refused(out, tmp_path / "to")


def test_a_wrong_password_writes_nothing(tmp_path: Path, deid: Deid) -> None:
    out, to = small_sealed(tmp_path, deid), tmp_path / "to"
    assert refused(out, to, b"another one")
    wrong = password_file(tmp_path, "another one")
    outcome = deid("restore", out, "--to", to, "--password-file", wrong)
    assert outcome.code == 1 and "the password is not the one" in outcome.stderr
    assert "another one" not in outcome.stderr and not to.exists()
