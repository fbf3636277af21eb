"""The slow part of scoring, computed once per face and cached: embeddings, detections, attributes.

One worker opens, crops and measures a chunk of pairs and writes it to one file, so memory does not
grow with the data set and a second `deid score` reads the results instead of computing them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deidcli.errors import DeidError
from deidcli.evaluate import brisque, quality
from deidcli.evaluate.pairs import Pair, PairRef, PairSet, open_pairs
from deidcli.faces import attributes, recognizers
from deidcli.faces.align import Image, Points, chip_affine, crop
from deidcli.faces.dlib_detector import DlibDetector, detect_cnn, load_detector
from deidcli.faces.dlib_hog import detect_hog
from deidcli.faces.landmarks import DLIB_BOX

VERSION = 1
"""Incremented when a feature is computed differently, so that old files are not read."""

DETECT_SIZE, DETECT_PADDING = 256, 1.0
"""The chip in which a detector has to find the face: three mean faces wide, the face about 110 px,
so that the detector's smallest window (80 px) does not decide."""
SAME_BOX = 0.3
"""Least intersection over union with a face's position for a detection to count as that face."""
BLUR_SIGMA, BLUR_SIDE = 1.5, 112
"""The attack that blurs both sides: sigma in px on a chip of 112 px."""
JPEG_QUALITY = 90
QUALITY_SIZE, QUALITY_PADDING = 128, 0.5
"""The chip for measuring picture quality: the face with hair and neck."""

VARIANTS = ("original", "published", "original_blurred", "published_blurred", "published_jpeg")

Features = dict[str, NDArray[Any]]
"""Named arrays, row i is face i of the chunk."""


def compute(
    pair_set: PairSet, refs: Sequence[PairRef], names: Sequence[str], device: str
) -> Features:
    """Measure the faces of some pairs.

    Args:
        names: recognizers.

    Returns:
        `name/variant` (F, D) float32 embeddings; `cnn_*`, `hog_*` (F,) bool; `attributes_*`
        (F, 40) float32; `psnr`, `ssim`, `lpips`, `brisque_*` (F,) float32, `fid_*` (F, 2048)
        float32, if installed; `pair` (F,) int64 row of `refs`; `face` (F,) int64.
    """
    faces: dict[str, list[Any]] = {"pair": [], "face": []}
    numbers = {id(ref): row for row, ref in enumerate(refs)}
    chips: dict[str, list[Image]] = {}
    for pair in open_pairs(pair_set, refs, device):
        _cut(pair, names, chips)
        for face in range(len(pair.faces)):
            faces["pair"].append(numbers[id(pair.ref)])
            faces["face"].append(face)
    out: Features = {key: np.array(values, dtype=np.int64) for key, values in faces.items()}
    for name in names:
        for variant in VARIANTS:
            key = f"{name}/{variant}"
            out[key] = recognizers.embed(name, chips.get(key, []), device)
    _detect(chips, out, device)
    _attributes(chips, out, device)
    _quality(chips, out, device)
    return out


def _cut(pair: Pair, names: Sequence[str], chips: dict[str, list[Image]]) -> None:
    compressed = jpeg(pair.published)
    for original_points, published_points in pair.faces:
        sides = (("original", pair.original, original_points),)
        sides += (("published", pair.published, published_points),)  # type: ignore[assignment]
        for side, frame, points in sides:
            for name in names:
                chip = recognizers.cut(name, frame, points)
                chips.setdefault(f"{name}/{side}", []).append(chip)
                chips.setdefault(f"{name}/{side}_blurred", []).append(blur(chip))
            for kind, size, padding in (
                ("detect", DETECT_SIZE, DETECT_PADDING),
                ("quality", QUALITY_SIZE, QUALITY_PADDING),
            ):
                chips.setdefault(f"{kind}_{side}", []).append(_chip(frame, points, size, padding))
            net = _attribute_net("cpu")
            if net is not None:
                chip = attributes.cut(net, frame, points)
                chips.setdefault(f"attributes_{side}", []).append(chip)
        for name in names:
            chip = recognizers.cut(name, compressed, published_points)
            chips.setdefault(f"{name}/published_jpeg", []).append(chip)


def _chip(frame: Image, points: Points, size: int, padding: float) -> Image:
    return crop(frame, chip_affine(points, size, padding), size, extend=True)


def blur(chip: Image) -> Image:
    """Return a square chip blurred with a Gaussian of BLUR_SIGMA."""
    sigma = BLUR_SIGMA * chip.shape[0] / BLUR_SIDE
    return np.asarray(cv2.GaussianBlur(chip, (0, 0), sigma), dtype=np.uint8)


def jpeg(frame: Image, quality: int = JPEG_QUALITY) -> Image:
    """Return a (H, W, 3) uint8 RGB frame after JPEG compression."""
    _, data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(np.asarray(decoded, dtype=np.uint8)[..., ::-1])


# ---------------------------------------------------------------------------- detection

_loaded: dict[str, Any] = {}


def _detector(device: str) -> DlibDetector:
    if "detector" not in _loaded:
        _loaded["detector"] = load_detector(device)
    detector: DlibDetector = _loaded["detector"]
    return detector


