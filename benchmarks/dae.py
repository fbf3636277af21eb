"""Figures of `dae`: the paper's tables, what undoing the shift gives, speed, the contact sheet.

    python -m benchmarks.dae figures --test celeba/test --faces 1250 --set target=supervised
    python -m benchmarks.dae tables TRAIN... --test TEST --out runs/tables --rows 5,6
    python -m benchmarks.dae reverse TRAIN... --test TEST --pairs 4000
    python -m benchmarks.dae speed
    python -m benchmarks.dae sheet examples/people/portraits docs/dae.jpg

A row of a table is a network trained and measured here; one JSON line each. What is measured is a
face pasted into its picture, as `deid score` does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.data.images import decode
from deidcli.data.samples import read_samples
from deidcli.data.source import open_source
from deidcli.evaluate import identity
from deidcli.evaluate.features import DETECT_PADDING, DETECT_SIZE, found_by_cnn
from deidcli.faces import recognizers
from deidcli.faces.align import Image, Points, chip_affine, crop, paste
from deidcli.methods import load_method
from deidcli.methods.base import Context
from deidcli.methods.blend import PADDING, SIDE, blended, edge_mask, rim_to_face
from deidcli.methods.dae.method import snapped
from deidcli.methods.dae.networks import Autoencoder
from deidcli.methods.dae.recipe import AUTOENCODER_FIXED, DaeRun, Recipe
from deidcli.methods.dae.targets import cluster_centers
from deidcli.methods.dae.train import train_autoencoder, train_encoder
from deidcli.methods.dae.training_faces import faces_of, in_blocks, tensor_of
from deidcli.training.chips import _find
from deidcli.weights.files import download_folder

Make = Callable[[Tensor], Tensor]
"""(N, 3, 64, 64) chips in [0, 1] -> the same, de-identified."""


@dataclasses.dataclass
class Faces:
    """Test faces in their pictures."""

    frames: list[Image]
    landmarks: list[Points]
    persons: list[str | None]
    gallery: dict[str, NDArray[np.float32]] = dataclasses.field(default_factory=dict)

    def chips(self) -> Image:
        """(N, 64, 64, 3)."""
        pairs = zip(self.frames, self.landmarks, strict=True)
        return np.stack([crop(f, chip_affine(p, SIDE, PADDING), SIDE, True) for f, p in pairs])


def load_faces(path: Path, count: int, distinct: bool = False) -> Faces:
    """Up to `count` faces of a data set, evenly spread; `distinct`: one of each person."""
    samples = [s for shard in open_source(path).shards for s in read_samples(shard, None)]
    samples = [sample for sample in samples if not sample.status]
    if distinct:
        samples = list({sample.identity: sample for sample in samples}.values())
    out = Faces([], [], [])
    for row in np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(int):
        frame = decode(samples[row].data).pixels
        shares = _find(frame)
        if shares is not None:
            out.frames.append(frame)
            out.landmarks.append(shares * np.array([frame.shape[1], frame.shape[0]]))
            out.persons.append(samples[row].identity)
    return out


def published(faces: Faces, make: Make) -> list[Image]:
    """The test pictures with their faces replaced."""
    mask = edge_mask()
    chips = torch.from_numpy(faces.chips()).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        made = torch.cat([make(some) for some in torch.split(chips, 64)]).clamp(0, 1)
    new = (made * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    frames = []
    for frame, points, chip in zip(faces.frames, faces.landmarks, new, strict=True):
        copy = frame.copy()
        paste(copy, chip, chip_affine(points, SIDE, PADDING), mask)
        frames.append(copy)
    return frames


def measure(
    faces: Faces, frames: list[Image], names: tuple[str, ...] = ("dlib",)
) -> dict[str, Any]:
    """FCNS, and for each recognizer DEID at its threshold, DIV, rank-1, linkability; percent."""
    found = [
        found_by_cnn(crop(f, chip_affine(p, DETECT_SIZE, DETECT_PADDING), DETECT_SIZE))
        for f, p in zip(frames, faces.landmarks, strict=True)
    ]
    out: dict[str, Any] = {"n": len(frames), "fcns": percent(found)}
    for name in names:
        if name not in faces.gallery:
            faces.gallery[name] = embed(name, faces.frames, faces.landmarks)
        probes, gallery = embed(name, frames, faces.landmarks), faces.gallery[name]
        threshold = identity.DLIB_THRESHOLD
        if name != "dlib":
            threshold = recognizers.RECOGNIZERS[name].threshold
        result = identity.identify(
            gallery, probes, faces.persons, lambda a, b, n=name: recognizers.distances(n, a, b)
        )
        pairs = identity.random_pairs(len(probes), faces.persons)
        apart = recognizers.pair_distances(name, probes[pairs[:, 0]], probes[pairs[:, 1]])
        strangers = recognizers.pair_distances(name, probes[pairs[:, 0]], gallery[pairs[:, 1]])
        out[name] = {
            "deid": percent(result.own > threshold),
            "reference": percent(strangers > threshold),
            "div": percent(apart > threshold),
            "rank1_hits": float(result.rank1.sum()),
            "rank1": percent(result.rank1),
            "farthest_hits": float(result.farthest.sum()),
            "auc": float((result.own[:, None] < strangers[None, :2000]).mean()),
            "anon": int(
                identity.anonymity(
                    probes, lambda a, b, n=name: recognizers.distances(n, a, b), threshold
                ).min()
            ),
        }
    return out


def attr(weights: Path, originals: NDArray[np.float32], made: NDArray[np.float32]) -> float:
    """ATTR: micro-averaged precision of sex and three ethnicities, percent (sec. 4.4).

    Args:
        weights: the paper's classifier, an MLP from dlib's descriptor to 73 attributes.
        originals, made: (N, 128) descriptors. What it says of the originals counts as true.
    """
    net = np.load(weights)

    def said(x: NDArray[np.float32]) -> NDArray[np.bool_]:
        hidden = np.maximum(x @ net["w0"] + net["b0"], 0)
        logits = hidden @ net["w1"] + net["b1"]
        rows = [list(net["labels"]).index(n) for n in ("Male", "Asian", "White", "Black")]
        return np.asarray(logits[:, rows] > 0)

    true, found = said(originals), said(made)
    return percent(true[found])


def percent(flags: Any) -> float:
    """The share, in percent."""
    return round(100 * float(np.mean(flags)), 2)


def embed(name: str, frames: list[Image], landmarks: list[Points]) -> NDArray[np.float32]:
    """Embeddings of the faces at the originals' landmarks."""
    chips = [recognizers.cut(name, f, p) for f, p in zip(frames, landmarks, strict=True)]
    return recognizers.embed(name, chips)


