"""The figures of docs/methods/sdn.md, from the repository's root:

    python -m benchmarks.sdn measure DATA --faces 400
    python -m benchmarks.sdn wrong DATA --faces 400 --verified 150
    python -m benchmarks.sdn fid DATA --faces 600
    python -m benchmarks.sdn asked DATA --faces 200
    python -m benchmarks.sdn shift DATA --faces 60
    python -m benchmarks.sdn guess DATA
    python -m benchmarks.sdn ways DATA --faces 100
    python -m benchmarks.sdn information DATA --faces 200
    python -m benchmarks.sdn costs --threads 2
    python -m benchmarks.sdn sheet docs/sdn.jpg

DATA is celeba/test (parquet). Each prints one JSON object. Faces are published as `deid anonymize`
publishes them: pasted into their frames, encoded, decoded; what is restored is cut out of those
frames. Nothing was chosen by what the test split says, but for two things of wrong restorations
that the page names.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import dae
from deidcli.celeba import CELEBA_ATTRIBUTES
from deidcli.data.images import decode, encode
from deidcli.evaluate.identity import auc
from deidcli.evaluate.quality import fid, fid_features, lpips, psnr, ssim
from deidcli.faces import attributes as attribute_net
from deidcli.faces import recognizers
from deidcli.faces.align import Image, chip_affine, crop, paste
from deidcli.methods.base import Context
from deidcli.methods.sdn.identity import KEPT
from deidcli.methods.sdn.keyed_map import PASSWORD_BITS, expand
from deidcli.methods.sdn.method import FACE, SecureDualNetwork
from deidcli.methods.sdn.networks import SIZES, Discriminator, multiply_accumulates
from deidcli.methods.sdn.refinement import KNOWN
from deidcli.methods.sdn.settings import SdnSettings

Bits = NDArray[np.uint8]


def tensor(chips: Image) -> Tensor:
    """(N, S, S, 3) uint8 -> (N, 3, S, S) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(chips)).permute(0, 3, 1, 2).float() / 255


