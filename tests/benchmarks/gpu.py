"""What a GPU makes of the shipped sizes, in one table: python tests/benchmarks/gpu.py [--size NAME …] [--json].

Every provider × precision × IOBinding × CUDA graph × batch, on graphs with random weights (they change no time), frames
as uint8 in host memory and answers back in host memory: both copies are in every figure. On ``cuda`` fp32 is no TF32;
on ``tensorrt`` it may be. ``tensorrt`` builds engines for each batch by itself, in a folder that is removed at the end.

``outside`` is the share of p50 in which no kernel runs (launches, copies, waiting, Python): 1 − kernels / p50. The time
in kernels is CUPTI's (by torch.profiler; kernels that overlap count once), of runs apart from the timed ones, with
IOBinding and without a CUDA graph, which replays the same kernels. Where torch knows no CUDA, it is not told.
``--provider cpu`` is there to try the script without a GPU.
"""

import argparse
import ctypes
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from export.bench import machine
from export.engines import pinned
from export.engines.onnx_runtime import OnnxRuntime
from export.engines.onnx_runtime_gpu import tensorrt_version
from export.errors import ExportError
from fusion.sizes import SIZES
from pipelines.engine_check import TINY_MODEL

PRECISIONS = {"cuda": ("fp32", "fp16"), "tensorrt": ("fp32", "fp16", "int8"), "cpu": ("fp32", "fp16")}
"""Provider → what it gains by; int8 is TensorRT's symmetric S8S8."""
HEADS = (
    "| size | provider | precision | IOBinding | CUDA graph | batch | p50 ms | p95 ms | p99 ms | pairs/s "
    "| kernels ms | outside |"
)
BATCHES = (1, 2, 4, 8, 16, 32)
WARM_UP_RUNS = 5
PROFILED_RUNS = 20
CALIBRATION_PAIRS = 8

Feeds = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """A row before it is measured."""

    size: str
    provider: str
    precision: str
    binding: bool
    cuda_graph: bool
    batch: int


def plainest(case: Case) -> Case:
    """The case whose kernels are taken for this one's."""
    return replace(case, binding=True, cuda_graph=False)


def cases(
    sizes: Sequence[str], providers: Sequence[str], precisions: Sequence[str], batches: Sequence[int]
) -> list[Case]:
    """The rows, in the order of the table; a CUDA graph needs a GPU and fixed places."""
    found = []
    for size, provider in product(sizes, providers):
        ways = [(False, False), (True, False), *([] if provider == "cpu" else [(True, True)])]
        given = [precision for precision in PRECISIONS[provider] if precision in precisions]
        for precision, (binding, cuda_graph), batch in product(given, ways, batches):
            found.append(Case(size, provider, precision, binding, cuda_graph, batch))
    return found


def providers_here(asked: Sequence[str]) -> Iterator[str]:
    """Those that load; the others are said in one line each."""
    for provider in asked:
        try:
            OnnxRuntime(TINY_MODEL, provider).close()
        except ExportError as error:
            say(f"{provider}: not here: {error}")
        else:
            yield provider


def write_graphs(size: str, canvas: tuple[int, int], precisions: Sequence[str], folder: Path) -> Callable[[int], Feeds]:
    """Write ``PRECISION.onnx`` for each precision; returns what makes the frames of a batch."""
    from sizes import config_of, network, noise

    from export.graph import export_graph
    from export.variants.fp16 import to_fp16
    from export.variants.int8 import quantise

    model, inputs = network(config_of(size, "detect", canvas))
    graph = export_graph(model, inputs)
    makers: dict[str, Callable[[], bytes]] = {
        "fp32": lambda: graph,
        "fp16": lambda: to_fp16(graph),
        "int8": lambda: quantise(graph, [noise(inputs, 1, seed) for seed in range(CALIBRATION_PAIRS)], "s8s8"),
    }
    for precision in precisions:
        (folder / f"{precision}.onnx").write_bytes(makers[precision]())
    return lambda batch: noise(inputs, batch)


def opened(case: Case, graph: Path, feeds: Feeds) -> tuple[OnnxRuntime, Callable[[], object]]:
    """The engine, and one call on the batch."""
    runtime = OnnxRuntime(graph, case.provider, cuda_graph=case.cuda_graph)
    call = runtime.bind(runtime.buffers(feeds)) if case.binding else lambda: runtime.run(feeds)
    for _ in range(WARM_UP_RUNS):
        call()
    return runtime, call


def timed(case: Case, graph: Path, feeds: Feeds, seconds: float) -> dict[str, Any]:
    """Latency of one call, and the rate."""
    runtime, call = opened(case, graph, feeds)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    runtime.close()
    figures = {f"p{share}_ms": float(np.percentile(times, share)) * 1e3 for share in (50, 95, 99)}
    rate = case.batch * len(times) / sum(times)
    return {"runs": len(times), **figures, "pairs_per_s": rate, "pinned": runtime.pinned}


def busy_ms(events: Sequence[Mapping[str, Any]]) -> float:
    """Milliseconds of a Chrome trace in which at least one kernel runs; kernels of two streams may overlap."""
    kernels = [event for event in events if event.get("cat") == "kernel"]
    spans = sorted((float(kernel["ts"]), float(kernel["ts"]) + float(kernel["dur"])) for kernel in kernels)
    total, until = 0.0, -np.inf
    for start, end in spans:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total / 1e3


def kernels_ms(case: Case, graph: Path, feeds: Feeds) -> float | None:
    """Milliseconds of one call in which a kernel runs; None where nothing here can tell."""
    from torch.profiler import ProfilerActivity, profile, supported_activities

    if ProfilerActivity.CUDA not in supported_activities():
        return None
    runtime, call = opened(case, graph, feeds)
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        for _ in range(PROFILED_RUNS):
            call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        trace.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    runtime.close()
    return busy_ms(events) / PROFILED_RUNS or None


