"""``rgbt demo``: the main job on synthetic pairs, from nothing to an annotated video."""

import argparse
import json
import sys
from pathlib import Path

EXAMPLE = """examples:
  rgbt demo
  rgbt demo --task segment
  rgbt demo --task classify --seed 1 --out runs/classify-1 --json

detect: boxes of persons, cars, cones and animals. segment: masks of the same. classify: is the road dry, wet, under
frost or black ice, half of which only RGB sees, the other half only thermal. JSON says METRIC.ROW for each row: fused,
fused_without_rgb, fused_without_thermal, rgb_only, thermal_only.
"""

_FOLDERS = {"detect": "runs/demo", "segment": "runs/demo-segment", "classify": "runs/demo-classify"}
"""Task → folder; as pipelines.demo.JOURNEYS, which the command line does not load."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--task", default="detect", choices=_FOLDERS, help="what is learned (default: detect)")
    parser.add_argument("--out", type=Path, help="folder (default: runs/demo, of other tasks runs/demo-TASK)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--set", action="append", default=[], metavar="K=V", help="change a field of the demo's recipes"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON; progress goes to stderr")


def run(args: argparse.Namespace) -> int:
    """Run the demo and print what it measured."""
    from pipelines.demo import run_demo
    from pipelines.evaluate import table

    def say(text: str) -> None:
        print(text, file=sys.stderr if args.json else sys.stdout, flush=True)

    result = run_demo(args.out or Path(_FOLDERS[args.task]), args.seed, args.set, say, args.task)
    if args.json:
        print(json.dumps(result.as_json(), indent=1))
        return 0
    print(f"\n{table(result.evaluation)}\n")
    print(f"ONNX Runtime against PyTorch, {result.parity}")
    print(f"live {result.live_fps:.1f} pairs/s on two videos; the bare model {result.model_fps:.1f} pairs/s")
    print(f"report {result.report}\nbundle {result.bundle}\nvideo  {result.video}\n{result.seconds:.0f} s in all")
    return 0
