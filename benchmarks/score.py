"""How fast `deid score` is against dlib's own calls: ratios within one run.

    python -m benchmarks.score FOLDER

FOLDER holds pictures with a face each, such as celeba/test written out. Features for FCNS, DEID,
DIV and rank-1 by dlib's networks are computed for FACES pictures and their blurred copies, once by
this package and once, on fewer faces, by dlib's wheel; the ratio is of seconds a face.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dlib
import numpy as np

from deidcli.evaluate import features
from deidcli.evaluate.pairs import collect, open_pairs
from deidcli.faces.align import chip_affine, crop
from deidcli.weights.files import pip_file
from deidcli.weights.pip_files import DLIB_DETECTOR, DLIB_RECOGNIZER

DEID = [sys.executable, "-m", "deidcli"]


def links(source: Path, folder: Path, count: int) -> Path:
    """The first pictures of a folder, as a folder."""
    folder.mkdir(parents=True)
    for path in sorted(source.iterdir())[:count]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def by_dlib(out: Path, count: int) -> float:
    """Seconds a face of dlib's own detector and recognizer on the same chips."""
    detector = dlib.cnn_face_detection_model_v1(str(pip_file(DLIB_DETECTOR)))
    recognizer = dlib.face_recognition_model_v1(str(pip_file(DLIB_RECOGNIZER)))
    pair_set = collect(out, None)
    faces = 0
    start = time.monotonic()
    for pair in open_pairs(pair_set, pair_set.pairs[:count], "cpu"):
        for points in pair.faces:
            for frame, at in zip((pair.original, pair.published), points, strict=True):
                size, padding = features.DETECT_SIZE, features.DETECT_PADDING
                detector(crop(frame, chip_affine(at, size, padding), size, extend=True), 0)
                chip = crop(frame, chip_affine(at, 150, 0.25), 150)
                np.array(recognizer.compute_face_descriptor(chip))
            faces += 1
    return (time.monotonic() - start) / faces


def by_us(out: Path, count: int) -> float:
    """Seconds a face of the same by this package, pairs opened the same way."""
    pair_set = collect(out, None)
    start = time.monotonic()
    chips: dict[str, list[np.ndarray]] = {"detect_original": [], "detect_published": []}
    codes: dict[str, list[np.ndarray]] = {"original": [], "published": []}
    for pair in open_pairs(pair_set, pair_set.pairs[:count], "cpu"):
        for points in pair.faces:
            sides = zip(codes, (pair.original, pair.published), points, strict=True)
            for side, frame, at in sides:
                size, padding = features.DETECT_SIZE, features.DETECT_PADDING
                chip = crop(frame, chip_affine(at, size, padding), size, extend=True)
                chips[f"detect_{side}"].append(chip)
                codes[side].append(features.recognizers.cut("dlib", frame, at))
    for side, cut in codes.items():
        features.recognizers.embed("dlib", cut)
        for chip in chips[f"detect_{side}"]:
            features.found_by_cnn(chip)
    return (time.monotonic() - start) / len(codes["original"])


def score_seconds(out: Path) -> float:
    """Seconds of `deid score OUT`, start-up included."""
    start = time.monotonic()
    command = [*DEID, "score", str(out), "--recognizer", "dlib"]
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--faces", type=int, default=300)
    parser.add_argument("--dlib-faces", type=int, default=30)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        source = links(args.pictures, Path(name) / "in", args.faces)
        out = Path(name) / "out"
        command = [*DEID, "anonymize", str(source), "--method", "blur", "--no-gate"]
        subprocess.run([*command, "--out", str(out)], check=True, capture_output=True)
        by_us(out, 2)  # loads the networks
        theirs, ours = by_dlib(out, args.dlib_faces), by_us(out, args.faces)
        print(
            f"dlib's own calls / deid, a face: {theirs / ours:.1f} "
            f"({1e3 * theirs:.0f} ms against {1e3 * ours:.0f} ms)"
        )
        first, second = score_seconds(out), score_seconds(out)
        print(f"second deid score / first: {second / first:.2f} ({second:.1f} s, {first:.1f} s)")


if __name__ == "__main__":
    main()