def pixels(chips: Tensor) -> Image:
    """The inverse of `tensor`."""
    return (chips.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def random_bits(count: int, seed: int) -> Bits:
    return np.random.default_rng(seed).integers(0, 2, (count, PASSWORD_BITS)).astype(np.uint8)


def load(**given: Any) -> SecureDualNetwork:
    return SecureDualNetwork(SdnSettings(**given), "cpu")


def chips_of(method: SecureDualNetwork, faces: dae.Faces, frames: list[Image]) -> Image:
    """The chips of some frames, at the landmarks of the originals."""
    chip = method.chip
    return np.stack(
        [
            crop(frame, chip_affine(points, chip.size, chip.padding), chip.size, True)
            for frame, points in zip(frames, faces.landmarks, strict=True)
        ]
    )


def pasted(
    method: SecureDualNetwork, faces: dae.Faces, frames: list[Image], chips: Image, mask: Any
) -> list[Image]:
    """The frames with these chips in them."""
    out = []
    for frame, points, chip in zip(frames, faces.landmarks, chips, strict=True):
        copy = frame.copy()
        paste(copy, chip, chip_affine(points, method.chip.size, method.chip.padding), mask)
        out.append(copy)
    return out


@torch.inference_mode()
def publish(
    method: SecureDualNetwork, faces: dae.Faces, bits: Bits, format: str = "JPEG"
) -> list[Image]:
    """Frames as they are published, decoded again."""
    count = len(faces.frames)
    context = Context(np.zeros(count, np.uint64), np.ones(count), bits=bits)
    made = pixels(method(tensor(chips_of(method, faces, faces.frames)), context))
    frames = pasted(method, faces, faces.frames, made, method.mask)
    return [decode(encode(frame, format)).pixels for frame in frames]  # type: ignore[arg-type]


@torch.inference_mode()
def restore(
    method: SecureDualNetwork, faces: dae.Faces, frames: list[Image], bits: Bits
) -> tuple[Image, list[Image]]:
    """Restored chips, and the frames with them."""
    chips = pixels(method.restore(tensor(chips_of(method, faces, frames)), bits))
    return chips, pasted(method, faces, frames, chips, method.restore_mask)


# --- Figures


def compared(a: list[Image], b: list[Image]) -> dict[str, float]:
    """SSIM, LPIPS and PSNR over pairs of pictures of any sizes."""
    rows = []
    for x, y in zip(a, b, strict=True):
        p, q = tensor(x[None]), tensor(y[None])
        rows.append([float(ssim(p, q)), float(lpips(p, q)), float(psnr(p, q).clamp(max=60))])
    means = np.mean(rows, 0)
    return {n: round(float(v), 4) for n, v in zip(("ssim", "lpips", "psnr"), means, strict=True)}


def verified(faces: dae.Faces, frames: list[Image]) -> dict[str, float]:
    """Percent that each recognizer takes for the originals, at its threshold."""
    out = {}
    for name in recognizers.installed_recognizers():
        if name not in faces.gallery:
            faces.gallery[name] = dae.embed(name, faces.frames, faces.landmarks)
        probes = dae.embed(name, frames, faces.landmarks)
        own = recognizers.pair_distances(name, faces.gallery[name], probes)
        out[name] = dae.percent(own <= recognizers.RECOGNIZERS[name].threshold)
    return out


def different(faces: dae.Faces, a: list[Image], b: list[Image]) -> dict[str, float]:
    """Percent of pairs that each recognizer takes for two people."""
    out = {}
    for name in recognizers.installed_recognizers():
        one, two = (dae.embed(name, frames, faces.landmarks) for frames in (a, b))
        apart = recognizers.pair_distances(name, one, two)
        out[name] = dae.percent(apart > recognizers.RECOGNIZERS[name].threshold)
    return out


def told_apart(right: Image, wrong: Image) -> dict[str, float]:
    """AUC of two classifiers that look at a restored chip alone, tried on faces that they were
    not trained on: logistic regression on 64 principal components, a small network."""
    count = len(right) // 2
    train = np.concatenate([right[:count], wrong[:count]])
    test = np.concatenate([right[count:], wrong[count:]])
    labels = torch.cat([torch.ones(count), torch.zeros(count)])
    flat, other = tensor(train).flatten(1), tensor(test).flatten(1)
    torch.manual_seed(0)
    _, scale, axes = torch.svd_lowrank(flat - flat.mean(0), q=64, niter=4)
    project = axes / (scale / len(flat) ** 0.5)
    linear = _fitted(nn.Linear(64, 1), (flat - flat.mean(0)) @ project, labels, 400, 1.0)
    layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, 32, 3, 1, 1), nn.ReLU()]
    for a, b in ((32, 48), (48, 64), (64, 64)):
        layers += [nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 16, 1))
    net = _fitted(net, tensor(train), labels, 25 * len(train) // 32, 32 / len(train))
    out = {}
    with torch.inference_mode():
        for name, said in (
            ("linear", linear((other - flat.mean(0)) @ project)),
            ("network", torch.cat([net(x) for x in tensor(test).split(64)])),
        ):
            scores = said[:, 0].double().numpy()
            mine, theirs = scores[: len(right) - count], scores[len(right) - count :]
            out[name] = round(auc(-mine, -theirs), 3)
    return out


def _fitted(net: nn.Module, x: Tensor, labels: Tensor, steps: int, share: float) -> Any:
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3 if share < 1 else 1e-2, weight_decay=0.02)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.arange(len(x))
        if share < 1:
            rows = torch.randperm(len(x), generator=generator)[: int(len(x) * share)]
        some = x[rows].flip(3) if x.ndim == 4 and torch.rand(()) < 0.5 else x[rows]
        loss = functional.binary_cross_entropy_with_logits(net(some)[:, 0], labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Published, and restored with the right password: the main table."""
    faces = dae.load_faces(args.data, args.faces)
    method, count = load(), len(faces.frames)
    bits = random_bits(count, 1)
    frames = publish(method, faces, bits)
    names = tuple(recognizers.installed_recognizers())
    out: dict[str, Any] = {"n": count, "published": dae.measure(faces, frames, names)}
    out["originals found"] = found(faces, faces.frames)
    out["published"] |= compared(faces.frames, frames)
    out["id-distance"] = distances(faces, frames)
    print(json.dumps(out), flush=True)
    chips, restored = restore(method, faces, frames, bits)
    original = chips_of(method, faces, faces.frames)
    out["right"] = {
        "verified": verified(faces, restored),
        "chip": compared(list(original), list(chips)),
        "frame": compared(faces.frames, restored),
        "found": found(faces, restored),
    }
    return out


def wrong(args: argparse.Namespace) -> dict[str, Any]:
    """Wrong passwords of three kinds, all faces looked at by the classifiers and the first
    `--verified` by the recognizers; two passwords; repeatable to the byte."""
    faces = dae.load_faces(args.data, args.faces)
    method, count = load(), len(faces.frames)
    bits = random_bits(count, 1)
    frames = publish(method, faces, bits)
    flipped = bits.copy()
    flipped[np.arange(count), np.arange(count) % PASSWORD_BITS] ^= 1
    ways = {
        "one bit off": (method, flipped),
        "random": (method, random_bits(count, 3)),
        "wrong attributes": (load(wanted="Smiling:1"), bits),
    }
    some = slice(args.verified)
    few = dae.Faces(faces.frames[some], faces.landmarks[some], faces.persons[some])
    right = restore(method, faces, frames, bits)[0]
    out: dict[str, Any] = {"n": count, "verified n": len(few.frames)}
    for name, (by, key) in ways.items():
        chips, restored = restore(by, faces, frames, key)
        out[name] = {
            "auc against right": told_apart(right, chips),
            "verified": verified(few, restored[some]),
        }
        print(json.dumps({name: out[name]}), flush=True)
    other = publish(method, few, random_bits(count, 2)[some])
    out["two passwords, two people"] = different(few, frames[some], other)
    again = publish(load(), few, bits[some])
    same = [np.array_equal(a, b) for a, b in zip(frames[some], again, strict=True)]
    out["repeatable"] = bool(all(same))
    return out


def found(faces: dae.Faces, frames: list[Image]) -> float:
    """Percent of frames where dlib's network finds the face."""
    said = [
        dae.found_by_cnn(
            crop(f, chip_affine(p, dae.DETECT_SIZE, dae.DETECT_PADDING), dae.DETECT_SIZE)
        )
        for f, p in zip(frames, faces.landmarks, strict=True)
    ]
    return dae.percent(said)


def distances(faces: dae.Faces, frames: list[Image]) -> dict[str, float]:
    """Mean ID-distance (eq. 22); for FaceNet as Euclidean distance of unit vectors."""
    out = {}
    for name in ("dlib", "facenet"):
        if name in recognizers.installed_recognizers():
            probes = dae.embed(name, frames, faces.landmarks)
            apart = recognizers.pair_distances(name, faces.gallery[name], probes)
            euclidean = apart if name == "dlib" else np.sqrt(2 * apart.clip(min=0))
            out[name] = round(float(euclidean.mean()), 3)
    return out


def fid_of(args: argparse.Namespace) -> dict[str, Any]:
    """FID of published and restored frames, beside that between halves of the originals."""
    faces = dae.load_faces(args.data, args.faces)
    method = load()
    bits = random_bits(len(faces.frames), 1)
    frames = publish(method, faces, bits)
    _, right = restore(method, faces, frames, bits)
    sets = {"originals": faces.frames, "published": frames, "right": right}
    told = {name: _inception(pictures) for name, pictures in sets.items()}
    half = len(frames) // 2
    return {
        "n": len(frames),
        "published": round(fid(told["originals"], told["published"]), 2),
        "right": round(fid(told["originals"], told["right"]), 2),
        "halves of the originals": round(
            fid(told["originals"][:half], told["originals"][half:]), 2
        ),
    }


@torch.inference_mode()
def _inception(frames: list[Image]) -> NDArray[np.float32]:
    return np.concatenate([fid_features(tensor(frame[None])).numpy() for frame in frames])


@torch.inference_mode()
def ways(args: argparse.Namespace) -> dict[str, Any]:
    """What later handling of the published picture leaves of the hidden face."""
    faces = dae.load_faces(args.data, args.faces)
    method = load()
    bits = random_bits(len(faces.frames), 1)
    keys = expand(bits)
    original = tensor(chips_of(method, faces, faces.frames))
    out: dict[str, Any] = {"n": len(faces.frames)}
    unit = 1 + 2 * method.chip.padding
    sides = [_side(method, points) / unit for points in faces.landmarks]
    out["median side of the mean face, px"] = round(float(np.median(sides)))
    plain = publish(method, faces, bits, "PNG")
    for name, change in (
        ("PNG", lambda frame: frame),
        ("JPEG 95", lambda frame: _jpeg(frame, 95, False)),
        ("JPEG 95 twice", lambda frame: _jpeg(_jpeg(frame, 95, False), 95, False)),
        ("JPEG 85", lambda frame: _jpeg(frame, 85, False)),
        ("JPEG 75", lambda frame: _jpeg(frame, 75, False)),
        ("JPEG 95 with color subsampling", lambda frame: _jpeg(frame, 95, True)),
        ("reduced to 75 % and back", lambda frame: _reduced(frame, 0.75)),
        ("reduced to 50 % and back", lambda frame: _reduced(frame, 0.5)),
    ):
        chips = tensor(chips_of(method, faces, [change(frame) for frame in plain]))
        nats = method.bottleneck.unlocked(method.bottleneck.read(chips), keys)[2]
        right = method.restore(chips, bits)
        out[name] = {
            "opened": dae.percent((nats > FACE).numpy()),
            "ssim": round(float(ssim(right, original).mean()), 3),
            "psnr": round(float(psnr(right, original).mean()), 1),
        }
    return out


def _side(method: SecureDualNetwork, points: NDArray[np.float64]) -> float:
    affine = chip_affine(points, method.chip.size, method.chip.padding)
    return method.chip.size / float(np.hypot(affine[0, 0], affine[1, 0]))


def _jpeg(frame: Image, quality: int, subsampled: bool) -> Image:
    names = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR]
    data = cv2.imencode(".jpg", frame[:, :, ::-1], [*options, names[not subsampled]])[1]
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[:, :, ::-1])  # type: ignore[index]


