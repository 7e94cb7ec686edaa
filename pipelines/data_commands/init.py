"""``rgbt data init``: recognise a public set, or folders of pictures and labels, and write the card."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import DataError

if TYPE_CHECKING:
    from data.layout import Layout


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "rgb_dir",
        type=Path,
        metavar="PATH",
        help="a set's folder, whose layout is recognised; or a folder of RGB pictures, or the pattern of their files, "
        "such as shots/{id}_rgb.png",
    )
    parser.add_argument(
        "thermal_dir",
        type=Path,
        nargs="?",
        metavar="THERMAL_DIR",
        help="folder of thermal pictures, named alike, or their pattern, such as shots/{id}_radiometric.jpg",
    )
    parser.add_argument(
        "labels",
        type=Path,
        nargs="?",
        metavar="LABELS",
        help="COCO boxes (.json), a table of classes (.csv), or a folder of VOC (.xml), YOLO (.txt) or masks",
    )
    parser.add_argument("--out", type=Path, default=Path("card.yaml"), help="the card to write (default: card.yaml)")
    parser.add_argument(
        "--unit", choices=("intensity8", "counts16", "celsius"), help="thermal unit (default: by what files hold)"
    )
    parser.add_argument(
        "--stored",
        choices=("unit", "decikelvin", "centikelvin", "radiometric"),
        help="what thermal files hold: the unit itself, tenths or hundredths of Kelvin, or raw counts in a FLIR JPEG "
        "(default: unit, and radiometric where every JPEG is); linear goes into the card, for planck see --planck",
    )
    parser.add_argument(
        "--planck",
        type=Path,
        metavar="FILE",
        help="make degrees of raw counts by the camera's constants in FILE: a radiometric JPEG of it, what "
        "'exiftool -j' prints of one, or YAML (r1, r2, b, f, o, emissivity …); one setting for all frames",
    )
    parser.add_argument("--classes", type=_names, default=(), metavar="A,B,…", help="names of YOLO's or masks' numbers")
    parser.add_argument("--unlabelled", type=Path, metavar="FILE", help="list of ids for the split 'unlabelled'")
    parser.add_argument("--name", help="name of the data set (default: that of its folder)")
    parser.add_argument("--force", action="store_true", help="replace a card that is already there")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of different names such as person,car")
    return names


def run(args: argparse.Namespace) -> int:
    """Recognise what lies there, write the card, and list every assumption."""
    if args.out.exists() and not args.force:
        raise DataError(f"{args.out} is already there; name another --out, or replace it with --force")
    layout = _recognise(args)
    layout.write(args.out)
    card = layout.card
    if args.json:
        answer = {"card": str(args.out), "tasks": card.tasks(), "classes": card.classes, "splits": layout.counts}
        answer |= {"image_classes": card.image_classes, "assumed": layout.assumed}
        print(json.dumps(answer, indent=1, ensure_ascii=False))
        return 0
    print(f"wrote {args.out}")
    for task in card.tasks():
        print(f"{task}: {', '.join(card.classes_of(task))}")
    print("splits: " + ", ".join(f"{name} {count}" for name, count in layout.counts.items()))
    print("assumed (correct the card where this is wrong):")
    for line in layout.assumed:
        print(f"  {'' if line.startswith('!') else '- '}{line}")
    print(f"next: rgbt data check {args.out}")
    return 0


def _recognise(args: argparse.Namespace) -> "Layout":
    from data.folders import find_folders
    from data.layout import recognise
    from data.layouts.known import looked_for
    from data.layouts.recognise import recognise_set
    from data.planck_file import read_planck

    folders = args.rgb_dir, args.thermal_dir, args.labels
    planck = None if args.planck is None else read_planck(args.planck)
    if args.thermal_dir is None:
        if "{" in str(args.rgb_dir):
            raise DataError(f"{args.rgb_dir}: the pattern of one sensor; name thermal's beside it, or a folder")
        layout = recognise_set(args.rgb_dir, args.out, args.unit, args.name, args.stored)
        if layout is not None:
            _refuse_of_folders(args, layout.assumed[0])
            return layout
        found = find_folders(args.rgb_dir)
        if found is None:
            raise DataError(
                f"{args.rgb_dir}: no layout that is known; looked for {looked_for()}; or plain folders such as visible "
                "and infrared, rgb and thermal, vi and ir: name yours as 'rgbt data init RGB_DIR THERMAL_DIR [LABELS]'"
            )
        folders = found
    return recognise(*folders, args.out, args.unit, args.unlabelled, args.name, args.classes, args.stored, planck)


def _refuse_of_folders(args: argparse.Namespace, recognised: str) -> None:
    """What is asked of a recognised set in vain must not look as if it were done."""
    asked = (("--classes", args.classes), ("--unlabelled", args.unlabelled), ("--planck", args.planck))
    given = [word for word, value in asked if value]
    if given:
        raise DataError(
            f"{recognised}, with classes and splits of its own: leave out {' and '.join(given)} and edit the card, or "
            "name the folders as 'rgbt data init RGB_DIR THERMAL_DIR [LABELS]'"
        )