class Bench:
    """Measures cases in a folder; what does not run is kept in ``missing``, with the reason."""

    def __init__(self, folder: Path, canvas: tuple[int, int]) -> None:
        self.folder, self.canvas = folder, canvas
        self.missing: dict[str, str] = {}
        self._frames: dict[str, Callable[[int], Feeds]] = {}

    def export(self, rows: Sequence[Case]) -> None:
        """Write the graphs of all rows."""
        for size in dict.fromkeys(case.size for case in rows):
            say(f"{size}: exporting")
            (self.folder / size).mkdir()
            wanted = dict.fromkeys(case.precision for case in rows if case.size == size)
            self._frames[size] = write_graphs(size, self.canvas, list(wanted), self.folder / size)

    def each(
        self, rows: Sequence[Case], step: str, run: Callable[[Case, Path, Feeds], Any]
    ) -> Iterator[tuple[Case, Any]]:
        """What ``run`` returns of each row that it can run."""
        for case in rows:
            name = label(case)
            if name in self.missing:
                continue
            say(f"{step} {name}")
            os.environ["RGBT_CACHE"] = str(self.folder / "engines" / str(case.batch))
            graph = self.folder / case.size / f"{case.precision}.onnx"
            try:
                yield case, run(case, graph, self._frames[case.size](case.batch))
            except ExportError as error:
                self.missing[name] = str(error)


def measure(rows: Sequence[Case], canvas: tuple[int, int], seconds: float) -> dict[str, Any]:
    """``rows`` and, for those that do not run, ``missing``: the reason."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), canvas)
        bench.export(rows)
        speeds = dict(bench.each(rows, "timing", lambda case, graph, feeds: timed(case, graph, feeds, seconds)))
        plain = [case for case in rows if case == plainest(case) and case.provider != "cpu"]
        kernels = dict(bench.each(plain, "profiling", kernels_ms))  # after all of the timing: CUPTI would slow it
    done = []
    for case, speed in speeds.items():
        spent = kernels.get(plainest(case))
        outside = None if spent is None else 1 - spent / speed["p50_ms"]
        done.append({**asdict(case), **speed, "kernels_ms": spent, "outside_share": outside})
    return {"rows": done, "missing": bench.missing}


def say(line: str) -> None:
    """Progress, beside the table."""
    print(line, file=sys.stderr, flush=True)


def label(case: Case) -> str:
    """A case in one line."""
    ways = f"{' binding' if case.binding else ''}{' graph' if case.cuda_graph else ''}"
    return f"{case.size} {case.provider} {case.precision}{ways} batch {case.batch}"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = [HEADS, f"|{'---|' * (HEADS.count('|') - 1)}"]
    for row in rows:
        cells = [row["size"], row["provider"], row["precision"]]
        cells += ["on" if row[name] else "off" for name in ("binding", "cuda_graph")]
        cells += [str(row["batch"]), *(f"{row[name]:.2f}" for name in ("p50_ms", "p95_ms", "p99_ms"))]
        cells.append(f"{row['pairs_per_s']:.1f}")
        untold = row["outside_share"] is None
        cells += ["–", "–"] if untold else [f"{row['kernels_ms']:.2f}", f"{row['outside_share']:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def gpu_facts() -> dict[str, str]:
    """GPU and driver, CUDA and TensorRT; what is not here is left out."""
    facts = {}
    try:
        words = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        found = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()[0]
        facts["gpu"], _, facts["driver"] = found.partition(", ")
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        say(f"nvidia-smi does not answer ({error})")
    runtime = pinned.loaded_runtime()
    if runtime is not None:
        version = ctypes.c_int()
        runtime.cudaRuntimeGetVersion(ctypes.byref(version))
        facts["cuda"] = f"{version.value // 1000}.{version.value % 1000 // 10}"
    if tensorrt_version():
        facts["tensorrt"] = tensorrt_version()
    return facts


def positive(text: str) -> int:
    """A number from 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return int(text)


def main(argv: list[str]) -> int:
    """Measure and print; 1 where no provider loads, or no row could be measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", nargs="+", default=["edge"], choices=list(SIZES))
    parser.add_argument("--provider", nargs="+", default=["cuda", "tensorrt"], choices=list(PRECISIONS))
    parser.add_argument("--precision", nargs="+", default=["fp32", "fp16", "int8"], choices=["fp32", "fp16", "int8"])
    parser.add_argument("--batch", nargs="+", type=positive, default=list(BATCHES))
    parser.add_argument("--canvas", nargs=2, type=int, default=[480, 640], metavar=("H", "W"))
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row (default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    providers = list(providers_here(args.provider))
    if not providers:
        say("nothing measured: none of these providers loads here; 'rgbt doctor' shows what runs")
        return 1
    rows = cases(args.size, providers, args.precision, args.batch)
    found = measure(rows, tuple(args.canvas), args.seconds)
    command = shlex.join(["python", "tests/benchmarks/gpu.py", *argv])
    told = {**machine(), **({} if providers == ["cpu"] else gpu_facts())}
    if args.json:
        print(json.dumps({"command": command, "machine": told, "canvas": args.canvas, **found}, indent=1))
    else:
        print(table(found["rows"]))
        print("", *(f"not measured: {name}: {reason}" for name, reason in found["missing"].items()), sep="\n")
        print(f"$ {command}\n{', '.join(f'{name} {value}' for name, value in told.items())}")
        memory = "page-locked" if {row["pinned"] for row in found["rows"] if row["binding"]} == {True} else "pageable"
        print(f"detect, {'×'.join(map(str, args.canvas))}; bound frames in {memory} host memory")
    return int(not found["rows"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
