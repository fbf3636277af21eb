"""From a weight file to networks that are ready, and batches of a constant size for them.

Reader and segmenter, which several methods use, are in the file of `surrogate`, with which they are
trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from deidcli.faces.reader import Reader
from deidcli.faces.segmenter import Segmenter
from deidcli.weights.own import own_weights

SURROGATE = "surrogate"
"""The weight file of the method `surrogate`."""

Module = TypeVar("Module", bound=nn.Module)


def load_part(
    module: nn.Module, part: str, tensors: Mapping[str, Tensor], unused: Sequence[str] = ()
) -> None:
    """Give a network what a file holds under `part.`; fp16 becomes float32.

    Counters of batch norm are not kept in files, for nothing reads them.

    Args:
        part: prefix of the tensors' names; empty: all of them.
        unused: prefixes of tensors of the module that files do not hold and inference leaves out.

    Raises:
        RuntimeError: a tensor is missing, left over, or of another shape.
    """
    prefix = f"{part}." if part else ""
    found = {
        key.removeprefix(prefix): value.float()
        for key, value in tensors.items()
        if key.startswith(prefix)
    }
    spare = {
        key: value
        for key, value in module.state_dict().items()
        if "num_batches" in key or key.startswith(tuple(unused))
    }
    module.load_state_dict(spare | found)


def ready(module: Module, device: str | torch.device) -> Module:
    """A network for inference: frozen, in evaluation mode, channels last in memory."""
    module.eval().requires_grad_(False)
    return module.to(memory_format=torch.channels_last).to(device)


def load_reader(device: str | torch.device) -> Reader:
    """The reader of attributes and age.

    Raises:
        DeidError: its weights are missing or altered.
    """
    reader = Reader()
    load_part(reader, "reader", own_weights(SURROGATE)[0])
    return ready(reader, device)


def load_segmenter(device: str | torch.device) -> Segmenter:
    """The segmenter of heads.

    Raises:
        DeidError: its weights are missing or altered.
    """
    segmenter = Segmenter()
    load_part(segmenter, "segmenter", own_weights(SURROGATE)[0])
    return ready(segmenter, device)


def filled(rows: Tensor, count: int) -> Tensor:
    """(N, ...) -> (count, ...): the rows followed by zeros.

    Networks run on batches of a constant size: a convolution's sums round by it.
    """
    full = rows.new_zeros(count, *rows.shape[1:])
    full[: len(rows)] = rows
    return full
