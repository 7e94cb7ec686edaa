"""``rgbt evaluate``: the task's figures of a run or a bundle, with both sensors, without either, and made worse."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

EXAMPLE = """examples:
  rgbt evaluate runs/first --data card.yaml
  rgbt evaluate runs/first --data card.yaml --split test --beside runs/rgb-only runs/thermal-only
  rgbt evaluate runs/first --data card.yaml --shift 2,4,8 --degrade night,glare,rgb_noise
  rgbt evaluate bundles/first --data card.yaml --degrade all --html robustness.html
  rgbt evaluate bundles/first --data card.yaml --without rgb --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("subject", type=Path, metavar="RUN|BUNDLE")
    parser.add_argument("--data", required=True, type=Path, metavar="CARD", help="dataset card")
    parser.add_argument("--split", default="val", help="labelled split (default: val)")
    parser.add_argument(
        "--without", action="append", choices=("rgb", "thermal"),
        help="only the row without this sensor (default: a row with both, and one without each)",
    )  # fmt: skip
    parser.add_argument(
        "--shift", type=_pixels, default=[], metavar="PX[,PX]",
        help="also with thermal moved by so many pixels of RGB, the mean over four directions",
    )  # fmt: skip
    parser.add_argument(
        "--degrade", type=_names, default=[], metavar="NAMES|all",
        help="also with the pictures made worse: night, glare, rgb_noise and others, by comma, or all",
    )  # fmt: skip
    parser.add_argument(
        "--beside", nargs="+", type=Path, default=[], metavar="RUN", help="other runs or bundles to compare"
    )
    parser.add_argument("--examples", type=int, default=8, help="pictures in the report (default: 8)")
    parser.add_argument("--engine", default="onnxruntime", help="for a bundle (default: %(default)s)")
    parser.add_argument("--precision", default="fp32", help="for a bundle: one that it holds (default: %(default)s)")
    parser.add_argument(
        "--provider", help="for a bundle: cpu, cuda, tensorrt, gpu, npu (default: cpu; of TensorRT cuda)"
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write what was measured as a page of its own")
    parser.add_argument("--json", action="store_true")


def _pixels(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(math.isfinite(pixels) and pixels > 0 for pixels in found):
        raise argparse.ArgumentTypeError(f"expected pixels above 0, such as 4 or 2,4,8; found '{text}'")
    return found


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, and write the report into the run."""
    from data.card import DatasetCard
    from data.errors import DataError
    from pipelines.evaluate import measure, open_subject, table
    from pipelines.live.lines import check_place
    from pipelines.robustness import fitting
    from pipelines.run_report import report_evaluation, report_run
    from pipelines.train import read_run

    card = DatasetCard.load(args.data)
    reported = (args.subject / "model").exists() and not args.without
    if reported:
        read_run(args.subject)  # what cannot be reported is said before minutes of measuring
    if args.html:
        check_place(args.html)
    examples = args.examples if reported or args.html else 0
    subject, *others = (
        open_subject(path, args.provider, args.engine, args.precision) for path in (args.subject, *args.beside)
    )
    for other in others:
        if other.task != subject.task:
            raise DataError(
                f"--beside {other.path}: it was trained to {other.task}, {args.subject} to {subject.task}, "
                "which have no figure in common"
            )
        other.require_fits(card)
    result = measure(subject, card, args.split, args.without, examples, args.degrade, args.shift)
    for other in others:
        fused = len(other.sensors) == 2
        worse, moved = fitting(args.degrade, other.sensors), args.shift if fused else ()
        rows = measure(other, card, args.split, (), 0, worse, moved).rows
        taken = {row.name for row in result.rows}
        named = fused or any(row.name in taken for row in rows)
        result.rows += [replace(row, name=f"{other.name}: {row.name}") if named else row for row in rows]
    report = report_run(args.subject, result) if reported else None
    if args.html:
        report_evaluation(args.subject, result, args.html)
    if args.json:
        written = {"report": str(report) if report else None, "html": str(args.html) if args.html else None}
        print(json.dumps(result.as_json() | written, indent=1))
    else:
        print(table(result))
        for path in (report, args.html):
            if path:
                print(f"report {path}")
    return 0
