"""YOLO: a text file for each picture, a line for each box: class, centre x and y, width, height as shares of it."""

import math

from data.errors import DataError
from data.labels.source import Boxed, BoxSource, boxed, clip_box
from data.text_file import read_text

MAX_LINES_BYTES = 1 << 24


def read_yolo(source: BoxSource, one: str) -> Boxed | None:
    """Read the boxes of one picture; a polygon (class, x, y, x, y, …) becomes the box around it.

    Class i is the card's i-th class, counted from 0; its name may be mapped by ``names`` as in other formats.

    Raises:
        DataError: a line that is none of both, an unknown class, or a box outside of its picture.
    """
    path = source.file(one)
    if not path.exists():
        return boxed([]) if source.missing_is_empty else None
    lines = read_text(path, "the labels", MAX_LINES_BYTES).splitlines()
    found = []
    size: tuple[int, int] | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        size = size or source.size(one)
        label, shares = _numbers(line, len(source.classes), where)
        box = _in_pixels(shares, size)
        labels = source.labels(source.classes[label], where, source.ignore(box[3] - box[1]))
        if labels:
            clip = clip_box(box, size, where)
            found += [(clip, known) for known in labels]
    return boxed(found)


def _numbers(line: str, classes: int, where: str) -> tuple[int, list[float]]:
    words = line.split()
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        raise DataError(
            f"{where}: {len(words)} numbers, expected 5 (class, centre x, centre y, width, height as shares of the "
            "picture) or a polygon (class, x, y, x, y, x, y, …)"
        )
    try:
        label, shares = int(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        raise DataError(f"{where}: {line!r:.60}: expected a class's index and shares of the picture") from None
    if not 0 <= label < classes:
        raise DataError(f"{where}: class {label} of {classes}; the card's classes are counted from 0")
    wrong = next((share for share in shares if not (math.isfinite(share) and -1 <= share <= 2)), None)
    if wrong is not None:
        raise DataError(f"{where}: {wrong:g} is no share of the picture (0 … 1); are these pixels?")
    return label, shares


def _in_pixels(shares: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    height, width = size
    if len(shares) > 4:
        xs, ys = shares[::2], shares[1::2]
        return min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height
    x, y, across, down = shares
    return (x - across / 2) * width, (y - down / 2) * height, (x + across / 2) * width, (y + down / 2) * height
