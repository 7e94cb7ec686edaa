"""``rgbt compare``: which recipe is best on a card, over several seeds, with confidence intervals."""

import argparse
import json
import sys
from pathlib import Path

EXAMPLE = """examples:
  rgbt compare thermal-only staged --data card.yaml --seeds 3 --out runs/compare
  rgbt compare rgb-only thermal-only staged staged-day --data card.yaml --seeds 3 --out runs/few --labels 0.1
  rgbt compare staged my.yaml --data card.yaml --seeds 3 --out runs/mine --select last --set my:batch=16
The same command goes on after a stop; cells that are finished are not trained again.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "recipes", nargs="+", metavar="RECIPE", help="shipped recipes or YAML files; compared with the first of them"
    )
    parser.add_argument("--data", required=True, type=Path, metavar="CARD", help="dataset card")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each recipe (default: 3)")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of runs, stages and the result")
    parser.add_argument(
        "--set", action="append", default=[], metavar="K=V", help="change a field of all recipes; RECIPE:K=V of one"
    )
    parser.add_argument(
        "--epochs", type=float, default=1.0, metavar="FACTOR", help="multiply every stage's epochs by this (default: 1)"
    )
    parser.add_argument(
        "--labels", type=float, default=1.0, metavar="SHARE",
        help="keep the labels of this share of train; repeat is raised so that the optimiser steps stay equal, and a "
        "share that does not allow it is refused",
    )  # fmt: skip
    parser.add_argument(
        "--report", metavar="SPLIT", help="split to report (default: test if the card has it, else val)"
    )
    parser.add_argument(
        "--select", choices=("last", "best"),
        help="epoch that a stage hands on (default: as each recipe says); last: where val is reported, nothing is cut "
        "off train",
    )  # fmt: skip
    parser.add_argument(
        "--holdout", type=float, default=0.15, metavar="SHARE",
        help="share of train cut off to validate on where val is reported (default: 0.15)",
    )  # fmt: skip
    parser.add_argument("--accelerator", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--precision", default="32-true", choices=("32-true", "bf16-mixed", "16-mixed"))
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cells trained at a time (default: 1)")
    parser.add_argument("--json", action="store_true", help="print compare.json instead of the table")


def run(args: argparse.Namespace) -> int:
    """Compare, print the table, and say where the page lies."""
    from fusion.errors import Stopped
    from pipelines.compare import HTML, compare, text_table
    from pipelines.compare_request import Request

    request = Request(
        recipes=tuple(args.recipes),
        card=args.data,
        out=args.out,
        seeds=args.seeds,
        changes=tuple(args.set),
        labels=args.labels,
        epochs=args.epochs,
        report=args.report,
        select=args.select,
        holdout=args.holdout,
        jobs=args.jobs,
        accelerator=args.accelerator,
        precision=args.precision,
    )
    try:
        result = compare(request)
    except Stopped:
        print("rgbt: stopped; nothing is lost. The same command goes on", file=sys.stderr)
        return 130
    if args.json:
        print(json.dumps(result.as_json(), indent=1))
    else:
        print(f"{text_table(result)}\nreport {args.out / HTML}")
    return 0
