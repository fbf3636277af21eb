"""Verification on LFW's 6,000 standard pairs: accuracy, TAR at FAR 1e-3, and the threshold.

    python -m benchmarks.lfw ../shared/data/lfw --cache lfw-cache

DATA holds `test-*.parquet` (image, as <Name>_<number>.jpg) and `pairs.txt`. The protocol is
"image-restricted, with outside data": ten folds of 300 + 300 pairs, the threshold of each fold
chosen on the other nine. Landmarks and embeddings are kept in the cache folder, which holds what
identifies people: do not publish it. The thresholds in deidcli/faces/recognizers.py come from
here; docs/recognizers.md has the table.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.leakage import decode
from deidcli.faces import recognizers
from deidcli.faces.align import Image, Points
from deidcli.faces.detect import Detector, Face
from deidcli.faces.landmarks import landmarks_from_box

FAR = 1e-3
CENTRAL_FACE = 1 / 2.2
"""Width of a face in shares of LFW's picture, which was cut around a detected box 2.2 times as
wide (Huang et al. 2007, sec. III). Stands in where our detectors find nothing."""

Pairs = list[tuple[str, str, bool, int]]
"""Two keys, whether they are one person, and the fold."""
Vector = NDArray[np.float64]


def read_pairs(path: Path) -> Pairs:
    """LFW's pairs.txt: keys are <Name>_<number as 4 digits>."""
    header, *lines = path.read_text().splitlines()
    folds, half = (int(value) for value in header.split("\t"))
    pairs: Pairs = []
    for index, line in enumerate(lines):
        parts = line.split("\t")
        if len(parts) == 3:
            parts.insert(2, parts[0])
        left, right = (f"{parts[i]}_{int(parts[i + 1]):04d}" for i in (0, 2))
        pairs.append((left, right, parts[0] == parts[2], index // (2 * half)))
    assert len(pairs) == 2 * folds * half
    return pairs


def pictures(folder: Path) -> Iterator[tuple[str, Image]]:
    """Keys and frames, (H, W, 3) uint8 RGB."""
    for path in sorted(folder.glob("test-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(256, columns=["image"]):
            for image in batch["image"].to_pylist():
                yield Path(image["path"]).stem, decode(image["bytes"])


def main_face(faces: Sequence[Face], frame: Image) -> Face | None:
    """The face in the middle, large ones first: largest width less twice its way to the middle."""

    def merit(face: Face) -> float:
        x0, y0, x1, y1 = face.box
        middle = np.array([frame.shape[1], frame.shape[0]]) / 2
        away = np.abs(np.array([(x0 + x1) / 2, (y0 + y1) / 2]) - middle).max()
        return float(x1 - x0 - 2 * away)

    return max(faces, key=merit, default=None)


def central_landmarks(frame: Image) -> Points:
    """Where the landmarks of LFW's person are bound to lie: (5, 2), frame px."""
    height, width = frame.shape[:2]
    half_x, half_y = width * CENTRAL_FACE / 2, height * CENTRAL_FACE / 2
    box = (width / 2 - half_x, height / 2 - half_y, width / 2 + half_x, height / 2 + half_y)
    return landmarks_from_box(box)


def find_faces(folder: Path, cache: Path) -> tuple[list[str], NDArray[np.float64], list[str]]:
    """Keys, landmarks (N, 5, 2), and what found each face: hog, cnn or none."""
    file = cache / "landmarks.npz"
    if file.is_file():
        saved = np.load(file)
        return saved["keys"].tolist(), saved["points"], saved["found"].tolist()
    hog, cnn = Detector("hog"), Detector("cnn")
    keys, points, found = [], [], []
    for key, frame in pictures(folder):
        face, how = main_face(hog(frame), frame), "hog"
        if face is None:
            face, how = main_face(cnn(frame), frame), "cnn"
        keys.append(key)
        points.append(central_landmarks(frame) if face is None else face.landmarks)
        found.append("none" if face is None else how)
        if len(keys) % 500 == 0:
            print(f"{len(keys)} pictures searched", file=sys.stderr)
    cache.mkdir(parents=True, exist_ok=True)
    np.savez(file, keys=keys, points=np.stack(points), found=found)
    return keys, np.stack(points), found


def embeddings(
    name: str, folder: Path, points: NDArray[np.float64], cache: Path, device: str
) -> NDArray[np.float32]:
    """(N, D) float32 of all pictures, in order; cached for one setting of the recognizer."""
    entry = recognizers.RECOGNIZERS[name]
    file = cache / f"{name}-{entry.scale:.3f}-{entry.origin[0]:.3f}-{entry.origin[1]:.3f}.npy"
    if file.is_file():
        return np.asarray(np.load(file))
    start = time.perf_counter()
    chips = [
        recognizers.cut(name, frame, one)
        for (_, frame), one in zip(pictures(folder), points, strict=True)
    ]
    out = recognizers.embed(name, chips, device)
    print(f"{name}: {(time.perf_counter() - start) / len(out) * 1e3:.0f} ms", file=sys.stderr)
    np.save(file, out)
    return out


def best_threshold(distances: Vector, same: NDArray[np.bool_]) -> float:
    """The threshold with the highest accuracy, midway between two distances."""
    order = np.argsort(distances)
    values, labels = distances[order], same[order]
    # With the k nearest pairs accepted: those of one person, and the others beyond.
    right = np.concatenate([[0], np.cumsum(labels)]) + (
        (~labels).sum() - np.concatenate([[0], np.cumsum(~labels)])
    )
    k = int(right.argmax())
    edges = np.concatenate([[values[0] - 1e-6], values, [values[-1] + 1e-6]])
    return float((edges[k] + edges[k + 1]) / 2)


def fold_accuracies(distances: Vector, same: NDArray[np.bool_], folds: NDArray[np.int64]) -> Vector:
    """The accuracy of each fold at the best threshold of the others."""
    out = []
    for fold in np.unique(folds):
        here = folds == fold
        threshold = best_threshold(distances[~here], same[~here])
        out.append(((distances[here] <= threshold) == same[here]).mean())
    return np.array(out)


def far_threshold(different: Vector, far: float = FAR) -> float:
    """The threshold that accepts at most a share `far` of the pairs of different people."""
    values = np.sort(different)
    accepted = int(far * len(values) + 1e-9)
    return float((values[max(accepted - 1, 0)] + values[accepted]) / 2)


def all_pairs_far(
    name: str, everyone: NDArray[np.float32], keys: Sequence[str], threshold: float
) -> float:
    """The false accept rate over all pairs of pictures of different names."""
    people = np.unique([key.rsplit("_", 1)[0] for key in keys], return_inverse=True)[1]
    accepted = pairs = 0
    for start in range(0, len(people), 500):
        rows = slice(start, start + 500)
        different = people[rows, None] != people[None]
        near = recognizers.distances(name, everyone[rows], everyone) <= threshold
        accepted, pairs = accepted + int((near & different).sum()), pairs + int(different.sum())
    return accepted / pairs


def figures(
    name: str, everyone: NDArray[np.float32], keys: list[str], found: list[str], pairs: Pairs
) -> dict[str, Any]:
    """What one recognizer achieves; see docs/recognizers.md for the columns."""
    place = {key: index for index, key in enumerate(keys)}
    left, right = ([place[pair[i]] for pair in pairs] for i in (0, 1))  # type: ignore[index]
    same = np.array([pair[2] for pair in pairs])
    folds = np.array([pair[3] for pair in pairs])
    distances = recognizers.pair_distances(name, everyone[left], everyone[right])
    accuracies = fold_accuracies(distances, same, folds)
    threshold = far_threshold(distances[~same])
    seen = np.array([found[a] == found[b] == "hog" for a, b in zip(left, right, strict=True)])
    return {
        "accuracy": float(accuracies.mean()),
        "accuracy_std": float(accuracies.std(ddof=1)),
        "accuracy_hog_pairs": float(
            fold_accuracies(distances[seen], same[seen], folds[seen]).mean()
        ),
        "hog_pairs": int(seen.sum()),
        "best_threshold": best_threshold(distances, same),
        "threshold": threshold,
        "tar": float((distances[same] <= threshold).mean()),
        "far_all_pairs": all_pairs_far(name, everyone, keys, threshold),
        "same": float(distances[same].mean()),
        "different": float(distances[~same].mean()),
    }


def main() -> None:
    """A JSON object on stdout."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--recognizer", action="append", help="default: all that are installed")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    pairs = read_pairs(args.data / "pairs.txt")
    keys, points, found = find_faces(args.data, args.cache)
    used = {key for pair in pairs for key in pair[:2]}
    counts = {how: found.count(how) for how in ("hog", "cnn", "none")}
    in_pairs = sum(how == "none" for key, how in zip(keys, found, strict=True) if key in used)
    out: dict[str, Any] = {"pictures": len(keys), "found": counts, "none_in_pairs": in_pairs}
    for name in args.recognizer or recognizers.installed_recognizers():
        everyone = embeddings(name, args.data, points, args.cache, args.device)
        out[name] = figures(name, everyone, keys, found, pairs)
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
