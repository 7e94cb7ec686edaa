"""``rgbt data init``: recognise two folders and write their card."""

import argparse
import json
from pathlib import Path

from data.errors import DataError


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("rgb_dir", type=Path, metavar="RGB_DIR", help="folder of RGB pictures")
    parser.add_argument("thermal_dir", type=Path, metavar="THERMAL_DIR", help="folder of thermal pictures, named alike")
    parser.add_argument("labels", type=Path, nargs="?", metavar="LABELS", help="COCO boxes on the RGB pictures")
    parser.add_argument("--out", type=Path, default=Path("card.yaml"), help="the card to write (default: card.yaml)")
    parser.add_argument(
        "--unit", choices=("intensity8", "counts16", "celsius"), help="thermal unit (default: by dtype)"
    )
    parser.add_argument("--unlabelled", type=Path, metavar="FILE", help="list of ids for the split 'unlabelled'")
    parser.add_argument("--name", help="name of the data set (default: that of its folder)")
    parser.add_argument("--force", action="store_true", help="replace a card that is already there")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Recognise two folders, write the card, and list every assumption."""
    from data.layout import recognise

    if args.out.exists() and not args.force:
        raise DataError(f"{args.out} is already there; name another --out, or replace it with --force")
    layout = recognise(args.rgb_dir, args.thermal_dir, args.labels, args.out, args.unit, args.unlabelled, args.name)
    layout.write(args.out)
    if args.json:
        answer = {"card": str(args.out), "classes": layout.card.classes, "splits": layout.counts}
        print(json.dumps({**answer, "assumed": layout.assumed}, indent=1, ensure_ascii=False))
        return 0
    print(f"wrote {args.out}")
    if layout.card.classes:
        print(f"classes: {', '.join(layout.card.classes)}")
    print("splits: " + ", ".join(f"{name} {count}" for name, count in layout.counts.items()))
    print("assumed (correct the card where this is wrong):")
    for line in layout.assumed:
        print(f"  {'' if line.startswith('!') else '- '}{line}")
    print(f"next: rgbt data check {args.out}")
    return 0