def _reduced(frame: Image, factor: float) -> Image:
    height, width = frame.shape[:2]
    small = cv2.resize(
        frame, (int(width * factor), int(height * factor)), interpolation=cv2.INTER_AREA
    )
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


def present(faces: dae.Faces, frames: list[Image]) -> NDArray[np.bool_]:
    """(N, 40): what the attribute classifier of `deid score` reads off pictures."""
    net = attribute_net.load()
    pairs = zip(frames, faces.landmarks, strict=True)
    chips = np.stack([attribute_net.cut(net, frame, points) for frame, points in pairs])
    return attribute_net.predict(net, chips) > 0.5


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """Share of published faces that have, or do not have, what was asked for."""
    faces = dae.load_faces(args.data, args.faces)
    bits = random_bits(len(faces.frames), 1)
    before = present(faces, faces.frames)
    plain = present(faces, publish(load(), faces, bits))
    out: dict[str, Any] = {"n": len(faces.frames), "as it is": {}, "asked": {}}
    for name in ("Male", "Smiling", "Mouth_Slightly_Open", "Eyeglasses", "Young"):
        column = CELEBA_ATTRIBUTES.index(name)
        out["as it is"][name] = dae.percent(plain[:, column] == before[:, column])
    for wanted in args.wanted:
        said = present(faces, publish(load(wanted=wanted), faces, bits))
        shares = []
        for part in wanted.split(","):
            name, value = part.split(":")
            shares.append(said[:, CELEBA_ATTRIBUTES.index(name)] == (value == "1"))
        out["asked"][wanted] = [dae.percent(share) for share in shares]
    return out


