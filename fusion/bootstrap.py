"""How sure a figure is: a task's main metric over pictures drawn again and again.

Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), for the paired and the percentile bootstrap.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusion.box_precision import BoxPrecision
from fusion.errors import FusionError
from fusion.label_accuracy import LabelAccuracy
from fusion.pixel_overlap import PixelOverlap
from fusion.records import BoxRecord as BoxRecord
from fusion.records import LabelRecord as LabelRecord
from fusion.records import PixelRecord as PixelRecord
from fusion.records import Record as Record
from fusion.records import load as load
from fusion.records import save as save

Floats = NDArray[np.float64]

SHARES = (2.5, 97.5)
"""Percentiles between which 95 % of the draws lie."""


class Resampled(Protocol):
    """A task's main metric of pictures that count any number of times; what costs is done once, when it is made."""

    pictures: int

    @property
    def truths(self) -> Floats:
        """[classes,pictures]: how much of each class is truly there, in boxes, pixels or pictures."""

    def value(self, weights: ArrayLike | None = None) -> float:
        """The metric, from 0 to 1; 0 where nothing can be measured.

        Args:
            weights: [pictures], how often each counts; null: once.
        """


RESAMPLED: dict[str, Callable[[Sequence[Any], int], Resampled]] = {
    "detect": BoxPrecision,
    "segment": PixelOverlap,
    "classify": LabelAccuracy,
}
"""Task → its main metric (the head's ``criterion``), from records and the number of classes."""


def resampled(task: str, records: Sequence[Record], classes: int) -> Resampled:
    """A task's main metric over ``records``, one for each picture; ``classes`` without the background."""
    return RESAMPLED[task](records, classes)


@dataclass(frozen=True)
class Difference:
    """One figure minus another on the same pictures, with its bootstrap; all of it from -1 to 1."""

    mean: float
    """On the pictures as they are, not the mean of the draws."""
    se: float
    """Standard error."""
    low: float
    high: float
    """95 % interval, percentiles of the draws."""


@dataclass(frozen=True)
class Estimate:
    """A recipe's figure over seeds and pictures, from 0 to 1."""

    mean: float
    low: float
    high: float
    """95 % interval, percentiles of the draws."""
    per_seed: tuple[float, ...]
    difference: Difference | None
    """To the first recipe of the table; null for that one itself."""


def paired_difference(a: Resampled, b: Resampled, draws: int = 1000, seed: int = 0) -> Difference:
    """The metric of ``a`` minus that of ``b``, both on the same drawn pictures each time."""
    _same_pictures([a, b])
    drawn = [a.value(w) - b.value(w) for w in _draws(np.random.default_rng(seed), a.pictures, draws)]
    return _difference(a.value() - b.value(), np.array(drawn))


def compare(table: Mapping[str, Sequence[Resampled]], draws: int = 2000, seed: int = 0) -> dict[str, Estimate]:
    """Intervals over seeds and pictures at once; each draw's seeds and pictures are the same for all recipes.

    One seed fewer is drawn than there are, with replacement: a bootstrap of few runs is too narrow by (n-1)/n otherwise
    (Rao & Wu, JASA 1988). With one seed the interval speaks of the pictures alone.

    Args:
        table: recipe → one run per seed, in the same order of seeds for all, all measured on the same pictures.
        draws: how many.
        seed: of the draws.

    Raises:
        FusionError: runs of different pictures, or recipes with different numbers of seeds.
    """
    counts = {name: len(runs) for name, runs in table.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise FusionError(f"each recipe needs one run for every seed, found {counts}: run the missing ones first")
    everyone = [run for runs in table.values() for run in runs]
    _same_pictures(everyone)
    seeds = len(next(iter(table.values())))
    rng = np.random.default_rng(seed)
    drawn = np.empty((len(table), draws))
    for draw, weights in enumerate(_draws(rng, everyone[0].pictures, draws)):
        times = np.bincount(rng.integers(seeds, size=max(1, seeds - 1)), minlength=seeds)
        for row, runs in enumerate(table.values()):
            values = [run.value(weights) * n for run, n in zip(runs, times, strict=True) if n]
            drawn[row, draw] = sum(values) / times.sum()
    per_seed = np.array([[run.value() for run in runs] for runs in table.values()])
    return {name: _estimate(per_seed, drawn, row) for row, name in enumerate(table)}


def _draws(rng: np.random.Generator, pictures: int, draws: int) -> Iterator[Floats]:
    """How often each picture is drawn: ``pictures`` times with replacement."""
    for _ in range(draws):
        yield np.bincount(rng.integers(pictures, size=pictures), minlength=pictures).astype(np.float64)


def _same_pictures(runs: Sequence[Resampled]) -> None:
    first = runs[0]
    if not first.pictures:
        raise FusionError("no pictures to draw from: measure on a split that has some")
    if not all(np.array_equal(run.truths, first.truths) for run in runs):
        found = ", ".join(f"{run.pictures} with a truth of {run.truths.sum():.0f}" for run in runs)
        raise FusionError(
            f"runs on different pictures ({found}) cannot be paired: measure all on one split, unshuffled"
        )


def _difference(mean: float, drawn: Floats) -> Difference:
    low, high = np.percentile(drawn, SHARES)
    return Difference(mean, float(drawn.std(ddof=1)), float(low), float(high))


def _estimate(per_seed: Floats, drawn: Floats, row: int) -> Estimate:
    """One recipe's row of values [recipes,seeds] and draws [recipes,draws]."""
    low, high = np.percentile(drawn[row], SHARES)
    mean = float(per_seed[row].mean())
    difference = _difference(mean - float(per_seed[0].mean()), drawn[row] - drawn[0]) if row else None
    return Estimate(mean, float(low), float(high), tuple(per_seed[row].tolist()), difference)
