"""What an ONNX file is: inputs, outputs, operators, parameters, multiplications, and which engines can take it."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export.bundle import read_bundle
from export.bundle_info import INFO, MODEL
from export.engine_limits import ENGINES, INSTEAD, GraphFacts, reasons
from export.errors import ExportError

if TYPE_CHECKING:
    import onnx

COUNTED = "Conv, ConvTranspose, Gemm and MatMul, also quantised, from inferred shapes at batch 1; 1 MAC = 2 FLOPs"
"""What MACs are counted of."""

_CONVOLUTIONS = {"Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}
"""Operator → place of its weights among the inputs."""
_PRODUCTS = {"MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3)}
"""Operator → places of its factors."""
_QUANTISED = {"QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "QLinearConv": (1, 2, 4, 5, 6, 7)}
"""Operator → places of scales and zero points, which are no parameters."""
_WEIGHTS = ("float32", "float16", "bfloat16", "float64", "int8", "uint8", "int32")


def inspect(path: Path) -> dict[str, Any]:
    """Describe an ONNX file, or the graph of a bundle; plain JSON.

    Returns:
        ``file``, ``bytes``, ``sha256``, ``producer``, ``opset``, ``ir_version``, ``metadata`` (name → its JSON),
        ``inputs`` and ``outputs`` (lists of name, dtype, shape), ``operators`` (name → count, most frequent first),
        ``parameters``, ``macs`` and ``flops`` (at batch 1, of what ``counted`` says), ``uncounted`` (layers of unknown
        shape), ``engines`` (name → ``takes``, ``why`` not, what to do ``instead``); of a bundle also ``variants``.

    Raises:
        ExportError: no such file, or it is no ONNX graph; a bundle whose hashes do not hold.
    """
    file, variants = path, None
    if path.is_dir():
        bundle = read_bundle(path)
        file, variants = path / MODEL, sorted(bundle.info.variants)
    model = load_graph(file)
    content = file.read_bytes()
    inputs, outputs = _values(model.graph.input, model), _values(model.graph.output, model)
    operators = dict(Counter(_name(node) for node in _nodes(model.graph)).most_common())
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    macs, uncounted = _macs(model)
    facts = _facts(model, inputs, operators, opset)
    found = {
        "file": str(file),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "opset": opset,
        "ir_version": model.ir_version,
        "metadata": {entry.key: _parsed(entry.value) for entry in model.metadata_props},
        "inputs": inputs,
        "outputs": outputs,
        "operators": operators,
        "parameters": _parameters(model),
        "macs": macs,
        "flops": 2 * macs,
        "counted": COUNTED,
        "uncounted": uncounted,
        "engines": {engine: _verdict(engine, facts) for engine in ENGINES},
    }
    return found if variants is None else {**found, "variants": variants}


def load_graph(path: Path) -> "onnx.ModelProto":
    """Read an ONNX file with local functions inlined; weights that lie in other files are left there.

    Raises:
        ExportError: no such file, or it is no ONNX graph.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx import inliner

    if not path.is_file():
        raise ExportError(f"{path}: no such file; give an ONNX file, or a bundle (a folder with {INFO})")
    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ExportError(f"{path}: cannot be read as ONNX ({str(error).splitlines()[0]})") from None
    if not model.graph.node:
        raise ExportError(f"{path}: holds no graph; it is truncated, or no ONNX file")
    return inliner.inline_local_functions(model) if model.functions else model


def as_text(found: dict[str, Any]) -> str:
    """What ``inspect`` found, as a person reads it."""
    lines = [
        f"{found['file']}  {found['bytes'] / 1e6:.1f} MB  opset {found['opset']}  by {found['producer']}",
        *(f"in   {_line(value)}" for value in found["inputs"]),
        *(f"out  {_line(value)}" for value in found["outputs"]),
        f"parameters  {found['parameters'] / 1e6:.2f} M",
        f"MACs        {found['macs'] / 1e9:.2f} G  (FLOPs {found['flops'] / 1e9:.2f} G; {found['counted']})",
    ]
    if found["uncounted"]:
        lines.append(f"            at least: the shape of {len(found['uncounted'])} layers is not known")
    operators = ", ".join(f"{name} {count}" for name, count in found["operators"].items())
    lines.append(f"operators   {sum(found['operators'].values())}: {operators}")
    lines += [f"metadata    {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in found["metadata"].items()]
    if "variants" in found:
        lines.append(f"variants    {', '.join(found['variants'])}")
    for engine, verdict in found["engines"].items():
        lines.append(f"{engine:11} {'takes it' if verdict['takes'] else 'not as it is: ' + '; '.join(verdict['why'])}")
        if verdict["instead"]:
            lines.append(f"{'':11} → {verdict['instead']}")
    return "\n".join(lines)


def _line(value: dict[str, Any]) -> str:
    return f"{value['name']:14} {value['dtype']:8} [{', '.join(map(str, value['shape']))}]"


def _verdict(engine: str, facts: GraphFacts) -> dict[str, Any]:
    why = reasons(engine, facts)
    return {"takes": not why, "why": why, "instead": INSTEAD.get(engine) if why else None}


def _facts(model: "onnx.ModelProto", inputs: list[dict[str, Any]], operators: dict[str, int], opset: int) -> GraphFacts:
    constants = _constants(model)
    topk = [
        constants.get(node.input[1]) for node in _nodes(model.graph) if node.op_type == "TopK" and len(node.input) > 1
    ]
    zeros = [
        constants.get(node.input[2])
        for node in _nodes(model.graph)
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2
    ]
    return GraphFacts(
        operators=operators,
        dtypes={value["name"]: value["dtype"] for value in inputs},
        dynamic={
            value["name"]: names
            for value in inputs
            if (names := [str(side) for side in value["shape"] if not isinstance(side, int)])
        },
        opset=opset,
        topk=max((int(k.max()) for k in topk if k is not None), default=0),
        asymmetric=any(bool(np.any(zero)) for zero in zeros if zero is not None),
    )


def _values(values: Any, model: "onnx.ModelProto") -> list[dict[str, Any]]:  # noqa: ANN401 - untyped container
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        {
            "name": value.name,
            "dtype": _dtype(value.type.tensor_type.elem_type),
            "shape": [dim.dim_param or dim.dim_value or "?" for dim in value.type.tensor_type.shape.dim],
        }
        for value in values
        if value.name not in weights
    ]


