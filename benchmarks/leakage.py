"""What de-identified pictures still leak: who can be found again, by each installed recognizer.

The attacker knows where the face was: a probe is cut out of the published picture with the
landmarks of the original, as the affine in OUT.private/faces.parquet allows. He holds a picture of
everyone, in the worst case the very original: the gallery is the originals' chips, one person
wanted, a picture each.

    from benchmarks.leakage import leakage
    leakage(originals, published, landmarks)["dlib"]["plain"]["rank1"]

or, on two folders, from the repository's root:

    python -m benchmarks.leakage PICTURES PICTURES-deid/images
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deidcli.faces import recognizers
from deidcli.faces.align import Image, Points
from deidcli.faces.dlib_hog import detect_hog
from deidcli.faces.landmarks import landmarks as find_landmarks

BLUR_SIGMA = 1.5
"""Standard deviation of the blur, px on a chip of 112 px; scaled with the chip."""
BLUR_CHIP = 112
JPEG_QUALITY = 90
CONDITIONS = ("plain", "blurred", "jpeg")
"""plain: the chips as they are. blurred: gallery and probe both blurred, so that a method which
leaves only coarse structure is met with a gallery that has only coarse structure. jpeg: the
published frame saved as JPEG 90 first."""

Leak = dict[str, float]
_gallery: dict[tuple[str, bool, bytes], NDArray[np.float32]] = {}


def leakage(
    originals: Sequence[Image],
    published: Sequence[Image],
    landmarks: Sequence[Points],
    names: Sequence[str] | None = None,
    conditions: Sequence[str] = CONDITIONS,
    device: str = "cpu",
) -> dict[str, dict[str, Leak]]:
    """How well published faces are matched to their originals.

    Args:
        originals, published: matched lists of (H, W, 3) uint8 RGB frames, one face each.
        landmarks: of the originals, (5, 2) each, as `deidcli.faces.detect.landmarks` gives.
        names: recognizers; all installed ones by default.
        conditions: a choice of CONDITIONS.

    Returns:
        {recognizer: {condition: numbers}}; see `numbers`. The gallery's embeddings are kept in
        memory by each picture's content, so a sweep over settings computes them once.
    """
    assert len(originals) == len(published) == len(landmarks) > 0
    assert all(a.shape == b.shape for a, b in zip(originals, published, strict=True))
    out: dict[str, dict[str, Leak]] = {}
    compressed = [jpeg(frame) for frame in published] if "jpeg" in conditions else []
    for name in recognizers.installed_recognizers() if names is None else names:
        out[name] = {}
        for condition in conditions:
            blurred = condition == "blurred"
            gallery = _cached(name, originals, landmarks, blurred, device)
            frames = compressed if condition == "jpeg" else published
            probes = _embed(name, frames, landmarks, blurred, device)
            out[name][condition] = numbers(name, gallery, probes)
    return out


def numbers(name: str, gallery: NDArray[np.float32], probes: NDArray[np.float32]) -> Leak:
    """Identification and verification of (N, D) probes against their own row in the gallery.

    Returns:
        n: pictures. chance: 1/n.
        rank1: share of probes whose nearest gallery picture is their own original (lower is
            better privacy; rank1_low and rank1_high: 95 % Wilson interval).
        farthest1: share whose farthest picture is their own. Above chance, a method that pushes
            faces away from their identity can be turned round.
        percentile: mean share of the other gallery pictures that are farther away than the own
            original: 0.5 is chance, 1 is always rank 1.
        verified: share within the recognizer's threshold of their own original.
        distance: mean distance to the own original.
        Ties count as a draw by lot.
    """
    distances = recognizers.distances(name, probes, gallery)
    own = distances.diagonal()[:, None]
    n = len(distances)
    ties = (distances == own).sum(1)
    nearer, farther = (distances < own).sum(1), (distances > own).sum(1)
    rank1 = float(((nearer == 0) / ties).mean())
    low, high = wilson(rank1, n)
    return {
        "n": n,
        "chance": 1 / n,
        "rank1": rank1,
        "rank1_low": low,
        "rank1_high": high,
        "farthest1": float(((farther == 0) / ties).mean()),
        "percentile": float(((farther + (ties - 1) / 2) / max(n - 1, 1)).mean()),
        "verified": float((own <= recognizers.RECOGNIZERS[name].threshold).mean()),
        "distance": float(own.mean()),
    }


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share of n. Source: Wilson 1927."""
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, center - half), min(1.0, center + half)


def jpeg(frame: Image, quality: int = JPEG_QUALITY) -> Image:
    """A frame after JPEG: (H, W, 3) uint8 RGB."""
    ok, data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok
    return decode(data.tobytes())