def shift(args: argparse.Namespace) -> dict[str, Any]:
    """Table 4: SSIM, LPIPS and (with `--fid`) FID against the originals by degree, and how many
    have the attribute."""
    faces = dae.load_faces(args.data, args.faces)
    bits = random_bits(len(faces.frames), 1)
    real = _inception(faces.frames) if args.fid else None
    out: dict[str, Any] = {"n": len(faces.frames)}
    for name in args.shifted:
        for degree in (-2, -1, 0, 1, 2):
            frames = publish(load(shift=f"{name}:{degree:+d}"), faces, bits)
            figures: dict[str, float] = compared(faces.frames, frames)
            if real is not None:
                figures["fid"] = round(fid(real, _inception(frames)), 2)
            column = CELEBA_ATTRIBUTES.index(name)
            figures["present"] = dae.percent(present(faces, frames)[:, column])
            out[f"{name} {degree:+d}"] = figures
            print(json.dumps({f"{name} {degree:+d}": figures}), flush=True)
    return out


@torch.inference_mode()
def guess(args: argparse.Namespace) -> dict[str, Any]:
    """1,000 random passwords on 50 faces: how many open one; of 20, how many verify."""
    faces = dae.load_faces(args.data, 50)
    method = load()
    count = len(faces.frames)
    bits = random_bits(count, 1)
    frames = publish(method, faces, bits)
    small = tensor(chips_of(method, faces, frames))
    points = method.bottleneck.read(small)
    most, opened = -1e9, 0
    for seed in range(1000):
        keys = expand(random_bits(count, 10_000 + seed))
        nats = method.bottleneck.unlocked(points, keys)[2]
        most, opened = max(most, float(nats.max())), opened + int((nats > FACE).sum())
    right = method.bottleneck.unlocked(points, expand(bits))[2]
    hits = dict.fromkeys(recognizers.installed_recognizers(), 0.0)
    for seed in range(20):
        _, restored = restore(method, faces, frames, random_bits(count, 10_000 + seed))
        for name, share in verified(faces, restored).items():
            hits[name] += share * count / 100
    return {
        "faces": count,
        "tried": 1000 * count,
        "opened": opened,
        "likeliest wrong, nats": round(most, 1),
        "unlikeliest right, nats": round(float(right.min()), 1),
        "verified of 20 passwords": {name: round(v) for name, v in hits.items()},
        "of": 20 * count,
    }


