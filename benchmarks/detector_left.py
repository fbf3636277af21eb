"""Faces that are still there after `deid anonymize`, and after deface, on the same pictures.

Both get frames/crowd and frames/wild as PNG, so that what they write can be compared pixel by
pixel. A face is left where less than nine tenths of its box differs from the original. That is a
low bar for a blur, which changes pixels whether or not a face can still be made out.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks.detector_rule import Annotated, reference, share, sizes
from deidcli.data.images import decode
from deidcli.faces.align import Image

GONE = 0.9
"""Share of a face's box that differs where the face is gone."""
LEAST_SIZES = (8.0, 12.0, 16.0)
"""px from which faces are counted."""


def faces_left(data: Path, deface: Path | None) -> None:
    """Run both programs with their defaults, and count."""
    for folder in ("crowd", "wild"):
        pictures = reference(data, folder)
        for program, published in (("deid", run_deid), ("deface", run_deface)):
            if program == "deface" and deface is None:
                print("deface is left out: --deface says where it is", flush=True)
                continue
            with tempfile.TemporaryDirectory() as name:
                source = Path(name) / "in"
                source.mkdir()
                for index, picture in enumerate(pictures):
                    bgr = cv2.cvtColor(picture.pixels, cv2.COLOR_RGB2BGR)
                    cv2.imwrite(str(source / f"{index:04d}.png"), bgr)
                seconds, cpu = published(source, deface or Path())
                count(f"{program}, {folder}", pictures, Path(name))
                print(f"{program}, {folder}: {seconds:.1f} s, {cpu:.1f} CPU s", flush=True)


def run_deid(source: Path, _: Path) -> tuple[float, float]:
    """Black out `in` into `out`. Seconds and CPU seconds."""
    out = str(source.with_name("out"))
    command = [sys.executable, "-m", "deidcli.cli", "anonymize", str(source), "--out", out]
    return timed([*command, "--method", "blackout"])


def run_deface(source: Path, deface: Path) -> tuple[float, float]:
    """Run deface on `in`, beside whose files it writes. Seconds and CPU seconds."""
    return timed([str(deface), *map(str, sorted(source.iterdir()))])


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds that a command takes, and CPU seconds of it and its children."""

    def used() -> float:
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime

    start, before = time.monotonic(), used()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - start, used() - before


def count(label: str, pictures: list[Annotated], scratch: Path) -> None:
    """Print how many faces are left in what was published, and what was withheld."""
    left: list[float] = []
    published: list[float] = []
    withheld = with_faces = 0
    for index, picture in enumerate(pictures):
        names = (f"out/images/{index:04d}.png", f"in/{index:04d}_anonymized.png")
        file = next((scratch / name for name in names if (scratch / name).is_file()), None)
        with_faces += len(picture.faces) > 0
        if file is None:
            withheld += len(picture.faces) > 0
            continue
        after = decode(file.read_bytes()).pixels
        published += sizes(picture.faces).tolist()
        left += left_in(picture, after)
    print(f"{label}: withheld with faces {share(withheld, with_faces, interval=True)}")
    for least in LEAST_SIZES:
        n = sum(size >= least for size in published)
        hits = sum(size >= least for size in left)
        print(f"{label}: left of {least:.0f} px and more {share(hits, n, interval=True)}")


def left_in(picture: Annotated, after: Image) -> list[float]:
    """Sizes in px of the faces that a published picture still shows."""
    differs = np.any(picture.pixels != after, axis=2).astype(np.uint8)
    # A blur leaves a pixel as it was here and there by chance.
    differs = np.asarray(cv2.morphologyEx(differs, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)))
    height, width = differs.shape
    left = []
    for box, size in zip(picture.faces, sizes(picture.faces), strict=True):
        x0, y0, x1, y1 = np.clip(np.rint(box), 0, [width, height] * 2).astype(int)
        if differs[y0:y1, x0:x1].mean() < GONE:
            left.append(float(size))
    return left
