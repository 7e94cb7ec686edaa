"""OpenVINO's int8: quantised by NNCF on real pairs, with the layers in float that the task's metric asks for.

NNCF measures the metric of the whole model, and when the loss is too large it takes the quantisers away from one group
of layers after another, worst first. Worst is what, left in float, brings the maps that decoding reads closest to the
fp32 model's. Preparation and decoding are never quantised.
"""

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np

from export.bundle_info import Array, Variant
from export.engines.open_vino import OpenVino, Request, output_names, shared
from export.engines.open_vino_regions import LAYERS, head_maps, regions
from export.errors import ExportError
from export.variants.source import LEAST_PAIRS, Source

FILES = ("openvino/int8.xml", "openvino/int8.bin")

_RANKING_PAIRS = 8
_MAP = "head map "
_INSTALL = "pip install 'rgbt-fusion[openvino-int8]'"


def make(source: Source, folder: Path) -> Variant:
    """Write openvino/int8.xml and .bin, after the metric of the file as written was measured.

    Raises:
        ExportError: NNCF is missing, there are too few pairs to calibrate on, or the loss stays above ``max_drop``.
    """
    if len(source.calibration) < LEAST_PAIRS:
        raise ExportError(
            f"int8 for OpenVINO is calibrated on {len(source.calibration)} pairs, expected at least {LEAST_PAIRS}; "
            "give a card with more pairs, drawn over day and night"
        )
    nncf, openvino = converter()
    model = openvino.Core().read_model(io.BytesIO(source.graph))
    source.progress(f"OpenVINO int8: calibrating on {len(source.calibration)} pairs")
    with _quiet(nncf, source) as heard:
        control = Control(heard, model)
        quantised = _quantise(nncf, model, heard, control)
    path = folder / FILES[0]
    path.parent.mkdir(exist_ok=True)
    openvino.save_model(quantised, path, compress_to_fp16=False)
    floats, layers = float_layers(quantised)
    metric = _metric_of(path, source)
    control.check(metric, len(floats), layers)
    notes = (f"{control.metrics[0]:.4f} in fp32, {metric:.4f} in int8",)
    return Variant(engine="openvino", precision="int8", files=FILES, float_layers=tuple(floats), notes=notes)


class Control:
    """What NNCF asks about a model while it quantises: the task's metric, and how far the head's maps are off.

    Args:
        source: Its metric, and the pairs on which layers are ranked.
        model: The fp32 model; the maps that decoding reads become answers of it, behind its own.
    """

    def __init__(self, source: Source, model: Any) -> None:  # noqa: ANN401 - untyped library
        self.answers = output_names(model)
        self.metrics: list[float] = []
        """Of fp32, then of each trial."""
        self._source = source
        self._maps = [f"{_MAP}{index}" for index in range(len(model.add_outputs(head_maps(model))))]
        for name, port in zip(self._maps, model.outputs[len(self.answers) :], strict=True):
            port.get_node().set_friendly_name(name)
            port.add_names({name})
        step = len(source.calibration) / _RANKING_PAIRS
        self.items = [source.calibration[int(index * step)] for index in range(_RANKING_PAIRS)]
        """What NNCF hands to ``validate``: all of them for the metric, all but one for ranking."""
        self._expected: list[list[Array]] = []
        self._last: tuple[Any, float, list[float]] | None = None

    def validate(self, compiled: Any, items: Iterable[Mapping[str, Array]]) -> tuple[float, list[float] | None]:  # noqa: ANN401
        """Return the metric and each item's closeness; for only some items, their mean closeness."""
        request, items = Request(compiled), list(items)
        if len(items) < len(self.items):
            return (float(np.mean([self._closeness(request, item) for item in items])) if self._expected else 0.0), None
        metric = self._source.metric(lambda feeds: self._answer(request, feeds))
        if not self.metrics:
            self._expected = [self._read_maps(request, item) for item in self.items]
        else:
            drop = 100 * (self.metrics[0] - metric)
            self._source.progress(f"OpenVINO int8: metric {metric:.4f}, {drop:.2f} points below fp32")
        self.metrics.append(metric)
        return metric, [self._closeness(request, item) for item in items]

    def check(self, metric: float, floats: int, layers: int) -> None:
        """Refuse a model whose loss is too large; or with most layers in float, which is hardly faster than fp32."""
        fp32, naive, limit = self.metrics[0], self.metrics[1], self._source.max_drop
        if 100 * (fp32 - metric) <= limit and 2 * floats <= layers:
            return
        tried = ", ".join(f"{trial:.4f}" for trial in self.metrics[1:])
        raise ExportError(
            f"int8 for OpenVINO loses {100 * (fp32 - naive):.2f} points with all {layers} layers in int8 and "
            f"{100 * (fp32 - metric):.2f} with {floats} of them in float; --max-drop allows {limit:g}: raise it, "
            f"calibrate on more pairs, or ship fp32 or bf16 (the metric is {fp32:.4f} in fp32; tried, with ever more "
            f"layers in float: {tried})"
        )

    def _answer(self, request: Request, feeds: Mapping[str, Array]) -> dict[str, Array]:
        tensors = request.run(shared(feeds))
        return {name: tensors[name].data.copy() for name in self.answers}

    def _read_maps(self, request: Request, feeds: Mapping[str, Array]) -> list[Array]:
        tensors = request.run(shared(feeds))
        return [tensors[name].data.copy() for name in self._maps]

    def _closeness(self, request: Request, feeds: Mapping[str, Array]) -> float:
        """Minus the mean over the head's maps of their squared error, relative to their own square."""
        expected = next(maps for item, maps in zip(self.items, self._expected, strict=True) if item is feeds)
        found = self._read_maps(request, feeds)
        errors = [np.square(a - b).sum() / max(np.square(a).sum(), 1e-12) for a, b in zip(expected, found, strict=True)]
        return -float(np.mean(errors))


