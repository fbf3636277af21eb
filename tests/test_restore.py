"""`deid restore` by a method's network: both inputs, both outputs, wrong passwords, odd files."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from deidcli.crypto import passwords
from deidcli.data.geometry import SEALED
from deidcli.data.journal import private_folder
from deidcli.faces.align import crop
from deidcli.faces.regions import region_mask
from deidcli.methods import METHODS
from deidcli.methods.base import Chip, Context, Method
from tests.conftest import Outcome, copy_people, picture_bytes, private_faces, tree

Deid = Callable[..., Outcome]
SIZE, PADDING = 128, 0.4


@dataclass(frozen=True)
class Settings:
    """Settings of cells."""


class Cells(Method):
    """Inverts 8 by 16 cells of a chip, one a bit: its own way back, and no protection."""

    needs_password = True

    def __init__(self, settings: Settings, device: str) -> None:
        self.settings = settings
        self.chip = Chip(SIZE, PADDING)
        self.mask = region_mask("face", SIZE, PADDING)

    def __call__(self, chips: Tensor, context: Context) -> Tensor:
        assert context.bits is not None
        return self.restore(chips, context.bits)

    def restore(self, chips: Tensor, bits: NDArray[np.uint8]) -> Tensor:
        cells = torch.from_numpy(bits.astype(np.float32)).view(-1, 1, 8, 16)
        inverted = cells.repeat_interleave(SIZE // 8, 2).repeat_interleave(SIZE // 16, 3)
        return chips + inverted * (1 - 2 * chips)


class WholeCells(Cells):
    """The same, its crops published to their edges."""

    whole_chips = True


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least cost that a manifest may ask for, and the reversible methods."""
    monkeypatch.setattr(passwords, "SCRYPT_N", passwords.COSTS[0])
    monkeypatch.setitem(METHODS, "cells", "tests.test_restore:Cells")
    monkeypatch.setitem(METHODS, "whole-cells", "tests.test_restore:WholeCells")


def password_file(folder: Path, text: str = "a passphrase of several words") -> Path:
    path = folder / f"password-{abs(hash(text))}"
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


def pixels(source: Path | bytes) -> NDArray[np.int64]:
    data = source.read_bytes() if isinstance(source, Path) else source
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def inner(face: dict[str, list[float]]) -> tuple[slice, slice]:
    """The middle of a face, where a mask is 1."""
    x0, y0, x1, y1 = (round(v) for v in face["box"])
    rim = (x1 - x0) // 5
    return slice(y0 + rim, y1 - rim), slice(x0 + rim, x1 - rim)


def png_people(folder: Path, count: int) -> Path:
    """Portraits of 160 px as PNG, so that nothing is lost but by the method."""
    folder.mkdir(parents=True)
    for path in sorted(copy_people(folder / "full", count).iterdir()):
        small = Image.open(path).convert("RGB").resize((160, 160))
        small.save(folder / f"{path.stem}.png")
    shutil.rmtree(folder / "full")
    return folder


