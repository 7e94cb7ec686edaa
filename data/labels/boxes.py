"""The formats of boxes that a card may name."""

from collections.abc import Callable, Sequence

from data.coco import read_coco
from data.errors import DataError
from data.ids import safe_id
from data.labels.kaist import read_kaist
from data.labels.source import Boxed, BoxSource
from data.labels.voc import read_voc
from data.labels.yolo import read_yolo
from data.patterns import id_from_name

BoxReader = Callable[[BoxSource, str], Boxed | None]
"""Reads the file of one pair, by its id; None: there is no file, and nobody looked."""

ONE_FILE_EACH: dict[str, BoxReader] = {"voc": read_voc, "yolo": read_yolo, "kaist": read_kaist}
"""Formats with a file for each pair."""


def read_boxes(form: str, source: BoxSource, ids: Sequence[str]) -> dict[str, Boxed]:
    """Read the boxes of pairs, by id; those that nobody looked at are left out.

    Args:
        form: coco, or a key of ``ONE_FILE_EACH``.
        source: Where they lie.
        ids: Of the pairs that are wanted; coco returns all that its file holds.

    Raises:
        DataError: file, line or annotation of what is wrong.
    """
    if form == "coco":
        return read_coco_boxes(source)
    found = {one: ONE_FILE_EACH[form](source, one) for one in ids}
    return {one: truth for one, truth in found.items() if truth is not None}


def read_coco_boxes(source: BoxSource) -> dict[str, Boxed]:
    """Read a whole COCO file: id → boxes."""
    path = source.folder / source.path
    images, _ = read_coco(path, source.classes, source.rgb_size, source.names, source.ignore)
    found: dict[str, Boxed] = {}
    for image in images:
        one = id_from_name(image.file_name, source.rgb)
        if one is None:
            raise DataError(
                f"{path}: file_name {image.file_name!r:.100} does not fit the card's pattern rgb: {source.rgb}"
            )
        if safe_id(one, path.as_posix()) in found:
            raise DataError(f"{path}: two images are the pair '{one}'")
        found[one] = image
    return found