@torch.inference_mode()
def information(args: argparse.Namespace) -> dict[str, Any]:
    """What section 4's terms act on: nats a dimension by which pictures tell of a code (eq. 21,
    the variance of each dimension at its best, the code's own entropy taken off: 0 tells
    nothing), and eq. 20 for the wrong restorations."""
    faces = dae.load_faces(args.data, args.faces)
    method = load()
    count = len(faces.frames)
    bits = random_bits(count, 1)
    frames = publish(method, faces, bits)
    right, _ = restore(method, faces, frames, bits)
    wrong, _ = restore(method, faces, frames, random_bits(count, 3))
    chips = [chips_of(method, faces, faces.frames), chips_of(method, faces, frames), right, wrong]

    def code(pixels: Image) -> Tensor:
        net = method.bottleneck
        return (net.components(tensor(pixels)) * net.gains**2)[:, :KNOWN]

    def kept(pixels: Image) -> Tensor:
        parts = [method.extractor(some)[:2] for some in tensor(pixels).split(64)]
        columns = [CELEBA_ATTRIBUTES.index(name) for name in KEPT]
        return torch.cat([torch.cat([a[:, columns] / 4, b], 1) for a, b in parts])

    def nats(true: Tensor, seen: Tensor) -> float:
        share = (true - seen).square().mean(0) / true.var(0)
        return round(float((-0.5 * share.log()).mean()), 3)

    return {
        "n": count,
        "kept attributes and pose, of the surrogate": nats(kept(chips[0]), kept(chips[1])),
        "face, of the right restoration": nats(code(chips[0]), code(chips[2])),
        "face, of the wrong restoration": nats(code(chips[0]), code(chips[3])),
        "eq. 20, wrong restoration": round(float(code(chips[3]).square().mean() / 2), 3),
    }


