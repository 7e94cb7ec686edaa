"""``rgbt export``: a run becomes a bundle."""

import argparse
import json
from pathlib import Path

EXAMPLE = """examples:
  rgbt export runs/first --out bundles/first
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run_folder", type=Path, metavar="RUN")
    parser.add_argument("--out", required=True, type=Path, metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--data", type=Path, metavar="CARD", help="card of the golden pairs (default: the run's own)")
    parser.add_argument("--split", default="val", help="split of the golden pairs (default: val)")
    parser.add_argument("--golden", type=int, default=4, help="number of golden pairs (default: 4)")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Export, verify, and say what was measured."""
    from pipelines.export_run import export_run

    bundle = export_run(args.run_folder, args.out, args.data, args.split, args.golden)
    if args.json:
        print(json.dumps(bundle.info.model_dump(mode="json"), indent=1))
        return 0
    size = sum(file.stat().st_size for file in args.out.iterdir())
    print(f"bundle {args.out}  {size / 1e6:.1f} MB, opset {bundle.info.opset}")
    for engine, parity in bundle.info.parity.items():
        print(f"parity with PyTorch on {engine}: " + ", ".join(f"{k} {v:g}" for k, v in parity.items()))
    print(f"next: rgbt live {args.out} --rgb SRC --thermal SRC")
    return 0
