"""Figures of `a3gan`: what the paper's tables 1 and 5 ask, speed, the contact sheet.

    python -m benchmarks.a3gan figures TEST --faces 400 --changes 0,1,3,5,10
    python -m benchmarks.a3gan off TEST --faces 200
    python -m benchmarks.a3gan speed
    python -m benchmarks.a3gan sheet examples/people/portraits docs/a3gan.jpg

What is measured is a face pasted into its picture, as `deid score` does. One JSON line a row.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.dae import Faces, embed, load_faces, percent
from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.evaluate import brisque, identity, quality
from deidcli.evaluate.features import (
    DETECT_PADDING,
    DETECT_SIZE,
    QUALITY_PADDING,
    QUALITY_SIZE,
    found_by_cnn,
    found_by_hog,
)
from deidcli.faces import attributes, recognizers
from deidcli.faces.align import Image, chip_affine, crop, paste
from deidcli.faces.mesh import find_mesh
from deidcli.methods import load_method
from deidcli.methods.a3gan.settings import ATTRIBUTES, PRESETS, READ_ATTRIBUTES, changing
from deidcli.methods.base import Context
from deidcli.methods.surrogate.describe import skin_color
from tests.methods.a3gan.switches import SWITCHES, switched_off

DARK = 28.0
"""ITA in degrees below which skin counts as dark."""
COLUMNS = [CELEBA_ATTRIBUTES.index(name) for name in READ_ATTRIBUTES]


def seeds_of(count: int, run: int) -> NDArray[np.uint64]:
    """(count,) a face's own numbers; another `run`, other numbers."""
    numbers = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(1_000_003 * run)
    return np.asarray(numbers * np.uint64(0x9E3779B97F4A7C15), np.uint64)


def published(
    faces: Faces, name: str, given: dict[str, str], run: int = 0, off: str = ""
) -> list[Image]:
    """The pictures with their faces replaced; off: one of SWITCHES."""
    method: Any = load_method(name, given, "cpu")
    with switched_off(method.generator, off) if off else contextlib.nullcontext():
        return replaced(faces, method, run)


