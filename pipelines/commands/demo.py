"""``rgbt demo``: the main job on synthetic pairs, from nothing to an annotated video."""

import argparse
import json
import sys
from pathlib import Path

EXAMPLE = """examples:
  rgbt demo
  rgbt demo --seed 1 --out runs/demo-1 --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--task", default="detect", choices=("detect",))
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder (default: runs/demo)")
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

    result = run_demo(args.out, args.seed, args.set, say)
    if args.json:
        print(json.dumps(result.as_json(), indent=1))
        return 0
    print(f"\n{table(result.evaluation)}\n")
    print(f"PyTorch and ONNX Runtime differ by at most {result.parity_scores:.1e} in scores, ", end="")
    print(f"{result.parity_boxes_px:.1e} px in boxes")
    print(f"live {result.live_fps:.1f} pairs/s on two videos; the bare model {result.model_fps:.1f} pairs/s")
    print(f"report {result.report}\nbundle {result.bundle}\nvideo  {result.video}\n{result.seconds:.0f} s in all")
    return 0
