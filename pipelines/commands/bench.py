"""``rgbt bench``: how fast a bundle answers here, alone and live."""

import argparse
import dataclasses
import json
import math
import shlex
from pathlib import Path
from typing import Any

EXAMPLE = """examples:
  rgbt bench runs/demo/bundle
  rgbt bench runs/demo/bundle --batch 1 4 --threads 2 --seconds 10
  rgbt bench runs/demo/bundle --live --json

--live generates two 300-frame files (1280×720 H.264 and 640×512 16-bit FFV1 for a bundle that takes any size, else
of its own size and depth) and measures CPU time per pair: of the model alone (M), of decoding alone (D), and of the
whole live process (L). live_efficiency = (M + D) / L."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="batch sizes (default: 1)")
    parser.add_argument("--threads", type=int, help="CPU threads of the engine (default: all cores)")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each batch size (default: %(default)s)")
    parser.add_argument("--engine", default="onnxruntime", help="runtime (default: %(default)s)")
    parser.add_argument("--provider", default="cpu", help="cpu, cuda or tensorrt (default: %(default)s)")
    parser.add_argument("--live", action="store_true", help="measure the live process against its parts too")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from export.bench import machine, measure
    from export.bundle import read_bundle
    from export.errors import ExportError
    from export.session import Session

    if min(args.batch) < 1:
        raise ExportError(f"--batch is {min(args.batch)}; give at least 1")
    if not 0 < args.seconds < math.inf:
        raise ExportError(f"--seconds is {args.seconds:g}; give a time above 0")
    bundle = read_bundle(args.bundle)
    session = Session(bundle, args.engine, args.provider, args.threads)
    rows = [dataclasses.asdict(measure(session, batch, args.seconds)) for batch in args.batch]
    session.close()
    answer: dict[str, Any] = {
        "command": _command(args),
        "machine": machine(),
        "bundle": str(args.bundle),
        "inputs": {name: list(shape) for name, shape in bundle.info.inputs.shapes().items()},
        "sessions": rows,
    }
    live: dict[str, Any] = {}
    if args.live:
        from pipelines.live_bench import measure_live

        live = measure_live(args.bundle, args.engine, args.provider, args.threads)
    print(json.dumps({**answer, **live}, indent=2) if args.json else "\n".join(_table(answer, live)))
    return 0


def _command(args: argparse.Namespace) -> str:
    """The words that measure the same again."""
    words = ["rgbt", "bench", str(args.bundle), "--batch", *map(str, args.batch), "--seconds", f"{args.seconds:g}"]
    words += ["--engine", args.engine, "--provider", args.provider]
    words += ["--threads", str(args.threads)] if args.threads else []
    return shlex.join([*words, *(["--live"] if args.live else [])])


def _table(answer: dict[str, Any], live: dict[str, Any]) -> list[str]:
    sizes = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in answer["inputs"].items())
    lines = [
        f"$ {answer['command']}",
        ", ".join(f"{name} {value}" for name, value in answer["machine"].items()),
        f"{answer['bundle']}: {sizes}",
        "",
        f"{'target':<22}{'threads':>8}{'batch':>6}{'runs':>6}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'pairs/s':>9}",
    ]
    for row in answer["sessions"]:
        lines.append(
            f"{row['target']:<22}{row['threads']:>8}{row['batch']:>6}{row['runs']:>6}{row['p50_ms']:>9.2f}"
            f"{row['p95_ms']:>9.2f}{row['p99_ms']:>9.2f}{row['pairs_per_s']:>9.1f}"
        )
    return [*lines, *([""] if live else []), *(f"{name:<22}{value}" for name, value in live.items())]
