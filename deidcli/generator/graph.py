"""OpenVINO's network files: an XML graph whose constants lie in a .bin file beside it.

Source: OpenVINO documentation, "Intermediate Representation Syntax" (opset 1 to 7). A `layer` is a
node with an id, a type and attributes; an `edge` leads from a node's output to another's input; a
`Const` names the type, shape, offset and size of its values in the .bin file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from deidcli.errors import DeidError

TYPES: dict[str, type[np.generic]] = {"f32": np.float32, "i64": np.int64, "i32": np.int32}
"""Element types of constants that the files use."""


@dataclass(frozen=True)
class Node:
    """One operation."""

    id: str
    type: str
    """OpenVINO's name of the operation: Convolution, Add, Const, ..."""
    name: str
    attributes: dict[str, str]
    inputs: tuple[tuple[str, int], ...]
    """(id of a node, number of its output) of each input, in order."""


class Graph:
    """The nodes of a network file, in the file's order, which is one of computation."""

    def __init__(self, xml: Path, data: Path) -> None:
        """Read both files.

        Raises:
            DeidError: they are not a network of OpenVINO.
        """
        try:
            root = ElementTree.parse(xml).getroot()
            self.nodes = _nodes(root)
        except (ElementTree.ParseError, KeyError, TypeError, ValueError) as error:
            raise DeidError(f"{xml} is no network of OpenVINO: {error}", "reinstall it") from None
        self._data = data.read_bytes()
        self._consumers: dict[str, list[Node]] = {}
        for node in self.nodes.values():
            for source, _ in node.inputs:
                self._consumers.setdefault(source, []).append(node)

    def of_type(self, type: str) -> list[Node]:
        """All nodes of one type, in the order of computation."""
        return [node for node in self.nodes.values() if node.type == type]

    def constant(self, node: Node) -> Tensor:
        """The values of a `Const` node, as a tensor of the node's shape and type."""
        given = node.attributes
        shape = [int(side) for side in given["shape"].split(",") if side.strip()]
        kind = np.dtype(TYPES[given["element_type"]])
        count = int(given["size"]) // kind.itemsize
        values = np.frombuffer(self._data, kind, count, int(given["offset"]))
        return torch.from_numpy(values.copy()).reshape(shape)

    def named(self, name: str) -> Node:
        """The node of this name.

        Raises:
            DeidError: there is none.
        """
        for node in self.nodes.values():
            if node.name == name:
                return node
        raise DeidError(f"the network has no {name}", "reinstall the package that brings it")

    def parameter(self, node: Node) -> Tensor:
        """The constant among the inputs of an operation: its weight."""
        for source, _ in node.inputs:
            if self.nodes[source].type == "Const":
                return self.constant(self.nodes[source])
        raise DeidError(f"{node.name} has no weight", "reinstall the package that brings it")

    def follow(self, node: Node, types: Sequence[str]) -> list[Node]:
        """The chain of operations that a node's output passes through.

        Args:
            types: the type of each; where several operations take the output, the first of that
                type is followed.

        Returns:
            The nodes, as many as types.
        """
        chain = []
        for type in types:
            found = [next_ for next_ in self._consumers.get(node.id, []) if next_.type == type]
            if not found:
                raise DeidError(
                    f"no {type} follows {node.name}", "reinstall the package that brings it"
                )
            node = found[0]
            chain.append(node)
        return chain


def _nodes(root: Any) -> dict[str, Node]:
    """The nodes by id, from the XML's root."""
    sources: dict[str, list[tuple[int, str, int]]] = {}
    for edge in root.find("edges"):
        given = edge.attrib
        entry = (int(given["to-port"]), given["from-layer"], int(given["from-port"]))
        sources.setdefault(given["to-layer"], []).append(entry)
    nodes: dict[str, Node] = {}
    for layer in root.find("layers"):
        attributes = layer.find("data")
        nodes[layer.attrib["id"]] = Node(
            layer.attrib["id"],
            layer.attrib["type"],
            layer.attrib["name"],
            {} if attributes is None else dict(attributes.attrib),
            tuple(
                (source, port) for _, source, port in sorted(sources.get(layer.attrib["id"], []))
            ),
        )
    # A node's output ports are numbered after its input ports: from 0, they are outputs' numbers.
    for id, node in nodes.items():
        inputs = tuple((source, port - len(nodes[source].inputs)) for source, port in node.inputs)
        nodes[id] = Node(node.id, node.type, node.name, node.attributes, inputs)
    return nodes
