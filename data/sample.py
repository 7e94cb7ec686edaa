"""One pair of a data set, what is known of it, and the tasks it may be labelled for."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Sensor = Literal["rgb", "thermal"]
SENSORS: tuple[Sensor, ...] = get_args(Sensor)
Task = Literal["detect", "segment", "classify"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True, slots=True)
class Sample:
    """One pair of a data set: where its files lie, and what is known of it."""

    id: str
    rgb: Path
    thermal: Path
    boxes: NDArray[np.float32] | None
    """[N,4] x1, y1, x2, y2 in pixels of the delivered RGB frame; None: nobody drew boxes on this pair."""
    labels: NDArray[np.int64] | None
    """[N], index into the card's classes; None as above. ~index (below 0): of a region in which boxes of that class
    count neither as right nor as wrong."""
    scene: str | None = None
    mask: Path | None = None
    """Picture of classes at RGB's size, see data.labels.masks.read_mask; None: nobody drew one."""
    sensors: tuple[Sensor, ...] = SENSORS
    """Which of the two files there are."""
    image_label: int | None = None
    """Class of the whole picture: index into the card's image_classes; None: nobody said."""
    clipped: tuple[str, ...] = ()
    """A line for each box that left its picture by more than a pixel and was clipped to it, with the file."""
    stated: tuple[int, int] | None = None
    """Height, width of RGB as the labels of boxes say it; None: they do not."""
    empty: tuple[str, ...] = ()
    """A line for each box that is left out since it has no width or no height, with the file."""

    def has(self, task: str) -> bool:
        """Whether the pair is labelled for a task; for segment the mask's file is named, but not looked for."""
        return {"detect": self.boxes, "segment": self.mask, "classify": self.image_label}[task] is not None


def tell_empty(samples: Iterable[Sample]) -> str:
    """One line on the boxes without width or height that are left out of these pairs; empty: there are none."""
    lines = [line for sample in samples for line in sample.empty]
    if not lines:
        return ""
    first = lines[0].partition(": box ")[0]
    return (
        f"warning: {len(lines)} boxes have no width or no height and are left out (first: {first}); rgbt data check "
        "names them all"
    )
