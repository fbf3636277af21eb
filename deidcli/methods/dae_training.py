"""Train `dae`: autoencoder, targets, encoder, deblurrer, smoother, strangers.

    deid train dae celeba/train --validation celeba/valid
    deid train dae celeba/train --set target=neighbors --set network=conv --set n=9

Each part keeps a checkpoint in `out`, so the same command goes on after a kill and ends with the
same weights; a part that is done is not done again, so a second target with the same `out` reuses
the autoencoder and the filters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.functional import gaussian_blur

from deidcli.data.attributes import CELEBA_ATTRIBUTES, parse_attributes
from deidcli.errors import DeidError
from deidcli.faces import align, recognizers
from deidcli.methods import dae_targets as targets_of
from deidcli.methods.dae_nets import (
    PADDING,
    SIDE,
    Autoencoder,
    Convolutional,
    Deblurrer,
    FullyConnected,
    Smoother,
    pack,
    principal_components,
)
from deidcli.methods.dae_strangers import ATTRIBUTES, KEPT, Matcher, features
from deidcli.training import (
    cosine,
    epoch_order,
    load_checkpoint,
    log,
    save_checkpoint,
    seed_step,
)
from deidcli.training_chips import Chips, load_all, load_landmarks
from deidcli.weights import download_folder, write_own_weights

Target = Literal["strangers", "supervised", "clusters", "neighbors", "cells", "none"]
BLOCK = 512


@dataclass(frozen=True)
class Settings:
    """A training run of `dae`."""

    target: Target = "strangers"
    """What the encoder is to produce; `none`: the autoencoder as it is."""
    network: Literal["fc", "conv"] = "fc"
    """Fully connected or fully convolutional (`cells` needs conv)."""
    widths: str = "1024,768,512"
    """Fully connected: widths of the encoder's layers (table 1)."""
    channels: str = "16,32,64,128,256"
    """Convolutional: channels of the encoder's five layers."""
    color: bool = True
    """Color, or gray as in the paper."""
    attributes: str = "Male,Smiling"
    """Supervised and strangers: CelebA's names or letters, in the order of the shifts (table 4)."""
    k: int = 20
    """Supervised and strangers: nearest neighbors that attract and repel (table 3)."""
    alpha: float = 1.0
    """Degree of the shift (eq. 7, 11): 0 leaves the face, 1 replaces it."""
    beta: float = 0.0
    """Degree of the repulsion (eq. 9)."""
    clusters: int = 180
    """Clusters: K (table 5)."""
    n: int = 9
    """Neighbors: how many to choose from (table 6). Cells: which one it is (table 7)."""
    pool: str = ""
    """Strangers: a folder or parquet of the pictures whose faces take the place of others; empty:
    the training pictures."""
    pool_size: int = 2500
    """Strangers: faces kept of the pool; each serves mirrored, too."""
    autoencoder_epochs: int = 8
    encoder_epochs: int = 5
    filter_epochs: int = 2
    """Of the deblurrer and the smoother."""
    matcher_epochs: int = 12
    batch_size: int = 128
    rate: float = 4e-4
    """AdamW's highest learning rate for networks that start as principal components; five times
    that for the others."""
    part: Literal["all", "autoencoder", "encoder", "filters", "matcher"] = "all"
    """Train up to and with this part."""
    limit: int = 0
    """Use only so many faces, evenly spread; 0: all."""
    seed: int = 0
    checkpoint_steps: int = 200
    threads: int = 2
    """torch's threads on the CPU."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.target == "cells" and self.network != "conv":
            raise ValueError("target=cells needs network=conv")
        if self.target == "strangers" and (self.network != "fc" or not self.color):
            raise ValueError("target=strangers needs network=fc and color=true")
        parse_attributes(self.attributes)


class _StoppedError(Exception):
    """The run is to leave here, as a kill would."""


@dataclass
class _Run:
    """What every part of the recipe shares."""

    settings: Settings
    out: Path
    left: int | None
    """Steps until the run leaves; None: never."""

    def fixed(self, names: Iterable[str]) -> dict[str, Any]:
        """The settings that a part's checkpoint must share."""
        every = asdict(self.settings)
        return {name: every[name] for name in names}