def blur(chip: Image) -> Image:
    """A square chip after a Gaussian blur of BLUR_SIGMA."""
    sigma = BLUR_SIGMA * chip.shape[0] / BLUR_CHIP
    return np.asarray(cv2.GaussianBlur(chip, (0, 0), sigma), dtype=np.uint8)


def _embed(
    name: str, frames: Sequence[Image], landmarks: Sequence[Points], blurred: bool, device: str
) -> NDArray[np.float32]:
    chips = [
        recognizers.cut(name, frame, points)
        for frame, points in zip(frames, landmarks, strict=True)
    ]
    return recognizers.embed(name, [blur(chip) for chip in chips] if blurred else chips, device)


def _cached(
    name: str, frames: Sequence[Image], landmarks: Sequence[Points], blurred: bool, device: str
) -> NDArray[np.float32]:
    keys = [
        (name, blurred, _digest(frame, points))
        for frame, points in zip(frames, landmarks, strict=True)
    ]
    missing = [i for i, key in enumerate(keys) if key not in _gallery]
    if missing:
        new = _embed(
            name, [frames[i] for i in missing], [landmarks[i] for i in missing], blurred, device
        )
        _gallery.update({keys[i]: row for i, row in zip(missing, new, strict=True)})
    return np.stack([_gallery[key] for key in keys])


def _digest(frame: Image, points: Points) -> bytes:
    digest = hashlib.blake2b(frame.tobytes(), digest_size=16)
    digest.update(repr(frame.shape).encode() + np.asarray(points, np.float64).tobytes())
    return digest.digest()


# --- Pictures to try it on


def celeba(folder: Path, split: str, count: int) -> tuple[list[Image], list[Points]]:
    """Up to `count` pictures of a split where HOG finds a face: frames and landmarks.

    Everyone's first picture comes first, then the second ones: a gallery with one picture a
    person makes rank 1 mean the person and not merely the picture.
    """
    frames: list[Image] = []
    points: list[Points] = []
    for image in celeba_pictures(folder, split):
        if len(frames) == count:
            break
        found = main_landmarks(image)
        if found is not None:
            frames.append(image)
            points.append(found)
    return frames, points


def celeba_pictures(folder: Path, split: str) -> Iterator[Image]:
    """The pictures of a split, everyone's first one first."""
    seen: Counter[int] = Counter()
    rows: list[tuple[int, bytes]] = []
    for path in sorted(folder.glob(f"{split}-*.parquet")):
        table = pq.read_table(path, columns=["image", "identity"])
        images, people = table["image"].to_pylist(), table["identity"].to_pylist()
        for image, identity in zip(images, people, strict=True):
            rows.append((seen[identity], image["bytes"]))
            seen[identity] += 1
    for _, data in sorted(rows, key=lambda row: row[0]):
        yield decode(data)


def main_landmarks(frame: Image) -> Points | None:
    """The landmarks of the largest face that HOG finds: (5, 2), or None."""
    boxes = [box for box, _ in detect_hog(frame)]
    if not boxes:
        return None
    return find_landmarks(frame, max(boxes, key=lambda b: (b[2] - b[0]) * (b[3] - b[1])))


def decode(data: bytes) -> Image:
    """(H, W, 3) uint8 RGB of an encoded picture."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.ascontiguousarray(image[..., ::-1], dtype=np.uint8)


def matched(
    originals: Path, published: Path
) -> tuple[list[Image], list[Image], list[Points], Counter[str]]:
    """Originals, published pictures, the originals' landmarks, and why others were left out."""
    kept: tuple[list[Image], list[Image], list[Points]] = ([], [], [])
    left_out: Counter[str] = Counter()
    for path in sorted(p for p in originals.rglob("*") if p.is_file()):
        other = published / path.relative_to(originals)
        if not other.is_file():
            left_out["not published"] += 1
            continue
        frame, result = decode(path.read_bytes()), decode(other.read_bytes())
        points = main_landmarks(frame)
        if points is None or frame.shape != result.shape:
            left_out["no face found" if points is None else "size differs"] += 1
            continue
        for items, item in zip(kept, (frame, result, points), strict=True):
            items.append(item)  # type: ignore[attr-defined]
    return *kept, left_out


def main() -> None:
    """Two folders with the same names -> a JSON object on stdout."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("originals", type=Path, help="a folder of pictures")
    parser.add_argument("published", type=Path, help="the same names, de-identified (OUT/images)")
    parser.add_argument("--recognizer", action="append", help="default: all that are installed")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    originals, published, points, left_out = matched(args.originals, args.published)
    if not originals:
        parser.error(f"no picture of {args.originals} has its match ({dict(left_out)})")
    print(f"{len(originals)} pictures; left out: {dict(left_out)}", file=sys.stderr)
    result = leakage(originals, published, points, args.recognizer, device=args.device)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
