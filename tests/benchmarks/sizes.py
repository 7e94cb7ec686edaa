"""What the shipped sizes cost, in one run: python tests/benchmarks/sizes.py [--size NAME …] [--json] [--seconds S].

Parameters and MACs (export.inspect), and latency of the fp32 graph at batch 1 on ONNX Runtime and OpenVINO (pinned to
f32) at 480×640 on 2 threads. The engines take turns, block by block, so that what else the machine does meets both.
Weights are random: they change no time.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.prepare import InputSpec
from data.thermal import ThermalSpec
from export.bundle_info import Inputs
from export.engines.onnx_runtime import OnnxRuntime
from export.graph import export_graph
from export.inspect import inspect
from fusion.model import FusionModel, ModelConfig
from fusion.sizes import FIELD, SIZES

CANVAS = (480, 640)
EDGE_LIMITS = {"parameters": 5e6, "macs": 4e9}
BLOCKS = 6


def config_of(size: str, task: str, canvas: tuple[int, int] = CANVAS) -> ModelConfig:
    """A model of that size for two classes, of frames as large as its canvas."""
    inputs = InputSpec(rgb_size=canvas, thermal_size=canvas, thermal=ThermalSpec(unit="intensity8"))
    section = {"size": canvas, FIELD: size, "rgb": {"weights": None}, "thermal": {}, "head": {"kind": task}}
    return ModelConfig.model_validate(
        {**section, "classes": ("person", "car"), "inputs": inputs.model_dump(mode="json")}
    )


def network(config: ModelConfig) -> tuple[FusionModel, Inputs]:
    """The model with random weights, and what goes in."""
    torch.manual_seed(0)
    return FusionModel(config).eval(), Inputs.model_validate(config.inputs)


def noise(inputs: Inputs, batch: int, seed: int = 0) -> dict[str, Any]:
    """Frames of noise, both sensors present; thermal is intensity8."""
    random, feeds = np.random.default_rng(seed), inputs.zeros(batch)
    feeds["rgb"][:] = random.integers(0, 256, feeds["rgb"].shape, np.uint8)
    feeds["thermal"][:] = random.integers(1, 256, feeds["thermal"].shape, np.uint8)
    return feeds


def openvino_run(model: Path, threads: int) -> Callable[[dict[str, Any]], object]:
    """OpenVINO on the CPU in f32, as one call."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(str(model), "CPU", settings)
    return compiled.create_infer_request().infer


def block(run: Callable[[dict[str, Any]], object], feeds: dict[str, Any], seconds: float) -> list[float]:
    """Milliseconds of each call within that time, at least three."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        run(feeds)
        times.append(1e3 * (time.perf_counter() - start))
    return times


def measure(size: str, task: str, threads: int, seconds: float, folder: Path) -> dict[str, Any]:
    """A row of the table."""
    model, inputs = network(config_of(size, task))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    path = folder / f"{size}.onnx"
    path.write_bytes(export_graph(model, inputs))
    del model
    found = inspect(path)
    feeds = noise(inputs, 1)
    runs = {"onnxruntime": OnnxRuntime(path, "cpu", threads).run, "openvino": openvino_run(path, threads)}
    times: dict[str, list[float]] = {engine: [] for engine in runs}
    for run in runs.values():
        run(feeds)
    for _ in range(BLOCKS):
        for engine, run in runs.items():
            times[engine] += block(run, feeds, seconds / BLOCKS)
    row = {"size": size, "encoders": SIZES[size].rgb, "parameters": parameters, "macs": found["macs"]}
    for engine, measured in times.items():
        row |= {f"{engine}_p{share}_ms": round(float(np.percentile(measured, share)), 2) for share in (50, 95)}
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| size | encoders (both branches) | parameters | MACs | ONNX Runtime p50 (p95) | OpenVINO f32 p50 (p95) |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        latency = [f"{row[f'{e}_p50_ms']:.1f} ms ({row[f'{e}_p95_ms']:.1f})" for e in ("onnxruntime", "openvino")]
        cost = [f"{row['parameters'] / 1e6:.2f} M", f"{row['macs'] / 1e9:.2f} G"]
        lines.append(f"| {' | '.join([row['size'], row['encoders'], *cost, *latency])} |")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Measure and print; 1 when ``edge`` is larger than it may be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--task", default="detect", choices=("detect", "segment", "classify"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=6.0, help="on each engine and size (default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(size, args.task, args.threads, args.seconds, Path(folder)) for size in args.size]
    packages = ("torch", "timm", "onnxruntime-gpu", "openvino")
    told = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    if args.json:
        print(json.dumps({"task": args.task, "threads": args.threads, "versions": told, "rows": rows}, indent=1))
    else:
        print(table(rows))
        packages_told = ", ".join(f"{name} {number}" for name, number in told.items())
        print(f"\n{args.task}, 480×640, batch 1, {args.threads} threads, {packages_told}")
    return int(any(row["size"] == "edge" and row[k] > most for row in rows for k, most in EDGE_LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
