"""``rgbt train``: a recipe on a card, stage by stage."""

import argparse
import sys
from pathlib import Path

EXAMPLE = """examples:
  rgbt train staged --data card.yaml --out runs/first
  rgbt train staged --data card.yaml --out runs/first --resume
  rgbt train staged --data card.yaml --out runs/night --set model.blend.anchor=thermal --set model.size=[256,256]
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("recipe", help="name of a shipped recipe (rgbt recipe list), or a YAML file")
    parser.add_argument("--data", required=True, type=Path, metavar="CARD", help="dataset card (rgbt data init)")
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="change a field of the recipe")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in RUN")
    parser.add_argument("--accelerator", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--precision", default="32-true", choices=("32-true", "bf16-mixed"))


def run(args: argparse.Namespace) -> int:
    """Train, then say where the run lies and what comes next."""
    from data.card import DatasetCard
    from pipelines.recipe_file import load_recipe
    from pipelines.run_report import report_run
    from pipelines.train import train

    recipe = load_recipe(args.recipe, args.set)
    card = DatasetCard.load(args.data)
    try:
        train(recipe, Path(args.recipe).stem, card, args.out, args.resume, args.accelerator, args.precision)
    except KeyboardInterrupt:
        print(
            "\nrgbt: stopped; no finished epoch is lost. Go on with the same command and --resume",
            file=sys.stderr,
        )
        return 130
    print(f"run    {args.out}\nreport {report_run(args.out, None)}\nnext: rgbt evaluate {args.out} --data {args.data}")
    return 0
