"""Ways to switch a network of the generator off: the identity, or noise of the same spread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from deidcli.methods.a3gan import networks as nets
from deidcli.methods.a3gan.networks import Generator

Change = Callable[[Any, Any], Any]
"""(inputs, output) of a module -> another output."""


def noise_like(values: Tensor) -> Tensor:
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(3))
    return noise * values.std() + values.mean()


def both(change: Callable[[Tensor], Tensor]) -> Change:
    return lambda inputs, output: tuple(change(value) for value in output)


OUTPUTS: dict[str, tuple[str, Change]] = {
    "encoder": ("encoder", lambda inputs, output: noise_like(output)),
    "scu-gates": ("units", lambda inputs, output: inputs[0]),
    "scu": ("units", lambda inputs, output: noise_like(output)),
    "ainet": ("ainet", both(noise_like)),
    "decoder": ("decoder", lambda inputs, output: noise_like(output)),
    "last-layer": ("last", lambda inputs, output: torch.zeros_like(output)),
}
"""Name -> the generator's part, and what its output (of each layer, in a list) becomes."""
INPUTS: dict[str, Callable[[Any], Any]] = {
    "ainet-mask": lambda inputs: (inputs[0], 1 - inputs[1]),
    "ainet-latent": lambda inputs: (noise_like(inputs[0]), inputs[1]),
}
"""Name -> what AINet's inputs become."""
SWITCHES = (*OUTPUTS, *INPUTS, "adain")


@contextmanager
def switched_off(generator: Generator, name: str) -> Iterator[None]:
    """While it lasts, one of SWITCHES is off."""
    handles = []
    adain = nets.adain
    if name == "adain":
        nets.adain = lambda feature, scale, bias: feature
    elif name in INPUTS:
        handles.append(
            generator.ainet.register_forward_pre_hook(lambda _, inputs: INPUTS[name](inputs))
        )
    else:
        part, change = OUTPUTS[name]
        found = getattr(generator, part)
        for module in found if isinstance(found, nn.ModuleList) else [found]:
            handles.append(
                module.register_forward_hook(lambda _, inputs, output: change(inputs, output))
            )
    try:
        yield
    finally:
        nets.adain = adain
        for handle in handles:
            handle.remove()
