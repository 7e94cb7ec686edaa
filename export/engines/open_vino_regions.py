"""Where preparation ends and decoding begins in a graph that OpenVINO has read; by topology alone."""

from collections import defaultdict
from typing import Any, Literal

Region = Literal["constant", "pre", "body", "post"]

LAYERS = frozenset(
    {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"}
)
"""Operators that a network is made of; the first and the last of them are where the body begins and ends."""


def regions(model: Any) -> dict[str, Region]:  # noqa: ANN401 - an openvino.Model; the type would import the library
    """Return the region of each operator, by its unique name.

    ``pre``: no layer is among its ancestors, as with the scaling of raw pixels. ``post``: no layer is among its
    descendants, as with decoding. ``body``: the layers, and what lies between them. ``constant``: depends on no
    input, as weights.
    """
    order = model.get_ordered_ops()
    fed: set[str] = set()
    after: set[str] = set()
    for node in order:
        sources = _sources(node)
        if node.get_type_name() == "Parameter" or not fed.isdisjoint(sources):
            fed.add(node.get_name())
        if not after.isdisjoint(sources) or _is_layer(node, fed):
            after.add(node.get_name())
    before: set[str] = set()
    for node in reversed(order):
        if node.get_name() in before or _is_layer(node, fed):
            before.add(node.get_name())
            before.update(_sources(node))
    return {node.get_name(): _region(node, fed, after, before) for node in order}


def head_maps(model: Any) -> list[Any]:  # noqa: ANN401 - untyped here, as above
    """Return the float tensors that the body hands to decoding, in the graph's order."""
    where = regions(model)
    found = {}
    for node in model.get_ordered_ops():
        for port in node.inputs():
            source = port.get_source_output()
            crosses = where[node.get_name()] == "post" and where[source.get_node().get_name()] == "body"
            if crosses and source.get_element_type().is_real():
                found[_key(source)] = source
    return list(found.values())


def split(model: Any) -> list[Any]:  # noqa: ANN401 - untyped here, as above
    """Cut a model into preparation, body and decoding, to be run one after another; the model is used up.

    A tensor that crosses has the same name where it leaves and where it enters. A graph without layers stays whole.
    """
    import openvino

    where = regions(model)
    if "body" not in where.values():
        return [model]
    inputs: defaultdict[Region, dict[str, Any]] = defaultdict(dict)
    outputs: defaultdict[Region, dict[str, Any]] = defaultdict(dict)
    for node in model.get_ordered_ops():
        region = where[node.get_name()]
        for port in node.inputs():
            source = port.get_source_output()
            home = where[source.get_node().get_name()]
            if home in (region, "constant"):
                continue
            name = f"crossing {_key(source)}"
            if name not in inputs[region]:
                inputs[region][name] = _parameter(source, name)
                outputs[home].setdefault(name, _result(source, name))
            port.replace_source_output(inputs[region][name].output(0))
    parts: list[Any] = []
    for region in ("pre", "body", "post"):
        own = [result for result in model.get_results() if where[result.get_name()] == region]
        parameters = list(inputs[region].values()) + (model.get_parameters() if region == "pre" else [])
        results = own + list(outputs[region].values())
        if results:
            parts.append(openvino.Model(results, parameters, region))
    return parts


def _is_layer(node: Any, fed: set[str]) -> bool:  # noqa: ANN401
    return node.get_type_name() in LAYERS and node.get_name() in fed


def _region(node: Any, fed: set[str], after: set[str], before: set[str]) -> Region:  # noqa: ANN401
    name = node.get_name()
    if name not in fed:
        return "constant"
    if name not in after:
        return "pre"
    return "body" if name in before else "post"


def _sources(node: Any) -> set[str]:  # noqa: ANN401
    return {port.get_source_output().get_node().get_name() for port in node.inputs()}


def _key(output: Any) -> str:  # noqa: ANN401
    return f"{output.get_node().get_name()}:{output.get_index()}"


def _parameter(source: Any, name: str) -> Any:  # noqa: ANN401
    from openvino import opset13

    parameter = opset13.parameter(source.get_partial_shape(), source.get_element_type(), name)
    parameter.output(0).set_names({name})
    return parameter


def _result(source: Any, name: str) -> Any:  # noqa: ANN401
    from openvino import opset13

    source.add_names({name})
    return opset13.result(source, name)
