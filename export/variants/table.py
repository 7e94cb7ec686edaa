"""Which forms of the model can be written, and by what; each module is imported when it is asked for. Torch-free."""

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from export.bundle_info import MODEL, Variant
from export.errors import ExportError
from export.variants.source import Maker, Source

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
"""In the order of tables."""


def _as_it_is(engine: str, precision: str) -> Maker:
    """The engine takes model.onnx and does the rest itself."""

    def make(source: Source, folder: Path) -> Variant:
        del source, folder
        return Variant.model_validate({"engine": engine, "precision": precision, "files": (MODEL,)})

    return make


def _by(module: str, name: str = "make") -> Maker:
    """The maker of that name, imported when it is called."""

    def make(source: Source, folder: Path) -> Variant:
        made: Variant = getattr(import_module(f"export.variants.{module}"), name)(source, folder)
        return made

    return make


MAKERS: dict[str, Maker] = {
    "onnxruntime-fp32": _as_it_is("onnxruntime", "fp32"),
    "onnxruntime-fp16": _by("fp16"),
    "onnxruntime-int8": _by("int8"),
    "openvino-fp32": _as_it_is("openvino", "fp32"),
    "openvino-bf16": _as_it_is("openvino", "bf16"),
    "openvino-int8": _by("openvino_int8"),
    "tensorrt-fp32": _by("tensor_rt", "make_fp32"),
    "tensorrt-fp16": _by("tensor_rt", "make_fp16"),
    "tensorrt-int8": _by("tensor_rt", "make_int8"),
    "coreml-fp32": _by("coreml"),
    "ncnn-fp32": _by("ncnn", "make_fp32"),
    "ncnn-fp16": _by("ncnn", "make_fp16"),
    "litert-fp32": _by("litert", "make_fp32"),
    "litert-fp16": _by("litert", "make_fp16"),
}
"""``ENGINE-PRECISION`` → what writes it."""


_CONVERTERS = {"openvino-int8": "openvino_int8", "coreml-fp32": "coreml"}
_CONVERTERS |= {f"{engine}-{precision}": engine for engine in ("ncnn", "litert") for precision in ("fp32", "fp16")}
"""``ENGINE-PRECISION`` → the module whose ``converter()`` says whether what writes it is installed."""

_RUNTIMES = {"openvino": "openvino", "ncnn": "ncnn", "litert": "ai_edge_litert"}
"""Engine that measures what was written → the module that it needs."""


def require(keys: Iterable[str]) -> None:
    """Raise ExportError where something to write or to measure one of these with is missing: before hours of work."""
    for key in keys:
        engine = key.rpartition("-")[0]
        if engine in _RUNTIMES and find_spec(_RUNTIMES[engine]) is None:
            raise ExportError(f"{key}: {_RUNTIMES[engine]} is not installed; pip install 'rgbt-fusion[{engine}]'")
        if key in _CONVERTERS:
            import_module(f"export.variants.{_CONVERTERS[key]}").converter()


def keys(targets: Iterable[str], precisions: Iterable[str]) -> list[str]:
    """Every combination of the engines and precisions that can be written, in the table's order.

    Raises:
        ExportError: an engine that is none, or that takes none of the precisions; a precision that no engine takes.
    """
    targets, precisions = list(dict.fromkeys(targets)), list(dict.fromkeys(precisions))
    engines = list(dict.fromkeys(key.rpartition("-")[0] for key in MAKERS))
    for target in targets:
        if target not in engines:
            raise ExportError(f"--target {target}: no such engine; one of {', '.join(engines)}")
        if not set(_taken(target)) & set(precisions):
            raise ExportError(
                f"--target {target}: takes {', '.join(_taken(target))}, not {', '.join(precisions)}; "
                "add one to --precision"
            )
    for precision in precisions:
        if not any(precision in _taken(target) for target in targets):
            takers = [engine for engine in engines if precision in _taken(engine)]
            raise ExportError(f"--precision {precision}: taken by {', '.join(takers)}; add one to --target")
    return [f"{target}-{precision}" for target in targets for precision in _taken(target) if precision in precisions]


def advice(engine: str, precision: str, out: Path) -> str:
    """What to type for a form that a bundle lacks."""
    engines = list(dict.fromkeys(key.rpartition("-")[0] for key in MAKERS))
    if engine not in engines:
        return f"no such engine; one of {', '.join(engines)}"
    if precision not in _taken(engine):
        return f"{engine} takes {', '.join(_taken(engine))}"
    return f"rgbt export RUN --out {out} --target {engine} --precision {precision} writes one"


def _taken(engine: str) -> list[str]:
    return [precision for precision in PRECISIONS if f"{engine}-{precision}" in MAKERS]
