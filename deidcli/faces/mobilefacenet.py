"""FaceX-Zoo's MobileFaceNet, and a reader for the old torch file with its weights."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

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
    """Build MobileFaceNet, 112 px -> 512 (Chen et al. 2018, table 1; FaceX-Zoo's widths, names)."""
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
    """A stand-in for any class in the pickle: it keeps the attributes and runs no code."""

    def __init__(self, *_: object) -> None:
        pass


_STORAGE_TYPES = {"torch FloatStorage": "<f4", "torch LongStorage": "<i8"}


class _LegacyUnpickler(pickle.Unpickler):
    """Reads a pickled torch module without running any code from the file.

    torch.load(weights_only=True) refuses this file, which pickles the whole module, not only its
    tensors, in the format of torch before 1.6. Every class therefore becomes an inert record, and
    the three functions below are our own, which is stricter than weights_only, which calls torch's.
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
    """Yield the parameters and buffers of a pickled module, with their state-dict names."""
    values = vars(record)
    for name, tensor in {**values["_parameters"], **values["_buffers"]}.items():
        if tensor is not None:
            yield prefix + name, tensor
    for name, child in values["_modules"].items():
        yield from _legacy_tensors(child, f"{prefix}{name}.")


def read_legacy_module(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a whole module that torch before 1.6 pickled inside a DataParallel.

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
    """Load FaceX-Zoo's MobileFaceNet from `path`, with batch norms folded into convolutions."""
    net = mobilefacenet()
    net.load_state_dict(read_legacy_module(path))
    net.eval()
    for unit in [module for module in net.modules() if isinstance(module, _Unit)]:
        assert isinstance(unit.bn, nn.BatchNorm2d)
        unit.conv = fuse_conv_bn_eval(unit.conv, unit.bn)
        unit.bn = nn.Identity()
    return net
