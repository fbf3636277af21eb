"""A network as a list of nodes, the form of ONNX and Keras files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

# --- Networks that are read as a graph from a file (ONNX, Keras)


@dataclass(frozen=True)
class Node:
    """One step of a graph: a module applied to earlier outputs."""

    module: nn.Module
    inputs: tuple[str, ...]
    output: str


class GraphNet(nn.Module):
    """A feed-forward graph; `nodes` are in order of computation, the last one is the result."""

    def __init__(self, nodes: Sequence[Node], source: str) -> None:
        super().__init__()
        self.modules_ = nn.ModuleList(node.module for node in nodes)
        self.wires = [(node.inputs, node.output) for node in nodes]
        self.source = source
        last_use = {name: i for i, node in enumerate(nodes) for name in node.inputs}
        self.spent = [[n for n in node.inputs if last_use[n] == i] for i, node in enumerate(nodes)]

    def forward(self, x: Tensor) -> Tensor:
        """Run the graph on (N, 3, H, W) pictures."""
        values = {self.source: x}
        for module, (inputs, output), spent in zip(
            self.modules_, self.wires, self.spent, strict=True
        ):
            values[output] = module(*(values[name] for name in inputs))
            for name in spent:
                values.pop(name, None)
        return values[self.wires[-1][1]]


class Add(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left + right * self.scale


class Concatenate(nn.Module):
    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, 1)


def filled(module: nn.Module, **arrays: NDArray[np.float32]) -> nn.Module:
    """Set a module's parameters and buffers; all must be named and have the right shape."""
    state = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        state["num_batches_tracked"] = torch.tensor(0)
    module.load_state_dict(state)
    return module