def costs(args: argparse.Namespace) -> dict[str, Any]:
    """Table 5, speed and memory."""
    out: dict[str, Any] = {"threads": args.threads}
    method = load()
    for name, size in SIZES.items():
        networks = {
            "erasing": type(method.erasing)(size),
            "reveal": type(method.reveal)(size),
            "extractor": type(method.extractor)(size, 639),
        }
        chip = torch.zeros(1, 3, size.side, size.side)
        mask = torch.zeros(size.side, size.side)
        linear = 2 * method.bottleneck.basis.numel() + 2 * method.bottleneck.carriers.numel()
        count = {
            key: multiply_accumulates(net, chip, *([mask] if key != "extractor" else []))
            for key, net in networks.items()
        }
        count["extractor"] *= 2  # a face and its surrogate
        count["linear layers"] = linear
        out[name] = {
            "G multiply-accumulates": {k: round(v / 1e9, 3) for k, v in count.items()},
            "sum": round(sum(count.values()) / 1e9, 2),
            "M parameters": round(
                sum(v.numel() for net in networks.values() for v in net.parameters()) / 1e6, 2
            ),
            "M parameters of the discriminator": round(
                sum(v.numel() for v in Discriminator(size, 639).parameters()) / 1e6, 2
            ),
        }
    chips, bits = torch.rand(64, 3, 64, 64), random_bits(64, 0)
    context = Context(np.zeros(64, np.uint64), np.ones(64), bits=bits)
    with torch.inference_mode():
        for name, work in (
            ("erase", lambda: method(chips, context)),
            ("restore", lambda: method.restore(chips, bits)),
        ):
            work()
            start, used = time.perf_counter(), time.process_time()
            for _ in range(4):
                work()
            out[f"ms a face, {name}"] = round((time.perf_counter() - start) / 256 * 1e3, 2)
            out[f"CPU ms a face, {name}"] = round((time.process_time() - used) / 256 * 1e3, 2)
    out["peak MB"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return out


def sheet(args: argparse.Namespace) -> dict[str, Any]:
    """People who do not exist: original, two passwords, right and wrong restoration."""
    folder = Path(__file__).parent.parent / "examples" / "people" / "portraits"
    faces = dae.load_faces(folder, 12)
    method, count = load(), 12
    bits = random_bits(count, 1)
    frames = publish(method, faces, bits)
    rows = [
        faces.frames,
        frames,
        publish(method, faces, random_bits(count, 5)),
        restore(method, faces, frames, bits)[1],
        restore(method, faces, frames, random_bits(count, 3))[1],
    ]
    tiles = [
        [_tile(frame, p) for frame, p in zip(row, faces.landmarks, strict=True)] for row in rows
    ]
    picture = np.concatenate([np.concatenate(row, 1) for row in tiles])
    cv2.imwrite(str(args.data), picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    return {"written": str(args.data)}


def _tile(frame: Image, points: NDArray[np.float64]) -> Image:
    return crop(frame, chip_affine(points, 112, 0.55), 112, True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = {
        "measure": measure,
        "wrong": wrong,
        "fid": fid_of,
        "asked": asked,
        "shift": shift,
        "guess": guess,
        "ways": ways,
        "information": information,
        "costs": costs,
        "sheet": sheet,
    }
    parser.add_argument("what", choices=what)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--fid", action="store_true")
    parser.add_argument("--verified", type=int, default=150)
    parser.add_argument("--faces", type=int, default=600)
    parser.add_argument(
        "--wanted", nargs="*", default=["Male:1", "Male:0", "Smiling:1", "Smiling:0"]
    )
    parser.add_argument(
        "--shifted", nargs="*", default=["Smiling", "Mustache", "Mouth_Slightly_Open", "Male"]
    )
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(json.dumps(what[args.what](args), indent=1))


if __name__ == "__main__":
    main()
