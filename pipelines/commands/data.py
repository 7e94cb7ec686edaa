"""``rgbt data``: write, check, show and generate paired data sets; each action has a module in data_commands."""

import argparse

from pipelines.data_commands import check, init, show, stats, synth

EXAMPLE = """examples:
  rgbt data init sets/LLVIP --out llvip.yaml
  rgbt data init visible infrared boxes.json --out card.yaml
  rgbt data check card.yaml --html sheet.html
  rgbt data stats card.yaml --json
  rgbt data show card.yaml --augment --out grid.png
  rgbt data synth pairs --pairs train=240,val=60,test=60,unlabelled=120 --video 10
  rgbt data synth hard --setting hard
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their arguments."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    init.configure(actions.add_parser("init", help="write the card of a set or of two folders, say what was assumed"))
    check.configure(actions.add_parser("check", help="read every file; say what would make training wrong"))
    stats.configure(actions.add_parser("stats", help="sizes, values, classes and boxes of each split"))
    show.configure(actions.add_parser("show", help="draw pairs with their boxes into one picture"))
    synth.configure(actions.add_parser("synth", help="generate pairs, and a video, with their ground truth"))
