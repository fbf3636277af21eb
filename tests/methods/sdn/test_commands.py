"""sdn from the command line: `deid anonymize`, `deid restore` with passwords right and wrong."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from deidcli.crypto import keys as crypto_keys
from deidcli.data.journal import private_folder
from deidcli.evaluate.quality import ssim
from deidcli.faces.align import crop
from tests.conftest import PEOPLE, Outcome, private_faces

Deid = Callable[..., Outcome]
RIGHT, WRONG = "velvet harbor sixteen lanterns", "velvet harbor sixteen lantern"


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The least cost that a manifest may ask for."""
    monkeypatch.setattr(crypto_keys, "SCRYPT_N", crypto_keys.COSTS[0])
    yield


def password_file(folder: Path, text: str) -> Path:
    path = folder / text.replace(" ", "-")
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


def people(folder: Path) -> Path:
    """Six of the portraits and a group picture of examples/people."""
    folder.mkdir()
    for number in range(1, 7):
        shutil.copy(PEOPLE / "portraits" / f"person_{number:02d}.jpg", folder)
    shutil.copy(PEOPLE / "scenes" / "team_page.jpg", folder)
    return folder


def anonymized(tmp_path: Path, deid: Deid, *options: object) -> tuple[Path, Path]:
    source, out = people(tmp_path / "in"), tmp_path / "out"
    args = ["anonymize", source, "--out", out, "--method", "sdn", "--names", "keep", "--workers", 1]
    args += ["--seed", 0]  # the passwords of the faces are of the run's own secret otherwise
    outcome = deid(*args, "--password-file", password_file(tmp_path, RIGHT), *options)
    assert outcome.code == 0, outcome.stderr
    return source, out


def frame(path: Path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))


def faces(source: Path, out: Path, shown: Path, *, crops: bool) -> tuple[Tensor, Tensor]:
    """(N, 3, 64, 64) original faces, and the same faces in what `shown` holds."""
    pairs = []
    for name, found in private_faces(out).items():
        for number, face in enumerate(found):
            affine = np.array(face["affine"]).reshape(2, 3)
            stem = Path(name).stem.rsplit("_", 1)[0] if crops else Path(name).stem
            original = crop(frame(next(source.glob(f"{stem}.*"))), affine, 64, True)
            picture = next((shown / Path(name).parent).glob(f"{Path(name).stem}.*"))
            there = frame(picture) if crops else crop(frame(picture), affine, 64, True)
            assert number == 0 or not crops
            pairs.append((original, there))
    stacks = (np.stack(side) for side in zip(*pairs, strict=True))
    one, two = (torch.from_numpy(side).permute(0, 3, 1, 2).float() / 255 for side in stacks)
    return one, two


def restored(tmp_path: Path, deid: Deid, out: Path, text: str) -> tuple[Path, Outcome]:
    to = tmp_path / f"to-{text.replace(' ', '-')}"
    outcome = deid("restore", out, "--to", to, "--password-file", password_file(tmp_path, text))
    return to, outcome


@pytest.mark.parametrize("crops", [False, True], ids=["frames", "crops"])
def test_the_right_password_brings_the_faces_back(tmp_path: Path, deid: Deid, crops: bool) -> None:
    source, out = anonymized(tmp_path, deid, "--output", "crops" if crops else "frames")
    to, outcome = restored(tmp_path, deid, out, RIGHT)
    assert outcome.code == 0, outcome.stderr
    astray, outcome = restored(tmp_path, deid, out, WRONG)
    assert outcome.code == 0, outcome.stderr
    original, right = faces(source, out, to, crops=crops)
    _, wrong = faces(source, out, astray, crops=crops)
    _, published = faces(source, out, out, crops=crops)
    assert len(original) >= 10
    good, bad, hidden = (ssim(shown, original) for shown in (right, wrong, published))
    assert float(good.min()) > 0.75 and float(good.mean()) > 0.85  # at least 0.79, mean 0.93
    assert float(bad.mean()) < 0.65 and float(hidden.mean()) < 0.7  # 0.58, 0.65
    assert bool((good > bad + 0.1).all())
    rows = pq.read_table(to / "metadata.parquet").to_pylist()
    assert {row["restored"] for row in rows} == {"network"}


def test_a_wrong_password_cannot_find_the_faces_without_out_private(
    tmp_path: Path, deid: Deid
) -> None:
    _, out = anonymized(tmp_path, deid)
    shutil.rmtree(private_folder(out))
    to, outcome = restored(tmp_path, deid, out, WRONG)
    assert outcome.code == 1 and not to.exists()
    to, outcome = restored(tmp_path, deid, out, RIGHT)
    assert outcome.code == 0, outcome.stderr


def test_what_was_asked_for_is_published_and_needed_to_restore(tmp_path: Path, deid: Deid) -> None:
    """Other attributes, other people; restoring takes what was asked for from the manifest."""
    source, out = anonymized(tmp_path, deid, "--set", "wanted=Male:1", "--set", "shift=Smiling:+2")
    to, outcome = restored(tmp_path, deid, out, RIGHT)
    assert outcome.code == 0, outcome.stderr
    original, right = faces(source, out, to, crops=False)
    assert float(ssim(right, original)[:6].min()) > 0.85
