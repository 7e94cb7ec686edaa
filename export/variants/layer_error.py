"""How much each layer says otherwise when it alone is quantised: which layers to leave in float first."""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.bundle_info import Array
from export.engines.onnx_runtime import OnnxRuntime

_QUIET_SHARE = 1e-3
"""Of the median channel's energy: below that, a channel's error no longer counts in full."""


def worst_first(
    model: onnx.ModelProto, quantised: bytes, layers: Sequence[str], calibration: Sequence[Mapping[str, Array]]
) -> list[str]:
    """Return the layers by falling error: noise over signal, in the mean over channels, on the pairs given.

    Each layer is asked by itself, on float features: input, weights and output go through int8 as they do in the
    quantised graph. Energies are taken for each channel: in a tensor where one channel is a thousand times as wide as
    the others, the others are lost, and the whole's noise over signal would not show it.

    Args:
        model: The float graph, prepared, in which the layers are named.
        quantised: The same with all layers quantised.
        layers: Names.
        calibration: Feeds of a few pairs.
    """
    engine = OnnxRuntime(_with_errors(model, onnx.load_from_string(quantised), layers))
    sums: dict[str, Array] = {}
    for feeds in calibration:
        for name, value in engine.run(feeds).items():
            sums[name] = sums.get(name, 0.0) + value.astype(np.float64).ravel()
    engine.close()

    def error(layer: str) -> float:
        noise, signal = sums[f"{layer}/noise"], sums[f"{layer}/signal"]
        return float((noise / np.maximum(signal + _QUIET_SHARE * np.median(signal), 1e-12)).mean())

    return sorted(layers, key=error, reverse=True)


class _Rounding:
    """What the quantised graph does to a tensor or to weights, as nodes and constants for another graph."""

    def __init__(self, quantised: onnx.ModelProto) -> None:
        self._all = {tensor.name: tensor for tensor in quantised.graph.initializer}
        self._params: dict[str, tuple[list[str], int]] = {}
        self.constants: dict[str, onnx.TensorProto] = {}
        """Those that the nodes made so far need."""
        self._weights: dict[str, onnx.NodeProto] = {}
        for node in quantised.graph.node:
            if node.op_type == "QuantizeLinear":
                self._params[node.input[0]] = (list(node.input[1:]), _axis(node))
            elif node.op_type == "DequantizeLinear" and node.input[0] in self._all:
                self._weights[node.input[0].removesuffix("_quantized")] = node

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._params

    def nodes(self, tensor: str, source: str, out: str) -> list[onnx.NodeProto]:
        """Make ``out`` of ``source``, as int8 leaves what the quantised graph calls ``tensor``."""
        if tensor in self._weights:
            node = self._weights[tensor]
            self.constants |= {name: self._all[name] for name in node.input}
            return [helper.make_node("DequantizeLinear", node.input, [out], axis=_axis(node))]
        if tensor not in self._params:
            return [helper.make_node("Identity", [source], [out])]
        names, axis = self._params[tensor]
        self.constants |= {name: self._all[name] for name in names}
        return [
            helper.make_node("QuantizeLinear", [source, *names], [f"{out}/q"], axis=axis),
            helper.make_node("DequantizeLinear", [f"{out}/q", *names], [out], axis=axis),
        ]


def _with_errors(model: onnx.ModelProto, quantised: onnx.ModelProto, layers: Sequence[str]) -> bytes:
    """The float graph, which answers for each layer the energy of its error and of what it should say, by channel."""
    model = copy.deepcopy(model)
    graph, rounding = model.graph, _Rounding(quantised)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for tensor in node.input:
            readers.setdefault(tensor, []).append(node)
    chosen = [node for node in graph.node if node.name in set(layers)]
    rank = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    del graph.output[:]
    for node in chosen:
        graph.node.extend(_beside(node, readers.get(node.output[0], []), rounding))
        for energy in ("noise", "signal"):
            axes = _axes(node.op_type, rank[node.input[1]])
            graph.initializer.append(numpy_helper.from_array(axes, f"{node.name}/{energy}/axes"))
            answer = helper.make_tensor_value_info(f"{node.name}/{energy}", onnx.TensorProto.FLOAT, None)
            graph.output.append(answer)
    known = {tensor.name for tensor in graph.initializer}
    graph.initializer.extend(tensor for name, tensor in rounding.constants.items() if name not in known)
    return bytes(model.SerializeToString())


def _beside(node: onnx.NodeProto, readers: Sequence[onnx.NodeProto], rounding: _Rounding) -> list[onnx.NodeProto]:
    """The layer once more, quantised, with the activation that is fused with it; then the energies."""
    name, says = node.name, node.output[0]
    made = [
        *rounding.nodes(node.input[0], node.input[0], f"{name}/x"),
        *rounding.nodes(node.input[1], node.input[1], f"{name}/w"),
    ]
    again = copy.deepcopy(node)
    again.name, again.input[0], again.input[1], again.output[0] = f"{name}/again", f"{name}/x", f"{name}/w", f"{name}/y"
    made.append(again)
    found = f"{name}/y"
    if says not in rounding and len(readers) == 1 and readers[0].op_type in ("Relu", "Clip"):
        fused = copy.deepcopy(readers[0])
        says = fused.output[0]
        fused.name, fused.input[0], fused.output[0] = f"{name}/fused", found, f"{name}/z"
        made.append(fused)
        found = f"{name}/z"
    made += [
        *rounding.nodes(says, found, f"{name}/found"),
        helper.make_node("Sub", [f"{name}/found", says], [f"{name}/error"]),
    ]
    for energy, tensor in (("noise", f"{name}/error"), ("signal", says)):
        made += [
            helper.make_node("Mul", [tensor, tensor], [f"{name}/{energy}/square"]),
            helper.make_node(
                "ReduceSum", [f"{name}/{energy}/square", f"{name}/{energy}/axes"], [f"{name}/{energy}"], keepdims=0
            ),
        ]
    return made


def _axes(kind: str, rank: int) -> Array:
    """All but the channels', as far as the operator says which those are; none means the sum over all."""
    axes = {"Conv": [0, *range(2, rank)], "ConvTranspose": [0, *range(2, rank)], "Gemm": [0]}.get(kind, [])
    return np.array(axes, np.int64)


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
