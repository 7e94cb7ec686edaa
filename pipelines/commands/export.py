"""``rgbt export``: a run becomes a bundle."""

import argparse
import json
import sys
from pathlib import Path

EXAMPLE = """examples:
  rgbt export runs/first --out bundles/first
  rgbt export runs/first --out bundles/first --precision fp32 int8
  rgbt export runs/first --out bundles/edge --target onnxruntime openvino ncnn --precision fp32 fp16 bf16 int8
  rgbt export --inspect bundles/first

Every bundle holds the fp32 graph (model.onnx), which ONNX Runtime and OpenVINO take as it is. int8 is calibrated on
pairs of --calibration-split, spread from the darkest to the brightest, and measured on --split: where it loses more
than --max-drop points of the task's metric, layers are left in float until it does not, or the export is refused.
Accuracy on N pairs moves in steps of 100 / N points; where those are larger than --max-drop, a warning says so."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run_folder", type=Path, nargs="?", metavar="RUN")
    parser.add_argument("--out", type=Path, metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument(
        "--data", type=Path, metavar="CARD", help="card of the golden and validation pairs (default: the run's own)"
    )
    parser.add_argument("--split", default="val", help="split of the golden and validation pairs (default: val)")
    parser.add_argument("--golden", type=int, default=4, help="number of golden pairs (default: 4)")
    parser.add_argument("--target", nargs="+", default=["onnxruntime"], metavar="ENGINE", help="default: onnxruntime")
    parser.add_argument(
        "--precision", nargs="+", default=["fp32"], choices=("fp32", "fp16", "bf16", "int8"), help="default: fp32"
    )
    parser.add_argument("--opset", type=int, help="of the ONNX file (default: 18)")
    parser.add_argument(
        "--bake-rig", action="store_true", help="the graph takes the thermal camera's own frames and warps them itself"
    )
    parser.add_argument(
        "--map-size", choices=("camera", "network"), default="camera", help="of a class map (default: camera)"
    )
    parser.add_argument(
        "--size", choices=("fixed", "dynamic"), default="fixed", help="dynamic: also a graph for frames of any size"
    )
    int8 = parser.add_argument_group("of int8")
    int8.add_argument(
        "--calibration", type=Path, metavar="CARD", help="card of the calibration pairs (default: --data)"
    )
    int8.add_argument("--calibration-split", default="train", metavar="SPLIT", help="default: train")
    int8.add_argument("--calibration-pairs", type=int, default=64, metavar="N", help="default: 64")
    int8.add_argument("--max-drop", type=float, default=1.0, metavar="POINTS", help="of the metric (default: 1.0)")
    parser.add_argument("--inspect", type=Path, metavar="PATH", help="say what a bundle or an ONNX file is, and stop")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Export, measure, and say what was measured."""
    problem = _misuse(args)
    if problem:
        print(f"rgbt export: error: {problem}", file=sys.stderr)
        return 2
    return _inspect(args) if args.inspect else _export(args)


def _misuse(args: argparse.Namespace) -> str | None:
    if args.inspect:
        return (
            f"--inspect looks at a file, and exports nothing: leave out '{args.run_folder}'"
            if args.run_folder
            else None
        )
    if args.run_folder is None or args.out is None:
        return "name a run's folder and --out BUNDLE, or --inspect PATH"
    for name, least in (("golden", 1), ("calibration_pairs", 8)):
        if getattr(args, name) < least:
            return f"--{name.replace('_', '-')} is {getattr(args, name)}; give at least {least}"
    return None if args.max_drop >= 0 else f"--max-drop is {args.max_drop:g}; give points from 0 up"


def _inspect(args: argparse.Namespace) -> int:
    from export.inspect import as_text, inspect

    found = inspect(args.inspect)
    print(json.dumps(found, indent=1) if args.json else as_text(found))
    return 0


def _export(args: argparse.Namespace) -> int:
    from pipelines.export_run import Request, export_run

    request = Request(
        args.run_folder,
        args.out,
        args.data,
        args.split,
        args.golden,
        args.target,
        args.precision,
        args.calibration,
        args.calibration_split,
        args.calibration_pairs,
        args.max_drop,
        args.opset,
        args.bake_rig,
        args.map_size,
        args.size == "dynamic",
    )
    bundle = export_run(request, lambda line: print(line, file=sys.stderr, flush=True))
    if args.json:
        print(json.dumps(bundle.info.model_dump(mode="json"), indent=1))
        return 0
    size = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file())
    print(f"bundle {args.out}  {size / 1e6:.1f} MB, opset {bundle.info.opset}")
    for engine, parity in bundle.info.parity.items():
        print(f"parity with PyTorch on {engine}: " + ", ".join(f"{k} {v:g}" for k, v in parity.items()))
    if bundle.info.proofs:
        from pipelines.proof_table import proof_table

        print("\n".join(proof_table(bundle.info)))
    print(f"next: rgbt live {args.out} --rgb SRC --thermal SRC")
    return 0