# --- The paper's tables

FC = {"network": "fc", "color": "false", "alpha": "0.8"}
CONV = {"network": "conv", "color": "true"}
SUPERVISED = {**FC, "target": "supervised", "beta": "0.2", "together": "false"}
MOUTH, MOOD, FIRST = "Mouth_Slightly_Open", "Smiling", "Male"
"""CelebA has no ethnicity: Male, the most prominent attribute that it has, stands for it."""


def _row(name: str, *parts: dict[str, str], **more: object) -> tuple[str, dict[str, str]]:
    settings = {key: value for part in parts for key, value in part.items()}
    return name, settings | {key: str(value) for key, value in more.items()}


def _shifts(k: int, orders: list[tuple[str, ...]], table: int) -> list[tuple[str, dict[str, str]]]:
    return [
        _row(f"{table} k={k} {'+'.join(names)}", SUPERVISED, k=k, attributes=",".join(names))
        for names in orders
    ]


NONE = {**FC, "target": "none"}
ROWS: dict[int, list[tuple[str, dict[str, str]]]] = {
    1: [
        _row(f"1 4096,{widths}", NONE, widths=widths)
        for widths in ("2048", "1024", "512", "1024,768", "1024,768,512", "2048,1024,762,512")
    ],
    2: [_row(f"2 {epochs} epochs", NONE, autoencoder_epochs=epochs) for epochs in (2, 4, 8, 12)],
    3: [
        _row("3 no shift", NONE),
        *_shifts(10, [(FIRST,), (FIRST, MOOD), (FIRST, MOOD, MOUTH)], 3),
        *_shifts(20, [(FIRST, MOOD), (FIRST, MOOD, MOUTH)], 3),
    ],
    4: _shifts(20, list(permutations((FIRST, MOOD, MOUTH))), 4),
    5: [
        _row(f"5 K={count}", FC, target="clusters", clusters=count, alpha=1.0)
        for count in (10, 50, 180, 300)
    ],
    6: [
        _row(f"6 alpha={alpha} n={n}", CONV, target="neighbors", n=n, alpha=alpha)
        for alpha in (0.4, 0.8)
        for n in (5, 7, 9)
    ],
    7: [_row(f"7 n={n}", CONV, target="cells", n=n, alpha=1.0) for n in (1, 5, 10, 20)],
    8: [
        _row(f"8 K={count}", FC, target="clusters", clusters=count, alpha=1.0)
        for count in (10, 50, 180, 300)
    ],
}
"""Table -> (name of a row, the settings that train it)."""


