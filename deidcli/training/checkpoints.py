"""Checkpoints: whole after a kill at any moment, refused under other settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deidcli.errors import DeidError


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old one or the new one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load_checkpoint(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Load the checkpoint at `path`; None if there is none.

    Args:
        settings: must equal the checkpoint's own `settings`, because a run that changes its
            settings half way cannot be repeated.

    Raises:
        DeidError: it was made with other settings.
    """
    if not path.is_file():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    saved = state["settings"]
    names = sorted({*saved, *settings})
    changed = [name for name in names if saved.get(name) != settings.get(name)]
    if changed:
        raise DeidError(
            f"{path} was made with other settings: {', '.join(changed)}",
            "train with the same settings, or into another folder",
        )
    return state
