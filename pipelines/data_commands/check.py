"""``rgbt data check``: read every file and compare it with the card."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.check import Report

_SHOWN = 30
"""Lines of one kind that are printed; --json has all."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("card", type=Path, metavar="CARD")
    parser.add_argument("--threads", type=int, default=8, help="files read at once (default: 8)")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
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