def _detect(chips: dict[str, list[Image]], out: Features, device: str) -> None:
    for side in ("original", "published"):
        some = chips.get(f"detect_{side}", [])
        out[f"cnn_{side}"] = np.array([found_by_cnn(chip, device) for chip in some], dtype=bool)
        out[f"hog_{side}"] = np.array([found_by_hog(chip) for chip in some], dtype=bool)


def found_by_cnn(chip: Image, device: str = "cpu") -> bool:
    """Return whether dlib's CNN detector finds a face at its place in a detection chip."""
    boxes = [(b[0], b[1], b[2] + 1, b[3] + 1) for b, _ in detect_cnn(_detector(device), chip)]
    return any(iou(box, expected_box()) >= SAME_BOX for box in boxes)


def found_by_hog(chip: Image) -> bool:
    """Return whether dlib's HOG detector finds a face at its place in a detection chip."""
    return any(iou(box, expected_box()) >= SAME_BOX for box, _ in detect_hog(chip))


def expected_box() -> tuple[float, float, float, float]:
    """Return where a detector's box lies in a detection chip, see landmarks.DLIB_BOX."""
    unit = DETECT_SIZE / (2 * DETECT_PADDING + 1)
    x, y = (np.array(DLIB_BOX.center) + DETECT_PADDING) * unit
    half = DLIB_BOX.width * unit / 2
    return x - half, y - half, x + half, y + half


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the intersection over union of two boxes (x0, y0, x1, y1)."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


# ---------------------------------------------------------------------------- attributes, quality


def _attribute_net(device: str) -> attributes.AttributeNet | None:
    """Return the classifier, or None if its weights are missing."""
    if "attributes" not in _loaded:
        try:
            _loaded["attributes"] = attributes.load(device)
        except DeidError:
            _loaded["attributes"] = None
    net: attributes.AttributeNet | None = _loaded["attributes"]
    return net


def _attributes(chips: dict[str, list[Image]], out: Features, device: str) -> None:
    net = _attribute_net(device)
    if net is None:
        return
    size = net.settings.side
    for side in ("original", "published"):
        some = chips.get(f"attributes_{side}", [])
        batch = np.stack(some) if some else np.empty((0, size, size, 3), np.uint8)
        out[f"attributes_{side}"] = attributes.predict(net, batch)


QUALITY_BATCH = 16


def _quality(chips: dict[str, list[Image]], out: Features, device: str) -> None:
    """Measure picture quality of the published chips, for the installed metrics."""
    before, after = chips.get("quality_original", []), chips.get("quality_published", [])
    missing = quality.available()
    found: dict[str, list[NDArray[Any]]] = {}

    def add(key: str, values: Any) -> None:
        found.setdefault(key, []).append(np.asarray(values, dtype=np.float32))

    for start in range(0, len(before), QUALITY_BATCH):
        rows = slice(start, start + QUALITY_BATCH)
        a, b = _batch(before[rows], device), _batch(after[rows], device)
        add("psnr", quality.psnr(a, b).cpu())
        add("ssim", quality.ssim(a, b).cpu())
        if not missing["lpips"]:
            add("lpips", quality.lpips(a, b).cpu())
        if not missing["fid"]:
            add("fid_original", quality.fid_features(a).cpu())
            add("fid_published", quality.fid_features(b).cpu())
        if not missing["brisque"]:
            add("brisque_original", brisque.brisque((a * 255).round().to(torch.uint8)).cpu())
            add("brisque_published", brisque.brisque((b * 255).round().to(torch.uint8)).cpu())
    out.update({key: np.concatenate(values) for key, values in found.items()})


def _batch(chips: Sequence[Image], device: str) -> Tensor:
    """Return chips as (N, 3, S, S) float32 RGB in [0, 1]."""
    batch = torch.from_numpy(np.stack(chips)).to(device)
    return batch.permute(0, 3, 1, 2).float() / 255


# ---------------------------------------------------------------------------- on disk


def compute_to_file(
    pair_set: PairSet, refs: Sequence[PairRef], names: Sequence[str], device: str, path: Path
) -> int:
    """Compute and store a chunk's features; return its number of pictures."""
    found = compute(pair_set, refs, names, device)
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    with unfinished.open("wb") as file:
        np.savez(file, **{key.replace("/", "|"): value for key, value in found.items()})  # type: ignore[arg-type]
    os.replace(unfinished, path)
    return len(refs)


def load_features(paths: Sequence[Path]) -> Features:
    """Load and join all chunks' features; `pair` is numbered across chunks."""
    parts: dict[str, list[NDArray[Any]]] = {}
    for number, path in enumerate(paths):
        with np.load(path) as file:
            if len(file["pair"]) == 0:
                continue
            for key in file.files:
                values = file[key]
                if key == "pair":
                    values = values + number * CHUNK_STRIDE
                parts.setdefault(key.replace("|", "/"), []).append(values)
    return {key: np.concatenate(values) for key, values in parts.items()}


CHUNK_STRIDE = 1 << 20
"""A face's pair number is chunk * CHUNK_STRIDE + row within the chunk."""
