"""Reading COCO boxes, strictly: a wrong box is an error that names the annotation, not a wrong target."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError

TOLERANCE = 1.0
"""Pixels by which a box may leave its picture (rounding of other tools); it is clipped."""


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One picture of a COCO file and its boxes."""

    file_name: str
    split: str | None
    """Value of the field ``split``; not part of COCO, but common."""
    boxes: NDArray[np.float32]
    """[N,4] x1, y1, x2, y2 in pixels of the picture, clipped to it."""
    labels: NDArray[np.int64]
    """[N], index into the classes that the reader was given."""


def read_coco(
    path: Path, classes: Sequence[str] | None, size: tuple[int, int] | None = None
) -> tuple[list[CocoImage], list[str]]:
    """Read the boxes of a COCO file; return its images and the class names that labels index.

    Crowd regions (``iscrowd: 1``) are left out.

    Args:
        path: The JSON file.
        classes: Names in the order of the labels; None takes the file's categories in the order of their ids.
        size: Height, width of pictures for which the file states none.

    Raises:
        DataError: not COCO, an unknown category, or a box that leaves its picture by more than ``TOLERANCE``.
    """
    content = _load(path)
    names = {_field(c, "id", f"{path}: category"): str(_field(c, "name", f"{path}: category"))
             for c in content.get("categories", [])}  # fmt: skip
    known = list(classes) if classes is not None else [names[key] for key in sorted(names)]
    boxes: dict[Any, list[tuple[list[float], int]]] = {}
    images = {_field(image, "id", f"{path}: image"): image for image in content["images"]}
    if len(images) != len(content["images"]):
        raise DataError(f"{path}: {len(content['images']) - len(images)} images share an id with another one")
    for annotation in content["annotations"]:
        where = f"{path}: annotation {annotation.get('id', '?')}"
        if annotation.get("iscrowd"):
            continue
        image_id = _field(annotation, "image_id", where)
        if image_id not in images:
            raise DataError(f"{where}: image_id {image_id} is not among the images")
        label = _label(annotation, names, known, where)
        boxes.setdefault(image_id, []).append((_box(annotation, images[image_id], size, where), label))
    found = [_image(image, boxes.get(key, []), path) for key, image in images.items()]
    _refuse_twins(found, path)
    return found, known


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (labels)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a COCO file: expected an object with images, annotations, categories")
    for key in ("images", "annotations"):
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"{path}: not a COCO file: '{key}' is not a list of objects")
    return content


def _field(entry: Mapping[str, Any], key: str, where: str) -> Any:  # noqa: ANN401 - what JSON holds
    if key not in entry:
        raise DataError(f"{where}: '{key}' is missing")
    return entry[key]


def _label(annotation: Mapping[str, Any], names: Mapping[Any, str], known: list[str], where: str) -> int:
    category = _field(annotation, "category_id", where)
    if category not in names:
        raise DataError(f"{where}: category_id {category} is not among the file's categories {sorted(names)}")
    if names[category] not in known:
        raise DataError(
            f"{where}: class '{names[category]}' is not among the card's classes ({', '.join(known)}); "
            "add it to 'classes', or take the annotations out"
        )
    return known.index(names[category])


def _box(
    annotation: Mapping[str, Any], image: Mapping[str, Any], size: tuple[int, int] | None, where: str
) -> list[float]:
    width, height = image.get("width"), image.get("height")
    if (not width or not height) and size is not None:
        height, width = size
    name = _field(image, "file_name", where)
    if not width or not height:
        raise DataError(f"{where}: image {name} states no width and height")
    box = _field(annotation, "bbox", where)
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) for v in box):
        raise DataError(f"{where}: bbox is {box!r:.60}, expected [x, y, width, height]")
    x1, y1, x2, y2 = box[0], box[1], box[0] + box[2], box[1] + box[3]
    if not (x1 >= -TOLERANCE and y1 >= -TOLERANCE and x2 <= width + TOLERANCE and y2 <= height + TOLERANCE):
        raise DataError(f"{where}: box {box} (x, y, width, height) leaves its image {name} of {width}×{height}")
    clipped = [max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))]
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        raise DataError(f"{where}: box {box} (x, y, width, height) of image {name} has no area")
    return clipped


def _image(image: Mapping[str, Any], boxes: list[tuple[list[float], int]], path: Path) -> CocoImage:
    split = image.get("split")
    return CocoImage(
        file_name=str(_field(image, "file_name", f"{path}: image {image['id']}")),
        split=None if split is None else str(split),
        boxes=np.array([box for box, _ in boxes], np.float32).reshape(-1, 4),
        labels=np.array([label for _, label in boxes], np.int64),
    )


def _refuse_twins(images: list[CocoImage], path: Path) -> None:
    seen: set[str] = set()
    for image in images:
        if image.file_name in seen:
            raise DataError(f"{path}: two images have the file_name '{image.file_name}'")
        seen.add(image.file_name)
