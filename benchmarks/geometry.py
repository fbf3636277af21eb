"""What published boxes give away: how many pictures are found again by them among the originals.

    python -m benchmarks.geometry PICTURES [--count 500]

The attacker has a JPEG copy (quality 75) of every original, runs the same detector on it, and takes
for each published picture the copy whose face lies nearest: by the transform of its landmarks, by
the exact box, and by the box as --publish-geometry rounds it. He knows the size of each picture.
Frames are not compared: who has the originals can compare backgrounds instead.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from deidcli.data.geometry import rounded
from deidcli.data.images import BadImage, decode
from deidcli.data.samples import read_samples
from deidcli.data.source import open_source
from deidcli.faces.align import Image, unit_affine
from deidcli.faces.detect import Detector

JPEG_QUALITY = 75
SCALE = np.array([100.0, 100.0, 1.0, 100.0, 100.0, 1.0])
"""So that a transform's turn and scale weigh about as much as its shift: pictures are some 100 px
wide."""


def frames(path: Path, count: int) -> Iterator[Image]:
    """The first pictures of a data set that decode."""
    for shard in open_source(path).shards:
        for sample in read_samples(shard, None):
            if count == 0:
                return
            if not sample.status:
                try:
                    yield decode(sample.data).pixels
                except BadImage:
                    continue
                count -= 1


def linked(published: NDArray[np.float64], known: NDArray[np.float64]) -> float:
    """Share of rows whose nearest known row is their own; ties count as a draw by lot.

    Args:
        published, known: (N, D + 2) numbers, then width and height.
    """
    hits = 0.0
    for index, row in enumerate(published):
        same = (known[:, -2:] == row[-2:]).all(axis=1)
        distance = np.where(same, np.abs(known[:, :-2] - row[:-2]).sum(axis=1), np.inf)
        best = distance == distance.min()
        hits += best[index] / best.sum()
    return hits / len(published)


def main() -> None:
    """One data set -> a JSON object on stdout."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--count", type=int, default=500)
    args = parser.parse_args()
    detector = Detector("hog", "cpu")
    rows: list[list[float]] = []
    copies: list[list[float]] = []
    affines: list[list[list[float]]] = []
    for frame in frames(args.pictures, args.count):
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        copy = cv2.imdecode(cv2.imencode(".jpg", frame, quality)[1], cv2.IMREAD_COLOR)
        found, again = detector(frame), detector(np.asarray(copy, np.uint8))
        if found and again:
            size = [float(frame.shape[1]), float(frame.shape[0])]
            rows.append([*found[0].box, *size])
            copies.append([*again[0].box, *size])
            pair = (unit_affine(face.landmarks).ravel() * SCALE for face in (found[0], again[0]))
            affines.append([[*map(float, affine), *size] for affine in pair])
    exact, known = np.array(rows), np.array(copies)
    coarse, theirs = ([[*rounded(row[:4]), *row[4:]] for row in table] for table in (exact, known))
    size_only = np.concatenate([np.zeros((len(exact), 4)), exact[:, 4:]], axis=1)
    print(
        json.dumps(
            {
                "pictures": len(exact),
                "chance": 1 / len(exact),
                "by size alone": linked(size_only, size_only),
                "by the transform": linked(*np.array(affines).transpose(1, 0, 2)),
                "by the exact box": linked(exact, known),
                "by the rounded box": linked(np.array(coarse), np.array(theirs)),
            }
        )
    )


if __name__ == "__main__":
    main()
