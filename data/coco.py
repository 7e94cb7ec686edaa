"""Reading COCO boxes, strictly: a wrong box is an error that names the annotation, not a wrong target."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from data.errors import DataError
from data.labels.source import Boxed, Clip, Ignore, boxed, clip_box, labels_of
from data.text_file import read_json

_LONGEST = 1024
"""Letters of a file_name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoImage(Boxed):
    """One picture of a COCO file and its boxes."""

    file_name: str


def read_coco(
    path: Path,
    classes: Sequence[str] | None,
    size: tuple[int, int] | None = None,
    names: Mapping[str, str | None] | None = None,
    ignore: Ignore | None = None,
) -> tuple[list[CocoImage], list[str]]:
    """Read the boxes of a COCO file; return its images and the class names that labels index.

    In crowd regions (``iscrowd: 1``, or ``ignore: 1``) boxes of their class count neither way. What of a box lies
    outside its picture is left out, and so are boxes without width or height.

    Args:
        path: The JSON file.
        classes: Names in the order of the labels; None takes the file's categories in the order of their ids.
        size: Height, width of pictures for which the file states none.
        names: A category's name → one of ``classes``, ``ignore``, or None to leave its boxes out.
        ignore: Which boxes count neither way, whatever their class; None: none.

    Raises:
        DataError: not COCO, an unknown category, or a box outside of its picture.
    """
    content = _load(path)
    called = _categories(content, path)
    own = [(names or {}).get(name, name) for _, name in sorted(called.items())]
    known = list(classes) if classes is not None else list(dict.fromkeys(name for name in own if name is not None))
    images = _by_id(content["images"], path)
    boxes: dict[int | str, list[tuple[Clip, int]]] = {}
    for annotation in content["annotations"]:
        where = f"{path}: annotation {annotation.get('id', '?')!s:.60}"
        image_id = _id(annotation, "image_id", where)
        if image_id not in images:
            raise DataError(f"{where}: image_id {image_id!s:.60} is not among the images")
        ignored = bool(annotation.get("iscrowd") or annotation.get("ignore")) or _is_ignored(annotation, ignore)
        labels = _labels(annotation, called, names or {}, known, where, ignored)
        if labels:
            clip = _box(annotation, images[image_id], size, where)
            boxes.setdefault(image_id, []).extend((clip, label) for label in labels)
    found = [_image(image, boxes.get(key, []), path) for key, image in images.items()]
    _refuse_twins(found, path)
    return found, known


def _load(path: Path) -> dict[str, Any]:
    content = read_json(path, "the labels")
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a COCO file: expected an object with images, annotations, categories")
    content.setdefault("categories", [])
    for key in ("images", "annotations", "categories"):
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"{path}: not a COCO file: '{key}' is not a list of objects")
    return content


def _categories(content: Mapping[str, Any], path: Path) -> dict[int | str, str]:
    where = f"{path}: category"
    found = {_id(c, "id", where): str(_field(c, "name", where)) for c in content["categories"]}
    if len({type(key) for key in found}) > 1:
        raise DataError(f"{where}: some ids are numbers, some are text")
    return found


def _by_id(images: Sequence[Mapping[str, Any]], path: Path) -> dict[int | str, Mapping[str, Any]]:
    found = {_id(image, "id", f"{path}: image"): image for image in images}
    if len(found) != len(images):
        raise DataError(f"{path}: {len(images) - len(found)} images share an id with another one")
    return found


def _id(entry: Mapping[str, Any], key: str, where: str) -> int | str:
    value = _field(entry, key, where)
    if not isinstance(value, int | str):
        raise DataError(f"{where}: '{key}' is {value!r:.60}, expected a number or text")
    return value


def _field(entry: Mapping[str, Any], key: str, where: str) -> Any:  # noqa: ANN401 - what JSON holds
    if key not in entry:
        raise DataError(f"{where}: '{key}' is missing")
    return entry[key]


def _is_ignored(annotation: Mapping[str, Any], ignore: Ignore | None) -> bool:
    box = annotation.get("bbox")
    if ignore is None or not isinstance(box, list) or len(box) != 4 or not _is_number(box[3]):
        return False  # what is wrong with the box is said where it is read
    return ignore(box[3])


def _labels(
    annotation: Mapping[str, Any],
    called: Mapping[int | str, str],
    names: Mapping[str, str | None],
    known: Sequence[str],
    where: str,
    ignored: bool,
) -> tuple[int, ...]:
    category = _id(annotation, "category_id", where)
    if category not in called:
        raise DataError(
            f"{where}: category_id {category!s:.60} is not among the file's categories {sorted(called.items())!s:.200}"
        )
    name = called[category]
    return labels_of(names.get(name, name), name, known, where, ignored)


def _box(annotation: Mapping[str, Any], image: Mapping[str, Any], size: tuple[int, int] | None, where: str) -> Clip:
    name = str(_field(image, "file_name", where))
    width, height = _sides(image, size, f"{where}: image {name:.100}")
    box = _field(annotation, "bbox", where)
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise DataError(f"{where}: bbox is {box!r:.60}, expected [x, y, width, height]")
    shown = f"box {box!s:.80} (x, y, width, height) of image {name:.100}"
    return clip_box((box[0], box[1], box[0] + box[2], box[1] + box[3]), (height, width), where, shown)


def _sides(image: Mapping[str, Any], size: tuple[int, int] | None, where: str) -> tuple[float, float]:
    """Width and height of a picture."""
    width, height = image.get("width"), image.get("height")
    if not width or not height:
        if size is None:
            raise DataError(f"{where} states no width and height")
        height, width = size
    if not (_is_side(width) and _is_side(height)):
        raise DataError(f"{where} states a width of {width!r:.40} and a height of {height!r:.40}, expected pixels")
    return width, height


def _is_number(value: object) -> TypeGuard[float]:
    """A number that a float holds; JSON also has integers of hundreds of digits, and True is an int to Python."""
    return (isinstance(value, int | float) and not isinstance(value, bool) and -1e12 < value < 1e12) or (
        isinstance(value, float) and math.isnan(value)
    )


def _is_side(value: object) -> TypeGuard[float]:
    return _is_number(value) and 0 < value < 1e6


def _image(image: Mapping[str, Any], boxes: list[tuple[Clip, int]], path: Path) -> CocoImage:
    split = image.get("split")
    name = _field(image, "file_name", f"{path}: image {image['id']!s:.60}")
    if not isinstance(name, str) or len(name) > _LONGEST:
        raise DataError(f"{path}: image {image['id']!s:.60}: file_name is {name!r:.60}, expected a path")
    truth = boxed(boxes)
    height, width = image.get("height"), image.get("width")
    stated = (int(height), int(width)) if _is_side(height) and _is_side(width) else None
    split = None if split is None else str(split)
    return CocoImage(truth.boxes, truth.labels, split, truth.clipped, stated, truth.empty, file_name=name)


def _refuse_twins(images: list[CocoImage], path: Path) -> None:
    seen: set[str] = set()
    for image in images:
        if image.file_name in seen:
            raise DataError(f"{path}: two images have the file_name '{image.file_name}'")
        seen.add(image.file_name)
