"""The figures of docs/notes/eae.md, from the repository's root:

    python -m benchmarks.eae measure DATA --out FOLDER [--attrs GSBE ...] [--network prn]
    python -m benchmarks.eae fresh DATA --out FOLDER [--attrs GSBE ...]
    python -m benchmarks.eae lfw DATA --out FOLDER
    python -m benchmarks.eae speed
    python -m benchmarks.eae sheet docs/eae.jpg
    python -m benchmarks.eae targets FILE.npy PICTURES...

DATA holds celeba/train-*, celeba/test-* (parquet). Nothing is chosen by what the test split says.
`measure` prints one JSON object a set; embeddings of the originals are kept below --out.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.leakage import blur, jpeg, numbers
from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.celeba import LETTERS as ALL_LETTERS
from deidcli.faces import recognizers
from deidcli.faces.align import MEAN_FACE_5, Image
from deidcli.faces.dlib_hog import detect_hog
from deidcli.faces.landmarks import landmarks
from deidcli.methods.base import Context
from deidcli.methods.eae import method, networks
from deidcli.methods.eae import settings as eae_settings
from deidcli.methods.loading import load_part, ready
from deidcli.training.chips import Chips, load_all
from deidcli.weights.files import download_folder
from deidcli.weights.own import own_cards, own_weights

POINTS = (MEAN_FACE_5 + networks.PADDING) * networks.SIDE / (1 + 2 * networks.PADDING) - 0.5
"""Where the five landmarks lie in every chip, px."""
SMALL = 64
"""Side at which a fresh network and the linear attacks look at pictures, px."""
COMPONENTS = 64
"""Principal components of the linear attacks."""
LETTERS = ("G", "S", "B", "Y", "GS", "GSB", "GSBE")


# --- Pictures


def chips_of(paths: list[Path], cache: Path) -> Chips:
    """Chips as `deid anonymize` cuts them, of the pictures where a face was found."""
    chips = load_all(paths, networks.SIDE, networks.PADDING, cache, extend=True)
    return chips.keep(chips.found)


def method_of(letters: str, network: str) -> method.EmbeddedAutoencoders:
    """The method as the command line builds it."""
    settings = eae_settings.EaeSettings(attrs=letters, network=network, size=size_of())  # type: ignore[arg-type]
    return method.EmbeddedAutoencoders(settings, "cpu")


def size_of() -> str:
    """The size whose weights are shipped."""
    return "paper" if "eae-paper-external" in own_cards() else "compact"


@torch.inference_mode()
def publish(method: method.EmbeddedAutoencoders, chips: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, S, S, 3) uint8 -> the same, de-identified."""
    parts = []
    for start in range(0, len(chips), 64):
        batch = torch.from_numpy(np.ascontiguousarray(chips[start : start + 64]))
        context = Context(np.zeros(len(batch), np.uint64), np.ones(len(batch)))
        out = method(batch.permute(0, 3, 1, 2).float() / 255, context)
        parts.append((out.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


def labels_of(chips: Chips, letters: str) -> NDArray[np.bool_]:
    """(N, m) whether the attributes are there."""
    columns = [CELEBA_ATTRIBUTES.index(name) for name in eae_settings.names_of(letters)]
    return chips.labels[:, columns] == 1


def distinct(pictures: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The distinct pictures, and which of them each one is."""
    places: dict[bytes, int] = {}
    which = np.array([places.setdefault(p.tobytes(), len(places)) for p in pictures])
    first = [int(np.flatnonzero(which == n)[0]) for n in range(len(places))]
    return pictures[first], which


# --- Utility


@torch.inference_mode()
def read(pictures: NDArray[np.uint8], letters: str) -> NDArray[np.bool_]:
    """(N, m): what the FSN reads off chips."""
    size = networks.SIZES[size_of()]
    fsn = networks.FeatureSelection(size, len(ALL_LETTERS))
    load_part(fsn, "", own_weights(eae_settings.card_name(size_of(), "fsn"))[0])
    ready(fsn, "cpu")
    order = list(ALL_LETTERS.values())
    chosen = [order.index(name) for name in eae_settings.names_of(letters)]
    parts = []
    for start in range(0, len(pictures), 64):
        batch = torch.from_numpy(np.ascontiguousarray(pictures[start : start + 64]))
        batch = functional.avg_pool2d(
            batch.permute(0, 3, 1, 2).float() / 255, networks.SIDE // size.side
        )
        parts.append((fsn.probabilities(batch)[:, chosen] > 0.5).numpy())
    return np.concatenate(parts)


def percent(said: NDArray[np.bool_], labels: NDArray[np.bool_]) -> list[float]:
    """Percent right by attribute."""
    return [round(float(v), 2) for v in 100 * (said == labels).mean(0)]


def small(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, SMALL, SMALL, 3) uint8."""
    return np.stack([cv2.resize(p, (SMALL, SMALL), interpolation=cv2.INTER_AREA) for p in pictures])


def fresh_network(inputs: NDArray[np.uint8], targets: Tensor, epochs: int, seed: int) -> nn.Module:
    """A small network from scratch on small pictures; targets: (N, m) floats or (N,) classes."""
    torch.manual_seed(seed)
    widths = (3, 24, 48, 96, 128)
    layers: list[nn.Module] = []
    for a, b in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()]
    classes = targets.shape[1] if targets.ndim == 2 else int(targets.max()) + 1
    net = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(128 * 16, classes))
    net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.02)
    steps = epochs * (len(inputs) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=max(2, steps + 1))
    for step in range(steps):
        if step % (len(inputs) // 64) == 0:
            order = torch.randperm(len(inputs)).numpy()
        rows = order[step % (len(inputs) // 64) * 64 :][:64]
        x = torch.from_numpy(inputs[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
        if torch.rand(()) < 0.5:
            x = x.flip(3)
        out = net(x)
        if targets.ndim == 2:
            loss = functional.binary_cross_entropy_with_logits(out, targets[rows])
        else:
            loss = functional.cross_entropy(out, targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


@torch.inference_mode()
def answers(net: nn.Module, inputs: NDArray[np.uint8]) -> Tensor:
    """The network's outputs on (N, SMALL, SMALL, 3)."""
    parts = []
    for start in range(0, len(inputs), 128):
        x = torch.from_numpy(inputs[start : start + 128]).permute(0, 3, 1, 2).float() / 127.5 - 1
        parts.append(net(x))
    return torch.cat(parts)


# --- Attacks


class Projection:
    """Principal components of small pictures, whitened."""

    def __init__(self, pictures: NDArray[np.uint8], components: int = COMPONENTS) -> None:
        flat = torch.from_numpy(pictures).flatten(1).float() / 255
        self.mean = flat.mean(0)
        torch.manual_seed(0)
        rank = min(components, *flat.shape)
        _, scale, axes = torch.svd_lowrank(flat - self.mean, q=rank, niter=4)
        self.axes = axes / (scale / len(flat) ** 0.5).clamp(min=1e-3)

    def __call__(self, pictures: NDArray[np.uint8]) -> Tensor:
        """(N, components)."""
        flat = torch.from_numpy(pictures).flatten(1).float() / 255
        return (flat - self.mean) @ self.axes


def linear_classes(x: Tensor, classes: Tensor, count: int, decay: float = 1e-3) -> nn.Linear:
    """Softmax regression, by L-BFGS."""
    torch.manual_seed(0)
    net = nn.Linear(x.shape[1], count)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(x), classes) + decay * net.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return net.eval()


def identity_attacks(
    pictures: NDArray[np.uint8], chips: Chips, letters: str, epochs: int = 15
) -> dict[str, float]:
    """A fresh recognizer on half of each person's published pictures, tried on the other half.

    Beside it what the true attributes alone give away, and chance: the most frequent person.
    """
    _, persons = np.unique(chips.persons.astype(str), return_inverse=True)
    turn = np.zeros(len(persons), int)
    for person in range(persons.max() + 1):
        own = np.flatnonzero(persons == person)
        turn[own] = np.arange(len(own)) % 2
    known, tried = turn == 0, turn == 1
    classes, right = torch.from_numpy(persons[known]), torch.from_numpy(persons[tried])
    count = int(persons.max()) + 1
    out: dict[str, float] = {"n": int(tried.sum()), "people": count}
    out["chance"] = 100 * float((right == classes.bincount().argmax()).float().mean())
    bits = torch.from_numpy(labels_of(chips, letters).astype(np.float32))
    cells = (bits * 2 ** torch.arange(bits.shape[1])).sum(1).long()
    for name, table in (("attributes alone", cells), ("picture table", distinct_cells(pictures))):
        frequent = torch.zeros(int(table.max()) + 1, count)
        frequent.index_put_((table[known], classes), torch.ones(len(classes)), accumulate=True)
        said = frequent.argmax(1)[table[tried]]
        out[name] = 100 * float((said == right).float().mean())
    little = small(pictures)
    project = Projection(little[known])
    net = linear_classes(project(little[known]), classes, count)
    said = net(project(little[tried])).argmax(1)
    out["linear"] = 100 * float((said == right).float().mean())
    network = fresh_network(little[known], classes, epochs, 0)
    out["network"] = 100 * float(
        (answers(network, little[tried]).argmax(1) == right).float().mean()
    )
    return {name: round(value, 2) for name, value in out.items()}


def distinct_cells(pictures: NDArray[np.uint8]) -> Tensor:
    """(N,) the number of each picture among the distinct ones."""
    return torch.from_numpy(distinct(pictures)[1])


def regression_attack(
    pictures: NDArray[np.uint8],
    embeddings: dict[str, NDArray[np.float32]],
    bits: NDArray[np.bool_],
) -> dict[str, dict[str, float]]:
    """Ridge regression from published pictures to the originals' embeddings; rank-1 of the rest.

    Half of the pictures is known, the other half is tried among itself. `attributes`: the same
    from the true attributes, one indicator a combination.
    """
    known = np.arange(len(pictures)) % 2 == 0
    little = small(pictures)
    project = Projection(little[known])
    cells = (bits * 2 ** np.arange(bits.shape[1])).sum(1)
    indicators = functional.one_hot(torch.from_numpy(cells), 2 ** bits.shape[1]).float()
    out: dict[str, dict[str, float]] = {}
    for name, vectors in embeddings.items():
        target = torch.from_numpy(vectors)
        center = target[known].mean(0)
        row: dict[str, float] = {"n": int((~known).sum()), "chance": 100 / int((~known).sum())}
        for label, x in (("pictures", project(little)), ("attributes", indicators)):
            a = torch.cat([x, torch.ones(len(x), 1)], 1).double()
            gram = a[known].T @ a[known] + 1.0 * torch.eye(a.shape[1], dtype=torch.float64)
            weights = torch.linalg.solve(gram, a[known].T @ (target[known] - center).double())
            guess = functional.normalize(a[~known] @ weights, dim=1)
            gallery = functional.normalize((target[~known] - center).double(), dim=1)
            near = guess @ gallery.T
            own = near.diagonal()[:, None]
            ties = (near == own).sum(1)
            row[label] = 100 * float((((near > own).sum(1) == 0) / ties).mean())
        out[name] = {key: round(value, 2) for key, value in row.items()}
    return out


def embed(name: str, pictures: NDArray[np.uint8], blurred: bool) -> NDArray[np.float32]:
    """Embeddings of chips, cut where the face was."""
    cut = [recognizers.cut(name, picture, POINTS) for picture in pictures]
    return recognizers.embed(name, [blur(chip) for chip in cut] if blurred else cut)


def kept_embeddings(name: str, chips: Chips, blurred: bool, out: Path) -> NDArray[np.float32]:
    """Embeddings of the originals, from a file of an earlier run or made now."""
    path = out / f"gallery-{name}-{'blurred' if blurred else 'plain'}-{len(chips)}.npy"
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        np.save(path, embed(name, chips.chips, blurred))
    vectors: NDArray[np.float32] = np.load(path)
    return vectors


def leakage(pictures: NDArray[np.uint8], chips: Chips, out: Path, step: int = 1) -> dict[str, Any]:
    """benchmarks.leakage's figures; each distinct published picture goes in once."""
    few, which = distinct(pictures[::step])
    found: dict[str, Any] = {}
    for name in recognizers.installed_recognizers():
        found[name] = {}
        for condition in ("plain", "blurred", "jpeg"):
            blurred = condition == "blurred"
            shown = np.stack([jpeg(p) for p in few]) if condition == "jpeg" else few
            probes = embed(name, shown, blurred)[which]
            gallery = kept_embeddings(name, chips, blurred, out)[::step]
            said = numbers(name, gallery, probes)
            found[name][condition] = {
                key: round(said[key], 4)
                for key in ("rank1", "rank1_high", "farthest1", "percentile", "verified")
            }
    found["n"], found["chance"], found["distinct"] = len(which), 1 / len(which), len(few)
    return found


# --- Commands


def measure(args: argparse.Namespace) -> None:
    """Print the figures of each set."""
    celeba = args.data / "celeba"
    test = chips_of(sorted(celeba.glob("test-*.parquet")), args.cache)
    some = test.keep(np.arange(len(test)) % 2 == 0)
    test, every_second = (some, 1) if args.half else (test, 2)
    every, originals = list(ALL_LETTERS.values()), read(test.chips, "GSBEY")
    for letters in args.attrs or LETTERS:
        method = method_of(letters, args.network)
        labels = labels_of(test, letters)
        pictures = publish(method, test.chips)
        result: dict[str, Any] = {"attrs": letters, "network": args.network, "n": len(test)}
        result["majority"] = [round(100 * max(v, 1 - v), 2) for v in labels.mean(0)]
        columns = [every.index(name) for name in eae_settings.names_of(letters)]
        result["fsn originals"] = percent(originals[:, columns], labels)
        few, which = distinct(pictures)
        result["fsn published"] = percent(read(few, letters)[which], labels)
        published = pictures[::every_second]
        result["leakage"] = leakage(published, some, args.out, args.step)
        result["identity"] = identity_attacks(pictures, test, letters)
        embeddings = {
            name: kept_embeddings(name, some, False, args.out)
            for name in recognizers.installed_recognizers()
        }
        result["regression"] = regression_attack(published, embeddings, labels[::every_second])
        print(json.dumps(result), flush=True)


def lfw(args: argparse.Namespace) -> None:
    """GS on LFW, whose labels are gender and happiness; leakage on one picture a person."""
    chips = chips_of(sorted((args.data / "lfw").glob("test-*.parquet")), args.cache)
    chips = chips.keep(np.arange(len(chips)) % args.step == 0)
    for letters in args.attrs or ("GS",):
        columns = [CELEBA_ATTRIBUTES.index(name) for name in eae_settings.names_of(letters)]
        labels = chips.labels[:, columns]
        pictures = publish(method_of(letters, args.network), chips.chips)
        result: dict[str, Any] = {
            "attrs": letters,
            "set": "lfw",
            "n": (labels != 0).sum(0).tolist(),
        }
        said = {"originals": read(chips.chips, letters), "published": read(pictures, letters)}
        result["majority"] = [
            round(100 * max((c == 1).sum(), (c == -1).sum()) / (c != 0).sum(), 2) for c in labels.T
        ]
        for name, bits in said.items():
            right = (bits == (labels == 1)) & (labels != 0)
            result[f"fsn {name}"] = [
                round(100 * float(v), 2) for v in right.sum(0) / (labels != 0).sum(0)
            ]
        if args.step > 1:
            print(json.dumps(result), flush=True)
            continue
        _, first = np.unique(chips.persons.astype(str), return_index=True)
        mask = np.zeros(len(chips), bool)
        mask[np.sort(first)[:1000]] = True
        result["leakage"] = leakage(pictures[mask], chips.keep(mask), args.out / "lfw")
        print(json.dumps(result), flush=True)


def fresh(args: argparse.Namespace) -> None:
    """A fresh classifier of each set: trained and tested on published pictures, or on originals."""
    celeba = args.data / "celeba"
    train = chips_of(sorted(celeba.glob("train-*.parquet")), args.cache)
    test = chips_of(sorted(celeba.glob("test-*.parquet")), args.cache)
    for letters in args.attrs or LETTERS:
        said = fresh_accuracy(method_of(letters, args.network), train, test, letters, args.out)
        print(json.dumps({"attrs": letters, "fresh": said}), flush=True)


def fresh_accuracy(
    method: method.EmbeddedAutoencoders, train: Chips, test: Chips, letters: str, out: Path
) -> dict[str, list[float]]:
    """A network of our own for originals, and one for published pictures, by the same recipe."""
    path = out / "fresh-originals.npy"
    if not path.is_file():
        targets = torch.from_numpy(labels_of(train, "GSBEY").astype(np.float32))
        net = fresh_network(small(train.chips), targets, 5, 0)
        np.save(path, (answers(net, small(test.chips)) > 0).numpy())
    order = list(eae_settings.names_of("GSBEY"))
    columns = [order.index(name) for name in eae_settings.names_of(letters)]
    labels = labels_of(test, letters)
    targets = torch.from_numpy(labels_of(train, letters).astype(np.float32))
    net = fresh_network(small(publish(method, train.chips)), targets, 5, 0)
    return {
        "originals": percent(np.load(path)[:, columns], labels),
        "published": percent(
            (answers(net, small(publish(method, test.chips))) > 0).numpy(), labels
        ),
    }


def speed(args: argparse.Namespace) -> None:
    """Faces a second by torch's threads, and the share of what a matrix product reaches."""
    method = method_of("GSBE", "prn")
    chips = torch.rand(args.batch, 3, networks.SIDE, networks.SIDE)
    context = Context(np.zeros(args.batch, np.uint64), np.ones(args.batch))
    sums = multiplications(method)
    with torch.inference_mode():
        for threads in (1, 2):
            torch.set_num_threads(threads)
            matrix = torch.rand(1536, 1536)
            limit = 1536**3 / fastest(lambda m=matrix: m @ m)  # type: ignore[misc]
            rate = args.batch / fastest(lambda: method(chips, context))
            print(
                f"{threads} threads, batch {args.batch}: {rate:.0f} faces/s, {sums / 1e6:.0f} M "
                f"multiplications a face, {100 * rate * sums / limit:.0f} % of a matrix product's"
            )
    print(f"memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB, all told")


def fastest(call: Callable[[], Any], times: int = 7) -> float:
    """Seconds of the fastest of some calls, after one to warm up."""
    call()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def multiplications(method: method.EmbeddedAutoencoders) -> float:
    """Of the convolutions that each face needs; the pictures of the codes are made once."""
    total = 0.0

    def count(layer: nn.Module, _: Any, out: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d)
        total += layer.weight.numel() * out.shape[2] * out.shape[3]

    assert method.internal is not None
    hooks = [
        layer.register_forward_hook(count)
        for module in (method.external.encoder, method.internal.encoder, method.internal.code)
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    side = method.size.side
    with torch.inference_mode():
        networks.code_of(method.external, method.internal, torch.rand(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return total


def targets(args: argparse.Namespace) -> None:
    """Soft labels for `deid train eae --set targets=`: the attribute classifier's answers."""
    from deidcli.faces import attributes

    net = attributes.load()
    side, padding = net.settings.side, net.settings.padding
    chips = load_all(args.pictures, side, padding, args.cache)
    np.save(args.file, attributes.predict(net, chips.chips, flip=False).astype(np.float16))


def portraits(folder: Path) -> list[Image]:
    """Chips of the example people."""
    chips = []
    for path in sorted(folder.glob("*.jpg")):
        frame = np.asarray(cv2.imread(str(path))[..., ::-1], np.uint8)
        boxes = [box for box, _ in detect_hog(np.ascontiguousarray(frame))]
        if boxes:
            points = landmarks(frame, boxes[0])
            chips.append(eae_chip(frame, points))
    return chips


def eae_chip(frame: Image, points: NDArray[np.float64]) -> Image:
    """A chip as the pipeline cuts it."""
    from deidcli.faces.align import chip_affine, crop

    return crop(
        frame, chip_affine(points, networks.SIDE, networks.PADDING), networks.SIDE, extend=True
    )


def sheet(args: argparse.Namespace) -> None:
    """A contact sheet of people who do not exist: originals above, published below."""
    chips = np.stack(portraits(Path("examples/people/portraits")))
    rows = []
    for letters, network in (("GSBE", "prn"), ("GS", "prn"), ("GSBE", "sprn")):
        try:
            pictures = publish(method_of(letters, network), chips)
        except Exception as error:
            print(f"{letters} {network}: {error}", file=sys.stderr)
            continue
        said = read(pictures, letters)
        order = np.lexsort(said.T[::-1])
        chosen = order[np.linspace(0, len(order) - 1, args.columns).astype(int)]
        rows.append(_row(chips[chosen], pictures[chosen], said[chosen], letters, network))
    picture = np.concatenate(rows)
    cv2.imwrite(str(args.file), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


def _row(
    chips: NDArray[np.uint8], pictures: NDArray[np.uint8], said: NDArray[np.bool_],
    letters: str, network: str,
) -> Image:  # fmt: skip
    side = 112
    columns = []
    for chip, picture, bits in zip(chips, pictures, said, strict=True):
        shown = [cv2.resize(p, (side, side), interpolation=cv2.INTER_AREA) for p in (chip, picture)]
        strip = np.full((18, side, 3), 255, np.uint8)
        words = " ".join(
            letter if there else letter.lower() + "-"
            for letter, there in zip(letters, bits, strict=True)
        )
        label = f"{network} {words}"
        cv2.putText(
            strip, label, (2, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA
        )
        columns.append(np.concatenate([strip, *shown]))
    return np.concatenate(columns, 1)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=download_folder() / "chips")
    commands = parser.add_subparsers(required=True)
    sub = commands.add_parser("measure")
    sub.add_argument("data", type=Path)
    sub.add_argument("--out", type=Path, required=True)
    sub.add_argument("--attrs", action="append")
    sub.add_argument("--network", choices=("prn", "sprn"), default="prn")
    sub.add_argument("--half", action="store_true", help="every second picture, for all figures")
    sub.add_argument("--step", type=int, default=1, help="one probe in so many (for sprn)")
    sub.set_defaults(run=measure)
    for name, run in (("fresh", fresh), ("lfw", lfw)):
        sub = commands.add_parser(name)
        sub.add_argument("data", type=Path)
        sub.add_argument("--out", type=Path, required=True)
        sub.add_argument("--attrs", action="append")
        sub.add_argument("--network", choices=("prn", "sprn"), default="prn")
        sub.add_argument("--step", type=int, default=1, help="lfw: one picture in so many, no leak")
        sub.set_defaults(run=run)
    sub = commands.add_parser("speed")
    sub.add_argument("--batch", type=int, default=64)
    sub.set_defaults(run=speed)
    sub = commands.add_parser("targets")
    sub.add_argument("file", type=Path)
    sub.add_argument("pictures", type=Path, nargs="+")
    sub.set_defaults(run=targets)
    sub = commands.add_parser("sheet")
    sub.add_argument("file", type=Path)
    sub.add_argument("--columns", type=int, default=10)
    sub.set_defaults(run=sheet)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.run(args)


if __name__ == "__main__":
    main()
