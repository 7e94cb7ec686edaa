"""What int8 gains on this CPU: python tests/benchmarks/int8_speed.py BUNDLE … [--threads N …] [--runs N] [--json].

Takes bundles that ``rgbt export --precision fp32 int8`` wrote, so whose int8 file passed accuracy control. fp32 and
int8 take turns, block by block, in one process, so that what else the machine does meets both; ``--runs`` times over.
Timed is Session.run on the golden pairs, one pair at a time. 1 when an int8 file lost more than a point.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from export.bench import machine
from export.bundle import Bundle, read_bundle
from export.bundle_info import Array
from export.errors import ExportError
from export.session import Session

PRECISIONS = ("fp32", "int8")
BLOCKS = 10
"""Turns of each precision in a run."""
MOST_LOST = 1.0
"""Points of the metric."""


def block(session: Session, pairs: list[dict[str, Array]], seconds: float) -> list[float]:
    """Milliseconds of each answer within that time, at least three."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 3:
        feeds = pairs[len(taken) % len(pairs)]
        start = time.perf_counter()
        session.run(**feeds)
        taken.append(1e3 * (time.perf_counter() - start))
    return taken


def speeds(bundle: Bundle, engine: str, threads: int, seconds: float) -> dict[str, float]:
    """Median milliseconds of each precision in one run, and fp32's over int8's."""
    golden = bundle.golden()
    names = list(bundle.info.inputs.shapes())
    pairs = [
        {name: golden[name][row : row + 1] for name in names} for row in np.flatnonzero(golden["present"].all(axis=1))
    ]
    sessions = {precision: Session(bundle, engine, "cpu", threads, precision) for precision in PRECISIONS}
    for session in sessions.values():
        session.warm_up()
    taken: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for _ in range(BLOCKS):
        for precision, session in sessions.items():
            taken[precision] += block(session, pairs, seconds / BLOCKS)
    for session in sessions.values():
        session.close()
    fp32, int8 = (float(np.median(taken[precision])) for precision in PRECISIONS)
    return {"fp32_ms": round(fp32, 3), "int8_ms": round(int8, 3), "ratio": round(fp32 / int8, 3)}


def accuracy(bundle: Bundle, engine: str) -> dict[str, Any]:
    """The metric at export of both precisions, what was lost, and how many layers stayed in float."""
    figures = {}
    for precision in PRECISIONS:
        metric = bundle.info.proofs[f"{engine}-{precision}-cpu"].metric
        if not metric:
            raise ExportError(f"{bundle.path}: no metric was measured at export; export it with validation pairs")
        figures[precision] = next(iter(metric.items()))
    (name, fp32), (_, int8) = figures["fp32"], figures["int8"]
    kept = bundle.variant(engine, "int8").float_layers
    return {"metric": name, "fp32": fp32, "int8": int8, "lost": 100 * (fp32 - int8), "float_layers": list(kept)}


def row(bundle: Bundle, engine: str, threads: int, runs: int, seconds: float) -> dict[str, Any]:
    """A row of the table."""
    measured = [speeds(bundle, engine, threads, seconds) for _ in range(runs)]
    return {
        "bundle": bundle.path.name,
        "task": bundle.info.task,
        "engine": engine,
        "threads": threads,
        **accuracy(bundle, engine),
        "runs": measured,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: the median run's times, every run's ratio."""
    lines = [
        "| bundle | threads | fp32 p50 | int8 p50 | times as fast, each run | metric fp32 → int8 | layers in float |",
        "|---|---|---|---|---|---|---|",
    ]
    for measured in rows:
        fp32, int8 = (float(np.median([run[f"{p}_ms"] for run in measured["runs"]])) for p in PRECISIONS)
        ratios = ", ".join(f"{run['ratio']:.2f}" for run in measured["runs"])
        metric = f"{measured['metric']} {measured['fp32']:.3f} → {measured['int8']:.3f}"
        cells = [measured["bundle"], str(measured["threads"]), f"{fp32:.2f} ms", f"{int8:.2f} ms", ratios, metric]
        lines.append(f"| {' | '.join([*cells, str(len(measured['float_layers']))])} |")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", nargs="+", type=Path)
    parser.add_argument("--engine", default="onnxruntime", choices=("onnxruntime", "openvino"))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="each precision and run (default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    try:
        rows = [
            row(read_bundle(path), args.engine, threads, args.runs, args.seconds)
            for path in args.bundle
            for threads in args.threads
        ]
    except ExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    else:
        told = ", ".join(f"{name} {value}" for name, value in machine().items())
        print(f"{table(rows)}\n\n{args.engine}, batch 1; {told}")
    return int(any(measured["lost"] > MOST_LOST for measured in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