def parquet_people(folder: Path, source: Path) -> Path:
    """The same pictures as rows of a parquet shard, with a column beside."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(source.iterdir())]
    folder.mkdir()
    table = pa.table({"image": pa.array(rows, kind), "note": [f"n{n}" for n in range(len(rows))]})
    pq.write_table(table, folder / "train-00000.parquet")
    return folder


def published_rows(out: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(out / "metadata.parquet").to_pylist()
    return rows


def test_frames_come_back_from_out_alone(tmp_path: Path, deid: Deid) -> None:
    """Without OUT.private; the names, the tree and the untouched pixels are those of OUT."""
    folder, out, to = png_people(tmp_path / "in", 3), tmp_path / "out", tmp_path / "to"
    secret = ["--password-file", password_file(tmp_path)]
    args = [
        "anonymize",
        folder,
        "--names",
        "keep",
        "--out",
        out,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--no-gate",
    ]
    args += ["--seed", 1]
    assert deid(*args, *secret).code == 0
    known = private_faces(out)
    shutil.rmtree(private_folder(out))
    outcome = deid("restore", out, "--to", to, *secret, "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["counts"]["network"] == outcome.json["counts"]["faces"] == 3
    assert {p.name for p in (to / "images").iterdir()} == {p.name for p in folder.iterdir()}
    assert oct(to.stat().st_mode & 0o777) == "0o700"
    for row in published_rows(out):
        face = known[str(row["file_name"])][0]
        original = pixels(folder / Path(str(row["file_name"])).name)
        published, restored = (
            pixels(out / str(row["file_name"])),
            pixels(to / str(row["file_name"])),
        )
        where = inner(face)
        assert np.abs(published[where] - original[where]).mean() > 25
        assert np.abs(restored[where] - original[where]).mean() < 10
        assert (restored[:5] == published[:5]).all()
    assert [row["restored"] for row in published_rows(to)] == ["network"] * 3
    said = json.loads((to / "restored.json").read_text())
    assert "Not to be published" in said["note"] and said["by"] == "network"


def test_a_wrong_password_is_not_revealed(tmp_path: Path, deid: Deid) -> None:
    folder, out = png_people(tmp_path / "in", 2), tmp_path / "out"
    right, wrong = password_file(tmp_path), password_file(tmp_path, "another one")
    args = [
        "anonymize",
        folder,
        "--names",
        "keep",
        "--out",
        out,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--no-gate",
        "--seed",
        0,
    ]
    assert deid(*args, "--password-file", right).code == 0
    outcomes = [
        deid("restore", out, "--to", tmp_path / name, "--password-file", file, "--json")
        for name, file in (("right", right), ("wrong", wrong))
    ]
    assert [outcome.code for outcome in outcomes] == [0, 0]
    said = [{**outcome.json, "output": ""} for outcome in outcomes]
    assert said[0] == said[1]
    for row in published_rows(out):
        name = str(row["file_name"])
        where = inner(private_faces(out)[name][0])
        original = pixels(folder / Path(name).name)[where]
        assert np.abs(pixels(tmp_path / "wrong" / name)[where] - original).mean() > 25


def sealed_places(tmp_path: Path, deid: Deid) -> Path:
    """An output of three pictures without its OUT.private, named `out`."""
    folder, out = png_people(tmp_path / "in", 3), tmp_path / "out"
    args = ["anonymize", folder, "--out", out, "--method", "cells", "--detector", "hog"]
    args += ["--workers", 1, "--no-gate", "--password-file", password_file(tmp_path)]
    assert deid(*args).code == 0
    shutil.rmtree(private_folder(out))
    return out


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


def test_recompressed_pictures_still_come_back(tmp_path: Path, deid: Deid) -> None:
    """Places are bound to a picture's name, not to its bytes."""
    out, to = sealed_places(tmp_path, deid), tmp_path / "to"
    for path in (out / "images").iterdir():
        Image.open(path).save(path, compress_level=9)
    outcome = deid("restore", out, "--to", to, "--password-file", password_file(tmp_path), "--json")
    assert outcome.code == 0 and outcome.json["counts"]["network"] == 3


def test_crops_come_back_exactly(tmp_path: Path, deid: Deid) -> None:
    folder, out, to = png_people(tmp_path / "in", 3), tmp_path / "out", tmp_path / "to"
    secret = ["--password-file", password_file(tmp_path)]
    args = ["anonymize", folder, "--out", out, "--method", "whole-cells", "--output", "crops"]
    args += ["--names", "keep"]
    assert deid(*args, "--workers", 1, "--no-gate", *secret).code == 0
    assert deid("restore", out, "--to", to, *secret).code == 0
    for row in published_rows(out):
        name = Path(str(row["file_name"])).name
        frame = pixels(folder / (name[: -len("_0.png")] + ".png")).astype(np.uint8)
        affine = np.array(private_faces(out)[str(row["file_name"])][0]["affine"]).reshape(2, 3)
        chip = crop(frame, affine, SIZE, extend=True)
        assert (pixels(to / "images" / name) == chip).all()
        assert (pixels(out / "images" / name) != chip).mean() > 0.2


