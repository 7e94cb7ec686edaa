"""``rgbt data synth``: generate pairs, and a recording, with their ground truth."""

import argparse
import json
import math
from pathlib import Path

from data.errors import DataError
from pipelines.data_commands.numbers import whole

_SETTINGS = {
    "default": "train=240,val=60,test=60,unlabelled=120 in all kinds of light",
    "hard": "train=48,val=60,test=96,unlabelled=400, mostly night and glare, RGB noisier: to compare recipes",
    "road": "train=480,val=80,test=240,unlabelled=120, the road dry, wet, under frost or black ice: to classify",
}
"""Setting → what it is; as data.synthetic.settings, which the command line does not load."""
_SMALLEST, _LARGEST = 32, 8192
"""Edges of generated pictures in pixels."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    edges = ("HEIGHT", "WIDTH")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; a former one of this kind is replaced")
    about = "; ".join(f"{name}: {text}" for name, text in _SETTINGS.items())
    parser.add_argument("--setting", choices=_SETTINGS, default="default", help=about)
    parser.add_argument(
        "--pairs", type=_pairs, metavar="SPLIT=N,…", help="how many of each split (default: by setting)"
    )
    parser.add_argument("--seed", type=whole, default=0)
    parser.add_argument("--rgb-size", type=int, nargs=2, default=(160, 192), metavar=edges)
    parser.add_argument("--thermal-size", type=int, nargs=2, default=(128, 160), metavar=edges)
    parser.add_argument("--video", type=_seconds, default=0.0, metavar="SECONDS", help="also a recording, in OUT/video")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def _pairs(text: str) -> dict[str, int]:
    try:
        return {name: int(count) for name, count in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form train=240,val=60") from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if seconds != 0 and not 0.1 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds from 0.1")
    return seconds


def run(args: argparse.Namespace) -> int:
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
            write_video(folder / "video", args.video, args.seed, *sizes, setting=args.setting)
    answer = {"card": str(args.out / "card.yaml"), "video": str(args.out / "video") if args.video > 0 else None}
    if args.json:
        print(json.dumps(answer, indent=1))
        return 0
    print(f"wrote {answer['card']}" + (f" and the recording {answer['video']}" if answer["video"] else ""))
    return 0
