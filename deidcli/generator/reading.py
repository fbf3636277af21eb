"""The generator's networks from the package's graph: which constant is which weight."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deidcli.generator.graph import Graph, Node
from deidcli.generator.networks import LAYERS, SLOPE, Convolution, Layer, Mapping, Style, Synthesis


def read_mapping(graph: Graph) -> Mapping:
    """The mapping network of the package's graph; constant gains go into the linear layers."""
    network = Mapping()
    for linear, product in zip(network.linears, graph.of_type("MatMul"), strict=True):
        assert isinstance(linear, nn.Linear)
        shift, activation, scaled = _after_linear(graph, product)
        # The leaky ReLU is homogeneous, so the gain after it can be one before it.
        gain = graph.parameter(scaled)
        _set(linear.weight, graph.parameter(product) * gain)
        _set(linear.bias, shift * gain.flatten())
        assert float(graph.parameter(activation)) == torch.tensor(SLOPE)
    return network.eval().requires_grad_(False)


def _after_linear(graph: Graph, product: Node) -> tuple[Tensor, Node, Node]:
    """The bias of a linear layer of the mapping network, its activation and its gain."""
    add, activation, scaled = graph.follow(product, ["Add", "PReLU", "Multiply"])
    reshape = next(
        graph.nodes[source] for source, _ in add.inputs if graph.nodes[source].type == "Reshape"
    )
    return graph.parameter(reshape), activation, scaled


def read_synthesis(graph: Graph) -> Synthesis:
    """The synthesis network of the package's graph; constant gains go into the styles."""
    widths = [graph.constant(graph.named("m.conv1.bias")).shape[1]]
    for number in range(LAYERS):
        bias = graph.constant(graph.named(f"m.layers.{number}.conv2.bias"))
        widths.append(bias.shape[1])
    network = Synthesis(widths)
    _set(network.start, graph.constant(graph.named("m.input.input")))
    _read_convolution(graph, "m.conv1", network.first)
    for number, layer in enumerate(network.layers):
        assert isinstance(layer, Layer)
        name = f"m.layers.{number}"
        _read_style(graph, f"{name}.up", layer.up)
        _read_convolution(graph, f"{name}.conv1", layer.conv1)
        _read_convolution(graph, f"{name}.conv2", layer.conv2)
    last = f"m.layers.{LAYERS - 1}.to_img"
    _read_style(graph, f"{last}.conv", network.last_style)
    _set(network.to_picture.weight, graph.constant(graph.named(f"{last}.conv.weight")))
    assert network.to_picture.bias is not None
    _set(network.to_picture.bias, graph.constant(graph.named(f"{last}.bias")).flatten())
    return network.eval().requires_grad_(False)


def _read_style(graph: Graph, name: str, style: Style) -> None:
    bias = graph.named(f"{name}.modulation.bias")
    chain = graph.follow(bias, ["Add", "Reshape", "Multiply"])
    factor = chain[-1]  # by a constant gain, or by the features
    kinds = {graph.nodes[source].type for source, _ in factor.inputs}
    gain = graph.parameter(factor) if "Const" in kinds else torch.ones(1)
    _set(style.weight, graph.constant(graph.named(f"{name}.modulation.weight")) * gain.flatten())
    _set(style.bias, graph.constant(bias).flatten() * gain.flatten())


def _read_convolution(graph: Graph, name: str, into: Convolution) -> None:
    _read_style(graph, f"{name}.conv", into.style)
    bias = graph.named(f"{name}.bias")
    (shifted,) = graph.follow(bias, ["Add"])
    noisy = next(graph.nodes[s] for s, _ in shifted.inputs if graph.nodes[s].type == "Add")
    convolution = next(
        graph.nodes[s] for s, _ in noisy.inputs if graph.nodes[s].type == "Convolution"
    )
    _set(into.bias, graph.constant(bias).flatten())
    _set(into.noise, graph.parameter(noisy))
    _set(into.weight, graph.parameter(convolution))
    if into.depthwise is not None:
        depthwise = graph.constant(graph.named(f"{name}.conv.weight_dw"))
        _set(into.depthwise, depthwise.flatten(1, 2))


def _set(parameter: Tensor, value: Tensor) -> None:
    """Copy a value into a parameter or buffer of the same shape."""
    if parameter.shape != value.shape:
        raise ValueError(f"{tuple(value.shape)} does not fit {tuple(parameter.shape)}")
    with torch.no_grad():
        parameter.copy_(value)
