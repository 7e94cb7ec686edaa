"""Pascal VOC: an XML file for each picture, boxes as xmin, ymin, xmax, ymax in pixels (KAIST: x, y, w, h)."""

from xml.etree.ElementTree import Element

from data.errors import DataError
from data.labels.source import Boxed, BoxSource, boxed, clip_box
from data.labels.xml_file import read_xml

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_CORNER_AND_SIZE = ("x", "y", "w", "h")
"""What KAIST's files have in their place."""


def read_voc(source: BoxSource, one: str) -> Boxed | None:
    """Read the boxes of one picture; its size is that of ``<size>`` where that is stated, else the picture's own.

    Objects that are marked difficult are kept, truncated ones too. Coordinates are taken as they are (from 0).
    What of a box lies outside is cut off.

    Raises:
        DataError: not VOC, an unknown class, or a box outside of its picture.
    """
    path = source.file(one)
    if not path.exists():
        return boxed([]) if source.missing_is_empty else None
    root = read_xml(path)
    if root.tag != "annotation":
        raise DataError(f"{path}: not a VOC file: the outermost element is <{root.tag:.40}>, expected <annotation>")
    stated = _size(root, str(path))
    size = stated or source.size(one)
    found = []
    for number, thing in enumerate(root.findall("object"), 1):
        where = f"{path}: object {number}"
        box = _box(thing, where)
        hidden = 0.0 if thing.find("occlusion") is None else _number(thing, "occlusion", where)
        name = (thing.findtext("name") or "").strip()
        labels = source.labels(name, where, source.ignore(box[3] - box[1], hidden))
        if labels:
            clip = clip_box(box, size, where)
            found += [(clip, label) for label in labels]
    return boxed(found, stated)


def _size(root: Element, where: str) -> tuple[int, int] | None:
    """Height, width; None where the file states none, or 0 as some tools do."""
    if root.find("size") is None:
        return None
    height, width = (_number(root, f"size/{side}", where) for side in ("height", "width"))
    return (int(height), int(width)) if height > 0 and width > 0 else None


def _box(thing: Element, where: str) -> tuple[float, float, float, float]:
    if thing.find("bndbox/xmin") is None and thing.find("bndbox/w") is not None:
        x, y, width, height = (_number(thing, f"bndbox/{side}", where) for side in _CORNER_AND_SIZE)
        return x, y, x + width, y + height
    x1, y1, x2, y2 = (_number(thing, f"bndbox/{side}", where) for side in _SIDES)
    return x1, y1, x2, y2


def _number(element: Element, place: str, where: str) -> float:
    text = element.findtext(place)
    try:
        value = float(text or "")
    except ValueError:
        raise DataError(f"{where}: <{place}> is {text!r:.40}, expected a number of pixels") from None
    if not abs(value) < 1e6:
        raise DataError(f"{where}: <{place}> is {text!r:.40}, expected a number of pixels")
    return value