@pytest.mark.parametrize("output", ["frames", "crops"])
@pytest.mark.parametrize("names", ["keep", "random"])
def test_parquet_comes_back(tmp_path: Path, deid: Deid, output: str, names: str) -> None:
    source = png_people(tmp_path / "png", 4)
    folder, out, to = parquet_people(tmp_path / "in", source), tmp_path / "out", tmp_path / "to"
    secret = ["--password-file", password_file(tmp_path)]
    args = [
        "anonymize",
        folder,
        "--out",
        out,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--no-gate",
        "--columns",
        "note",
    ]
    assert deid(*args, "--output", output, "--names", names, *secret).code == 0
    outcome = deid("restore", out, "--to", to, *secret)
    assert outcome.code == 0, outcome.stderr
    file = "train-00000.parquet" if names == "keep" else "train-00000-of-00001.parquet"
    before = pq.read_table(out / "data" / file)
    after = pq.read_table(to / "data" / file)
    assert after.schema == before.schema and after["note"] == before["note"]
    faces = private_faces(out)
    for number, entry in enumerate(after["image"].to_pylist()):
        face = faces[f"data/{file}#{number}"][0]
        person = int(str(after["note"][number]).removeprefix("n")) + 1
        original = pixels(source / f"person_{person:02d}.png")
        where = inner(face)
        if output == "crops":
            affine = np.array(face["affine"]).reshape(2, 3)
            original = crop(original.astype(np.uint8), affine, SIZE).astype(int)
            where = (slice(40, 88), slice(40, 88))
        assert np.abs(pixels(entry["bytes"])[where] - original[where]).mean() < 10
        assert entry["path"] == before["image"][number].as_py()["path"]


def test_lossy_formats_become_png_under_free_names(tmp_path: Path, deid: Deid) -> None:
    folder, out, to = copy_people(tmp_path / "in", 1), tmp_path / "out", tmp_path / "to"
    picture = Image.open(folder / "person_01.jpg").resize((160, 160))
    for name in ("a.jpg", "a.jpg.png", "a.webp", "a.bmp", "b.tif", "c.gif"):
        picture.save(folder / name)
    (folder / "person_01.jpg").unlink()
    (folder / "wall.jpg").write_bytes(picture_bytes(np.full((90, 90, 3), 99, np.uint8)))
    secret = ["--password-file", password_file(tmp_path)]
    args = [
        "anonymize",
        folder,
        "--names",
        "keep",
        "--out",
        out,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--no-gate",
    ]
    assert deid(*args, "--on-no-face", "copy", *secret).code == 0
    outcome = deid("restore", out, "--to", to, *secret, "--json")
    assert outcome.json["counts"]["copied"] == 1 and outcome.json["counts"]["network"] == 6
    names = {path.name for path in (to / "images").iterdir()}
    assert names == {
        "a.png", "a.jpg.png", "a_.png", "a.bmp", "b.tif", "c.png", "wall.jpg"
    }  # fmt: skip
    listed = {str(row["file_name"]) for row in published_rows(to)}
    assert listed == {f"images/{name}" for name in names}
    assert (to / "images/wall.jpg").read_bytes() == (out / "images/wall.jpg").read_bytes()
    for name in names - {"wall.jpg"}:
        with Image.open(to / "images" / name) as opened:
            assert opened.format in ("PNG", "BMP", "TIFF")


def test_blacked_out_faces_stay_and_are_counted(tmp_path: Path, deid: Deid) -> None:
    """At --gate 2 every face still matches its original."""
    folder, out, to = png_people(tmp_path / "in", 2), tmp_path / "out", tmp_path / "to"
    secret = ["--password-file", password_file(tmp_path)]
    args = [
        "anonymize",
        folder,
        "--names",
        "keep",
        "--out",
        out,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--gate",
        2,
    ]
    assert deid(*args, *secret, "--json").json["counts"]["fallback"] == 2
    counts = deid("restore", out, "--to", to, *secret, "--json").json["counts"]
    assert (counts["copied"], counts["blacked_out"], counts["faces"]) == (2, 2, 0)
    assert tree(to / "images") == tree(out / "images")


def test_odd_files_do_not_end_the_batch(tmp_path: Path, deid: Deid) -> None:
    folder, out, to = png_people(tmp_path / "in", 4), tmp_path / "out", tmp_path / "to"
    secret = ["--password-file", password_file(tmp_path)]
    args = [
        "anonymize",
        folder,
        "--names",
        "keep",
        "--out",
        out,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--no-gate",
    ]
    assert deid(*args, *secret).code == 0
    (out / "images/person_01.png").write_bytes(b"no picture")
    (out / "images/person_02.png").unlink()
    (out / "images/person_02.png").symlink_to(folder / "person_02.png")
    (out / "images/person_03.png").unlink()
    outcome = deid("restore", out, "--to", to, *secret, "--json")
    assert outcome.code == 3, outcome.stderr
    counts = outcome.json["counts"]
    assert (counts["network"], counts["failed"], counts["pictures"]) == (1, 3, 4)
    assert [path.name for path in (to / "images").iterdir()] == ["person_04.png"]


