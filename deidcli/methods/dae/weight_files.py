"""The two weight files of a training of `dae`, and their cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from deidcli.methods.blend import PADDING, SIDE
from deidcli.methods.dae.networks import Autoencoder, Deblurrer, Smoother
from deidcli.methods.dae.recipe import POOL_WARNING, TRAINING_POOL, DaeRun
from deidcli.training.weight_files import training_command, write_own_weights


@dataclass
class Filters:
    """The two networks after the decoder."""

    deblurrer: Deblurrer
    smoother: Smoother


def write_weights(
    autoencoder: Autoencoder,
    encoder: Autoencoder,
    filters: Filters,
    own: Mapping[str, Tensor],
    run: DaeRun,
    data: Sequence[Path],
) -> list[Path]:
    """Write `dae-NETWORK` (decoder, deblurrer, smoother) and `dae-TARGET` (encoder and the
    target's own tensors), with cards."""
    settings = run.settings
    shape = settings.widths if settings.network == "fc" else settings.channels
    network = {"network": settings.network, "shape": shape, "color": settings.color}
    card = {
        "kind": "dae",
        "trained_on": ", ".join(path.name for path in data),
        "command": training_command("dae", settings, leave_out=("part",), paths=("pool",)),
        "license": "Apache-2.0",
        "notes": "",
        "input": {"side": SIDE, "padding": PADDING, "range": "[0, 1]", **network},
    }
    parts = {
        "decoder": autoencoder.decoder,
        "deblurrer": filters.deblurrer,
        "smoother": filters.smoother,
    }
    shared = _prefixed(parts) | {"mean": autoencoder.mean}
    mine = _prefixed({"encoder": encoder.encoder}) | dict(own)
    published = settings.uses_pool() and settings.pool == TRAINING_POOL
    notes = f"WARNING: {POOL_WARNING}." if published else ""
    return [
        write_own_weights(run.out, f"dae-{settings.network}", shared, card),
        write_own_weights(run.out, f"dae-{settings.target}", mine, {**card, "notes": notes}),
    ]


def _prefixed(parts: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the tensors of several networks, each under its name."""
    return {
        f"{part}.{key}": value
        for part, module in parts.items()
        for key, value in module.state_dict().items()
    }
