"""Mean intersection over union of pictures that count any number of times."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusion.records import PixelRecord

Floats = NDArray[np.float64]


def ious(confusion: NDArray[np.number]) -> Floats:
    """[C,C] (true × answered) → [C]: intersection over union of each class; NaN where it is neither true nor answered.

    In float64: torchmetrics' own is float32, which cannot count the pixels of a large split.
    """
    counts = confusion.astype(np.float64)
    both = np.diagonal(counts)
    either = counts.sum(0) + counts.sum(1) - both
    found: Floats = np.divide(both, either, out=np.full(len(both), np.nan), where=either > 0)
    return found


def mean_known(values: Floats) -> float:
    """Mean of what is a number; 0 where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


class PixelOverlap:
    """mIoU, background counted, of pictures that count any number of times.

    Args:
        records: one for each picture.
        classes: how many classes there are, without the background.
    """

    def __init__(self, records: Sequence[PixelRecord], classes: int) -> None:
        self.pictures = len(records)
        sides = classes + 1
        self._confusion = np.array([r.confusion for r in records], np.float64).reshape(-1, sides, sides)

    @property
    def truths(self) -> Floats:
        """[classes + 1,pictures]: how many true pixels there are."""
        return np.asarray(self._confusion.sum(2).T, np.float64)

    def value(self, weights: ArrayLike | None = None) -> float:
        """MIoU, from 0 to 1: mean over the classes that are true or answered somewhere; 0 where none is.

        Args:
            weights: [pictures], how often each counts; null: once.
        """
        count = np.ones(self.pictures) if weights is None else np.asarray(weights, np.float64)
        assert count.shape == (self.pictures,)
        return mean_known(ious(np.tensordot(count, self._confusion, 1)))