@pytest.mark.parametrize("name", ["images/../../secret.png", "/etc/hostname", "data/x", "images"])
def test_hostile_names_lead_nowhere(tmp_path: Path, deid: Deid, name: str) -> None:
    folder, out, to = png_people(tmp_path / "in", 2), tmp_path / "out", tmp_path / "to"
    secret = ["--password-file", password_file(tmp_path)]
    args = [
        "anonymize",
        folder,
        "--names",
        "keep",
        "--out",
        out,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--no-gate",
    ]
    assert deid(*args, *secret).code == 0
    shutil.copy(folder / "person_01.png", tmp_path / "secret.png")
    table = pq.read_table(out / "metadata.parquet")
    names = [name, *table["file_name"].to_pylist()[1:]]
    pq.write_table(table.set_column(0, "file_name", [names]), out / "metadata.parquet")
    before = {path.name for path in tmp_path.iterdir()}
    outcome = deid("restore", out, "--to", to, *secret, "--json")
    assert outcome.code == 3 and outcome.json["counts"]["failed"] == 1
    assert {path.name for path in tmp_path.iterdir()} == before | {"to"}


def test_the_target_is_nobody_elses(tmp_path: Path, deid: Deid) -> None:
    folder, out, to = png_people(tmp_path / "in", 1), tmp_path / "deep/out", tmp_path / "to"
    secret = ["--password-file", password_file(tmp_path)]
    args = [
        "anonymize",
        folder,
        "--names",
        "keep",
        "--out",
        out,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--no-gate",
    ]
    assert deid(*args, *secret).code == 0
    before = tree(tmp_path)
    (tmp_path / "link").symlink_to(out)
    for refused in (out, out / "new", out.parent, private_folder(out), tmp_path / "link/x"):
        outcome = deid("restore", out, "--to", refused, *secret, "--overwrite")
        assert outcome.code == 1 and "one in the other" in outcome.stderr, refused
    assert deid("restore", out, "--to", folder, *secret, "--overwrite").code == 1
    file = next(path for path in folder.iterdir())
    assert deid("restore", out, "--to", file, *secret).code == 1
    (tmp_path / "link").unlink()
    assert tree(tmp_path) == before

    assert deid("restore", out, "--to", to, *secret).code == 0
    first = tree(to)
    again = deid("restore", out, "--to", to, *secret)
    assert again.code == 1 and "--overwrite" in again.stderr
    assert deid("restore", out, "--to", to, *secret, "--overwrite").code == 0
    assert tree(to) == first
    (to / "thesis.txt").write_text("precious")
    assert deid("restore", out, "--to", to, *secret, "--overwrite").code == 1
    assert (to / "thesis.txt").read_text() == "precious"


def test_what_cannot_be_restored_is_said(tmp_path: Path, deid: Deid) -> None:
    folder, out = png_people(tmp_path / "in", 1), tmp_path / "out"
    secret = ["--password-file", password_file(tmp_path)]
    assert deid("anonymize", folder, "--out", out, "--workers", 1, "--no-gate").code == 0
    plain = deid("restore", out, "--to", tmp_path / "to", *secret)
    assert plain.code == 1 and "no way back" in plain.stderr
    missing = deid("restore", tmp_path / "nothing", "--to", tmp_path / "to", *secret)
    assert missing.code == 1 and "not a finished output" in missing.stderr
    assert not (tmp_path / "to").exists()


def test_other_weights_are_refused(
    tmp_path: Path, deid: Deid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would give other faces, and nothing would tell."""
    monkeypatch.setattr(Cells, "weights", lambda settings: ("attributes",), raising=False)
    folder, out = png_people(tmp_path / "in", 1), tmp_path / "out"
    secret = ["--password-file", password_file(tmp_path)]
    args = [
        "anonymize",
        folder,
        "--names",
        "keep",
        "--out",
        out,
        "--method",
        "cells",
        "--detector",
        "hog",
        "--workers",
        1,
        "--no-gate",
    ]
    assert deid(*args, *secret).code == 0
    assert deid("restore", out, "--to", tmp_path / "fine", *secret).code == 0
    record = json.loads((out / "manifest.json").read_text())
    record["weights"]["attributes"] = "0" * 64
    (out / "manifest.json").write_text(json.dumps(record))
    outcome = deid("restore", out, "--to", tmp_path / "to", *secret)
    assert outcome.code == 1 and "other weights" in outcome.stderr