_SAMPLES = ("batch_size", "rate", "limit", "seed")
_BODY = ("network", "widths", "channels", "color", "autoencoder_epochs", *_SAMPLES)
_GOAL = ("target", "attributes", "k", "alpha", "beta", "clusters", "n", "encoder_epochs")


def train(
    data: Sequence[Path],
    out: Path,
    settings: Settings,
    cache: Path | None = None,
    validation: Sequence[Path] = (),
    stop_after: int | None = None,
) -> list[Path] | None:
    """Train on folders or parquet files and write safetensors with cards (weights.toml) to `out`.

    Args:
        data, validation: as `deid anonymize` takes them; supervised targets need labels. The
            validation set is only reconstructed, after every epoch.
        cache: folder for the cut chips; default: `chips` in the user's cache folder.
        stop_after: leave after this many steps, as a kill would (for tests).

    Returns:
        The files written; None when stopped early.
    """
    torch.set_num_threads(settings.threads)
    cache = cache or download_folder() / "chips"
    run = _Run(settings, out, stop_after)
    try:
        return _train(data, validation, run, cache)
    except _StoppedError:
        return None


def _train(data: Sequence[Path], validation: Sequence[Path], run: _Run, cache: Path) -> list[Path]:
    settings = run.settings
    faces, rows = _faces(data, cache, settings.limit)
    held_out = _faces(validation, cache, 0)[0] if validation else None
    log(f"{len(faces)} faces of {len(set(faces.persons))} people")
    body = train_autoencoder(_tensor(faces), run, None if held_out is None else _tensor(held_out))
    if settings.part == "autoencoder":
        return []
    encoder = train_encoder(body, faces, run)
    if settings.part == "encoder":
        return []
    filters = train_filters(_tensor(faces), run)
    if settings.part == "filters":
        return []
    extra: dict[str, Tensor] = {}
    if settings.target == "strangers":
        landmarks = load_landmarks(data, cache)[rows]
        extra = train_strangers(body, encoder, faces, landmarks, run, cache)
    return _write(body, encoder, filters, extra, run, [str(path) for path in data])


def _faces(paths: Sequence[Path], cache: Path, limit: int) -> tuple[Chips, NDArray[np.int64]]:
    """The faces that were found, and which rows of the data they are."""
    chips = load_all(paths, SIDE, PADDING, cache, extend=True)
    rows = np.flatnonzero(chips.found)
    if 0 < limit < len(rows):
        rows = rows[np.linspace(0, len(rows) - 1, limit).round().astype(np.int64)]
    mask = np.zeros(len(chips), dtype=np.bool_)
    mask[rows] = True
    return chips.keep(mask), rows


def _tensor(faces: Chips) -> Tensor:
    return torch.from_numpy(faces.chips)


def batch_of(chips: Tensor, rows: Tensor, device: str) -> Tensor:
    """(N, S, S, 3) uint8 -> the (B, 3, S, S) float32 RGB in [0, 1] of some rows."""
    return chips[rows].to(device).permute(0, 3, 1, 2).float() / 255


# --- One loop for all parts


