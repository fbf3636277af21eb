"""A training run of `eae`: its chips and labels, its weight files, and what is read from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from deidcli.celeba import CELEBA_ATTRIBUTES, parse_attributes
from deidcli.errors import DeidError
from deidcli.methods.eae.networks import PADDING, SIZES, Size
from deidcli.methods.eae.recipe import FILES, Recipe
from deidcli.methods.eae.settings import card_name, letters_of, names_of
from deidcli.methods.loading import Module, load_part, ready
from deidcli.training.augment import augment
from deidcli.training.chips import Chips, load_all
from deidcli.training.loop import TrainingRun
from deidcli.training.weight_files import training_command, write_own_weights

RENAMED = {"warm": "fine_tune_from"}
"""Settings by the names that files of earlier versions have for them."""


@dataclass(kw_only=True)
class EaeRun(TrainingRun[Recipe]):
    """What all parts share: data, labels, weight files."""

    data: list[str]
    """The names of the data sets."""
    chips: Chips
    """(N, S, S, 3) uint8 and labels, of the pictures with a found face."""
    soft_labels: NDArray[np.float32] | None = None
    """(N, 40) probabilities of the chips, from the file `targets`."""
    held_out: Chips | None = None
    """Chips that are only scored."""
    size: Size = field(init=False)
    attributes: tuple[str, ...] = field(init=False)
    """The asked attributes, in the order of the units of the internal code."""
    fsn_attributes: tuple[str, ...] = field(init=False)
    """The attributes of the FSN's groups, in order."""

    def __post_init__(self) -> None:
        recipe = self.settings
        self.size = SIZES[recipe.size]
        self.attributes = names_of(letters_of(parse_attributes(recipe.attrs)))
        self.fsn_attributes = parse_attributes(recipe.fsn_attrs)
        missing = [name for name in self.attributes if name not in self.fsn_attributes]
        if missing:
            raise DeidError(
                f"the FSN does not learn {', '.join(missing)}", "name them in --set fsn_attrs=..."
            )
        labels = labels_of(self.chips, self.attributes)
        for name, column in zip(self.attributes, labels.T, strict=True):
            if not ((column == 1).any() and (column == 0).any()):
                raise DeidError(
                    f"the data has no pictures labeled with and without {name}",
                    "train on labeled data, or without that attribute",
                )

    # --- Batches

    @property
    def per_epoch(self) -> int:
        """The steps of an epoch."""
        return max(1, len(self.chips) // self.settings.batch_size)

    @property
    def groups(self) -> list[int]:
        """The places of the asked attributes among the FSN's groups."""
        return [self.fsn_attributes.index(name) for name in self.attributes]

    def images(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return augmented chips: rows (N,) -> (N, 3, S, S) float32 in [0, 1]."""
        chips = torch.from_numpy(self.chips.chips[rows.numpy()])
        images = augment(chips, self.size.side, generator) / 255
        return images.to(self.settings.device)

    def labels(self, rows: Tensor) -> Tensor:
        """Return the asked attributes' labels: rows (N,) -> (N, m) of 1, 0; -1: not labeled."""
        labels = labels_of(self.chips, self.attributes, rows.numpy())
        return torch.from_numpy(labels).to(self.settings.device)

    def fsn_targets(self, rows: Tensor) -> Tensor:
        """Return the FSN's targets: rows (N,) -> (N, groups) in [0, 1]; -1: not labeled.

        They are the labels, mixed with soft labels if there are any.
        """
        targets = torch.from_numpy(labels_of(self.chips, self.fsn_attributes, rows.numpy()))
        if self.soft_labels is not None:
            columns = [CELEBA_ATTRIBUTES.index(name) for name in self.fsn_attributes]
            soft = torch.from_numpy(self.soft_labels[rows.numpy()][:, columns])
            targets = mixed(targets, soft, self.settings.soft)
        return targets.to(self.settings.device)

    def held_out_batches(self) -> list[Tensor]:
        """Return all held-out chips as (N, 3, S, S) float32 in [0, 1]; none: no batches."""
        return [] if self.held_out is None else batches(self.held_out, self.settings.device)

    # --- Weight files

    def path(self, part: str) -> Path:
        """Return the path of a part's weight file."""
        letters = letters_of(self.attributes)
        named = {"internal": letters, "sprn": f"sprn-{letters}"}.get(part, part)
        return self.out / f"{card_name(self.settings.size, named)}.safetensors"

    def fixed_of(self, part: str) -> dict[str, Any]:
        """Return what bears on a part's weights: names of the data, settings."""
        found = self.fixed(self.settings.deciding(part))
        names = {name: Path(found[name]).name for name in FILES if name in found}
        return {"data": self.data, **found, **names}

    def checkpoint(self, part: str) -> Path:
        """Return the path of a part's checkpoint, which is there until its card is written."""
        return self.path(part).with_suffix(".pt")

    def is_made(self, part: str) -> bool:
        """Return whether a part was trained before with the same settings and has its card.

        Raises:
            DeidError: it was trained with other settings.
        """
        path, fixed = self.path(part), self.fixed_of(part)
        if not path.is_file():
            return False
        made = metadata(path)["settings"]
        if changed := [name for name in fixed if made.get(name) != fixed[name]]:
            raise DeidError(
                f"{path} was made with other settings: {', '.join(changed)}",
                "train with the same settings, or into another folder",
            )
        return not self.checkpoint(part).is_file()

    def trained(self, part: str, module: Module) -> Module:
        """Return `module` with the weights of a part that was trained before, ready to use.

        Raises:
            DeidError: the part was not trained.
        """
        path = self.path(part)
        if not path.is_file():
            raise DeidError(f"there is no {path}", f"train it first: --set part={part}")
        load_file_into(module, path)
        return ready(module, self.settings.device)

    def write(self, part: str, module: nn.Module, scores: dict[str, float]) -> Path:
        """Write a part's weights and its card into OUT, and return the path.

        The settings and scores stand in the file's metadata too. Counters of batch norm are left
        out, for nothing reads them.
        """
        path, recipe = self.path(part), self.settings
        tensors = {k: v for k, v in module.state_dict().items() if v.is_floating_point()}
        every = {each.name for each in fields(recipe)}
        leave_out = every - {"part", *recipe.deciding(part)}
        card = {
            "kind": "eae",
            "trained_on": ", ".join(self.data),
            "command": training_command("eae", recipe, leave_out, FILES),
            "license": "Apache-2.0",
            "scores": {"split": "validation", "values": scores},
            "input": {
                "side": self.size.side, "padding": PADDING, "range": "[0, 1]", "color": "RGB",
            },
        }  # fmt: skip
        texts = {"settings": json.dumps(self.fixed_of(part)), "scores": json.dumps(scores)}
        return write_own_weights(self.out, path.stem, tensors, card, metadata=texts)


def open_run(
    data: Sequence[Path],
    out: Path,
    recipe: Recipe,
    cache: Path,
    validation: Sequence[Path] = (),
    left: int | None = None,
) -> EaeRun:
    """Cut the chips of a training's data, or read them from the cache, and return the run.

    Args:
        data, validation: folders or parquet files with labels.
        left: see `TrainingRun`.

    Raises:
        DeidError: the data has no labels of an asked attribute, or the FSN does not learn it.
    """
    side = SIZES[recipe.size].side
    chips = load_all(data, side, PADDING, cache, extend=True)
    soft = None
    if recipe.targets:
        soft = np.load(recipe.targets)[chips.found].astype(np.float32)
    held_out = None
    if validation:
        held_out = load_all(validation, side, PADDING, cache, extend=True)
        held_out = held_out.keep(held_out.found)
    return EaeRun(
        recipe,
        out,
        left,
        data=[Path(path).name for path in data],
        chips=chips.keep(chips.found),
        soft_labels=soft,
        held_out=held_out,
    )


def mixed(labels: Tensor, soft: Tensor, share: float) -> Tensor:
    """Return labels mixed with soft labels; where there is no label, the soft one.

    Args:
        labels: (N, m) of 1 and 0; negative: not labeled. soft: (N, m) in [0, 1].
        share: of the soft label where both are there, in [0, 1].
    """
    return torch.where(labels < 0, soft, labels + share * (soft - labels))


def labels_of(
    chips: Chips, names: Sequence[str], rows: NDArray[np.int64] | slice = slice(None)
) -> NDArray[np.float32]:
    """Return (len(rows), len(names)) labels: 1 present, 0 absent, -1 not labeled."""
    columns = [CELEBA_ATTRIBUTES.index(name) for name in names]
    labels = chips.labels[rows][:, columns].astype(np.float32)
    return np.where(labels == 0, -1, (labels + 1) / 2).astype(np.float32)


def batches(chips: Chips, device: str, count: int = 64) -> list[Tensor]:
    """Return all chips in batches of `count`: (N, 3, S, S) float32 in [0, 1]."""
    parts = []
    for start in range(0, len(chips), count):
        some = torch.from_numpy(np.ascontiguousarray(chips.chips[start : start + count]))
        parts.append(some.to(device).permute(0, 3, 1, 2).float() / 255)
    return parts


def accuracy(held_out: Chips, names: Sequence[str], present: NDArray[np.bool_]) -> dict[str, float]:
    """Return by attribute the percentage of right answers among the labeled chips.

    Args:
        present: (N, len(names)) the answers.
    """
    labels = labels_of(held_out, names)
    out = {}
    for name, answers, label in zip(names, present.T, labels.T, strict=True):
        known = label >= 0
        if known.any():
            out[name] = round(100 * float((answers[known] == (label[known] == 1)).mean()), 2)
    return out


def load_file_into(module: nn.Module, path: Path) -> None:
    """Give a network the tensors of a weight file that a training wrote.

    A file of a PEN holds the persons' centers too, which are of no use to it.
    """
    tensors = load_file(path)
    load_part(module, "embedder" if "centers" in tensors else "", tensors)


def metadata(path: Path) -> dict[str, Any]:
    """Return the `settings` and `scores` that a weight file was written with."""
    with safe_open(path, "pt") as file:
        found = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
    settings = found.get("settings", {})
    return {
        "scores": found.get("scores", {}),
        "settings": {RENAMED.get(name, name): value for name, value in settings.items()},
    }
