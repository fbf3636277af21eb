"""Networks of recognizers that are not dlib's, read from the files that their packages ship.

An ONNX graph, a Keras model and an old torch pickle are read by their formats alone: no runtime of
theirs is needed and no code of the packages is run.
"""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from deidcli.errors import DeidError
from deidcli.faces.protobuf import read_fields

# --- Networks that are read as a graph from a file (ONNX, Keras)


@dataclass(frozen=True)
class Node:
    """One step of a graph: a module applied to earlier outputs."""

    module: nn.Module
    inputs: tuple[str, ...]
    output: str


class GraphNet(nn.Module):
    """A feed-forward graph; `nodes` in the order of computation, the last one is the result."""

    def __init__(self, nodes: Sequence[Node], source: str) -> None:
        super().__init__()
        self.modules_ = nn.ModuleList(node.module for node in nodes)
        self.wires = [(node.inputs, node.output) for node in nodes]
        self.source = source
        last_use = {name: i for i, node in enumerate(nodes) for name in node.inputs}
        self.spent = [[n for n in node.inputs if last_use[n] == i] for i, node in enumerate(nodes)]

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> what the graph gives."""
        values = {self.source: x}
        for module, (inputs, output), spent in zip(
            self.modules_, self.wires, self.spent, strict=True
        ):
            values[output] = module(*(values[name] for name in inputs))
            for name in spent:
                values.pop(name, None)
        return values[self.wires[-1][1]]


class _Add(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left + right * self.scale


class _Concatenate(nn.Module):
    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, 1)


def _filled(module: nn.Module, **arrays: NDArray[np.float32]) -> nn.Module:
    """A module with its parameters and buffers set; every one must be named and fit."""
    state = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        state["num_batches_tracked"] = torch.tensor(0)
    module.load_state_dict(state)
    return module


# --- w600k_mbf: an ONNX file


def _onnx_tensor(data: memoryview) -> tuple[str, NDArray[np.float32]]:
    """TensorProto: dims = 1, data_type = 2 (1 is float), name = 8, raw_data = 9."""
    fields = list(read_fields(data))
    dims = [value for number, value in fields if number == 1]
    one = dict(fields)
    assert one[2] == 1, "only float tensors"
    return str(bytes(one[8]), "utf8"), np.frombuffer(one[9], "<f4").reshape(dims)


def _onnx_attributes(attributes: Sequence[memoryview]) -> dict[str, list[int]]:
    """AttributeProto: name = 1, i = 3, ints = 8. Integers only, always as a list."""
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
        return _filled(conv, weight=arrays[0], bias=arrays[1])
    if op == "PRelu":
        return _filled(nn.PReLU(arrays[0].size), weight=arrays[0].ravel())
    if op == "Gemm":
        linear = nn.Linear(arrays[0].shape[1], arrays[0].shape[0])
        return _filled(linear, weight=arrays[0], bias=arrays[1])
    if op == "BatchNormalization":
        names = ("weight", "bias", "running_mean", "running_var")
        norm = nn.BatchNorm1d(arrays[0].size, eps=1e-5)
        return _filled(norm, **dict(zip(names, arrays, strict=True)))
    simple: dict[str, Callable[[], nn.Module]] = {"Add": _Add, "Flatten": nn.Flatten}
    return simple[op]()


def read_onnx(path: Path) -> GraphNet:
    """The network of an ONNX file with the few operators that w600k_mbf has.

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


# --- facenet: a Keras file


