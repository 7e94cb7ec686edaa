"""``rgbt evaluate``: average precision of a run or a bundle, with both sensors and with either absent."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

EXAMPLE = """examples:
  rgbt evaluate runs/first --data card.yaml
  rgbt evaluate runs/first --data card.yaml --split test --beside runs/rgb-only runs/thermal-only
  rgbt evaluate bundles/first --data card.yaml --without rgb --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("subject", type=Path, metavar="RUN|BUNDLE")
    parser.add_argument("--data", required=True, type=Path, metavar="CARD", help="dataset card")
    parser.add_argument("--split", default="val", help="labelled split (default: val)")
    parser.add_argument(
        "--without", action="append", choices=("rgb", "thermal"), help="only the row without this sensor"
    )
    parser.add_argument("--beside", nargs="+", type=Path, default=[], metavar="RUN", help="other runs to compare")
    parser.add_argument("--examples", type=int, default=8, help="pictures in the report of a run (default: 8)")
    parser.add_argument("--provider", default="cpu", choices=("cpu", "cuda", "tensorrt"), help="for a bundle")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, and write the report into the run."""
    from data.card import DatasetCard
    from pipelines.evaluate import evaluate, table
    from pipelines.run_report import report_run

    card = DatasetCard.load(args.data)
    reported = (args.subject / "model").exists() and not args.without
    result = evaluate(args.subject, card, args.split, args.without, args.examples if reported else 0, args.provider)
    for other in args.beside:
        row = evaluate(other, card, args.split).rows[0]
        result.rows.append(replace(row, name=f"{other.name}: {row.name}") if len(row.sensors) == 2 else row)
    report = report_run(args.subject, result) if reported else None
    if args.json:
        print(json.dumps(result.as_json() | {"report": str(report) if report else None}, indent=1))
    else:
        print(table(result))
        if report:
            print(f"report {report}")
    return 0
