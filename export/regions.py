"""Which nodes of a graph are preparation, which are the network, and which decode its answer; by topology alone."""

from collections.abc import Iterable
from typing import Literal

import onnx

Region = Literal["pre", "body", "post"]

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that a network is made of; the first and the last of them are where the body begins and ends."""


def regions(model: onnx.ModelProto) -> dict[str, Region]:
    """Return for each node, by name, the region it lies in.

    ``pre``: no layer is among its ancestors, as with the scaling of raw pixels. ``post``: no layer is among its
    descendants, as with decoding. ``body``: the layers, and what lies between them. Names must be there and be
    unique (``name_nodes`` sees to that).
    """
    nodes = list(model.graph.node)
    assert len({node.name for node in nodes} - {""}) == len(nodes), "nodes without a name of their own"
    after, before = _behind(nodes), _behind(reversed(nodes), upwards=True)
    found: dict[str, Region] = {}
    for node in nodes:
        if node.op_type in LAYERS or (node.name in after and node.name in before):
            found[node.name] = "body"
        else:
            found[node.name] = "post" if node.name in after else "pre"
    return found


def name_nodes(model: onnx.ModelProto) -> None:
    """Give each node that has no name, or another's, one of its own: its first output's."""
    seen: set[str] = set()
    for node in model.graph.node:
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{node.output[0]}"
        seen.add(node.name)


def tail_layers(model: onnx.ModelProto) -> list[str]:
    """Return the layers after which only decoding comes: those that say logits, distances, scores."""
    where = regions(model)
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for tensor in node.input:
            readers.setdefault(tensor, []).append(node.name)
    return [
        node.name
        for node in model.graph.node
        if node.op_type in LAYERS
        and all(where[reader] == "post" for tensor in node.output for reader in readers.get(tensor, ()))
    ]


def _behind(nodes: Iterable[onnx.NodeProto], upwards: bool = False) -> set[str]:
    """Names of the nodes that some layer leads to; ``upwards``: of those that lead to one. Nodes come in that order."""
    marked: set[str] = set()
    behind: set[str] = set()
    for node in nodes:
        sources, targets = (node.output, node.input) if upwards else (node.input, node.output)
        if not marked.isdisjoint(sources):
            behind.add(node.name)
        if node.name in behind or node.op_type in LAYERS:
            marked.update(tensor for tensor in targets if tensor)
    return behind