def tables(args: argparse.Namespace) -> None:
    """Train and measure the rows of some tables, all with the shipped deblurrer and smoother."""
    from deidcli.fields import parse_fields

    faces = load_faces(args.test, args.faces, args.distinct)
    filters = load_method("dae", {}, "cpu").filters  # type: ignore[attr-defined]
    kept: dict[str, Autoencoder] = {}
    for name, given in [row for part in args.rows.split(",") for row in ROWS[int(part)]]:
        extra = dict(pair.split("=", 1) for pair in args.set or [])
        settings = parse_fields("dae", Recipe, {**extra, **given, "limit": str(args.limit)})
        torch.set_num_threads(settings.threads)
        folder = args.out / name.replace(" ", "_").replace(",", "-").replace("=", "")
        run = DaeRun(settings, folder)
        chips, _ = faces_of(args.data, download_folder() / "chips", settings.limit)
        body_key = json.dumps(run.fixed(AUTOENCODER_FIXED))
        started = time.time()
        if body_key not in kept:
            kept[body_key] = train_autoencoder(tensor_of(chips), run)
        encoder = train_encoder(kept[body_key], chips, run)
        seconds = round(time.time() - started)
        centers = None
        if name.startswith("8"):
            codes = in_blocks(kept[body_key].encode, tensor_of(chips), settings.device)
            centers = torch.from_numpy(cluster_centers(codes.numpy(), settings))
        frames = published(faces, chain(encoder, filters, centers=centers))
        out = {"row": name, "seconds": seconds, **measure(faces, frames)}
        if args.attr73:
            made = embed("dlib", frames, faces.landmarks)
            out["attr"] = attr(args.attr73, faces.gallery["dlib"], made)
        print(json.dumps(out), flush=True)


def chain(
    network: Autoencoder,
    filters: list[nn.Module],
    blend: bool = True,
    centers: Tensor | None = None,
) -> Make:
    """Encoder, decoder and filters as one function; with centers, codes snap to them."""
    spread = rim_to_face()

    def make(chips: Tensor) -> Tensor:
        codes = network.encode(chips)
        if centers is not None:
            codes = snapped(codes, centers)
        faces = network.decode(codes).clamp(0, 1)
        for module in filters:
            faces = module(faces).clamp(0, 1)
        return blended(chips, faces, spread) if blend else faces

    return make


# --- A target of the shipped weights


