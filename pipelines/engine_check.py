"""Which engines and providers run here: each is given a tiny network of its own, and has to answer right."""

import base64
import contextlib
import importlib.util
import io
import json
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from export.errors import ExportError
from pipelines.finding import Finding, Level

TINY_MODEL = base64.b64decode(
    "CAg6lAEKDwoBeAoBdxIBYyIEQ29udgoMCgFjEgF5IgRSZWx1EgR0aW55KjMIAQgBCAMIAxABQgF3SiQAAIA/AACAPwAAgD8AAIA/AACAPwAAgD8A"
    "AIA/AACAPwAAgD9aGwoBeBIWChQIARIQCgIIAQoCCAEKAggECgIIBGIbCgF5EhYKFAgBEhAKAggBCgIIAQoCCAIKAggCQgQKABAS"
)
"""ONNX: y = relu(conv(x, 3×3 of ones)), x float32 [1,1,4,4]; a convolution, because it needs cuDNN on a GPU.

Held here because the edge runtime has no onnx package; tests/test_engine_check.py builds the same bytes with it.
"""

NCNN_PARAM = """7767517
3 3
Input x 0 1 x 0=4 1=4 2=1
Convolution c 1 1 x c 0=1 1=3 5=0 6=9
ReLU y 1 1 c y
"""
NCNN_WEIGHTS = struct.pack("<I9f", 0, *[1.0] * 9)
"""The same for NCNN; 0 says that the weights are in fp32."""

TINY_LITERT = base64.b64decode(
    "HAAAAFRGTDMUABgAFAAQAAwAAAAIAAAAAAAEABQAAAAUAAAAhAAAAOAAAABAAgAAAwAAAAEAAAAQAAAAAAAKABAADAAIAAQACgAAAAwAAAAcAAAA"
    "PAAAAA8AAABzZXJ2aW5nX2RlZmF1bHQAAQAAAAwAAAAIAAwACAAEAAgAAAADAAAABAAAAAEAAAB5AAAAAQAAAAQAAADO////BAAAAAEAAAB4AAAA"
    "AwAAAFgAAAAgAAAABAAAAO7///8EAAAABAAAAAAAAAAAAAYACAAEAAYAAAAEAAAAJAAAAAAAgD8AAIA/AACAPwAAgD8AAIA/AACAPwAAgD8AAIA/"
    "AACAPwQABAAEAAAAAQAAABAAAAAMABQAEAAMAAgABAAMAAAAEAAAAHAAAAB0AAAAeAAAAAEAAAAUAAAAAAAOABQAAAAQAAwACwAEAA4AAAAcAAAA"
    "AAAAASgAAAAsAAAADAAUABMADAAIAAcADAAAAAAAAAEBAAAAAQAAAAAAAAEBAAAAAwAAAAMAAAAAAAAAAQAAAAIAAAABAAAAAwAAAAEAAAAAAAAA"
    "BAAAAJwAAABgAAAAMAAAAAQAAACA////CAAAAAwAAAABAAAAeQAAAAQAAAABAAAAAgAAAAIAAAABAAAA4P///wwAAAACAAAADAAAAAEAAABiAAAA"
    "AQAAAAEAAAAMABAADAAAAAgABAAMAAAADAAAAAEAAAAMAAAAAQAAAHcAAAAEAAAAAQAAAAMAAAADAAAAAQAAAAwADAAIAAAAAAAEAAwAAAAIAAAA"
    "DAAAAAEAAAB4AAAABAAAAAEAAAAEAAAABAAAAAEAAAABAAAAEAAAAAwADAALAAAAAAAEAAwAAAADAAAAAAAAAw=="
)
"""The same for LiteRT, channels last; the test builds these bytes too."""

_PLAN = {"precision": "fp32", "dtypes": {"x": "float32"},
         "profiles": {"x": {"min": [1, 1, 4, 4], "opt": [1, 1, 4, 4], "max": [1, 1, 4, 4]}}}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trial:
    """How an engine is tried."""

    package: str
    """The module that it needs."""
    providers: tuple[str, ...]
    files: Mapping[str, bytes]
    """Name → content; in the order in which the engine takes them."""
    shape: tuple[int, int, int, int] = (1, 1, 4, 4)


TRIALS: dict[str, Trial] = {
    "onnxruntime": Trial("onnxruntime", ("cpu", "cuda", "tensorrt"), {"tiny.onnx": TINY_MODEL}),
    "openvino": Trial("openvino", ("cpu", "gpu", "npu"), {"tiny.onnx": TINY_MODEL}),
    "tensorrt": Trial("tensorrt", ("cuda",), {"tiny.onnx": TINY_MODEL, "tiny.json": json.dumps(_PLAN).encode()}),
    "ncnn": Trial("ncnn", ("cpu",), {"tiny.param": NCNN_PARAM.encode(), "tiny.bin": NCNN_WEIGHTS}),
    "litert": Trial("ai_edge_litert", ("cpu",), {"tiny.tflite": TINY_LITERT}, (1, 4, 4, 1)),
}
"""Engine → its trial; only that of ONNX Runtime on the CPU has to succeed."""


def engines_run() -> Iterator[Finding]:
    """A line for each provider of an installed engine, and one for each engine that is not installed."""
    for engine, trial in TRIALS.items():
        if engine != "onnxruntime" and importlib.util.find_spec(trial.package) is None:
            advice = f"pip install 'rgbt-fusion[{engine}]', for bundles with files for it"
            yield Finding(engine, "note", "not installed", advice)
            continue
        for provider in trial.providers:
            yield _tried(engine, trial, provider)


def _tried(engine: str, trial: Trial, provider: str) -> Finding:
    level: Level = "problem" if (engine, provider) == ("onnxruntime", "cpu") else "note"
    name = f"{engine} {provider}"
    try:
        right = _answers_right(engine, trial, provider)
    except ImportError as error:
        return Finding(name, level, str(error), "pip install rgbt-fusion")
    except ExportError as error:
        found, _, advice = (
            str(error).removesuffix("; or use --provider cpu; 'rgbt doctor' shows what runs").rpartition("; ")
        )
        return Finding(name, level, found, advice)
    if right:
        return Finding(name, "ok", "runs")
    return Finding(name, level, "runs, but answers wrong", f"use another engine, or reinstall {trial.package}")


def _answers_right(engine: str, trial: Trial, provider: str) -> bool:
    import numpy as np

    from export.session import ENGINES

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        paths = [Path(folder) / name for name in trial.files]
        for path, content in zip(paths, trial.files.values(), strict=True):
            path.write_bytes(content)
        try:
            runtime = ENGINES[engine](paths, provider, None, "fp32")
            answer = runtime.run({"x": np.ones(trial.shape, np.float32)})["y"]
            runtime.close()
        except ExportError as error:
            raise ExportError(str(error).replace(str(paths[0]), "a tiny network")) from None
    return bool((answer == 9).all())
