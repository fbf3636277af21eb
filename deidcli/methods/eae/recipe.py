"""What the parts of `eae`'s training share: settings, data, the loop, weight files, cards."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from deidcli.celeba import CELEBA_ATTRIBUTES, parse_attributes
from deidcli.errors import DeidError
from deidcli.methods.eae import networks
from deidcli.methods.eae import settings as eae_settings
from deidcli.training.augment import augment
from deidcli.training.checkpoints import load_checkpoint, save_checkpoint
from deidcli.training.chips import Chips, load_all
from deidcli.training.loop import cosine, epoch_order, log, seed_step, update_average
from deidcli.weights.files import file_sha256

Part = Literal["all", "fsn", "external", "pen", "internal", "sprn"]


@dataclass(frozen=True)
class Settings:
    """A training run."""

    attrs: str = "GSBE"
    """The attributes that the published picture keeps: letters of G S B E Y or CelebA's names."""
    size: eae_settings.SizeName = "compact"
    """compact: 112 px, on a CPU. paper: 224 px and the paper's widths."""
    part: Part = "all"
    """all: fsn, external, internal (and pen where it is arcface); or one part."""
    fsn_attrs: str = "GSBEY"
    """The attributes that the FSN learns; `attrs` must be among them."""
    targets: str = ""
    """A .npy file of (N, 40) probabilities, one row a picture of DATA: soft labels for the FSN."""
    soft: float = 0.5
    """Share of those soft labels in the FSN's targets."""
    batch_size: int = 64
    """Chips a step, for every part but sprn."""
    fsn_epochs: int = 10
    """Epochs over DATA."""
    fsn_initial: str = ""
    """Weights of an FSN to start from, to go on with it."""
    fsn_rate: float = 2e-3
    """AdamW's highest rate; so are the other rates."""
    external_epochs: int = 3
    """Epochs over DATA."""
    external_rate: float = 2e-3
    """Of the decoder."""
    encoder_share: float = 0.0
    """Share of that rate for the encoder, which starts from the FSN's blocks; 0: it stays."""
    internal_steps: int = 0
    """Steps of `batch_size`; 0: six epochs, and 300 steps at least."""
    internal_rate: float = 1e-3
    """Of the internal autoencoder."""
    picture_every: int = 8
    """The picture terms of eq. 7 are computed on one batch in so many: 2^m pictures need fewer."""
    internal_initial: str = ""
    """Weights of an internal autoencoder of the same set, to go on with it."""
    warm: str = ""
    """Weights of an internal autoencoder whose set holds `attrs`: its encoder is taken over as it
    is, with the units of `attrs`, and the decoder alone learns."""
    a1: float = 1.0
    """Weight of the attribute terms (eq. 7)."""
    a2: float = 1.0
    """Weight of the identity term (eq. 7)."""
    alike: float = 1.0
    """Weight of the term that makes a set's pictures alike to the PEN: eae_pen.likeness_loss."""
    pen: str = "mobilefacenet"
    """The PEN: a recognizer's name, or arcface: one trained here on the persons of DATA."""
    pen_epochs: int = 20
    """Epochs of the ArcFace training."""
    pen_rate: float = 1e-1
    """SGD's highest rate in the ArcFace training (sec. IV-B)."""
    sprn_initial: str = ""
    """Weights of an external autoencoder that the ablation starts from, one whose encoder was
    trained to reconstruct (encoder_share above 0); empty: the external autoencoder in OUT."""
    sprn_steps: int = 300
    """Steps of the ablation."""
    sprn_batch: int = 16
    """Chips a step of the ablation."""
    sprn_rate: float = 1e-3
    """Of the ablation's autoencoder."""
    weight_decay: float = 0.02
    """AdamW's."""
    warmup: int = 100
    """Steps of linear warmup."""
    average: float = 0.998
    """Decay of the averaged weights, which are the ones that are kept."""
    seed: int = 0
    """Of all that is random."""
    checkpoint_steps: int = 200
    """A kill costs so many steps at most."""
    threads: int = 1
    """torch's threads on the CPU."""
    device: str = "cpu"
    """Where the networks train; augmentation stays on the CPU."""


