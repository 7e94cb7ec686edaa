"""AP50 of pictures that count any number of times, without matching a box twice.

Source: COCO's evaluation (Lin et al., ECCV 2014) as torchmetrics and faster-coco-eval run it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusion.records import BoxRecord

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MATCHED = 0.5
"""Least overlap (IoU) of a found box with a true one."""
MOST = 100
"""Boxes of one class that count on one picture (COCO's maxDets)."""


def _recalls() -> Floats:
    """The 101 points of recall at which precision is read: torchmetrics' own, which are float32 (0.3 is 0.30000001)."""
    step, i = float(np.float32(0.01)), np.arange(101)
    return np.where(i < 50, i * step, 1 - (100 - i) * step).astype(np.float32).astype(np.float64)


RECALLS = _recalls()


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


class BoxPrecision:
    """AP50 of pictures that count any number of times; their boxes are matched and sorted once, here.

    Args:
        records: one for each picture.
        classes: how many classes there are.
    """

    def __init__(self, records: Sequence[BoxRecord], classes: int) -> None:
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


def _rank(records: Sequence[BoxRecord], kind: int) -> _Ranked:
    """Match each picture's boxes of one class and sort all of them by score; equal scores keep their order."""
    pictures, scores, hits = [np.empty(0, np.int64)], [np.empty(0)], [np.empty(0, bool)]
    truths = np.zeros(len(records))
    for index, record in enumerate(records):
        boxes = np.asarray(record.boxes, np.float32).reshape(-1, 6)
        boxes = boxes[boxes[:, 5].astype(np.int64) == kind]
        boxes = boxes[np.argsort(-boxes[:, 4], kind="stable")[:MOST]]
        targets, labels = np.asarray(record.target_boxes, np.float32).reshape(-1, 4), np.asarray(record.target_labels)
        true = targets[labels == kind]
        hit = _match(_overlap(boxes[:, :4], true))
        counts = hit | ~_ignored(boxes[:, :4], targets[labels == ~kind])
        boxes, hit = boxes[counts], hit[counts]
        truths[index] = len(true)
        pictures.append(np.full(len(boxes), index))
        scores.append(boxes[:, 4].astype(np.float64))
        hits.append(hit)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return _Ranked(np.concatenate(pictures)[order], np.flatnonzero(np.concatenate(hits)[order]), truths)


def _overlap(found: NDArray[np.float32], true: NDArray[np.float32]) -> Floats:
    """IoU [K,N], rounded as COCO's: sides in float32, the rest in float64."""
    shared, a, b = _shared(found, true)
    union: Floats = a + b - shared
    return np.asarray(shared / np.maximum(union, 1e-300), np.float64)


def _shared(found: NDArray[np.float32], true: NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
    """Area that boxes share [K,N], that of the first [K,1], and of the second [1,N]."""
    a, b = (np.concatenate([x[:, :2], x[:, 2:] - x[:, :2]], 1).astype(np.float64) for x in (found, true))
    a, b = a[:, None], b[None]
    sides = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return sides.clip(min=0).prod(2), a[..., 2] * a[..., 3], b[..., 2] * b[..., 3]


def _ignored(found: NDArray[np.float32], regions: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which found boxes [K] lie by half of their own area in a region: COCO's crowds, which are never used up."""
    shared, own, _ = _shared(found, regions)
    return np.asarray((shared / np.maximum(own, 1e-300) >= MATCHED).any(1))


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