def _keras_module(layer: dict[str, Any], arrays: dict[str, NDArray[np.float32]]) -> nn.Module:
    kind, config = layer["class_name"], layer["config"]
    if kind == "Conv2D":
        kernel = arrays.pop("kernel").transpose(3, 2, 0, 1)  # Keras: height, width, in, out
        same = config["padding"] == "same"
        assert not same or config["strides"] == [1, 1], "Keras pads strided layers unevenly"
        pad = [side // 2 if same else 0 for side in kernel.shape[2:]]
        conv = nn.Conv2d(
            kernel.shape[1],
            kernel.shape[0],
            kernel.shape[2:],
            config["strides"],
            (pad[0], pad[1]),
            bias=config["use_bias"],
        )
        return _filled(conv, weight=kernel, **arrays)
    if kind == "BatchNormalization":
        mean, variance, beta = (arrays[k] for k in ("moving_mean", "moving_variance", "beta"))
        norm = nn.BatchNorm1d if layer["name"] == "Bottleneck_BatchNorm" else nn.BatchNorm2d
        return _filled(
            norm(mean.size, eps=config["epsilon"]),
            weight=np.ones_like(mean),
            bias=beta,
            running_mean=mean,
            running_var=variance,
        )
    if kind == "Dense":
        kernel = arrays["kernel"]
        return _filled(nn.Linear(kernel.shape[0], kernel.shape[1], bias=False), weight=kernel.T)
    if kind == "Lambda":  # the residual blocks' sum, the right-hand side scaled
        return _Add(config["arguments"]["scale"])
    simple: dict[str, Callable[[], nn.Module]] = {
        "Activation": nn.ReLU,
        "Concatenate": _Concatenate,
        "Dropout": nn.Identity,
        "MaxPooling2D": partial(nn.MaxPool2d, 3, 2),
        "GlobalAveragePooling2D": _Mean,
    }
    return simple[kind]()


def _append_folded(nodes: list[Node], node: Node) -> None:
    """Add a node; a batch norm goes into the convolution before it, which saves a third."""
    if isinstance(node.module, nn.BatchNorm2d):
        index = next(i for i, earlier in enumerate(nodes) if earlier.output == node.inputs[0])
        conv = nodes[index]
        assert isinstance(conv.module, nn.Conv2d)
        fused = fuse_conv_bn_eval(conv.module.eval(), node.module.eval())
        nodes[index] = Node(fused, conv.inputs, node.output)
    else:
        nodes.append(node)


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def read_keras(path: Path) -> GraphNet:
    """InceptionResnetV1 (Szegedy et al. 2016; 128 outputs) as the Keras file describes it."""
    try:
        import h5py
    except ImportError:
        raise DeidError("reading facenet's weights needs h5py", "pip install h5py") from None
    nodes: list[Node] = []
    with h5py.File(path) as file:
        first, *layers = json.loads(file.attrs["model_config"])["config"]["layers"]
        for layer in layers:
            group = file["model_weights"][layer["name"]].get(layer["name"], {})
            arrays = {key.split(":")[0]: np.asarray(value[()]) for key, value in group.items()}
            inputs = tuple(wire[0] for wire in layer["inbound_nodes"][0])
            node = Node(_keras_module(layer, arrays), inputs, layer["name"])
            _append_folded(nodes, node)
    return GraphNet(nodes, first["name"])


# --- mobilefacenet: a pickled torch module


class _Unit(nn.Sequential):
    """Convolution, batch norm and, unless it is the last of a block, PReLU."""

    conv: nn.Conv2d
    bn: nn.BatchNorm2d | nn.Identity

    def __init__(
        self, inputs: int, outputs: int, side: int, stride: int, groups: int, prelu: bool = True
    ) -> None:
        # Kernel 7 is the global depth-wise convolution on a 7x7 map: no padding.
        pad = 1 if side == 3 else 0
        conv = nn.Conv2d(inputs, outputs, side, stride, pad, groups=groups, bias=False)
        layers = OrderedDict[str, nn.Module](conv=conv, bn=nn.BatchNorm2d(outputs))
        if prelu:
            layers["prelu"] = nn.PReLU(outputs)
        super().__init__(layers)


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, inner: int, stride: int) -> None:
        super().__init__()
        self.conv = _Unit(inputs, inner, 1, 1, 1)
        self.conv_dw = _Unit(inner, inner, 3, stride, inner)
        self.project = _Unit(inner, outputs, 1, 1, 1, prelu=False)
        self.residual = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.conv_dw(self.conv(x)))
        return x + y if self.residual else y


