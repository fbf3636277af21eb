"""Faces that are still there after `deid anonymize`, and after deface, on the same pictures.

Both get frames/crowd and frames/wild as PNG, so that what they write can be compared pixel by
pixel. A face is left where less than half of its box differs from the original, and left in part
below nine tenths. That is a low bar for a blur, which changes pixels whether or not a face can
still be made out.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from benchmarks.detector_rule import Annotated, reference, share, sizes
from deidcli.data.images import decode
from deidcli.faces.align import Image

LEVELS = {"left": 0.5, "left, or in part": 0.9}
"""Share of a face's box that differs where the face is not so."""
LEAST_SIZES = (8.0, 12.0, 16.0)
"""px from which faces are counted."""


def faces_left(data: Path, deface: Path | None) -> None:
    """Run both programs with their defaults, and count."""
    for folder in ("crowd", "wild"):
        pictures = reference(data, folder)
        for program, run in (("deid", run_deid), ("deface", run_deface)):
            if program == "deface" and deface is None:
                print("deface is left out: --deface says where it is", flush=True)
                continue
            with tempfile.TemporaryDirectory() as name:
                source = Path(name) / "in"
                source.mkdir()
                for index, picture in enumerate(pictures):
                    bgr = cv2.cvtColor(picture.pixels, cv2.COLOR_RGB2BGR)
                    cv2.imwrite(str(source / f"{index:04d}.png"), bgr)
                run(source, deface or Path())
                count(f"{program}, {folder}", pictures, Path(name))


def run_deid(source: Path, _: Path) -> None:
    """Black out `in` into `out`."""
    out = str(source.with_name("out"))
    command = [sys.executable, "-m", "deidcli", "anonymize", str(source), "--out", out]
    subprocess.run(
        [*command, "--method", "blackout", "--names", "keep"], check=True, capture_output=True
    )


def run_deface(source: Path, deface: Path) -> None:
    """Run deface on `in`; it writes beside the files."""
    command = [str(deface), *map(str, sorted(source.iterdir()))]
    subprocess.run(command, check=True, capture_output=True)


def count(label: str, pictures: list[Annotated], scratch: Path) -> None:
    """Print how many faces are left in what was published, and what was withheld."""
    size: list[float] = []
    differs: list[float] = []
    withheld = with_faces = 0
    for index, picture in enumerate(pictures):
        names = (f"out/images/{index:04d}.png", f"in/{index:04d}_anonymized.png")
        file = next((scratch / name for name in names if (scratch / name).is_file()), None)
        with_faces += len(picture.faces) > 0
        if file is None:
            withheld += len(picture.faces) > 0
            continue
        size += sizes(picture.faces).tolist()
        differs += changed_shares(picture, decode(file.read_bytes()).pixels)
    print(f"{label}: withheld with faces {share(withheld, with_faces, interval=True)}")
    for least in LEAST_SIZES:
        chosen = np.array(differs)[np.array(size) >= least]
        for name, level in LEVELS.items():
            hits = int((chosen < level).sum())
            print(f"{label}, {least:.0f} px on: {name} {share(hits, len(chosen), interval=True)}")


def changed_shares(picture: Annotated, after: Image) -> list[float]:
    """How much of each face's box differs from the original."""
    differs = np.any(picture.pixels != after, axis=2).astype(np.uint8)
    # A blur leaves a pixel as it was here and there by chance.
    differs = np.asarray(cv2.morphologyEx(differs, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)))
    height, width = differs.shape
    shares = []
    for box in picture.faces:
        x0, y0, x1, y1 = np.clip(np.rint(box), 0, [width, height] * 2).astype(int)
        shares.append(float(differs[y0:y1, x0:x1].mean()))
    return shares
