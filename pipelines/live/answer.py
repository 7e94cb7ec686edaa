"""What the model said of one pair, in pixels of the delivered RGB frame."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.frame import Image
from data.prepare import Prepared


@dataclass(frozen=True, slots=True)
class Answer:
    """Objects in one pair."""

    index: int
    """Number of the answer in this run, from 0."""
    boxes: NDArray[np.float32]
    """[N,6]: x1, y1, x2, y2 in pixels of the delivered RGB frame, score, class."""
    size: tuple[int, int]
    """Height, width of the delivered RGB frame, also where this pair lacks it."""


def read_answer(
    outputs: Mapping[str, Image], prepared: Prepared, size: tuple[int, int], index: int, score: float
) -> Answer:
    """Take the objects of a batch of one whose score is at least ``score``; empty slots are left out."""
    boxes = np.asarray(outputs["boxes"][0], np.float32)
    boxes = boxes[(boxes[:, 4] >= score) & (boxes[:, 4] > 0)]
    boxes[:, :4] /= np.float32(prepared.scale)
    return Answer(index, boxes, size)