def _dtype(code: int) -> str:
    import onnx

    name = str(onnx.TensorProto.DataType.Name(code)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _nodes(graph: "onnx.GraphProto") -> Iterator["onnx.NodeProto"]:
    """Every node, those of branches and loops included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _name(node: "onnx.NodeProto") -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _constants(model: "onnx.ModelProto") -> dict[str, np.ndarray[Any, Any]]:
    """Small tensors that lie in the file."""
    from onnx import TensorProto, numpy_helper

    tensors = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return {
        name: numpy_helper.to_array(tensor)
        for name, tensor in tensors.items()
        if np.prod(tensor.dims) <= 1 << 16 and tensor.data_location != TensorProto.EXTERNAL
    }


def _parameters(model: "onnx.ModelProto") -> int:
    """Numbers in the file's weights; integers of 64 bits are shapes, and scales and zero points are no weights."""
    scales = {
        node.input[place]
        for node in _nodes(model.graph)
        for place in _QUANTISED.get(node.op_type, ())
        if place < len(node.input)
    }
    return sum(
        int(np.prod(tensor.dims))
        for tensor in model.graph.initializer
        if tensor.name not in scales and _dtype(tensor.data_type) in _WEIGHTS
    )


def _macs(model: "onnx.ModelProto") -> tuple[int, list[str]]:
    """Multiplications at batch 1, and the layers whose shape is not known."""
    shapes = _shapes(model)
    macs, uncounted = 0, []
    for node in _nodes(model.graph):
        count = _macs_of(node, shapes)
        if count is None:
            uncounted.append(node.name or node.op_type)
        else:
            macs += count
    return macs, uncounted


def _macs_of(node: "onnx.NodeProto", shapes: dict[str, list[int]]) -> int | None:
    """Multiplications of one node; None where a shape that they depend on is not known."""
    op = node.op_type
    if op in _CONVOLUTIONS:
        out, weight = shapes.get(node.output[0]), shapes.get(node.input[_CONVOLUTIONS[op]])
        return None if not out or not weight else int(np.prod(out) * np.prod(weight[1:]))
    if op == "ConvTranspose":
        entering, weight = shapes.get(node.input[0]), shapes.get(node.input[1])
        return None if not entering or not weight else int(np.prod(entering) * np.prod(weight[1:]))
    if op in _PRODUCTS:
        first, _ = _PRODUCTS[op]
        left, out = shapes.get(node.input[first]), shapes.get(node.output[0])
        return None if not left or out is None else int(np.prod(out) * left[-1])
    if op == "Gemm":
        left, out = shapes.get(node.input[0]), shapes.get(node.output[0])
        turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return None if not left or not out else int(np.prod(out) * left[0 if turned else 1])
    return 0


def _shapes(model: "onnx.ModelProto") -> dict[str, list[int]]:
    """Name → shape at batch 1, of what has no dimension left unknown."""
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    firsts = [value.type.tensor_type.shape.dim[:1] for value in fixed.graph.input]  # a scalar has none
    batches = {dim.dim_param for first in firsts for dim in first} - {""}
    for value in (*fixed.graph.input, *fixed.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in batches:
                dim.dim_value = 1
    del fixed.graph.value_info[:]  # they speak of a batch that is not known
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    }
    return shapes | {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}


def _parsed(text: str) -> Any:  # noqa: ANN401 - what JSON holds
    try:
        return json.loads(text)
    except ValueError:
        return text