def float_layers(model: Any) -> tuple[list[str], int]:  # noqa: ANN401 - untyped library
    """Return the names of a quantised model's layers that are in float, and how many layers there are."""
    where = regions(model)
    layers = [node for node in model.get_ordered_ops() if where[node.get_name()] == "body" and _is_layer(node)]
    floats = [node.get_friendly_name().removesuffix("/WithoutBiases") for node in layers if not _is_quantised(node)]
    return floats, len(layers)


def _is_layer(node: Any) -> bool:  # noqa: ANN401
    return str(node.get_type_name()) in LAYERS


def _is_quantised(layer: Any) -> bool:  # noqa: ANN401
    """Whether a quantiser, or numbers in int8, stand behind its second input: the weights, mostly."""
    node = layer.input_value(1).get_node()
    while node.get_type_name() not in ("FakeQuantize", "Parameter", "Constant") and node.inputs():
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "FakeQuantize" or node.get_element_type().get_size() == 1)


def _quantise(nncf: ModuleType, model: Any, source: Source, control: Control) -> Any:  # noqa: ANN401
    where = regions(model)
    kept = [
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if where[node.get_name()] in ("pre", "post") and node.get_type_name() not in ("Parameter", "Result")
    ]
    quantised = nncf.quantize_with_accuracy_control(
        model,
        calibration_dataset=nncf.Dataset(source.calibration),
        validation_dataset=nncf.Dataset(control.items),
        validation_fn=control.validate,
        max_drop=source.max_drop / 100,
        drop_type=nncf.DropType.ABSOLUTE,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(source.calibration),
        ignored_scope=nncf.IgnoredScope(names=kept),
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
            ranking_subset_size=_RANKING_PAIRS - 1, num_ranking_workers=1
        ),
    )
    for result in quantised.get_results():
        if result.get_friendly_name().startswith(_MAP):
            quantised.remove_result(result)
    return quantised


def _metric_of(path: Path, source: Source) -> float:
    engine = OpenVino([path], "cpu", None, "int8")
    metric = source.metric(engine.run)
    engine.close()
    return metric


def converter() -> tuple[ModuleType, ModuleType]:
    """Import NNCF, without its telemetry, which would report each call over the network, and OpenVINO.

    Raises:
        ExportError: one of them is not installed.
    """
    before = logging.getLoggerClass()
    try:
        import openvino

        with _missing("openvino_telemetry"):
            import nncf
    except ImportError as error:
        raise ExportError(f"int8 for OpenVINO needs OpenVINO and NNCF ({error}); {_INSTALL}") from None
    finally:
        logging.setLoggerClass(before)  # NNCF makes its own class everybody's
    return nncf, openvino


@contextlib.contextmanager
def _missing(name: str) -> Iterator[None]:
    """Let imports of a module fail meanwhile."""
    found = sys.modules.get(name)
    modules: dict[str, ModuleType | None] = cast("dict[str, ModuleType | None]", sys.modules)
    modules[name] = None  # so Python's import system says it
    try:
        yield
    finally:
        del sys.modules[name]
        if found is not None:
            sys.modules[name] = found


@contextlib.contextmanager
def _quiet(nncf: ModuleType, source: Source) -> Iterator[Source]:
    """Keep NNCF's lines and bars off the terminal; what the source itself says is still heard."""
    logger, terminal = logging.getLogger(nncf.__name__), sys.stdout

    def heard(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:  # noqa: ANN401
            with contextlib.redirect_stdout(terminal):
                return function(*args)

        return call

    progress = heard(source.progress)
    handlers, logger.handlers = logger.handlers, [_Reverted(progress)]
    torch_logger = logging.getLogger("torch.utils.cpp_extension")  # NNCF imports it; warns that there is no GPU
    level = torch_logger.level
    torch_logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield replace(source, metric=heard(source.metric), progress=progress)
    finally:
        logger.handlers = handlers
        torch_logger.setLevel(level)


class _Reverted(logging.Handler):
    """Passes on which layers NNCF leaves in float; of the rest the metric tells enough."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        said, _, names = record.getMessage().partition("\n")
        if said.startswith("Reverted"):
            self._say(f"OpenVINO int8: left in float: {', '.join(names.split())}")