_COMMON = ("size", "batch_size", "seed", "weight_decay", "warmup", "average")
_FSN = (*_COMMON, "fsn_attrs", "targets", "soft", "fsn_epochs", "fsn_initial", "fsn_rate")
_EXTERNAL = (*_FSN, "external_epochs", "external_rate", "encoder_share")
_PEN = ("size", "batch_size", "seed", "pen", "pen_epochs", "pen_rate")
_TERMS = ("attrs", "a1", "a2", "alike", *_PEN)
_FILES = ("targets", "warm", "fsn_initial", "internal_initial", "sprn_initial")
DECIDES: dict[str, tuple[str, ...]] = {
    "fsn": _FSN,
    "external": _EXTERNAL,
    "pen": _PEN,
    "internal": (
        *_EXTERNAL,
        *_TERMS,
        "internal_steps",
        "internal_rate",
        "picture_every",
        "internal_initial",
        "warm",
    ),
    "sprn": (*_EXTERNAL, *_TERMS, "sprn_initial", "sprn_steps", "sprn_batch", "sprn_rate"),
}
"""The settings that bear on each part's weights."""


class Run:
    """What all parts share: data, labels, paths."""

    def __init__(
        self,
        data: Sequence[Path],
        out: Path,
        settings: Settings,
        cache: Path,
        validation: Sequence[Path],
        stop_after: int | None,
    ) -> None:
        self.out, self.settings, self.stop_after = out, settings, stop_after
        self.size = networks.SIZES[settings.size]
        self.attributes = eae_settings.names_of(
            eae_settings.letters_of(parse_attributes(settings.attrs))
        )
        self.fsn_attributes = parse_attributes(settings.fsn_attrs)
        missing = [name for name in self.attributes if name not in self.fsn_attributes]
        if missing:
            raise DeidError(
                f"the FSN does not learn {', '.join(missing)}", "name them in --set fsn_attrs=..."
            )
        self.data = [Path(path).name for path in data]
        chips = load_all(data, self.size.side, networks.PADDING, cache, extend=True)
        self.soft = None
        if settings.targets:
            self.soft = np.load(settings.targets)[chips.found].astype(np.float32)
        self.chips = chips.keep(chips.found)
        self.held_out: Chips | None = None
        if validation:
            held_out = load_all(validation, self.size.side, networks.PADDING, cache, extend=True)
            self.held_out = held_out.keep(held_out.found)
        self._check_labels()

    def _check_labels(self) -> None:
        labels = labels_of(self.chips, self.attributes)
        for name, column in zip(self.attributes, labels.T, strict=True):
            if not ((column == 1).any() and (column == 0).any()):
                raise DeidError(
                    f"the data has no pictures labeled with and without {name}",
                    "train on labeled data, or without that attribute",
                )

    @property
    def per_epoch(self) -> int:
        """Steps an epoch."""
        return max(1, len(self.chips) // self.settings.batch_size)

    @property
    def chosen(self) -> list[int]:
        """The places of the asked attributes among the FSN's groups."""
        return [self.fsn_attributes.index(name) for name in self.attributes]

    def path(self, part: str) -> Path:
        """The weight file of a part."""
        letters = eae_settings.letters_of(self.attributes)
        named = {"internal": letters, "sprn": f"sprn-{letters}"}.get(part, part)
        return self.out / f"{eae_settings.card_name(self.settings.size, named)}.safetensors"

    def fixed(self, part: str) -> dict[str, Any]:
        """The settings that bear on a part's weights."""
        values = asdict(self.settings)
        values |= {name: Path(values[name]).name for name in _FILES}
        return {"data": self.data, **{name: values[name] for name in DECIDES[part]}}

    def load(self, part: str, module: nn.Module) -> nn.Module:
        """A part that was trained before, frozen, in evaluation mode."""
        path = self.path(part)
        if not path.is_file():
            raise DeidError(f"there is no {path}", f"train it first: --set part={part}")
        read(module, path)
        return networks.frozen(module.to(self.settings.device))

    def targets(self, rows: NDArray[np.int64]) -> Tensor:
        """(N, groups) targets of the FSN: labels, mixed with soft ones where there are any."""
        targets = torch.from_numpy(labels_of(self.chips, self.fsn_attributes, rows))
        if self.soft is not None:
            columns = [CELEBA_ATTRIBUTES.index(name) for name in self.fsn_attributes]
            soft = torch.from_numpy(self.soft[rows][:, columns])
            mixed = targets + self.settings.soft * (soft - targets)
            targets = torch.where(targets < 0, soft, mixed)
        return targets.to(self.settings.device)


def labels_of(
    chips: Chips, names: Sequence[str], rows: NDArray[np.int64] | slice = slice(None)
) -> NDArray[np.float32]:
    """(N, names) float32: 1 present, 0 absent, -1 not labeled."""
    columns = [CELEBA_ATTRIBUTES.index(name) for name in names]
    labels = chips.labels[rows][:, columns].astype(np.float32)
    return np.where(labels == 0, -1, (labels + 1) / 2).astype(np.float32)


# --- One loop for all parts


StepLoss = Callable[[nn.Module, Tensor, NDArray[np.int64], int], Tensor]
"""(the model, images (N, 3, S, S) in [0, 1], their rows in the data, the step) -> the loss."""


def fit(
    run: Run,
    part: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    batch_size: int,
    loss_of: StepLoss,
    scores: Callable[[nn.Module], dict[str, float]] | None = None,
) -> bool:
    """Train `model` and write its averaged weights; False when stopped early."""
    settings, path = run.settings, run.path(part)
    checkpoint = path.with_suffix(".pt")
    model.to(memory_format=torch.channels_last).to(settings.device)
    average = deepcopy(model).eval()
    parts: dict[str, Any] = {"model": model, "average": average, "optimizer": optimizer}
    step = 0
    if saved := load_checkpoint(checkpoint, run.fixed(part)):
        for name, item in parts.items():
            item.load_state_dict(saved[name])
        step = saved["step"]
        log(f"{part}: going on from step {step}")
    count = len(run.chips)
    batch_size = min(batch_size, count)
    per_epoch = count // batch_size
    rates = [group["lr"] for group in optimizer.param_groups]
    rates = [
        group.setdefault("highest", rate)
        for group, rate in zip(optimizer.param_groups, rates, strict=True)
    ]
    log(f"{part}: {count} chips, {steps} steps of {batch_size}")
    said: dict[str, float] = {}
    losses: list[float] = []
    while step < steps:
        if step == run.stop_after:
            return False
        epoch, within = divmod(step, per_epoch)
        order = epoch_order(count, settings.seed, epoch).numpy()
        rows = np.sort(order[within * batch_size :][:batch_size])
        generator = seed_step(settings.seed, step)
        images = augment(torch.from_numpy(run.chips.chips[rows]), run.size.side, generator) / 255
        factor = cosine(step, steps, min(settings.warmup, steps // 10))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        loss = loss_of(model, images.to(settings.device), rows, step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        # Young averages would remember the initial weights: the decay grows to its full value.
        update_average(average, model, min(settings.average, (1 + step) / (10 + step)))
        losses.append(float(loss.detach()))
        step += 1
        last = step == steps
        if step % settings.checkpoint_steps == 0 or last:
            states = {name: item.state_dict() for name, item in parts.items()}
            save_checkpoint(checkpoint, {"settings": run.fixed(part), "step": step, **states})
        if step % per_epoch == 0 or last:
            said = scores(average) if scores else {}
            words = "".join(f", {name} {value:.2f}" for name, value in said.items())
            log(f"{part}: step {step}, loss {np.mean(losses):.4f}{words}")
            losses = []
    _write(average, path, run.fixed(part), said)
    checkpoint.unlink(missing_ok=True)
    return True


def adamw(run: Run, groups: Sequence[tuple[nn.Module, float]]) -> torch.optim.Optimizer:
    """AdamW over (module, highest rate); vectors (biases, norms) without decay."""
    listed = []
    for module, rate in groups:
        values = [value for value in module.parameters() if value.requires_grad]
        for matrix in (True, False):
            some = [value for value in values if (value.ndim > 1) == matrix]
            decay = run.settings.weight_decay if matrix else 0.0
            listed.append({"params": some, "lr": rate, "weight_decay": decay})
    return torch.optim.AdamW(listed)


def batches(chips: Chips, device: str, count: int = 64) -> list[Tensor]:
    """All chips in float batches."""
    parts = []
    for start in range(0, len(chips), count):
        some = torch.from_numpy(np.ascontiguousarray(chips.chips[start : start + count]))
        parts.append(some.to(device).permute(0, 3, 1, 2).float() / 255)
    return parts


def accuracy(held_out: Chips, names: Sequence[str], present: NDArray[np.bool_]) -> dict[str, float]:
    """Percent right of (N, names) answers, by attribute."""
    labels = labels_of(held_out, names)
    out = {}
    for name, said, label in zip(names, present.T, labels.T, strict=True):
        known = label >= 0
        if known.any():
            out[name] = round(100 * float((said[known] == (label[known] == 1)).mean()), 2)
    return out


# --- Files


def _write(
    module: nn.Module, path: Path, settings: dict[str, Any], scores: dict[str, float]
) -> None:
    """fp16 safetensors; the settings and scores stand in the file's metadata."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.half().cpu().contiguous()
        for name, value in module.state_dict().items()
        if value.is_floating_point()
    }
    partial = path.with_name(path.name + ".partial")
    save_file(tensors, partial, {"settings": json.dumps(settings), "scores": json.dumps(scores)})
    partial.chmod(0o644)  # safetensors writes for the owner alone
    partial.replace(path)


def read(module: nn.Module, path: Path) -> None:
    """Give a network the tensors of a file that `_write` made."""
    from safetensors.torch import load_file

    counters = {k: v for k, v in module.state_dict().items() if k.endswith("num_batches_tracked")}
    tensors = {
        name.removeprefix("embedder."): value.float()
        for name, value in load_file(path).items()
        if name != "centers"  # the persons of the PEN's training, of no use to it
    }
    module.load_state_dict({**counters, **tensors})


def metadata(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return {name: json.loads(value) for name, value in file.metadata().items()}


def is_made(path: Path, fixed: dict[str, Any]) -> bool:
    """Whether a part was trained before with the same settings."""
    if not path.is_file():
        return False
    made = metadata(path)["settings"]
    if changed := [name for name in fixed if made.get(name) != fixed[name]]:
        raise DeidError(
            f"{path} was made with other settings: {', '.join(changed)}",
            "train with the same settings, or into another folder",
        )
    return True


def write_cards(run: Run, paths: Sequence[Path]) -> None:
    """OUT/weights.toml: a table for each weight file there, those of earlier runs too."""
    target = run.out / "weights.toml"
    old = target.read_text(encoding="utf8") if target.is_file() else ""
    tables = {part.split("]", 1)[0]: part for part in old.split("\n[eae-")[1:]}
    tables |= {path.stem.removeprefix("eae-"): _card(run, path) for path in paths}
    text = "".join(f"\n[eae-{part.rstrip()}\n" for _, part in sorted(tables.items()))
    target.write_text(text, encoding="utf8")


def _card(run: Run, path: Path) -> str:
    """The card of a weight file, from its metadata; without the opening `[eae-`."""
    said, name = metadata(path), path.stem
    defaults = asdict(Settings())
    made = said["settings"]
    options = [f"--size {run.settings.size}"]
    options += [f"--attrs {made['attrs']}"] if "attrs" in made else []
    options += [
        f"--set {key}={value}"
        for key, value in made.items()
        if key in defaults and key not in ("attrs", "size") and value != defaults[key]
    ]
    scores = json.dumps(said["scores"], ensure_ascii=False).replace('": ', '" = ')
    return "\n".join(
        [
            f"{name.removeprefix('eae-')}]",
            f'file = "{path.name}"',
            f'sha256 = "{file_sha256(path)}"',
            'kind = "eae"',
            f'trained_on = "{", ".join(made["data"])}"',
            f'command = "deid train eae {" ".join([*made["data"], *options])}"',
            'license = "Apache-2.0"',
            f"input = {{ side = {run.size.side}, padding = {networks.PADDING}, "
            'range = "[0, 1]", color = "RGB" }',
            f'scores = {{ split = "validation", values = {scores} }}',
        ]
    )
