"""Read FaceNet's Keras file into torch modules."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from deidcli.errors import DeidError
from deidcli.faces.graph import Add, Concatenate, GraphNet, Node, filled

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
        return filled(conv, weight=kernel, **arrays)
    if kind == "BatchNormalization":
        mean, variance, beta = (arrays[k] for k in ("moving_mean", "moving_variance", "beta"))
        norm = nn.BatchNorm1d if layer["name"] == "Bottleneck_BatchNorm" else nn.BatchNorm2d
        return filled(
            norm(mean.size, eps=config["epsilon"]),
            weight=np.ones_like(mean),
            bias=beta,
            running_mean=mean,
            running_var=variance,
        )
    if kind == "Dense":
        kernel = arrays["kernel"]
        return filled(nn.Linear(kernel.shape[0], kernel.shape[1], bias=False), weight=kernel.T)
    if kind == "Lambda":  # the residual blocks' sum, with the right-hand side scaled
        return Add(config["arguments"]["scale"])
    simple: dict[str, Callable[[], nn.Module]] = {
        "Activation": nn.ReLU,
        "Concatenate": Concatenate,
        "Dropout": nn.Identity,
        "MaxPooling2D": partial(nn.MaxPool2d, 3, 2),
        "GlobalAveragePooling2D": _Mean,
    }
    return simple[kind]()


def _append_folded(nodes: list[Node], node: Node) -> None:
    """Add a node; a batch norm is folded into the convolution before it, which saves a third."""
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
    """Read InceptionResnetV1 (Szegedy et al. 2016; 128 outputs) from its Keras file."""
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
