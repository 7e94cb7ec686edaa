"""int8 by static quantisation: the layers of the body, weights for each channel, ranges measured on real pairs.

Preparation and decoding are left as they are, and so are the layers that say logits and distances: peaks picked on
quantised logits make plateaus, and those layers are a hundredth of the work. Each engine has the scheme it is fast
with: ONNX Runtime ``u8s8``, TensorRT ``s8s8``.
"""

import contextlib
import copy
import io
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quant_pre_process
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from export.accuracy_control import Controlled, control
from export.bundle_info import Array, Variant
from export.engines.onnx_runtime import OnnxRuntime
from export.errors import ExportError
from export.regions import LAYERS, name_nodes, regions, tail_layers
from export.variants.layer_error import worst_first
from export.variants.source import LEAST_PAIRS, Source

MODEL = "model.int8.onnx"

_ERROR_PAIRS = 4

SchemeName = Literal["u8s8", "s8s8"]


@dataclass(frozen=True)
class Scheme:
    """How an engine wants its integers."""

    activations: Any
    """QuantType."""
    kinds: frozenset[str]
    """Operators to quantise, besides what ONNX Runtime fuses by itself."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of ONNX Runtime's quantiser."""


SCHEMES: dict[SchemeName, Scheme] = {
    # Adds, selections and resizes as well are no faster (mobilenetv4 pair 1.58 × fp32 without, 1.61 × with; ResNet-18
    # pair 3.00 × and 3.07 ×; 2026-11-21, AVX512-VNNI) and would lose accuracy: ONNX Runtime fuses most of them anyway.
    "u8s8": Scheme(QuantType.QUInt8, LAYERS | {"Relu", "Clip", "MaxPool"}, {"MatMulConstBOnly": True}),
    # TensorRT wants zero-points of 0, no integer biases, and no pair between a layer and what it fuses with it.
    "s8s8": Scheme(
        QuantType.QInt8,
        LAYERS,
        {
            "ActivationSymmetric": True,
            "AddQDQPairToWeight": True,
            "DedicatedQDQPair": True,
            "MatMulConstBOnly": True,
            "OpTypesToExcludeOutputQuantization": sorted(LAYERS),
            "QuantizeBias": False,
        },
    ),
}
"""Scheme → what it means."""


