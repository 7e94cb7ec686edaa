"""``rgbt verify``: is the bundle as it was exported, and does this machine answer as PyTorch did?"""

import argparse
import json
import sys
from pathlib import Path

EXAMPLE = """examples:
  rgbt verify runs/demo/bundle
  rgbt verify runs/demo/bundle --provider cuda --json

Checks the hash of every file, then replays the golden pairs. Exit code 0: all within the limits; 1: not."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--engine", default="onnxruntime", help="runtime (default: %(default)s)")
    parser.add_argument("--provider", default="cpu", help="cpu, cuda or tensorrt (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads of the engine (default: all cores)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Replay the golden pairs."""
    from export.bundle import read_bundle
    from export.session import Session
    from export.verify import replay

    bundle = read_bundle(args.bundle)
    session = Session(bundle, args.engine, args.provider, args.threads)
    parity = replay(session)
    session.close()
    target = session.target
    if args.json:
        answer = {
            "bundle": str(args.bundle),
            "target": target,
            "task": bundle.info.task,
            **parity.as_dict(),
            "limits": parity.limits,
            "holds": parity.holds,
        }
        print(json.dumps(answer, indent=2))
    else:
        print(f"{args.bundle}: {bundle.info.task}, {', '.join(bundle.info.classes)}; the files are as exported")
        print(f"{target}: {parity}")
    if not parity.holds:
        print(f"rgbt: error: {args.bundle}: {target} answers otherwise than PyTorch did: {parity}", file=sys.stderr)
    return 0 if parity.holds else 1
