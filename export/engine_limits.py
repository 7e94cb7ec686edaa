"""What keeps an engine from taking a graph as it is: fixed tables, so that one knows before the engine is installed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_QLINEAR = ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear")
_SEQUENCES = ("SequenceConstruct", "SequenceInsert", "SequenceAt", "SequenceLength", "SplitToSequence")

REFUSED: dict[str, dict[str, str]] = {
    "openvino": {
        **dict.fromkeys(("StringNormalizer", "TfIdfVectorizer", "RegexFullMatch"), "has no text"),
        **dict.fromkeys(("Optional", "OptionalGetElement", "OptionalHasElement"), "has no optional values"),
        "MaxUnpool": "has no such layer",
    },
    "tensorrt": {
        **dict.fromkeys(_QLINEAR, "takes quantised layers as QuantizeLinear and DequantizeLinear only"),
        **dict.fromkeys(_SEQUENCES, "has no sequences"),
        **dict.fromkeys(("BitShift", "Compress", "Det", "MaxUnpool", "Multinomial", "Unique"), "has no such layer"),
        "ConcatFromSequence": "has no sequences",
    },
    "ncnn": {
        "TopK": "has no top-k",
        "GatherElements": "has no gather of elements",
        "GatherND": "has no gather of elements",
        "Mod": "has no remainder",
        "Where": "has no selection by a mask",
        "NonMaxSuppression": "has no such layer",
        "ArgMax": "has no argmax over a map",
        "Loop": "has no loops",
        "If": "has no branches",
        **dict.fromkeys(_QLINEAR, "has a quantisation of its own"),
        **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), "has a quantisation of its own"),
    },
}
"""Engine → operator → why the engine does not take it. LiteRT and CoreML read no ONNX at all (see NO_ONNX).

Sources: onnx-tensorrt docs/operators.md, OpenVINO's list of supported operations, pnnx and ncnn's operator lists.
"""

DTYPES: dict[str, dict[str, str]] = {
    "tensorrt": {"uint16": "has no 16-bit unsigned numbers", "float64": "has no 64-bit floats"},
    "ncnn": {name: "takes float32 alone" for name in ("uint8", "uint16", "int8", "int32", "int64", "float64")},
}
"""Engine → type of an input → why the engine does not take it."""

NO_ONNX: dict[str, str] = {
    "litert": "is converted from the PyTorch model, and reads no ONNX file",
    "coreml": "is converted from the PyTorch model, and reads no ONNX file",
}

STATIC = ("ncnn",)
"""Engines that take fixed shapes alone, batch 1."""

OPSETS: dict[str, tuple[int, int]] = {"onnxruntime": (7, 25), "openvino": (7, 25), "tensorrt": (9, 25)}
"""Engine → lowest and highest opset: ONNX Runtime 1.24 and newer, OpenVINO 2026, TensorRT 11; older ones read less."""

INSTEAD: dict[str, str] = {
    "tensorrt": "rgbt export RUN --target tensorrt, on the device: thermal goes in as float32",
    "ncnn": "rgbt export RUN --target ncnn ships the dense form: float32 in, head maps out, decoded by Session",
    "litert": "rgbt export RUN --target litert ships the dense form: float32 in, head maps out, decoded by Session",
    "coreml": "rgbt export RUN --target coreml",
}
"""Engine that does not take the file → what to do."""

ENGINES = ("onnxruntime", "openvino", "tensorrt", "ncnn", "litert", "coreml")
MAX_TOPK = 3840
"""TensorRT's largest K."""


@dataclass(frozen=True)
class GraphFacts:
    """What of a graph decides who can take it."""

    operators: Mapping[str, int]
    """Operator → count; outside ONNX's own domain ``domain.Operator``."""
    dtypes: Mapping[str, str]
    """Input → its type."""
    dynamic: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Input → names of its dimensions that are not fixed."""
    opset: int = 18
    topk: int = 0
    """Largest K of a TopK."""
    asymmetric: bool = False
    """Whether a quantised tensor's zero point is not 0."""


def reasons(engine: str, facts: GraphFacts) -> list[str]:
    """Why ``engine`` does not take a graph as it is; empty where it does."""
    if engine in NO_ONNX:
        return [NO_ONNX[engine]]
    found = [
        f"{dtype} {name}: {DTYPES[engine][dtype]}"
        for name, dtype in facts.dtypes.items()
        if dtype in DTYPES.get(engine, {})
    ]
    refused = REFUSED.get(engine, {})
    found += [f"{count} × {op}: {refused[op]}" for op, count in facts.operators.items() if op in refused]
    found += [
        f"{count} × {op}: only ONNX Runtime has it"
        for op, count in facts.operators.items()
        if "." in op and engine != "onnxruntime"
    ]
    low, high = OPSETS.get(engine, (0, 99))
    if not low <= facts.opset <= high:
        found.append(f"opset {facts.opset}: reads {low} to {high}")
    if engine in STATIC:
        found += [f"{name}: dynamic {', '.join(names)}, takes fixed shapes" for name, names in facts.dynamic.items()]
    if engine == "tensorrt" and facts.topk > MAX_TOPK:
        found.append(f"TopK of {facts.topk}: at most {MAX_TOPK}")
    if engine == "tensorrt" and facts.asymmetric:
        found.append("a quantised tensor's zero point is not 0: takes symmetric int8 alone")
    return found
