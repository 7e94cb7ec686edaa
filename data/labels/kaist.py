"""KAIST's text annotations ("% bbGt version=3", of Piotr Dollár's toolbox): a line for each box."""

from data.errors import DataError
from data.labels.source import Boxed, BoxSource, boxed, clip_box
from data.text_file import read_text

MAX_LINES_BYTES = 1 << 24
_COLUMNS = 12
"""Name, x, y, width, height, occluded, visible x, y, width, height, ignore, angle."""


def read_kaist(source: BoxSource, one: str) -> Boxed | None:
    """Read the boxes of one picture; those marked ``ignore`` count neither way.

    The set's names are person, people, cyclist and ``person?``: say in ``labels.names`` which count.

    Raises:
        DataError: a line of another form, an unknown class, or a box outside of its picture.
    """
    path = source.file(one)
    if not path.exists():
        return boxed([]) if source.missing_is_empty else None
    lines = read_text(path, "the annotation", MAX_LINES_BYTES).splitlines()
    if not lines or not lines[0].lstrip().startswith("% bbGt"):
        raise DataError(f"{path}:1: expected the line '% bbGt version=3'")
    found = []
    for number, line in enumerate(lines[1:], 2):
        words = line.split()
        if not words or words[0].startswith("%"):
            continue
        where = f"{path}:{number}"
        box, hidden, ignored = _box(words, where)
        labels = source.labels(words[0], where, ignored or source.ignore(box[3] - box[1], hidden))
        if labels:
            clip = clip_box(box, source.size(one), where)
            found += [(clip, label) for label in labels]
    return boxed(found)


def _box(words: list[str], where: str) -> tuple[tuple[float, float, float, float], float, bool]:
    if len(words) not in (5, _COLUMNS):
        raise DataError(f"{where}: {len(words)} columns, expected {_COLUMNS}: name, x, y, width, height, …")
    try:
        x, y, width, height, *rest = (float(word) for word in words[1:])
    except ValueError:
        raise DataError(f"{where}: {' '.join(words)!r:.60}: expected a name and numbers") from None
    hidden, ignored = (rest[0], rest[5] != 0) if rest else (0.0, False)
    return (x, y, x + width, y + height), hidden, ignored
