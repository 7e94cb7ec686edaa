"""How sure a detection figure is: AP50 over pictures drawn again and again, without matching a box twice.

Sources: COCO's evaluation (Lin et al., ECCV 2014) as torchmetrics and faster-coco-eval run it; Efron & Tibshirani, An
Introduction to the Bootstrap (1993), for the paired and the percentile bootstrap.
"""

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusion.errors import FusionError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MATCHED = 0.5
"""Least overlap (IoU) of a found box with a true one."""
MOST = 100
"""Boxes of one class that count on one picture (COCO's maxDets)."""
SHARES = (2.5, 97.5)
"""Percentiles between which 95 % of the draws lie."""


def _recalls() -> Floats:
    """The 101 points of recall at which precision is read: torchmetrics' own, which are float32 (0.3 is 0.30000001)."""
    step, i = float(np.float32(0.01)), np.arange(101)
    return np.where(i < 50, i * step, 1 - (100 - i) * step).astype(np.float32).astype(np.float64)


RECALLS = _recalls()


@dataclass(frozen=True, eq=False)
class Record:
    """What a model answered on one picture, and the truth; all boxes in the same pixels."""

    boxes: NDArray[np.float32]
    """[K,6]: x1, y1, x2, y2, score, class; only rows with score > 0."""
    target_boxes: NDArray[np.float32]
    """[N,4]: x1, y1, x2, y2."""
    target_labels: Ints
    """[N]: class of each."""


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


class _Ranked(NamedTuple):
    """One class's found boxes of all pictures, best score first."""

    picture: Ints
    """[D]: which picture each box is on."""
    hits: Ints
    """[H]: which of them match a true box."""
    truths: Floats
    """[pictures]: true boxes on each."""

    def precision(self, weights: Floats) -> float | None:
        """Average precision; null where no picture that counts has this class.

        Only boxes that hit are looked at: a miss after a hit adds no recall and lowers precision.
        """
        total = float(self.truths @ weights)
        if total == 0:
            return None
        rank = weights[self.picture].cumsum()[self.hits]
        found = weights[self.picture[self.hits]].cumsum()
        precision = found / np.maximum(rank, 1e-300)  # 0 / 0 is 0: the pictures so far are not drawn
        best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
        return float(np.append(best_from_here, 0.0)[(found / total).searchsorted(RECALLS)].mean())


class Resampled:
    """AP50 of pictures that count any number of times; their boxes are matched and sorted once, here.

    Args:
        records: one for each picture.
        classes: how many classes there are.
    """

    def __init__(self, records: Sequence[Record], classes: int) -> None:
        self.pictures = len(records)
        self._ranked = [_rank(records, kind) for kind in range(classes)]

    @property
    def truths(self) -> Floats:
        """[classes,pictures]: how many true boxes there are."""
        return np.array([ranked.truths for ranked in self._ranked]).reshape(-1, self.pictures)

    def value(self, weights: ArrayLike | None = None) -> float:
        """AP50, from 0 to 1: mean over the classes that occur; 0 where none does.

        Boxes of one picture with equal scores stay neighbours of their own copies when it counts more than once.

        Args:
            weights: [pictures], how often each counts; null: once.
        """
        count = np.ones(self.pictures) if weights is None else np.asarray(weights, np.float64)
        assert count.shape == (self.pictures,)
        found = [p for ranked in self._ranked if (p := ranked.precision(count)) is not None]
        return sum(found) / max(1, len(found))


def paired_difference(a: Resampled, b: Resampled, draws: int = 1000, seed: int = 0) -> Difference:
    """AP50 of ``a`` minus that of ``b``, both on the same drawn pictures each time."""
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


def save(path: Path, records: Sequence[Record]) -> None:
    """Write records as one npz, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            boxes=np.concatenate([np.empty((0, 6), np.float32), *(r.boxes for r in records)], dtype=np.float32),
            box_counts=np.array([len(r.boxes) for r in records], np.int64),
            target_boxes=np.concatenate(
                [np.empty((0, 4), np.float32), *(r.target_boxes for r in records)], dtype=np.float32
            ),
            target_labels=np.concatenate([np.empty(0, np.int64), *(r.target_labels for r in records)], dtype=np.int64),
            target_counts=np.array([len(r.target_labels) for r in records], np.int64),
        )
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load(path: Path) -> list[Record]:
    """Read what ``save`` wrote.

    Raises:
        FusionError: the file is missing or no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found, targets = file["box_counts"].cumsum()[:-1], file["target_counts"].cumsum()[:-1]
            parts = (
                np.split(file["boxes"], found),
                np.split(file["target_boxes"], targets),
                np.split(file["target_labels"], targets),
            )
            pictures = len(file["box_counts"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise FusionError(f"{path}: no records of a validation: {error}; run the evaluation again") from error
    return [Record(*part) for part in zip(*parts, strict=True)][:pictures]


def _rank(records: Sequence[Record], kind: int) -> _Ranked:
    """Match each picture's boxes of one class and sort all of them by score; equal scores keep their order."""
    pictures, scores, hits = [np.empty(0, np.int64)], [np.empty(0)], [np.empty(0, bool)]
    truths = np.zeros(len(records))
    for index, record in enumerate(records):
        boxes = np.asarray(record.boxes, np.float32).reshape(-1, 6)
        boxes = boxes[boxes[:, 5].astype(np.int64) == kind]
        boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")[:MOST]]
        true = np.asarray(record.target_boxes, np.float32).reshape(-1, 4)[np.asarray(record.target_labels) == kind]
        truths[index] = len(true)
        pictures.append(np.full(len(boxes), index))
        scores.append(boxes[:, 4].astype(np.float64))
        hits.append(_match(_overlap(boxes[:, :4], true)))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return _Ranked(np.concatenate(pictures)[order], np.flatnonzero(np.concatenate(hits)[order]), truths)


def _overlap(found: NDArray[np.float32], true: NDArray[np.float32]) -> Floats:
    """IoU [K,N], rounded as COCO's: sides in float32, the rest in float64."""
    a, b = (np.concatenate([x[:, :2], x[:, 2:] - x[:, :2]], 1).astype(np.float64) for x in (found, true))
    a, b = a[:, None], b[None]
    sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = sides.clip(min=0).prod(2)
    union: Floats = a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - shared
    return np.asarray(shared / np.maximum(union, 1e-300), np.float64)


def _match(overlap: Floats) -> NDArray[np.bool_]:
    """COCO's greedy rule: each found box [K], best score first, takes the free true box [N] that it overlaps most.

    Of equal overlaps the later true box is taken.
    """
    free = overlap.copy()
    hit = np.zeros(len(overlap), bool)
    for row in np.flatnonzero((overlap >= MATCHED).any(1)):
        best = free.shape[1] - 1 - int(free[row, ::-1].argmax())
        if free[row, best] >= MATCHED:
            hit[row] = True
            free[:, best] = -1
    return hit


def _draws(rng: np.random.Generator, pictures: int, draws: int) -> Iterator[Floats]:
    """How often each picture is drawn: ``pictures`` times with replacement."""
    for _ in range(draws):
        yield np.bincount(rng.integers(pictures, size=pictures), minlength=pictures).astype(np.float64)


def _same_pictures(runs: Sequence[Resampled]) -> None:
    first = runs[0]
    if not first.pictures:
        raise FusionError("no pictures to draw from: measure on a split that has some")
    if not all(np.array_equal(run.truths, first.truths) for run in runs):
        found = ", ".join(f"{run.pictures} with {run.truths.sum():.0f} true boxes" for run in runs)
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
