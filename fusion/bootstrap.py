"""How sure a detection figure is: AP50 over pictures drawn again and again, without matching a box twice."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Record:
    """What a model answered on one picture, and the truth; all boxes in the same pixels."""

    boxes: NDArray[np.float32]
    """[K,6]: x1, y1, x2, y2, score, class; only rows with score > 0."""
    target_boxes: NDArray[np.float32]
    """[N,4]: x1, y1, x2, y2."""
    target_labels: NDArray[np.int64]
    """[N]: class of each."""
