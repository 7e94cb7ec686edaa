"""``rgbt data``: write, check, show and generate paired data sets."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import DataError

if TYPE_CHECKING:
    from data.check import Report

EXAMPLE = """examples:
  rgbt data init visible infrared boxes.json --out card.yaml
  rgbt data check card.yaml
  rgbt data show card.yaml --augment --out grid.png
  rgbt data synth pairs --pairs train=240,val=60,test=60,unlabelled=120 --video 10
  rgbt data synth hard --setting hard
"""
_SHOWN = 30
"""Lines of one kind that are printed; --json has all."""
_SETTINGS = {
    "default": "train=240,val=60,test=60,unlabelled=120 in all kinds of light",
    "hard": "train=48,val=60,test=96,unlabelled=400, mostly night and glare, RGB noisier: to compare recipes",
}
"""Setting → what it is; as data.synthetic.settings, which the command line does not load."""
_SMALLEST, _LARGEST = 32, 8192
"""Edges of generated pictures in pixels."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the four actions and their arguments."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _configure_init(actions.add_parser("init", help="write the card of two folders and say what was assumed"))
    _configure_check(actions.add_parser("check", help="read every file and compare it with the card"))
    _configure_show(actions.add_parser("show", help="draw pairs with their boxes into one picture"))
    _configure_synth(actions.add_parser("synth", help="generate pairs, and a video, with their ground truth"))


def _configure_init(parser: argparse.ArgumentParser) -> None:
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
    parser.set_defaults(run=run_init)


def _configure_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("card", type=Path, metavar="CARD")
    parser.add_argument("--threads", type=int, default=8, help="files read at once (default: 8)")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run_check)


def _configure_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("card", type=Path, metavar="CARD")
    parser.add_argument("--out", type=Path, default=Path("grid.png"), help="PNG or JPEG (default: grid.png)")
    parser.add_argument("--split", help="default: the card's first split")
    parser.add_argument("--n", type=int, default=12, help="pairs to draw (default: 12)")
    parser.add_argument("--augment", action="store_true", help="as training changes them")
    parser.add_argument("--seed", type=_seed, default=0, help="of the augmentation")
    parser.set_defaults(run=run_show)


def _configure_synth(parser: argparse.ArgumentParser) -> None:
    edges = ("HEIGHT", "WIDTH")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; a former one of this kind is replaced")
    about = "; ".join(f"{name}: {text}" for name, text in _SETTINGS.items())
    parser.add_argument("--setting", choices=_SETTINGS, default="default", help=about)
    parser.add_argument(
        "--pairs", type=_pairs, metavar="SPLIT=N,…", help="how many of each split (default: by setting)"
    )
    parser.add_argument("--seed", type=_seed, default=0)
    parser.add_argument("--rgb-size", type=int, nargs=2, default=(160, 192), metavar=edges)
    parser.add_argument("--thermal-size", type=int, nargs=2, default=(128, 160), metavar=edges)
    parser.add_argument("--video", type=_seconds, default=0.0, metavar="SECONDS", help="also a recording, in OUT/video")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run_synth)


def _pairs(text: str) -> dict[str, int]:
    try:
        return {name: int(count) for name, count in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form train=240,val=60") from None


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if seconds != 0 and not 0.1 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds from 0.1")
    return seconds


def run_init(args: argparse.Namespace) -> int:
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


def run_check(args: argparse.Namespace) -> int:
    """Read everything; exit code 1 when something would make training wrong."""
    from data.card import DatasetCard
    from data.check import check_card

    card = DatasetCard.load(args.card)
    report = check_card(card, _progress if sys.stderr.isatty() else None, max(1, args.threads))
    for line in _capped(report.errors):
        print(f"error: {line}", file=sys.stderr)
    if args.json:
        print(json.dumps(report.as_json(), indent=1, ensure_ascii=False))
        return 1 if report.errors else 0
    for line in _capped(report.warnings):
        print(f"warning: {line}")
    _print_summary(card.name, card.thermal_spec.unit, report)
    return 1 if report.errors else 0


def run_show(args: argparse.Namespace) -> int:
    """Draw a grid of pairs."""
    from data.card import DatasetCard
    from data.images import SUFFIXES, encode_image
    from data.yaml_file import atomic
    from pipelines.card_grid import card_grid

    if args.out.suffix.lower() not in SUFFIXES:
        raise DataError(f"{args.out}: a picture's name ends in one of {', '.join(SUFFIXES)}")
    card = DatasetCard.load(args.card)
    if not card.splits:
        raise DataError(f"{args.card}: no splits")
    split = args.split or next(iter(card.splits))
    grid = card_grid(card, split, max(1, args.n), args.augment, args.seed)
    with atomic(args.out) as file:
        file.write(encode_image(args.out.suffix, grid))
    print(f"wrote {args.out}: split '{split}'{', augmented' if args.augment else ''}")
    return 0


def run_synth(args: argparse.Namespace) -> int:
    """Generate a data set, and a recording where asked for."""
    from data.synthetic.dataset import write_dataset
    from data.synthetic.video import write_video
    from fusion.folder import atomic_folder

    sizes = tuple(args.rgb_size), tuple(args.thermal_size)
    edges = [*sizes[0], *sizes[1]]
    if min(edges) < _SMALLEST or max(edges) > _LARGEST or any(edge % 2 for edge in sizes[0]):
        raise DataError(f"sizes {sizes}: expected {_SMALLEST} to {_LARGEST} pixels, and even numbers for RGB")
    # Not card.yaml: 'data init' writes one beside pictures that nobody could generate again.
    with atomic_folder(args.out, marker="truth.json") as folder:
        write_dataset(folder, args.pairs, args.seed, *sizes, setting=args.setting)
        if args.video > 0:
            write_video(folder / "video", args.video, args.seed, *sizes)
    answer = {"card": str(args.out / "card.yaml"), "video": str(args.out / "video") if args.video > 0 else None}
    if args.json:
        print(json.dumps(answer, indent=1))
        return 0
    print(f"wrote {answer['card']}" + (f" and the recording {answer['video']}" if answer["video"] else ""))
    return 0


def _progress(done: int, total: int) -> None:
    if done % 50 == 0 or done == total:
        print(f"\r{done}/{total} pairs", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _capped(lines: list[str]) -> list[str]:
    more = len(lines) - _SHOWN
    return lines if more <= 0 else [*lines[:_SHOWN], f"… and {more} more lines (all of them with --json)"]


def _print_summary(name: str, unit: str, report: "Report") -> None:
    print(f"{name}:")
    for split, counts in report.splits.items():
        boxes = ", ".join(f"{label} {count}" for label, count in counts["boxes"].items() if count)
        print(f"  {split}: {counts['pairs']} pairs, {counts['labelled']} labelled{f': {boxes}' if boxes else ''}")
    if report.thermal_range and report.thermal_span:
        (low, high), (narrow, wide) = report.thermal_range, report.thermal_span
        print(f"  thermal ({unit}): {low:g} … {high:g}, a frame spans {narrow:g} … {wide:g}")
    if report.box_sides:
        small, median, large = report.box_sides
        print(f"  box size (√area, RGB pixels): {small:.0f} … {large:.0f}, median {median:.0f}")
    print(f"{len(report.errors)} errors, {len(report.warnings)} warnings")
