"""OpenVINO's operations in torch, one by one, as the specification of each says.

Slow and plain: what `deidcli.generator.networks` is held against.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from deidcli.generator.graph import Graph, Node


def evaluate(graph: Graph, value: Tensor, instead: dict[str, Tensor] | None = None) -> Tensor:
    """The network's output for one input.

    Args:
        value: of the graph's one parameter.
        instead: what some nodes take in place of the parameter, by their weight's name.
    """
    values: dict[tuple[str, int], Any] = {}
    for node in graph.nodes.values():
        given = [values[source] for source in node.inputs]
        if node.type == "Result":
            return given[0]
        if node.type == "Parameter":
            out: Any = value
        else:
            if node.type == "MatMul" and instead is not None:
                given[0] = instead[graph.nodes[node.inputs[1][0]].name]
            out = OPERATIONS[node.type](graph, node, *given)
        for port, part in enumerate(out if isinstance(out, list) else [out]):
            values[node.id, port] = part
    raise AssertionError("the graph has no result")


def _numbers(node: Node, name: str) -> list[int]:
    return [int(value) for value in node.attributes[name].split(",")]


def _reshape(graph: Graph, node: Node, x: Tensor, shape: Tensor) -> Tensor:
    # special_zero: 0 copies the side of the input
    sides = [x.shape[i] if side == 0 else int(side) for i, side in enumerate(shape.tolist())]
    return x.reshape(sides)


def _convolution(graph: Graph, node: Node, x: Tensor, weight: Tensor) -> Tensor:
    assert node.attributes["pads_begin"] == node.attributes["pads_end"]
    strides, padding = _numbers(node, "strides"), _numbers(node, "pads_begin")
    return functional.conv2d(x, weight, stride=strides, padding=padding)


def _group_convolution(graph: Graph, node: Node, x: Tensor, weight: Tensor) -> Tensor:
    groups = weight.shape[0]  # (groups, out, in, y, x)
    strides, padding = _numbers(node, "strides"), _numbers(node, "pads_begin")
    return functional.conv2d(
        x, weight.flatten(0, 1), stride=strides, padding=padding, groups=groups
    )


def _transposed(graph: Graph, node: Node, x: Tensor, weight: Tensor) -> Tensor:
    groups = weight.shape[0]  # (groups, in, out, y, x)
    strides, padding = _numbers(node, "strides"), _numbers(node, "pads_begin")
    return functional.conv_transpose2d(
        x, weight.flatten(0, 1), stride=strides, padding=padding, groups=groups
    )


def _split(graph: Graph, node: Node, x: Tensor, axis: Tensor, lengths: Tensor) -> list[Tensor]:
    known = sum(length for length in lengths.tolist() if length >= 0)
    rest = x.shape[int(axis)] - known
    sizes = [length if length >= 0 else rest for length in lengths.tolist()]
    return list(x.split(sizes, int(axis)))


def _broadcast(graph: Graph, node: Node, x: Tensor, shape: Tensor, *axes: Tensor) -> Tensor:
    sides = shape.tolist()
    if node.attributes["mode"] == "bidirectional":
        sides = list(torch.broadcast_shapes(x.shape, sides))
    return x.expand(sides)


def _matmul(graph: Graph, node: Node, a: Tensor, b: Tensor) -> Tensor:
    assert node.attributes["transpose_a"] == "false"
    return a @ (b.T if node.attributes["transpose_b"] == "true" else b)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "Const": lambda graph, node: graph.constant(node),
    "Add": lambda graph, node, a, b: a + b,
    "Multiply": lambda graph, node, a, b: a * b,
    "Power": lambda graph, node, a, b: a**b,
    "ReduceMean": lambda graph, node, a, axes: a.mean(axes.tolist(), keepdim=True),
    "MatMul": _matmul,
    "PReLU": lambda graph, node, a, slope: torch.where(a < 0, a * slope, a),
    "ShapeOf": lambda graph, node, a: torch.tensor(a.shape),
    "Gather": lambda graph, node, a, index, axis: a.select(int(axis), int(index)),
    "Unsqueeze": lambda graph, node, a, axes: a.unsqueeze(int(axes)),
    "Squeeze": lambda graph, node, a, axes: a.squeeze(int(axes)),
    "Concat": lambda graph, node, *parts: torch.cat(parts, int(node.attributes["axis"])),
    "Reshape": _reshape,
    "Convolution": _convolution,
    "GroupConvolution": _group_convolution,
    "GroupConvolutionBackpropData": _transposed,
    "VariadicSplit": _split,
    "Broadcast": _broadcast,
    "Tile": lambda graph, node, a, repeats: a.repeat(repeats.tolist()),
}