class _Stage(nn.Module):
    def __init__(self, channels: int, blocks: int, inner: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            *(_Bottleneck(channels, channels, inner, 1) for _ in range(blocks))
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y


def mobilefacenet() -> nn.Sequential:
    """MobileFaceNet (Chen et al. 2018, table 1; FaceX-Zoo's widths and names): 112 px -> 512."""
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=_Unit(3, 64, 3, 2, 1),
            conv2_dw=_Unit(64, 64, 3, 1, 64),
            conv_23=_Bottleneck(64, 64, 128, 2),
            conv_3=_Stage(64, 4, 128),
            conv_34=_Bottleneck(64, 128, 256, 2),
            conv_4=_Stage(128, 6, 256),
            conv_45=_Bottleneck(128, 128, 512, 2),
            conv_5=_Stage(128, 2, 256),
            conv_6_sep=_Unit(128, 512, 1, 1, 1),
            conv_6_dw=_Unit(512, 512, 7, 1, 512, prelu=False),
            conv_6_flatten=nn.Flatten(),
            linear=nn.Linear(512, 512, bias=False),
            bn=nn.BatchNorm1d(512),
        )
    )


class _Inert:
    """Stands for any class that the pickle names: keeps its attributes, runs nothing."""

    def __init__(self, *_: object) -> None:
        pass


_STORAGE_TYPES = {"torch FloatStorage": "<f4", "torch LongStorage": "<i8"}


class _LegacyUnpickler(pickle.Unpickler):
    """Reads a pickled torch module without running any code that the file names.

    torch.load(weights_only=True) refuses this file, which pickles the module and not only its
    tensors in torch's format of before 1.6. So every class becomes an inert record, and the
    three functions below are ours: stricter than weights_only, which would call torch's.
    """

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "collections OrderedDict": OrderedDict,
            "torch._utils _rebuild_tensor_v2": lambda storage, offset, size, stride, *_: (
                storage,
                offset,
                size,
                stride,
            ),
            "torch._utils _rebuild_parameter": lambda tensor, *_: tensor,
            **_STORAGE_TYPES,
        }
        return known.get(f"{module} {name}", _Inert)

    def persistent_load(self, pid: Any) -> Any:
        # ("module", class, ...) or ("storage", type, key, device, number of values, view)
        return pid[1] if pid[0] == "module" else (pid[2], pid[1])


def _legacy_storages(file: BinaryIO, types: dict[str, str]) -> dict[str, NDArray[Any]]:
    out = {}
    for key in _LegacyUnpickler(file).load():
        count = int.from_bytes(file.read(8), "little")
        dtype = np.dtype(types[key])
        out[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    return out


def _legacy_tensors(record: _Inert, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The parameters and buffers of a pickled module, by their names in a state dict."""
    values = vars(record)
    for name, tensor in {**values["_parameters"], **values["_buffers"]}.items():
        if tensor is not None:
            yield prefix + name, tensor
    for name, child in values["_modules"].items():
        yield from _legacy_tensors(child, f"{prefix}{name}.")


def read_legacy_module(path: Path) -> dict[str, Tensor]:
    """The state dict of a module that torch before 1.6 pickled whole, inside a DataParallel.

    The file: a magic number, a version, the machine, the object, the storages' keys (a pickle
    each), then for each key the number of values (int64) and the values.
    """
    with path.open("rb") as file:
        for _ in range(3):
            _LegacyUnpickler(file).load()
        parallel = _LegacyUnpickler(file).load()
        tensors = dict(_legacy_tensors(vars(parallel)["_modules"]["module"]))
        types = {storage[0]: storage[1] for storage, *_ in tensors.values()}
        storages = _legacy_storages(file, types)
    out = {}
    for name, ((key, _), offset, size, _stride) in tensors.items():
        count = int(np.prod(size))
        out[name] = torch.from_numpy(storages[key][offset : offset + count].copy()).reshape(size)
    return out


def load_mobilefacenet(path: Path) -> nn.Module:
    """FaceX-Zoo's MobileFaceNet on the weights in `path`, batch norms folded into convolutions."""
    net = mobilefacenet()
    net.load_state_dict(read_legacy_module(path))
    net.eval()
    for unit in [module for module in net.modules() if isinstance(module, _Unit)]:
        assert isinstance(unit.bn, nn.BatchNorm2d)
        unit.conv = fuse_conv_bn_eval(unit.conv, unit.bn)
        unit.bn = nn.Identity()
    return net