def fit(
    name: str,
    model: nn.Module,
    count: int,
    epochs: int,
    rate: float,
    loss_of: Callable[[Tensor, torch.Generator], Tensor],
    run: _Run,
    fixed: dict[str, Any],
    after: Callable[[], str] = str,
) -> None:
    """Train `model` in place, from its checkpoint `out/name.pt` where there is one.

    Args:
        count: samples. loss_of: (rows of a batch, generator) -> loss.
        fixed: settings that the checkpoint must share. after: words for an epoch's log line.
    """
    settings, path = run.settings, run.out / f"{name}.pt"
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=1e-3)
    per_epoch = max(1, count // settings.batch_size)
    step, steps = 0, epochs * per_epoch
    if saved := load_checkpoint(path, fixed):
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
        log(f"{name}: " + ("done already" if step == steps else f"going on from step {step}"))
    losses = []
    while step < steps:
        epoch, within = divmod(step, per_epoch)
        if run.left == 0:
            raise _StoppedError
        run.left = None if run.left is None else run.left - 1
        order = epoch_order(count, settings.seed, epoch)
        rows = order[within * settings.batch_size :][: settings.batch_size]
        generator = seed_step(settings.seed, step)
        for group in optimizer.param_groups:
            group["lr"] = rate * cosine(step, steps, warmup=min(50, steps // 10), floor=0.02)
        model.train()
        loss = loss_of(rows.sort().values, generator)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        step += 1
        last = within + 1 == per_epoch
        if last or step % settings.checkpoint_steps == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(path, {"settings": fixed, "step": step, **state})
        if last:
            model.eval()
            log(f"{name}: epoch {epoch + 1}, loss {np.mean(losses):.5f}{after()}")
            losses = []
    model.eval()


# --- Autoencoder


def build(settings: Settings) -> Autoencoder:
    """The network that the settings describe."""
    if settings.network == "conv":
        return Convolutional([int(part) for part in settings.channels.split(",")], settings.color)
    return FullyConnected([int(part) for part in settings.widths.split(",")], settings.color)


def train_autoencoder(chips: Tensor, run: _Run, held_out: Tensor | None = None) -> Autoencoder:
    """Minimize the mean squared reconstruction error (eq. 4 and 5)."""
    settings = run.settings
    torch.manual_seed(settings.seed)
    body = build(settings)
    rate = settings.rate * 5
    if isinstance(body, FullyConnected):
        if not (run.out / "autoencoder.pt").is_file():  # a checkpoint holds what follows
            some = chips[torch.linspace(0, len(chips) - 1, min(len(chips), 24_000)).long()]
            packed = _blocks(lambda x: pack(x, settings.color), some, settings.device)
            widest = max(int(part) for part in settings.widths.split(","))
            body.start_from(*principal_components(packed, min(widest, packed.shape[1])))
        rate = settings.rate
    else:
        mean = torch.from_numpy(chips.numpy().mean(0)).permute(2, 0, 1)[None].float() / 255
        body.mean.copy_(mean[0] if settings.color else pack(mean, False).view(1, SIDE, SIDE))
    body = body.to(settings.device)

    def loss_of(rows: Tensor, generator: torch.Generator) -> Tensor:
        faces = mirrored(batch_of(chips, rows, settings.device), generator)
        return functional.mse_loss(body.decode(body.encode(faces)), _shown(faces, settings.color))

    def after() -> str:
        if held_out is None:
            return ""
        return f", validation {reconstruction_error(body, held_out, settings):.5f}"

    if isinstance(body, FullyConnected) and not (run.out / "autoencoder.pt").is_file():
        log(f"principal components alone:{after()}")
    epochs = settings.autoencoder_epochs
    fit("autoencoder", body, len(chips), epochs, rate, loss_of, run, run.fixed(_BODY), after)
    return body


def _shown(faces: Tensor, color: bool) -> Tensor:
    if color:
        return faces
    return pack(faces, False).view(-1, 1, SIDE, SIDE).expand(-1, 3, -1, -1)


def mirrored(faces: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the faces as in a mirror."""
    turned = torch.rand(len(faces), generator=generator).to(faces.device) < 0.5
    return torch.where(turned[:, None, None, None], faces.flip(3), faces)


@torch.no_grad()
def reconstruction_error(body: Autoencoder, chips: Tensor, settings: Settings) -> float:
    """Mean squared error of (N, S, S, 3) uint8 chips, pixels in [0, 1]."""
    total = 0.0
    for rows in torch.split(torch.arange(len(chips)), BLOCK):
        faces = batch_of(chips, rows, settings.device)
        wrong = (body.decode(body.encode(faces)) - _shown(faces, settings.color)) ** 2
        total += float(wrong.mean()) * len(rows)
    return total / len(chips)


@torch.no_grad()
def _blocks(of: Callable[[Tensor], Tensor], chips: Tensor, device: str) -> Tensor:
    parts = torch.split(torch.arange(len(chips)), BLOCK)
    return torch.cat([of(batch_of(chips, rows, device)).cpu() for rows in parts])


# --- Targets and encoder


def target_codes(
    codes: NDArray[np.float32], faces: Chips, settings: Settings, cells: int
) -> NDArray[np.float32]:
    """The code that each face is to get; see dae_targets."""
    if settings.target in ("supervised", "strangers"):
        names = parse_attributes(settings.attributes)
        labels = [faces.labels[:, CELEBA_ATTRIBUTES.index(name)] for name in names]
        for name, label in zip(names, labels, strict=True):
            if not ((label == 1).any() and (label == -1).any()):
                raise DeidError(
                    f"the data has no two kinds of {name}",
                    "give data with labels, or --set target=neighbors, which needs none",
                )
        return targets_of.supervised(
            codes, labels, faces.persons, settings.k, settings.alpha, settings.beta
        )
    if settings.target == "clusters":
        return targets_of.clusters(codes, settings.clusters, settings.alpha, settings.seed)
    if settings.target == "neighbors":
        return targets_of.nearest_to_mean(codes, settings.n, settings.alpha, faces.persons)
    if settings.target == "cells":
        return targets_of.by_cell(codes, cells, settings.n, settings.alpha, faces.persons)
    return codes


def train_encoder(body: Autoencoder, faces: Chips, run: _Run) -> Autoencoder:
    """Fine-tune the encoder alone to produce the targets (eq. 6).

    Each face is seen mirrored, too, with the code of its target's mirror image.
    """
    settings = run.settings
    network = deepcopy(body)
    if settings.target == "none":
        return network
    chips = _tensor(faces)
    codes = _blocks(body.encode, chips, settings.device).numpy()
    cells = body.grid**2 if isinstance(body, Convolutional) else 1
    log(f"targets: {settings.target}")
    goal = torch.from_numpy(target_codes(codes, faces, settings, cells))
    goal_mirrored = _mirrored_codes(body, goal, settings.device)
    scale = float(torch.from_numpy(codes).var(0).mean())
    for value in network.decoder.parameters():
        value.requires_grad_(False)

    def loss_of(rows: Tensor, generator: torch.Generator) -> Tensor:
        network.decoder.eval()
        turned = torch.rand(len(rows), generator=generator) < 0.5
        batch = batch_of(chips, rows, settings.device)
        batch = torch.where(turned.to(batch.device)[:, None, None, None], batch.flip(3), batch)
        wanted = torch.where(turned[:, None], goal_mirrored[rows], goal[rows])
        found = network.encode(batch)
        return functional.mse_loss(found, wanted.to(found.device)) / scale

    fixed = run.fixed((*_BODY, *_GOAL))
    rate = settings.rate * (5 if settings.network == "conv" else 1)
    name = f"encoder-{settings.target}"
    fit(name, network, len(chips), settings.encoder_epochs, rate, loss_of, run, fixed)
    return network


@torch.no_grad()
def _mirrored_codes(body: Autoencoder, codes: Tensor, device: str) -> Tensor:
    parts = torch.split(codes, BLOCK)
    return torch.cat([body.encode(body.decode(c.to(device)).flip(3)).cpu() for c in parts])


# --- Deblurrer and smoother


@dataclass
class Filters:
    """The two networks after the decoder."""

    deblurrer: Deblurrer
    smoother: Smoother


def train_filters(chips: Tensor, run: _Run) -> Filters:
    """The deblurrer on pairs of blurred and sharp faces, the smoother as an autoencoder (4.3)."""
    settings = run.settings
    torch.manual_seed(settings.seed)
    filters = Filters(Deblurrer().to(settings.device), Smoother().to(settings.device))

    def deblur(rows: Tensor, generator: torch.Generator) -> Tensor:
        faces = mirrored(batch_of(chips, rows, settings.device), generator)
        sigma = 0.3 + 0.7 * float(torch.rand(1, generator=generator))
        blurred = gaussian_blur(faces, [5, 5], [sigma, sigma])
        return functional.l1_loss(filters.deblurrer(blurred), faces)

    def smooth(rows: Tensor, generator: torch.Generator) -> Tensor:
        faces = mirrored(batch_of(chips, rows, settings.device), generator)
        return functional.mse_loss(filters.smoother(faces), faces)

    fixed = run.fixed(("filter_epochs", *_SAMPLES))
    for name, model, epochs, loss_of in (
        ("deblurrer", filters.deblurrer, settings.filter_epochs, deblur),
        # A tenth of the deblurrer's work, and slow to converge.
        ("smoother", filters.smoother, 6 * settings.filter_epochs, smooth),
    ):
        fit(name, model, len(chips), epochs, settings.rate * 5, loss_of, run, fixed)
    return filters


# --- Strangers


def train_strangers(
    body: Autoencoder,
    encoder: Autoencoder,
    faces: Chips,
    landmarks: NDArray[np.float32],
    run: _Run,
    cache: Path,
) -> dict[str, Tensor]:
    """The network that describes a face, and the pool; see dae_strangers."""
    settings = run.settings
    assert isinstance(body, FullyConnected) and isinstance(encoder, FullyConnected)
    shapes = torch.from_numpy(landmarks - align.MEAN_FACE_5.astype(np.float32)).flatten(1)
    spread = shapes.std(0).clamp(min=1e-4)
    embeddings = torch.from_numpy(_embeddings(faces.chips, run.out / "embeddings.npy"))
    center = embeddings.mean(0)
    matcher = train_matcher(
        body, faces, shapes / spread, functional.normalize(embeddings - center), run
    )
    chips = _tensor(_faces([Path(settings.pool)], cache, 0)[0] if settings.pool else faces)
    some = torch.linspace(0, len(chips) - 1, min(settings.pool_size, len(chips))).round().long()
    chips = torch.cat([chips[some], chips[some].flip(2)])
    with torch.no_grad():
        codes = _blocks(body.encode, chips, settings.device)
        basis = kept_directions(_blocks(encoder.encode, _tensor(faces), settings.device))
        kept = _blocks(encoder.encode, chips, settings.device) @ basis
        packed = _blocks(lambda x: pack(x, True), chips, settings.device).double()
        logits, shape, _ = matcher.cpu().double()(packed)
        described = features(packed, logits, shape)
    likeness = torch.from_numpy(_embeddings(chips.numpy(), run.out / "pool.npy")) - center
    tensors = {f"matcher.{key}": value for key, value in matcher.state_dict().items()}
    return {
        **tensors,
        "pool.codes": codes,
        "pool.kept": kept,
        "pool.basis": basis,
        "pool.features": described,
        "pool.embeddings": functional.normalize(likeness),
    }


def kept_directions(codes: Tensor) -> Tensor:
    """(D, KEPT) orthonormal: the directions of (N, D) codes of the tuned encoder that are kept."""
    _, components = principal_components(codes, min(KEPT, codes.shape[1]))
    return components


def train_matcher(
    body: FullyConnected, faces: Chips, shapes: Tensor, embeddings: Tensor, run: _Run
) -> Matcher:
    """Attributes by cross-entropy, landmarks and embedding by squared error.

    Args:
        shapes: (N, 10) landmarks less the mean face, in standard deviations.
        embeddings: (N, 128) unit length.
    """
    settings = run.settings
    torch.manual_seed(settings.seed)
    chips = _tensor(faces)
    packed = _blocks(lambda x: pack(x, True), chips[:: max(1, len(chips) // 20_000)], "cpu")
    matcher = Matcher(packed.shape[1])
    first = matcher.layers[0]
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        mean, components = principal_components(packed, first.out_features)
        spread = ((packed - mean) @ components).std(0).clamp(min=1e-3)
        matcher.mean.copy_(mean)
        # Whitened components, mixed: units of both signs from the start.
        mix = torch.linalg.qr(torch.randn(len(spread), len(spread)))[0]
        first.weight.copy_(mix @ (components / spread).T)
    matcher = matcher.to(settings.device)
    labels = torch.from_numpy(
        faces.labels[:, [CELEBA_ATTRIBUTES.index(name) for name in ATTRIBUTES]]
    ).float()

    def loss_of(rows: Tensor, generator: torch.Generator) -> Tensor:
        values = pack(batch_of(chips, rows, settings.device), True)
        logits, shape, embedding = matcher(values)
        wanted = labels[rows].to(values.device)
        parts = functional.binary_cross_entropy_with_logits(
            logits, (wanted + 1) / 2, reduction="none"
        )
        attributes = (parts * (wanted != 0)).sum() / (wanted != 0).sum().clamp(min=1)
        shaped = functional.mse_loss(shape, shapes[rows].to(values.device))
        alike = functional.mse_loss(embedding, embeddings[rows].to(values.device) * 10)
        return attributes + 0.3 * shaped + 0.5 * alike

    fixed = run.fixed(("matcher_epochs", *_SAMPLES))
    fit(
        "matcher",
        matcher,
        len(chips),
        settings.matcher_epochs,
        settings.rate * 4,
        loss_of,
        run,
        fixed,
    )
    return matcher


def _embeddings(chips: NDArray[np.uint8], path: Path) -> NDArray[np.float32]:
    """dlib's descriptors of (N, 64, 64, 3) chips, kept beside the checkpoints."""
    if path.is_file():
        kept = np.load(path)
        if len(kept) == len(chips):
            return np.asarray(kept, np.float32)
    log(f"descriptors of {len(chips)} faces")
    unit = align.chip_from_unit(np.eye(2, 3), SIDE, PADDING)
    points = align.apply_affine(unit, align.MEAN_FACE_5)
    parts = [
        recognizers.embed("dlib", [recognizers.cut("dlib", chip, points) for chip in block])
        for block in np.array_split(chips, max(1, len(chips) // BLOCK))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.concatenate(parts))
    return np.concatenate(parts)


# --- Weights


def _write(
    body: Autoencoder,
    encoder: Autoencoder,
    filters: Filters,
    extra: dict[str, Tensor],
    run: _Run,
    data: list[str],
) -> list[Path]:
    """`dae-NETWORK` (decoder, deblurrer, smoother) and `dae-TARGET` (encoder), with cards."""
    settings = run.settings
    shape = settings.widths if settings.network == "fc" else settings.channels
    network = {"network": settings.network, "shape": shape, "color": settings.color}
    common = {
        "kind": "dae",
        "trained_on": ", ".join(Path(path).name for path in data),
        "license": "Apache-2.0",
        "input": {"side": SIDE, "padding": PADDING, "range": "[0, 1]", **network},
    }
    parts = {"decoder": body.decoder, "deblurrer": filters.deblurrer, "smoother": filters.smoother}
    shared = {
        f"{part}.{key}": value
        for part, module in parts.items()
        for key, value in module.state_dict().items()
    }
    shared["mean"] = body.mean
    own = {f"encoder.{key}": value for key, value in encoder.encoder.state_dict().items()} | extra
    command = "deid train dae DATA " + " ".join(
        f"--set {key}={value}"
        for key, value in asdict(settings).items()
        if value != getattr(Settings, key) and key not in ("threads", "device", "pool", "part")
    )
    card = {**common, "command": command.strip(), "notes": ""}
    names = (f"dae-{settings.network}", f"dae-{settings.target}")
    return [
        write_own_weights(run.out, name, tensors, card)
        for name, tensors in zip(names, (shared, own), strict=True)
    ]
