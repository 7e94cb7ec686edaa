"""``rgbt data stats``: what a data set holds, in figures."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.data_commands.numbers import whole
from pipelines.data_commands.progress import Progress

if TYPE_CHECKING:
    from data.check.stats import SplitStats, Values

_BARS = " ▁▂▃▄▅▆▇█"
_COLUMNS = 32


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("card", type=Path, metavar="CARD")
    parser.add_argument("--workers", type=whole, metavar="N", help="pairs read at once (default: one for each core)")
    parser.add_argument("--json", action="store_true", help="also whole histograms")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print sizes, values, classes and boxes of each split."""
    from data.card import DatasetCard
    from data.check.stats import card_stats

    card = DatasetCard.load(args.card)
    with Progress("pairs") as progress:
        stats = card_stats(card, progress, args.workers)
    if args.json:
        print(json.dumps(stats.as_json(), indent=1, ensure_ascii=False))
        return 0
    for name, split in stats.splits.items():
        print(f"{name}: {split.pairs} pairs" + (f", {split.unreadable} cannot be read" if split.unreadable else ""))
        for line in _lines(split, stats.unit):
            print(f"  {line}")
    return 0


def _lines(split: "SplitStats", unit: str) -> list[str]:
    lines = []
    for sensor, sizes in split.sizes.items():
        size, count = next(iter(sizes.items()))
        lines.append(f"{sensor}: {size}" if len(sizes) == 1 else f"{sensor}: {len(sizes)} sizes, {size} {count} times")
    for sensor, values in split.values.items():
        what = "green" if sensor == "RGB" else unit
        spread = " · ".join(f"{share} {value:g}" for share, value in values.quantiles.items())
        low, high, bars = _histogram(values)
        lines.append(f"{sensor} values ({what}): {spread}")
        lines.append(f"  {low:g} ▕{bars}▏ {high:g}")
    for kind, counts in split.labels.items():
        everything = max(1, sum(counts.values()))
        told = (f"{name} {n} ({n / everything:.1%})" for name, n in counts.items() if n)
        lines.append(f"{kind}: {', '.join(told) or 'none'}")
    for name, sides in split.boxes.items():
        sizes_told = f"small {sides.small}, medium {sides.medium}, large {sides.large}"
        lines.append(
            f"boxes of {name}: {sizes_told} (COCO); median side {sides.median_side:g} px, "
            f"width/height {sides.median_aspect:g}"
        )
    return lines


def _histogram(values: "Values") -> tuple[float, float, str]:
    """The part of a histogram that is not empty, in bars: where it begins, where it ends, the bars."""
    counts = values.counts
    first = next(k for k, count in enumerate(counts) if count)
    last = len(counts) - next(k for k, count in enumerate(reversed(counts)) if count)
    step = (values.high - values.low) / len(counts)
    return values.low + first * step, values.low + last * step, bars(counts[first:last])


def bars(counts: Sequence[int]) -> str:
    """At most 32 characters whose heights are those of the counts, taken together where there are more."""
    width = -(-len(counts) // _COLUMNS)
    summed = [sum(counts[k : k + width]) for k in range(0, len(counts), width)]
    top = max(1, *summed)
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // top)] for count in summed)
