"""The one writer of weight files and their cards: safetensors beside a weights.toml."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w
from safetensors.torch import save_file
from torch import Tensor

from deidcli.weights.files import file_sha256

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]


NOT_IN_COMMAND = ("threads", "device", "checkpoint_steps")
"""Settings that decide nothing about the weights."""


def training_command(
    what: str, settings: Any, leave_out: Collection[str] = (), paths: Collection[str] = ()
) -> str:
    """Return the `deid train` command that rebuilds weights: every setting but the defaults.

    Args:
        settings: the recipe's frozen dataclass.
        leave_out: settings that decide nothing about the weights, beside NOT_IN_COMMAND.
        paths: settings that are paths; of these only the last part is told.
    """
    options = [
        shlex.join(["--set", f"{key}={Path(value).name if key in paths else value}"])
        for key, value in asdict(settings).items()
        if key not in (*NOT_IN_COMMAND, *leave_out) and value != getattr(type(settings), key)
    ]
    return " ".join([f"deid train {what} DATA", *options])


def write_own_weights(
    folder: Path,
    name: str,
    tensors: Mapping[str, Tensor],
    card: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write tensors (floats as fp16) to `folder`/NAME.safetensors, its card into weights.toml.

    The cards of other files in the folder stay. DEID_WEIGHTS=folder makes a run use them.

    Args:
        card: the fields of `weights.own.Card` beside name, folder, file and sha256.
        metadata: text that stands in the file itself.

    Returns:
        The path of the safetensors file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    partial = path.with_name(path.name + ".partial")
    small = {
        key: (value.detach().half() if value.is_floating_point() else value).cpu().contiguous()
        for key, value in tensors.items()
    }
    save_file(small, partial, dict(metadata) if metadata else None)
    partial.chmod(0o644)  # safetensors writes for the owner alone
    os.replace(partial, path)
    listed = folder / "weights.toml"
    tables = tomllib.loads(listed.read_text(encoding="utf8")) if listed.is_file() else {}
    tables[name] = {"file": path.name, "sha256": file_sha256(path), "scores": {}, **card}
    written = listed.with_name(listed.name + ".partial")
    written.write_text(tomli_w.dumps(tables), encoding="utf8")
    os.replace(written, listed)
    return path