class Quantiser:
    """A float graph and the ranges of its tensors, from which graphs with any layers left in float are made.

    Args:
        graph: The fp32 graph, raw pixels in.
        calibration: Feeds of real pairs, over day and night; read one at a time.
        scheme: One of SCHEMES.
        progress: Says one line.

    Raises:
        ExportError: too few pairs, or a graph without layers.
    """

    def __init__(
        self,
        graph: bytes,
        calibration: Sequence[Mapping[str, Array]],
        scheme: SchemeName = "u8s8",
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        if len(calibration) < LEAST_PAIRS:
            raise ExportError(
                f"int8 needs at least {LEAST_PAIRS} pairs to calibrate on, found {len(calibration)}; name a split or a "
                "card with more, over day and night"
            )
        self.scheme = SCHEMES[scheme]
        self._original = onnx.load_from_string(graph)
        self.model = _prepared(graph)
        """The float graph after constant folding, whose layers are named by ``layers``."""
        where, tails = regions(self.model), set(tail_layers(self.model))
        body = [node for node in self.model.graph.node if where[node.name] == "body" and node.name not in tails]
        self._nodes = [node for node in body if node.op_type in self.scheme.kinds]
        self.layers = [node.name for node in self._nodes if node.op_type in LAYERS and _has_weights(self.model, node)]
        """Names of the layers that are quantised, from the input to the output."""
        if not self.layers:
            raise ExportError("int8: the graph has no layer to quantise between preparation and the head's last layers")
        progress(f"int8 {scheme}: measuring the ranges of {len(self.layers)} layers on {len(calibration)} pairs")
        self._ranges = _measure(self.model, calibration, {node.op_type for node in self._nodes})

    def graph(self, float_layers: Collection[str] = ()) -> bytes:
        """Return the quantised ONNX file; ``float_layers`` stay as they are."""
        chosen = [node for node in self._nodes if node.name not in float_layers]
        touched = {tensor for node in chosen for tensor in (*node.input, *node.output)}
        ranges = {name: value for name, value in self._ranges.items() if name in touched}
        quantiser = QDQQuantizer(
            copy.deepcopy(self.model),
            True,  # weights for each channel
            False,  # all 8 bits: 7 are for CPUs that saturate, which VNNI, Arm and GPUs do not
            QuantType.QInt8,
            self.scheme.activations,
            TensorsData(CalibrationMethod.MinMax, ranges),  # a new one each time: the quantiser edits it
            [node.name for node in chosen],
            [],
            sorted(self.scheme.kinds),
            dict(self.scheme.options),
        )
        quantiser.quantize_model()
        quantiser.model.topological_sort()  # the quantiser appends what it adds
        return _finished(quantiser.model.model, self._original)


def make(source: Source, folder: Path) -> Variant:
    """Write ``model.int8.onnx`` for ONNX Runtime, whose accuracy was measured.

    Raises:
        ExportError: too few pairs, or too much accuracy is lost with half of the layers in float.
    """
    controlled = quantise_with_control(source, "u8s8")
    (folder / MODEL).write_bytes(controlled.graph)
    return Variant(
        engine="onnxruntime",
        precision="int8",
        files=(MODEL,),
        float_layers=controlled.float_layers,
        notes=(controlled.note,),
    )


def quantise_with_control(source: Source, scheme: SchemeName) -> Controlled:
    """Quantise as far as the accuracy allows; errors as make."""
    quantiser = Quantiser(source.graph, source.calibration, scheme, source.progress)
    few = source.calibration[:: max(1, len(source.calibration) // _ERROR_PAIRS)][:_ERROR_PAIRS]

    def ranked() -> list[str]:
        source.progress(f"int8: which of {len(quantiser.layers)} layers are hurt most")
        return worst_first(quantiser.model, quantiser.graph(), quantiser.layers, few)

    def metric(graph: bytes) -> float:
        runtime = OnnxRuntime(graph)
        try:
            return source.metric(runtime.run)
        finally:
            runtime.close()

    return control(quantiser.graph, ranked, metric, source.graph, source.max_drop, source.progress)


def quantise(
    graph: bytes,
    calibration: Sequence[Mapping[str, Array]],
    scheme: SchemeName = "u8s8",
    float_layers: Collection[str] = (),
) -> bytes:
    """Return the quantised ONNX file of a graph, as Quantiser.

    Raises:
        ExportError: as Quantiser.
    """
    return Quantiser(graph, calibration, scheme).graph(float_layers)


def _prepared(graph: bytes) -> onnx.ModelProto:
    """Fold constants and batch-norms into the layers, and infer shapes, without which nothing is quantised."""
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder) / "model.onnx", Path(folder) / "prepared.onnx"
        source.write_bytes(graph)  # a file: of a model in memory the library loses the weights
        quant_pre_process(source, path, skip_symbolic_shape=True)
        model = onnx.load(path)
    name_nodes(model)
    return model


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # an untyped library's
    """Hands one pair out."""

    def __init__(self, feeds: Mapping[str, Array]) -> None:
        self._left = [dict(feeds)]

    def get_next(self) -> dict[str, Array] | None:
        return self._left.pop() if self._left else None


def _measure(
    model: onnx.ModelProto, calibration: Sequence[Mapping[str, Array]], kinds: Collection[str]
) -> dict[str, Any]:
    """Minimum and maximum of every tensor that an operator of ``kinds`` reads or writes, over all pairs."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(path, sorted(kinds), str(Path(folder) / "augmented.onnx"))
        for feeds in calibration:  # one call each: the calibrator keeps what it saw in one call
            calibrator.collect_data(_Reader(feeds))
        return dict(calibrator.compute_data().items())


def _has_weights(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    return node.input[1] in {tensor.name for tensor in model.graph.initializer}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library prints what it does."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _finished(model: onnx.ModelProto, original: onnx.ModelProto) -> bytes:
    """Put the original's notes back, which ONNX Runtime drops, and drop the operator sets it adds but nobody uses."""
    used = {node.domain or "" for node in model.graph.node}
    kept = [opset for opset in model.opset_import if ("" if opset.domain == "ai.onnx" else opset.domain) in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    del model.metadata_props[:]
    model.metadata_props.extend(original.metadata_props)
    model.producer_name, model.producer_version = original.producer_name, original.producer_version
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
