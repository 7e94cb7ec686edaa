"""What readers of boxes are given, and what they return."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError
from data.images import read_header
from data.patterns import fill

TOLERANCE = 1.0
"""Pixels by which a box may leave its picture (rounding of other tools) without a word; it is clipped either way."""
_FARTHEST = 1e6
"""No coordinate of a box lies so far away, in pixels."""
_LEAST = 0.01
"""Side in pixels of a box in its picture; float32 still holds it."""


IGNORE_NAME = "ignore"
"""What labels.names maps a name to whose boxes count neither way, unless the card has a class of that name."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A box as it is used."""

    box: tuple[float, float, float, float] | None
    """x1, y1, x2, y2, clipped to the picture; None: it has no width or no height, and is left out."""
    told: str = ""
    """One line with the file, for a box that is left out, or left its picture by more than ``TOLERANCE``."""


@dataclass(frozen=True, slots=True)
class Boxed:
    """The boxes of one picture."""

    boxes: NDArray[np.float32]
    """[N,4] x1, y1, x2, y2 in pixels of the picture, clipped to it."""
    labels: NDArray[np.int64]
    """[N], index into the card's classes; ~index (below 0): of a region where boxes of that class count neither way."""
    split: str | None = None
    """Value of the field ``split``; not part of any format, but common in COCO files."""
    clipped: tuple[str, ...] = ()
    """A line for each box that left its picture by more than ``TOLERANCE``, with the file."""
    stated: tuple[int, int] | None = None
    """Height, width that the labels say the picture has; None: they do not say."""
    empty: tuple[str, ...] = ()
    """A line for each box that is left out since it has no width or no height, with the file."""


@dataclass(frozen=True, slots=True)
class Ignore:
    """Which boxes count neither way, whatever their class."""

    below: float = 0
    """Height in pixels from which on they count."""
    hidden: int | None = None
    """Degree of occlusion, where files say it, from which on they do not; None: it does not matter."""

    def __call__(self, height: float, hidden: float = 0) -> bool:
        """Whether a box of this height and degree of occlusion is ignored."""
        return height < self.below or (self.hidden is not None and hidden >= self.hidden)


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
    """A class as the files call it → one of ``classes``, ``ignore``, or None to leave its boxes out."""
    rgb_size: tuple[int, int] | None = None
    """Height, width of the pictures; None: it is read from their headers where a format does not say it."""
    missing_is_empty: bool = False
    """What it means that a picture has no file: nothing is there, or nobody looked."""
    ignore: Ignore = field(default_factory=Ignore)

    def file(self, one: str) -> Path:
        """The file that holds a picture's boxes."""
        return self.folder / fill(self.path, one)

    def size(self, one: str) -> tuple[int, int]:
        """Height, width of a picture; DataError when its header cannot be read."""
        return self.rgb_size or read_header(self.folder / fill(self.rgb, one)).size

    def labels(self, name: str, where: str, ignored: bool = False) -> tuple[int, ...]:
        """Labels of the rows that a box makes, by the name that the files use; (): it is left out.

        Args:
            name: Of its class.
            where: The file and the place in it.
            ignored: Whether it is a region in which boxes of its class count neither way.

        Raises:
            DataError: the card knows no such class.
        """
        return labels_of(self.names.get(name, name), name, self.classes, where, ignored)


def labels_of(
    known: str | None, name: str, classes: Sequence[str], where: str, ignored: bool = False
) -> tuple[int, ...]:
    """``BoxSource.labels`` of a name that is mapped already: to ``known``."""
    if known is None:
        return ()
    if known in classes:
        label = classes.index(known)
        return (~label if ignored else label,)
    if known == IGNORE_NAME and name != known:
        return tuple(~label for label in range(len(classes)))
    raise DataError(
        f"{where}: class '{known:.60}' is not among the card's classes ({', '.join(classes)}); add it to "
        f"'classes', say labels.names: {{{name:.60}: null}} to leave it out, or take the annotations out"
    )


def clip_box(box: tuple[float, float, float, float], size: tuple[float, float], where: str, shown: str = "") -> Clip:
    """Clip x1, y1, x2, y2 to a picture of height, width; a box without width or height is left out, and told of.

    Args:
        box: In pixels.
        size: Of the picture.
        where: The file and the place in it, for a line about the box.
        shown: The box in the words of the file.

    Raises:
        DataError: the box has its sides the wrong way round, or lies wholly outside the picture.
    """
    x1, y1, x2, y2 = box
    height, width = size
    shown = shown or f"box [{x1:g}, {y1:g}, {x2:g}, {y2:g}] (x1, y1, x2, y2)"
    if not all(abs(side) < _FARTHEST for side in box):  # false for NaN too
        raise DataError(f"{where}: {shown} is not made of numbers of pixels")
    if x2 < x1 or y2 < y1:
        raise DataError(f"{where}: {shown} has a width or height below 0")
    if x2 == x1 or y2 == y1:
        return Clip(None, f"{where}: {shown} has no area and is left out")
    clipped = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    if min(clipped[2] - clipped[0], clipped[3] - clipped[1]) < _LEAST:
        raise DataError(f"{where}: {shown} lies outside its image of {width:g}×{height:g}")
    if max(abs(before - after) for before, after in zip(box, clipped, strict=True)) <= TOLERANCE:
        return Clip(clipped)
    return Clip(clipped, f"{where}: {shown} leaves its image of {width:g}×{height:g} and is clipped to it")


def boxed(found: list[tuple[Clip, int]], stated: tuple[int, int] | None = None) -> Boxed:
    """Boxes of one picture as arrays; ``stated`` is the picture's size by the labels."""
    kept = [(clip.box, label) for clip, label in found if clip.box is not None]
    told = {clip.told: clip.box for clip, _ in found if clip.told}  # an ignored box of several classes is one box
    return Boxed(
        np.array([box for box, _ in kept], np.float32).reshape(-1, 4),
        np.array([label for _, label in kept], np.int64),
        clipped=tuple(line for line, box in told.items() if box is not None),
        stated=stated,
        empty=tuple(line for line, box in told.items() if box is None),
    )
