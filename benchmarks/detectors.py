"""Which detector finds how many faces, and what a picture costs.

    python -m benchmarks.detectors ../shared/data

Recall of the 43 annotated faces of frames/dlib_faces (a face is found when a detection has IoU of
0.4 or more with its box), share of pictures with at least one face on celeba/test and frames/wild,
CPU time of one thread per picture. Times compare within one run only.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch

from deidcli.data.images import decode
from deidcli.faces import detect
from deidcli.faces.align import Image
from deidcli.faces.dlib_nets import detect_cnn, load_detector

Found = list[detect.Box]
SAME_FACE = 0.4


def candidates() -> dict[str, Callable[[Image], Found]]:
    """Name -> frame to boxes."""
    network = load_detector()

    def hog(scale: float) -> Callable[[Image], Found]:
        def run(frame: Image) -> Found:
            detect.UPSAMPLE = scale
            return [box for box, _ in detect.detect_hog(frame)]

        return run

    def cnn(scale: float) -> Callable[[Image], Found]:
        def run(frame: Image) -> Found:
            height, width = frame.shape[:2]
            limit = (detect.CNN_WORKING_MEGAPIXELS * 1e6 / (height * width)) ** 0.5
            found = detect_cnn(network, frame, scale=min(scale, limit))
            return [(b[0], b[1], b[2] + 1.0, b[3] + 1.0) for b, _ in found]

        return run

    def auto(frame: Image) -> Found:
        return hog(2.0)(frame) or cnn(2.0)(frame)

    return {
        "hog x1": hog(1.0),
        "hog x2": hog(2.0),
        "cnn x1": cnn(1.0),
        "cnn x2": cnn(2.0),
        "auto (hog x2, else cnn x2)": auto,
    }


def annotated(folder: Path) -> Iterator[tuple[Image, Found]]:
    """dlib's own example pictures with their true boxes."""
    for name in ("training.xml", "testing.xml"):
        for image in ElementTree.parse(folder / name).iter("image"):
            boxes = [
                (
                    float(box.attrib["left"]),
                    float(box.attrib["top"]),
                    float(box.attrib["left"]) + float(box.attrib["width"]),
                    float(box.attrib["top"]) + float(box.attrib["height"]),
                )
                for box in image.iter("box")
            ]
            yield decode((folder / image.attrib["file"]).read_bytes()).pixels, boxes


def iou(a: detect.Box, b: detect.Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(0.0, width) * max(0.0, height)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return inter / (area - inter)


def celeba(folder: Path, count: int) -> Iterator[Image]:
    """Pictures of celeba/test."""
    for path in sorted((folder / "celeba").glob("test-*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(64, columns=["image"]):
            for row in batch.column(0).to_pylist():
                if count <= 0:
                    return
                count -= 1
                yield decode(row["bytes"]).pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--celeba", type=int, default=2501, help="pictures of celeba/test")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    truth = list(annotated(args.data / "frames/dlib_faces"))
    wild = sorted((args.data / "frames/wild").glob("*.jpg"))
    for name, run in candidates().items():
        hits = extra = total = 0
        for frame, boxes in truth:
            found = run(frame)
            hits += sum(any(iou(box, f) >= SAME_FACE for f in found) for box in boxes)
            extra += sum(all(iou(box, f) < SAME_FACE for box in boxes) for f in found)
            total += len(boxes)
        start = time.process_time()
        counts = np.array([len(run(frame)) for frame in celeba(args.data, args.celeba)])
        per_picture = (time.process_time() - start) / len(counts)
        start = time.process_time()
        frames = [len(run(decode(path.read_bytes()).pixels)) for path in wild]
        per_frame = (time.process_time() - start) / len(wild)
        print(
            f"| {name} | {hits}/{total} | {extra} | {100 * (counts > 0).mean():.2f} "
            f"| {100 * np.mean(np.array(frames) > 0):.1f} "
            f"| {1e3 * per_picture:.0f} | {1e3 * per_frame:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