def chips_alone(faces: Faces, make: Make) -> list[Image]:
    """Gray pictures with nothing in them but the published chips, whole, as crops show them."""
    chips = torch.from_numpy(faces.chips()).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        made = torch.cat([make(some) for some in torch.split(chips, 64)]).clamp(0, 1)
    new = (made * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    frames = []
    for frame, points, chip in zip(faces.frames, faces.landmarks, new, strict=True):
        gray = np.full_like(frame, 128)
        whole = np.ones((SIDE, SIDE), np.float32)
        paste(gray, chip, chip_affine(points, SIDE, PADDING), whole)
        frames.append(gray)
    return frames


def figures(args: argparse.Namespace) -> None:
    """Identity by every installed recognizer, for chips and frames, and what is kept, in frames."""
    from deidcli.faces import attributes

    given = dict(pair.split("=", 1) for pair in args.set or [])
    faces = load_faces(args.test, args.faces)
    names = tuple(recognizers.installed_recognizers())
    frames = published(faces, method_of(given)[1])
    for what, shown in (("chips", chips_alone(faces, method_of(given)[1])), ("frames", frames)):
        print(json.dumps({"what": what, **measure(faces, shown, names)}), flush=True)
    classifier = attributes.load("cpu")

    def said(pictures: list[Image]) -> NDArray[np.bool_]:
        pairs = zip(pictures, faces.landmarks, strict=True)
        cut = np.stack([attributes.cut(classifier, frame, points) for frame, points in pairs])
        return np.asarray(attributes.predict(classifier, cut) >= 0.5)

    same = said(faces.frames) == said(frames)
    kept = {name: percent(same[:, row]) for row, name in enumerate(CELEBA_ATTRIBUTES)}
    print(json.dumps({"what": "kept", "n": len(frames), **kept}))


# --- Undoing the shift


def method_of(given: dict[str, str], device: str = "cpu") -> tuple[Any, Make]:
    """A method as the command line builds it, and a function with a seed for each face."""
    method = load_method("dae", given, device)
    state = {"next": 0}

    def make(chips: Tensor) -> Tensor:
        numbers = np.arange(state["next"], state["next"] + len(chips), dtype=np.uint64)
        state["next"] += len(chips)
        seeds = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        return method(chips, Context(seeds, np.ones(len(chips))))

    return method, make


def reverse(args: argparse.Namespace) -> None:
    """Rank-1 of what attackers rebuild who hold the weights and pairs of other people.

    The attacker de-identifies pictures of his own and learns the way back, from the published
    face's code (the plain autoencoder's) to the original's embedding: by ridge regression, and by
    a network. Also what the deterministic part alone gives.
    """
    from deidcli.training.chips import load_all

    torch.manual_seed(0)
    _, make = method_of(dict(pair.split("=", 1) for pair in args.set or []))
    chips = load_all(args.data, SIDE, PADDING, download_folder() / "chips", extend=True)
    rows = np.flatnonzero(chips.found)
    rows = rows[np.linspace(0, len(rows) - 1, min(args.pairs, len(rows))).astype(int)]
    own = chips.chips[rows]
    new = _bytes_of(make, own)
    test = load_faces(args.test, args.faces)
    probes = _bytes_of(make, test.chips())
    for name in args.recognizer or recognizers.installed_recognizers():
        wanted = torch.from_numpy(_embed_chips(name, own))
        gallery = embed(name, test.frames, test.landmarks)
        center = wanted.mean(0)
        x, t = _inputs(new), _inputs(probes)
        spread = x.std(0).clamp(min=1e-3)
        mean = x.mean(0)
        x, t = (x - mean) / spread, (t - mean) / spread
        out: dict[str, Any] = {"recognizer": name, "n": len(t), "pairs": len(x)}
        for kind, found in (
            ("linear", _ridge(x, wanted - center, t)),
            ("network", _regression(x, wanted - center, t)),
        ):
            guess = (found + center).numpy()
            result = identity.identify(
                gallery, guess, test.persons, lambda a, b, n=name: recognizers.distances(n, a, b)
            )
            out[kind] = {
                "rank1_hits": float(result.rank1.sum()),
                "person": percent(result.rank1_person),
            }
        codes = np.array([str(person) for person in test.persons])
        out["chance_person"] = percent(
            [float((codes == who).sum() - 0) / len(codes) for who in codes]
        )
        print(json.dumps(out), flush=True)


def _bytes_of(make: Make, chips: Image) -> Image:
    tensor = torch.from_numpy(np.ascontiguousarray(chips))
    with torch.inference_mode():
        made = [make(some.permute(0, 3, 1, 2).float() / 255) for some in torch.split(tensor, 64)]
    return (torch.cat(made) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def _embed_chips(name: str, chips: Image) -> NDArray[np.float32]:
    from deidcli.faces import align

    points = align.apply_affine(
        align.chip_from_unit(np.eye(2, 3), SIDE, PADDING), align.MEAN_FACE_5
    )
    return recognizers.embed(name, [recognizers.cut(name, chip, points) for chip in chips])


def _inputs(chips: Image) -> Tensor:
    small = np.stack([cv2.resize(chip, (32, 32), interpolation=cv2.INTER_AREA) for chip in chips])
    return torch.from_numpy(small).float().flatten(1) / 255


def _ridge(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
    gram = x.T @ x + 0.03 * len(x) * torch.eye(x.shape[1])
    return t @ torch.linalg.solve(gram, x.T @ y)


def _regression(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
    net = nn.Sequential(
        nn.Linear(x.shape[1], 512), nn.ReLU(), nn.Dropout(0.3), nn.Linear(512, y.shape[1])
    )
    optimizer = torch.optim.AdamW(net.parameters(), 5e-4, weight_decay=0.02)
    scale = y.std()
    for _ in range(15):
        for rows in torch.split(torch.randperm(len(x)), 128):
            loss = ((net(x[rows]) - y[rows] / scale) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return net.eval()(t) * scale


# --- Speed and pictures


def speed(args: argparse.Namespace) -> None:
    """Milliseconds a face at batch 64, by part."""
    torch.set_num_threads(args.threads)
    chips = torch.rand(64, 3, SIDE, SIDE)
    for given in ({}, {"deblur": "false", "smooth": "false"}, {"target": "supervised"}):
        try:
            method = load_method("dae", given, "cpu")
        except Exception as error:
            print(f"{given}: {error}", file=sys.stderr)
            continue
        context = Context(np.arange(64, dtype=np.uint64) << np.uint64(40), np.ones(64))
        times = []
        with torch.inference_mode():
            for _ in range(12):
                started = time.perf_counter()
                method(chips, context)
                times.append((time.perf_counter() - started) / 64 * 1e3)
        print(json.dumps({"settings": given, "ms_a_face": round(float(np.median(times)), 3)}))


def sheet(args: argparse.Namespace) -> None:
    """Portraits of people who do not exist, above what becomes of them, as pasted."""
    faces = load_faces(args.data[0], 24)
    _, make = method_of(dict(pair.split("=", 1) for pair in args.set or []))
    new = published(faces, make)
    side, across = 128, 8
    tiles = [
        (crop(f, chip_affine(p, side, 0.7), side), crop(g, chip_affine(p, side, 0.7), side))
        for f, g, p in zip(faces.frames, new, faces.landmarks, strict=True)
    ]
    lines = []
    for start in range(0, len(tiles), across):
        some = tiles[start : start + across]
        lines += [np.concatenate([pair[i] for pair in some], axis=1) for i in (0, 1)]
    picture = np.concatenate(lines, axis=0)
    cv2.imwrite(str(args.target), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    for function in (figures, tables, reverse, speed, sheet):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.set_defaults(run=function)
        command.add_argument("data", type=Path, nargs=1 if function is sheet else "*")
        if function is sheet:
            command.add_argument("target", type=Path)
        command.add_argument("--test", type=Path)
        command.add_argument("--out", type=Path, default=Path("runs/tables"))
        command.add_argument("--rows", default="1,2,3,4,5,6,7")
        command.add_argument("--faces", type=int, default=500)
        command.add_argument("--limit", type=int, default=6000)
        command.add_argument("--pairs", type=int, default=4000)
        command.add_argument("--distinct", action="store_true", help="one picture a person")
        command.add_argument("--attr73", type=Path, help="the paper's attribute classifier")
        command.add_argument("--threads", type=int, default=2)
        command.add_argument("--recognizer", action="append")
        command.add_argument("--set", action="append")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
