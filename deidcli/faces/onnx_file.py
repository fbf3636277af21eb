"""Read a recognizer's ONNX file into torch modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from deidcli.faces.graph import Add, GraphNet, Node, filled
from deidcli.faces.protobuf import read_fields

# --- w600k_mbf: an ONNX file


def _onnx_tensor(data: memoryview) -> tuple[str, NDArray[np.float32]]:
    """Parse TensorProto: dims = 1, data_type = 2 (1 is float), name = 8, raw_data = 9."""
    fields = list(read_fields(data))
    dims = [value for number, value in fields if number == 1]
    one = dict(fields)
    assert one[2] == 1, "only float tensors"
    return str(bytes(one[8]), "utf8"), np.frombuffer(one[9], "<f4").reshape(dims)


def _onnx_attributes(attributes: Sequence[memoryview]) -> dict[str, list[int]]:
    """Parse AttributeProto: name = 1, i = 3, ints = 8. Integers only, always as a list."""
    out = {}
    for data in attributes:
        fields = list(read_fields(data))
        out[str(bytes(dict(fields)[1]), "utf8")] = [v for n, v in fields if n in (3, 8)]
    return out


def _onnx_module(
    op: str, arrays: Sequence[NDArray[np.float32]], options: dict[str, list[int]]
) -> nn.Module:
    if op == "Conv":
        outputs, inputs = arrays[0].shape[:2]
        groups, side = options["group"][0], options["kernel_shape"][0]
        stride, pad = options["strides"][0], options["pads"][0]
        conv = nn.Conv2d(inputs * groups, outputs, side, stride, pad, groups=groups)
        return filled(conv, weight=arrays[0], bias=arrays[1])
    if op == "PRelu":
        return filled(nn.PReLU(arrays[0].size), weight=arrays[0].ravel())
    if op == "Gemm":
        linear = nn.Linear(arrays[0].shape[1], arrays[0].shape[0])
        return filled(linear, weight=arrays[0], bias=arrays[1])
    if op == "BatchNormalization":
        names = ("weight", "bias", "running_mean", "running_var")
        norm = nn.BatchNorm1d(arrays[0].size, eps=1e-5)
        return filled(norm, **dict(zip(names, arrays, strict=True)))
    simple: dict[str, Callable[[], nn.Module]] = {"Add": Add, "Flatten": nn.Flatten}
    return simple[op]()


def read_onnx(path: Path) -> GraphNet:
    """Read the network of an ONNX file; supports only the operators of w600k_mbf.

    ModelProto: graph = 7. GraphProto: node = 1, initializer = 5. NodeProto: input = 1,
    output = 2, op_type = 4, attribute = 5. Source: onnx/onnx.proto.
    """
    graph = list(read_fields(dict(read_fields(memoryview(path.read_bytes())))[7]))
    arrays = dict(_onnx_tensor(value) for number, value in graph if number == 5)
    nodes = []
    for fields in (list(read_fields(value)) for number, value in graph if number == 1):
        inputs, (output,), (op,) = (
            [str(bytes(v), "utf8") for n, v in fields if n == number] for number in (1, 2, 4)
        )
        options = _onnx_attributes([v for n, v in fields if n == 5])
        module = _onnx_module(op, [arrays[name] for name in inputs if name in arrays], options)
        nodes.append(Node(module, tuple(n for n in inputs if n not in arrays), output))
    return GraphNet(nodes, nodes[0].inputs[0])
