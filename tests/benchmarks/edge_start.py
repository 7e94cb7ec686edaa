"""Start and memory of the edge runtime: python tests/benchmarks/edge_start.py [RUNS] [--bundle BUNDLE] [--json].

The bundle is the ``edge`` pair (two mobilenetv4_conv_small) at 480×640, with random weights: what a start costs
does not depend on what was learnt. Each run is a process of its own: ``session`` opens the bundle and answers a
golden pair, ``live`` is ``rgbt live`` on two recordings of that size, decoding and pairing included. A machine that
does other work prolongs the wall-clock time; the CPU time beside it shows by how much.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from data.synthetic.video import write_video
from export.bench import machine

SIZE = (480, 640)
LIMITS = {"first_answer_s": 1.5, "peak_mb": 300.0}
"""Figure → the largest median that holds."""
STEADY_RUNS = 20
"""After the first answer; memory is read behind them."""

_TELL = """
def tell():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    used = os.times()
    return {
        "at": time.monotonic(), "cpu_s": used.user + used.system, "torch": "torch" in sys.modules,
        "rss_mb": int(status["VmRSS"].split()[0]) / 1024, "peak_mb": int(status["VmHWM"].split()[0]) / 1024,
    }
"""
_SESSION = f"""
import json, os, sys, time
from pathlib import Path
from export.bundle import read_bundle
from export.session import Session
{_TELL}
bundle = read_bundle(Path(sys.argv[1]))
session = Session(bundle)
golden = bundle.golden()
pair = [golden[name][:1] for name in ("rgb", "thermal", "present")]
session.run(*pair)
first = tell()
for _ in range({STEADY_RUNS}):
    session.run(*pair)
print(json.dumps([first, tell()]))
"""
_LIVE = f"""
import json, os, sys, time
from pipelines.live.sinks import SINKS
{_TELL}
jsonl, first = SINKS["jsonl"], []
class Told(jsonl):
    def write(self, *answer):
        super().write(*answer)
        first or first.append(tell())
SINKS["jsonl"] = Told
from pipelines.cli import main
bundle, videos = sys.argv[1:]
files = {{"--rgb": "rgb.mp4", "--thermal": "thermal.mkv", "--rig": "rig.yaml", "--jsonl": "out.jsonl"}}
words = [word for name, file in files.items() for word in (name, videos + "/" + file)]
assert main(["live", bundle, *words, "--limit", "{STEADY_RUNS}", "--json"]) == 0
print(json.dumps([*first, tell()]))
"""
CASES = {"session": _SESSION, "live": _LIVE}


def write_bundle(out: Path) -> Path:
    """Export the untrained edge pair."""
    import numpy as np

    from data.prepare import InputSpec
    from data.thermal import ThermalSpec
    from export.write import export_bundle
    from fusion.model import ModelConfig, build_model

    inputs = InputSpec(rgb_size=SIZE, thermal_size=SIZE, thermal=ThermalSpec(unit="counts16"))
    fields = {"encoders": "edge", "rgb": {"weights": None}, "size": SIZE, "classes": ("person", "car")}
    config = ModelConfig.model_validate(fields | {"inputs": inputs.model_dump(mode="json")})
    model, _ = build_model(config, seed=0)
    random = np.random.default_rng(0)
    golden = {
        "rgb": random.integers(0, 255, (1, *SIZE, 3), np.uint8),
        "thermal": random.integers(21_000, 23_000, (1, *SIZE), np.uint16),
    }
    export_bundle(model.eval(), config.inputs, config.classes, config.sensors, golden, {}, "0" * 64, out)
    return out


def measure(case: str, *arguments: str) -> dict[str, Any]:
    """One fresh process: seconds from its start to the first answer, its CPU time until then, memory, torch."""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", CASES[case], *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case} fails:\n{done.stderr}")
    first, last = json.loads(done.stdout.splitlines()[-1])
    return {
        "case": case,
        "first_answer_s": round(first["at"] - start, 3),
        "first_answer_cpu_s": round(first["cpu_s"], 3),
        "rss_mb": round(last["rss_mb"], 1),
        "peak_mb": round(last["peak_mb"], 1),
        "torch": last["torch"],
        "load": round(os.getloadavg()[0], 1),
    }


def summary(case: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of a case, and what is beyond its limit."""
    figures = ("first_answer_s", "first_answer_cpu_s", "rss_mb", "peak_mb", "load")
    median = {name: statistics.median(row[name] for row in rows) for name in figures}
    missed = [f"{name} {median[name]:g} > {limit:g}" for name, limit in LIMITS.items() if median[name] > limit]
    missed += ["torch was imported"] if any(row["torch"] for row in rows) else []
    return {"case": case, "runs": len(rows), **median, "torch": any(row["torch"] for row in rows), "missed": missed}


def _line(row: dict[str, Any]) -> str:
    verdict = f"missed: {', '.join(row['missed'])}" if row["missed"] else "within the limits"
    return (
        f"{row['case']:<8} first answer {row['first_answer_s']:.2f} s ({row['first_answer_cpu_s']:.2f} s of CPU, load "
        f"{row['load']:g}), resident {row['rss_mb']:.0f} MB, at most {row['peak_mb']:.0f} MB, "
        f"torch {'imported' if row['torch'] else 'absent'}: median of {row['runs']} runs, {verdict}"
    )


def main(arguments: argparse.Namespace) -> int:
    """Measure both cases; 1 when a median is beyond its limit or torch was imported."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = arguments.bundle or write_bundle(Path(folder) / "edge")
        videos = write_video(Path(folder) / "videos", seconds=2, seed=0, rgb_size=SIZE, thermal_size=SIZE)
        for case in CASES:
            measure(case, str(bundle), str(videos))  # fills the disk cache and writes byte code
        rows = [measure(case, str(bundle), str(videos)) for _ in range(arguments.runs) for case in CASES]
    medians = [summary(case, [row for row in rows if row["case"] == case]) for case in CASES]
    answer = {"command": sys.argv, "machine": machine(), "limits": LIMITS, "medians": medians, "rows": rows}
    if arguments.json:
        print(json.dumps(answer, indent=1))
    else:
        print("$ python", *sys.argv)
        print(", ".join(f"{name} {value}" for name, value in machine().items()))
        for row in medians:
            print(_line(row))
    return int(any(row["missed"] for row in medians))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=int, nargs="?", default=5)
    parser.add_argument("--bundle", type=Path, help="measure this one instead of writing one")
    parser.add_argument("--json", action="store_true")
    sys.exit(main(parser.parse_args()))