def replaced(faces: Faces, method: Any, run: int) -> list[Image]:
    """The pictures with their faces replaced by a method."""
    size, padding = method.chip.size, method.chip.padding
    seeds = seeds_of(len(faces.frames), run)
    frames = []
    for start in range(0, len(seeds), 64):
        rows = slice(start, start + 64)
        pairs = list(zip(faces.frames[rows], faces.landmarks[rows], strict=True))
        affines = [chip_affine(points, size, padding) for _, points in pairs]
        chips = np.stack([crop(f, a, size, True) for (f, _), a in zip(pairs, affines, strict=True)])
        tensor = torch.from_numpy(chips).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            made = method(tensor, Context(seeds[rows], np.ones(len(chips)))).clamp(0, 1)
        new = (made * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        for (frame, _), affine, chip in zip(pairs, affines, new, strict=True):
            frames.append(frame.copy())
            paste(frames[-1], chip, affine, method.mask)
    return frames


class Seen:
    """What is measured on a set of pictures, each part when it is first asked for."""

    def __init__(self, faces: Faces, frames: list[Image]) -> None:
        self.faces, self.frames = faces, frames
        self.kept: dict[str, Any] = {}

    def chips(self, size: int, padding: float) -> Image:
        """(N, size, size, 3) uint8."""
        pairs = zip(self.frames, self.faces.landmarks, strict=True)
        return np.stack([crop(f, chip_affine(p, size, padding), size, True) for f, p in pairs])

    def embeddings(self, name: str) -> NDArray[np.float32]:
        if name not in self.kept:
            self.kept[name] = embed(name, self.frames, self.faces.landmarks)
        found: NDArray[np.float32] = self.kept[name]
        return found

    def attributes(self) -> NDArray[np.float32]:
        """(N, 12) probabilities by the classifier, which no loss has seen."""
        if "attributes" not in self.kept:
            net = attributes.load()
            pairs = zip(self.frames, self.faces.landmarks, strict=True)
            chips = np.stack([attributes.cut(net, f, p) for f, p in pairs])
            self.kept["attributes"] = attributes.predict(net, chips)[:, COLUMNS]
        found: NDArray[np.float32] = self.kept["attributes"]
        return found

    def seen(self) -> NDArray[np.float64]:
        """(N, 5) yaw, pitch, opening of the mouth in eye distances, ITA of the cheeks (degrees),
        variance of the Laplacian in the oval; nan where no dense landmarks are found."""
        if "seen" not in self.kept:
            self.kept["seen"] = np.array(
                [looks(*pair) for pair in zip(self.frames, self.faces.landmarks, strict=True)]
            )
        found: NDArray[np.float64] = self.kept["seen"]
        return found

    def detected(self) -> dict[str, float]:
        """Percent of faces that each detector finds where they should be."""
        chips = self.chips(DETECT_SIZE, DETECT_PADDING)
        return {
            "cnn": percent([found_by_cnn(chip) for chip in chips]),
            "hog": percent([found_by_hog(chip) for chip in chips]),
        }

    def pictures(self) -> torch.Tensor:
        """(N, 3, S, S) uint8, on which the tool measures quality."""
        chips = self.chips(QUALITY_SIZE, QUALITY_PADDING)
        return torch.from_numpy(chips).permute(0, 3, 1, 2)

    def fid(self) -> NDArray[np.float32]:
        if "fid" not in self.kept:
            parts = torch.split(self.pictures(), 16)
            found = [quality.fid_features(part.float() / 255) for part in parts]
            self.kept["fid"] = torch.cat(found).numpy()
        features: NDArray[np.float32] = self.kept["fid"]
        return features

    def brisque(self) -> float:
        return round(float(brisque.brisque(self.pictures()).mean()), 2)


def looks(frame: Image, points: Any) -> list[float]:
    """One row of `Seen.seen`."""
    mesh = find_mesh(frame, points)
    if mesh is None:
        return [float("nan")] * 5
    eyes = max(1e-6, float(np.hypot(*(mesh.eyes[1] - mesh.eyes[0]))))
    opened = float(np.linalg.norm(mesh.plane[13] - mesh.plane[14])) / eyes
    lightness, _, yellow = skin_color(frame, mesh)
    ita = float(np.degrees(np.arctan2(lightness - 50, yellow)))
    oval = np.zeros(frame.shape[:2], np.uint8)
    cv2.fillConvexPoly(oval, np.round(mesh.oval).astype(np.int32), 1)
    edges = cv2.Laplacian(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.CV_64F)
    inner = edges[oval > 0]
    sharp = float(inner.var()) if len(inner) else float("nan")
    return [mesh.pose.yaw, mesh.pose.pitch, opened, ita, sharp]


def looks_kept(original: Seen, made: Seen) -> dict[str, Any]:
    """How far pose, mouth, skin tone and sharpness are from the originals'."""
    before, after = original.seen(), made.seen()
    turned = np.hypot(*(before[:, :2] - after[:, :2]).T)
    both = np.isfinite(turned)
    mouth = np.corrcoef(before[both, 2], after[both, 2])[0, 1]
    tone, dark = np.abs(before[:, 3] - after[:, 3]), before[:, 3] < DARK
    return {
        "pose_median": round(float(np.nanmedian(turned)), 2),
        "pose_90": round(float(np.nanquantile(turned, 0.9)), 2),
        "mouth_correlation": round(float(mouth), 3),
        "ita_median": round(float(np.nanmedian(tone)), 2),
        "ita_median_dark": round(float(np.nanmedian(tone[dark])), 2) if dark.any() else None,
        "sharpness": round(float(np.nanmedian(after[:, 4] / before[:, 4])), 3),
        "mesh_found": percent(both),
    }


def threshold_of(name: str) -> float:
    return recognizers.RECOGNIZERS[name].threshold


def privacy(name: str, original: Seen, made: Seen, again: Seen | None) -> dict[str, Any]:
    """One recognizer's figures, percent; verification at its threshold (FAR 1e-3)."""
    gallery, probes = original.embeddings(name), made.embeddings(name)
    threshold, persons = threshold_of(name), original.faces.persons

    def apart(a: Any, b: Any) -> Any:
        return recognizers.distances(name, a, b)

    result = identity.identify(gallery, probes, persons, apart)
    pairs = identity.random_pairs(len(probes), persons)
    others = recognizers.pair_distances(name, probes[pairs[:, 0]], gallery[pairs[:, 1]])
    between = recognizers.pair_distances(name, probes[pairs[:, 0]], probes[pairs[:, 1]])
    people = recognizers.pair_distances(name, gallery[pairs[:, 0]], gallery[pairs[:, 1]])
    same, other = identity.linkability(probes, persons, apart)
    out = {
        "verified": percent(result.own <= threshold),
        "verified_others": percent(others <= threshold),
        "rank1_hits": float(result.rank1.sum()),
        "rank1": percent(result.rank1),
        "auc": round(identity.auc(result.own, others), 3),
        "div": percent(between > threshold),
        "div_originals": percent(people > threshold),
        "linkability": round(identity.auc(same, other), 3),
    }
    if name == "dlib":
        out["div_0.6"] = percent(between > identity.DLIB_THRESHOLD)
    if again is not None:
        two = recognizers.pair_distances(name, probes, again.embeddings(name))
        out["two_seeds_two_people"] = percent(two > threshold)
    return out


def attributes_kept(original: Seen, made: Seen, change: str) -> dict[str, Any]:
    """Percent of faces whose predicted value stays (kept) and turns (allowed), by attribute."""
    same = (original.attributes() > 0.5) == (made.attributes() > 0.5)
    free = np.isin(ATTRIBUTES, changing(change))
    ten = same[:, : len(ATTRIBUTES)]
    return {
        "kept": percent(ten[:, ~free]) if (~free).any() else None,
        "changed": percent(~ten[:, free]) if free.any() else None,
        "same": {
            name: percent(column) for name, column in zip(READ_ATTRIBUTES, same.T, strict=True)
        },
    }


PARTS = ("privacy", "attributes", "looks", "detection", "fid", "brisque")


def originals(original: Seen, names: Sequence[str], parts: Sequence[str]) -> dict[str, Any]:
    """The row of the pictures as they are, with blackout's privacy beside it."""
    faces = original.faces
    line: dict[str, Any] = {"row": "originals", "n": len(faces.frames)}
    if "privacy" in parts:
        black = Seen(faces, published(faces, "blackout", {}))
        for name in names:
            line[f"blackout {name}"] = privacy(name, original, black, None)
    if "detection" in parts:
        line |= original.detected()
    if "brisque" in parts:
        line["brisque"] = original.brisque()
    if "fid" in parts:
        order = np.random.default_rng(0).permutation(len(faces.frames))
        line["fid_halves"] = round(quality.fid(*np.array_split(original.fid()[order], 2)), 2)
    return line


def figures(args: argparse.Namespace) -> None:
    """The asked parts of each preset's figures, one JSON line each; the originals' first."""
    torch.set_num_threads(args.threads)
    faces = load_faces(args.data[0], args.faces)
    names = args.recognizer or recognizers.installed_recognizers()
    given = dict(pair.split("=", 1) for pair in args.set or [])
    parts = args.parts.split(",")
    original = Seen(faces, faces.frames)
    print(json.dumps(originals(original, names, parts)), flush=True)
    for change in args.changes.split(","):
        settings = {**given, "change": change}
        made = Seen(faces, published(faces, "a3gan", settings))
        line = {"row": f"change={change}", "n": len(faces.frames)}
        if "attributes" in parts:
            line |= attributes_kept(original, made, change)
        if "looks" in parts:
            line |= looks_kept(original, made)
        if "privacy" in parts:
            again = None
            if change == "0":
                again = Seen(faces, published(faces, "a3gan", settings, run=1))
            line |= {name: privacy(name, original, made, again) for name in names}
        if "detection" in parts:
            line |= made.detected()
        if "brisque" in parts:
            line["brisque"] = made.brisque()
        if "fid" in parts:
            line["fid"] = round(quality.fid(original.fid(), made.fid()), 2)
        print(json.dumps(line), flush=True)


def speed(args: argparse.Namespace) -> None:
    """Milliseconds a face at batch 64, method alone; the share of the rate at which these threads
    multiply large matrices; the process's largest memory."""
    torch.set_num_threads(args.threads)
    method: Any = load_method("a3gan", {}, "cpu")
    chips = torch.rand(64, 3, method.chip.size, method.chip.size)
    context = Context(seeds_of(64, 0), np.ones(64))
    times = []
    with torch.inference_mode():
        for _ in range(6):
            wall, cpu = time.perf_counter(), time.process_time()
            method(chips, context)
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
        with FlopCounterMode(display=False) as counter:
            method(chips, context)
        matrix = torch.rand(1536, 1536)
        products = []
        for _ in range(6):
            start = time.perf_counter()
            matrix @ matrix
            products.append(time.perf_counter() - start)
    fastest = np.array(times).min(0) / 64 * 1e3
    sums = counter.get_total_flops() / 2 / 64
    limit = 1536**3 / min(products)
    line = {
        "threads": args.threads,
        "ms_a_face": round(float(fastest[0]), 2),
        "cpu_ms_a_face": round(float(fastest[1]), 2),
        "million_multiply_accumulates_a_face": round(sums / 1e6),
        "percent_of_a_matrix_products_rate": round(100 * sums / fastest[0] * 1e3 / limit),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(line))


def off(args: argparse.Namespace) -> None:
    """What is left of the figures with each network off, one JSON line each; the first with all."""
    torch.set_num_threads(args.threads)
    faces = load_faces(args.data[0], args.faces)
    names = args.recognizer or recognizers.installed_recognizers()
    original = Seen(faces, faces.frames)
    for switch in ("", *SWITCHES):
        line: dict[str, Any] = {"off": switch or "nothing", "n": len(faces.frames)}
        made = Seen(faces, published(faces, "a3gan", {"change": "0"}, off=switch))
        line["kept"] = attributes_kept(original, made, "0")["kept"]
        turned = Seen(faces, published(faces, "a3gan", {"change": "1"}, off=switch))
        line["male_changed"] = attributes_kept(original, turned, "1")["changed"]
        line |= looks_kept(original, made) | made.detected()
        line |= {name: privacy(name, original, made, None)["verified"] for name in names}
        print(json.dumps(line), flush=True)


def sheet(args: argparse.Namespace) -> None:
    """Portraits of people who do not exist; below, change = 0, 1, 3, 5, 10, as pasted."""
    faces = load_faces(args.data[0], args.faces)
    given = dict(pair.split("=", 1) for pair in args.set or [])
    side = 128
    rows = [faces.frames]
    rows += [published(faces, "a3gan", {**given, "change": change}) for change in PRESETS]
    lines = [
        np.concatenate(
            [
                crop(frame, chip_affine(points, side, 0.6), side, True)
                for frame, points in zip(row, faces.landmarks, strict=True)
            ],
            axis=1,
        )
        for row in rows
    ]
    picture = np.concatenate(lines, axis=0)
    cv2.imwrite(str(args.data[1]), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    for function in (figures, off, speed, sheet):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.set_defaults(run=function)
        command.add_argument("data", type=Path, nargs="*")
        command.add_argument("--faces", type=int, default=8 if function is sheet else 400)
        command.add_argument("--changes", default=",".join(PRESETS))
        command.add_argument("--threads", type=int, default=2)
        command.add_argument("--parts", default=",".join(PARTS))
        command.add_argument("--recognizer", action="append")
        command.add_argument("--set", action="append")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
