"""``rgbt data check``: read every file, and say what would make training wrong."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.data_commands.numbers import whole
from pipelines.data_commands.progress import Progress

if TYPE_CHECKING:
    from data.check.findings import Report

_SHOWN = 30
"""Lines of one level that are printed; --json and --html have all."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("card", type=Path, metavar="CARD")
    parser.add_argument("--html", type=Path, metavar="SHEET", help="also write a page with the worst pairs drawn")
    parser.add_argument("--workers", type=whole, metavar="N", help="pairs read at once (default: one for each core)")
    parser.add_argument(
        "--align", type=whole, metavar="N", help="pairs whose shift is estimated, 0 for none (default: up to 2000)"
    )
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read everything; exit code 1 when something would make training wrong."""
    from data.card import DatasetCard
    from data.check.run import ALIGNED, check_card

    card = DatasetCard.load(args.card)
    align = ALIGNED if args.align is None else args.align
    with Progress("pairs") as progress:
        report = check_card(card, progress, args.workers, align)
    if args.html is not None:
        from pipelines.data_sheet import write_sheet

        write_sheet(args.html, card, report, _command(args))
    for line in _capped(report.errors):
        print(f"error: {line}", file=sys.stderr)
    if args.json:
        print(json.dumps(report.as_json(), indent=1, ensure_ascii=False))
        return 1 if report.errors else 0
    for level in ("warning", "note"):
        for line in _capped(report.lines(level)):
            print(f"{level}: {line}")
    _print_summary(card.name, card.thermal_spec.unit, report)
    if args.html is not None:
        print(f"wrote {args.html}")
    return 1 if report.errors else 0


def _command(args: argparse.Namespace) -> str:
    return f"rgbt data check {args.card} --html {args.html}"


def _capped(lines: list[str]) -> list[str]:
    more = len(lines) - _SHOWN
    return lines if more <= 0 else [*lines[:_SHOWN], f"… and {more} more lines (all of them with --json or --html)"]


def _print_summary(name: str, unit: str, report: "Report") -> None:
    print(f"{name}:")
    for split, counts in report.splits.items():
        told = [
            ", ".join(f"{label} {count}" for label, count in counts.get(kind, {}).items() if count)
            for kind in ("boxes", "pictures")
        ]
        pixels = counts.get("pixels", {})
        every = max(1, sum(pixels.values()))
        told.append(", ".join(f"{label} {count / every:.1%}" for label, count in pixels.items() if count))
        labels = "; ".join(filter(None, told))
        print(f"  {split}: {counts['pairs']} pairs, {counts['labelled']} labelled{f': {labels}' if labels else ''}")
    if report.thermal_range and report.thermal_span:
        (low, high), (narrow, wide) = report.thermal_range, report.thermal_span
        print(f"  thermal ({unit}): {low:g} … {high:g}, a frame spans {narrow:g} … {wide:g}")
    if report.box_sides:
        small, median, large = report.box_sides
        print(f"  box size (√area, RGB pixels): {small:.0f} … {large:.0f}, median {median:.0f}")
    found = {"error": len(report.errors), "warning": len(report.warnings), "note": len(report.notes)}
    print(", ".join(f"{count} {level}{'s' * (count != 1)}" for level, count in found.items()))
