"""What a data set holds, in figures: sizes, values, classes and boxes of each split."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.card import DatasetCard, Sample
from data.check.facts import HISTOGRAM, RGB_HISTOGRAM, Facts, Looker
from data.check.findings import Report
from data.check.inventory import read_splits
from data.check.labels import count_labels
from data.check.parallel import in_parallel
from data.check.run import Progress
from data.errors import DataError

SMALL, MEDIUM = 32.0, 96.0
"""Square roots of the areas at which COCO's small and medium boxes end, in RGB pixels."""
_TENTHS = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass
class Values:
    """How often which value occurs."""

    low: float
    """Where the first bin begins."""
    high: float
    """Where the last bin ends; what lies outside is counted in the outermost bins."""
    counts: list[int]
    """Pixels in each of the bins, which are equally wide."""
    quantiles: dict[str, float]
    """5, 25, 50, 75 and 95 %, as fine as a bin."""


@dataclass
class Sides:
    """Sizes of boxes in RGB pixels."""

    count: int
    small: int
    """Area below 32²."""
    medium: int
    """Area from 32² to 96²."""
    large: int
    median_side: float
    """Of the square roots of the areas."""
    median_aspect: float
    """Of width over height."""
    share_of_picture: float | None
    """Median of the area over that of the picture; None where sizes vary."""


@dataclass
class SplitStats:
    """Figures of one split."""

    pairs: int
    unreadable: int
    """Pairs left out of the figures below, since a file cannot be read."""
    sizes: dict[str, dict[str, int]]
    """Sensor → "width×height" → how many."""
    values: dict[str, Values]
    """Sensor → its values; RGB's are those of green."""
    labels: dict[str, Any]
    """As in a check: boxes, pixels and pictures of each class."""
    boxes: dict[str, Sides] = field(default_factory=dict)
    """Class → its boxes' sizes; only classes that are there."""


@dataclass
class Stats:
    """Figures of a data set."""

    name: str
    unit: str
    """Of thermal."""
    splits: dict[str, SplitStats]

    def as_json(self) -> dict[str, Any]:
        """Plain content for ``--json``."""
        return asdict(self)


def card_stats(card: DatasetCard, progress: Progress | None = None, workers: int | None = None) -> Stats:
    """Read every pair of every split, and count what is in it.

    Raises:
        DataError: the lists of pairs or the labels are wrong; ``check_card`` tells all that is.
    """
    report = Report()
    by_split = read_splits(card, report)
    if report.errors:
        raise DataError(report.errors[0])
    looker = Looker(card)
    total, done = sum(map(len, by_split.values())), 0
    pixels: dict[str, NDArray[np.int64]] = {}
    splits = {}
    for split, samples in by_split.items():
        tally = _Tally(card.thermal_spec.unit)
        for facts in in_parallel(looker, samples, workers):
            tally.take(facts)
            done += 1
            if progress is not None:
                progress(done, total)
        pixels[split] = tally.pixels
        sizes = {sensor: {f"{w}×{h}": n for (h, w), n in found.most_common()} for sensor, found in tally.sizes.items()}
        boxes = _boxes(samples, card)
        splits[split] = SplitStats(len(samples), tally.unreadable, sizes, tally.told(), {}, boxes)
    count_labels(by_split, pixels, card, report)
    for split, counts in report.splits.items():
        splits[split].labels = {kind: counts[kind] for kind in ("boxes", "pixels", "pictures") if counts.get(kind)}
    return Stats(card.name, card.thermal_spec.unit, splits)


class _Tally:
    """Adds up the facts of a split."""

    def __init__(self, unit: str) -> None:
        self._bins = {"RGB": RGB_HISTOGRAM, "thermal": HISTOGRAM[unit]}
        self._values = {sensor: np.zeros(bins[2], np.int64) for sensor, bins in self._bins.items()}
        self.sizes: dict[str, Counter[tuple[int, int]]] = defaultdict(Counter)
        self.pixels = np.zeros(256, np.int64)
        self.unreadable = 0

    def take(self, facts: Facts) -> None:
        self.unreadable += any(finding.kind in ("missing", "unreadable") for finding in facts.findings)
        for sensor, size in facts.sizes.items():
            self.sizes[sensor][size] += 1
        for sensor, counts in facts.values.items():
            self._values[sensor] += counts
        if facts.classes is not None:
            self.pixels += facts.classes

    def told(self) -> dict[str, Values]:
        return {sensor: _values(counts, self._bins[sensor]) for sensor, counts in self._values.items() if counts.any()}


def _values(counts: NDArray[np.int64], bins: tuple[float, float, int]) -> Values:
    low, high, count = bins
    edges = np.linspace(low, high, count + 1)
    reached = np.concatenate(([0.0], np.cumsum(counts) / counts.sum()))
    quantiles = {f"{share:.0%}": round(float(np.interp(share, reached, edges)), 2) for share in _TENTHS}
    return Values(low, high, counts.tolist(), quantiles)


def _boxes(samples: Sequence[Sample], card: DatasetCard) -> dict[str, Sides]:
    found: Mapping[int, list[NDArray[np.float32]]] = defaultdict(list)
    for sample in samples:
        if sample.boxes is not None and sample.labels is not None:
            for label in np.unique(sample.labels[sample.labels >= 0]).tolist():
                found[label].append(sample.boxes[sample.labels == label])
    size = card.rgb_size
    return {card.classes[label]: _sides(np.concatenate(found[label]), size) for label in sorted(found)}


def _sides(boxes: NDArray[np.float32], size: tuple[int, int] | None) -> Sides:
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    sides = np.sqrt(width * height)
    small, medium = int((sides < SMALL).sum()), int((sides < MEDIUM).sum())
    share = None if size is None else round(float(np.median(sides**2)) / (size[0] * size[1]), 6)
    return Sides(
        len(boxes),
        small,
        medium - small,
        len(boxes) - medium,
        round(float(np.median(sides)), 2),
        round(float(np.median(width / height)), 3),
        share,
    )
