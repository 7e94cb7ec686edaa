"""Share of pictures named rightly, of pictures that count any number of times."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fusion.records import LabelRecord

Floats = NDArray[np.float64]


class LabelAccuracy:
    """Accuracy of pictures that count any number of times; those that nobody labelled do not count.

    Args:
        records: one for each picture.
        classes: how many classes there are.
    """

    def __init__(self, records: Sequence[LabelRecord], classes: int) -> None:
        self.pictures = len(records)
        self._labels = np.array([r.label for r in records], np.int64)
        answers = np.array([r.probabilities.argmax() for r in records], np.int64)
        self._right, self._classes = (answers == self._labels).astype(np.float64), classes

    @property
    def truths(self) -> Floats:
        """[classes,pictures]: 1 where a picture is of the class."""
        return np.asarray(self._labels == np.arange(self._classes)[:, None], np.float64)

    def value(self, weights: ArrayLike | None = None) -> float:
        """Accuracy, from 0 to 1; 0 where no picture counts.

        Args:
            weights: [pictures], how often each counts; null: once.
        """
        count = np.ones(self.pictures) if weights is None else np.asarray(weights, np.float64)
        assert count.shape == (self.pictures,)
        count = count * (self._labels >= 0)
        return float(self._right @ count / count.sum()) if count.any() else 0.0
