"""``rgbt verify``: is the bundle as it was exported, and does this machine answer as PyTorch did?"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.bundle import Bundle
    from export.bundle_info import Variant

EXAMPLE = """examples:
  rgbt verify runs/demo/bundle
  rgbt verify runs/demo/bundle --engine onnxruntime --precision int8
  rgbt verify runs/demo/bundle --provider cuda --json

Checks the hash of every file, then replays the golden pairs on every engine and precision that the bundle holds, or on
those named. fp32 must answer as PyTorch did; a lower precision must agree with it as at export. An engine that is not
installed is told of, and counts as a failure only where it was named. Exit code 0: all within the limits; 1: not."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("--engine", nargs="+", help="runtimes (default: those that the bundle has files for)")
    parser.add_argument("--precision", nargs="+", help="fp32, fp16, bf16, int8 (default: those of the bundle)")
    parser.add_argument("--provider", help="cpu, cuda, tensorrt, gpu, npu (default: cpu; of TensorRT cuda)")
    parser.add_argument("--threads", type=int, help="CPU threads of the engine (default: all cores)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Replay the golden pairs on each."""
    from export.bundle import read_bundle
    from pipelines.proof_table import proof_table

    bundle = read_bundle(args.bundle)
    bundle.golden()  # what is wrong with it is said once
    rows = [_replay(bundle, variant, args) for variant in bundle.choose(args.engine, args.precision)]
    failed = [row for row in rows if not row["holds"] and (row["ran"] or args.engine)]
    holds = not failed and any(row["holds"] for row in rows)
    if args.json:
        answer = {"bundle": str(args.bundle), "task": bundle.info.task, "holds": holds, "rows": rows}
        print(json.dumps(answer, indent=2))
    else:
        print(f"{args.bundle}: {bundle.info.task}, {', '.join(bundle.info.classes)}; the files are as exported")
        for row in rows:
            print(f"{row['target']} {row['precision']}: {row['text']}")
        print("\n".join(proof_table(bundle.info)) if bundle.info.proofs else "", end="\n" if bundle.info.proofs else "")
    for row in failed:
        print(
            f"rgbt: error: {args.bundle}: {row['target']} {row['precision']}: "
            f"{row.get('error') or 'answers otherwise than PyTorch did: ' + row['text']}",
            file=sys.stderr,
        )
    if not any(row["ran"] for row in rows) and not failed:
        print(f"rgbt: error: {args.bundle}: nothing of it runs here: {rows[0]['error']}", file=sys.stderr)
    return 0 if holds else 1


def _replay(bundle: "Bundle", variant: "Variant", args: argparse.Namespace) -> dict[str, Any]:
    """One row: what was measured, or why nothing was."""
    from export.bundle_info import default_provider
    from export.errors import ExportError
    from export.session import Session
    from export.verify import replay

    provider = args.provider or default_provider(variant.engine)
    row: dict[str, Any] = {"target": f"{variant.engine}-{provider}", "precision": variant.precision}
    try:
        session = Session(bundle, variant.engine, provider, args.threads, variant.precision)
    except ExportError as error:
        return {**row, "ran": False, "holds": False, "error": str(error), "text": f"does not run here: {error}"}
    try:
        parity = replay(session)
    except ExportError as error:  # of one engine; the others are still asked
        return {**row, "ran": True, "holds": False, "error": str(error), "text": str(error)}
    finally:
        session.close()
    figures = {**parity.as_dict(), "limits": dict(parity.limits), "holds": parity.holds, "text": str(parity)}
    return {**row, "ran": True, "target": session.target, **figures}
