"""What readers of boxes are given, and what they return."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError
from data.images import read_header
from data.patterns import fill

TOLERANCE = 1.0
"""Pixels by which a box may leave its picture (rounding of other tools); it is clipped."""


@dataclass(frozen=True, slots=True)
class Boxed:
    """The boxes of one picture."""

    boxes: NDArray[np.float32]
    """[N,4] x1, y1, x2, y2 in pixels of the picture, clipped to it."""
    labels: NDArray[np.int64]
    """[N], index into the card's classes."""
    split: str | None = None
    """Value of the field ``split``; not part of any format, but common in COCO files."""


@dataclass(frozen=True, slots=True)
class BoxSource:
    """Where a card's boxes lie, and what they are about."""

    folder: Path
    """The card's root."""
    path: str
    """Of the file, or a pattern of files, relative to the root."""
    rgb: str
    """Pattern of the pictures that the boxes are drawn on."""
    classes: tuple[str, ...]
    names: Mapping[str, str | None] = field(default_factory=dict)
    """A class as the files call it → one of ``classes``, or None to leave its boxes out."""
    rgb_size: tuple[int, int] | None = None
    """Height, width of the pictures; None: it is read from their headers where a format does not say it."""
    missing_is_empty: bool = False
    """What it means that a picture has no file: nothing is there, or nobody looked."""

    def file(self, one: str) -> Path:
        """The file that holds a picture's boxes."""
        return self.folder / fill(self.path, one)

    def size(self, one: str) -> tuple[int, int]:
        """Height, width of a picture; DataError when its header cannot be read."""
        return self.rgb_size or read_header(self.folder / fill(self.rgb, one)).size

    def label(self, name: str, where: str) -> int | None:
        """Index of a class by the name that the files use; None: its boxes are left out.

        Raises:
            DataError: the card knows no such class.
        """
        known = self.names.get(name, name)
        if known is None:
            return None
        if known not in self.classes:
            raise DataError(
                f"{where}: class '{known:.60}' is not among the card's classes ({', '.join(self.classes)}); add it to "
                f"'classes', say labels.names: {{{name:.60}: null}} to leave it out, or take the annotations out"
            )
        return self.classes.index(known)


def clip_box(box: tuple[float, float, float, float], size: tuple[int, int], where: str) -> list[float]:
    """Return x1, y1, x2, y2 clipped to a picture of height, width.

    Raises:
        DataError: the box leaves the picture by more than ``TOLERANCE``, or has no area.
    """
    x1, y1, x2, y2 = box
    height, width = size
    shown = f"box [{x1:g}, {y1:g}, {x2:g}, {y2:g}] (x1, y1, x2, y2)"
    if not (x1 >= -TOLERANCE and y1 >= -TOLERANCE and x2 <= width + TOLERANCE and y2 <= height + TOLERANCE):
        raise DataError(f"{where}: {shown} leaves its image of {width}×{height}")
    clipped = [max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))]
    if not (clipped[2] > clipped[0] and clipped[3] > clipped[1]):
        raise DataError(f"{where}: {shown} has no area")
    return clipped


def boxed(found: list[tuple[list[float], int]], split: str | None = None) -> Boxed:
    """Boxes of one picture as arrays."""
    return Boxed(
        np.array([box for box, _ in found], np.float32).reshape(-1, 4),
        np.array([label for _, label in found], np.int64),
        split,
    )
