"""What labels a user has: boxes, masks or classes, in a file or a folder, and what has to be assumed of them."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data.coco import read_coco
from data.errors import DataError
from data.labels.image_classes import classes_by_id, read_rows
from data.labels.masks import read_indices
from data.labels.xml_file import read_xml
from data.patterns import fill, id_from_name
from data.text_file import read_text
from data.yaml_file import read_yaml

MASK_NAMES = ("{id}", "{id}_mask", "{id}_label", "{id}_labels", "{id}_gt", "mask_{id}")
_PICTURES = (".png", ".tif", ".tiff", ".bmp")
"""Of masks; JPEG would blur their indices."""
_COLUMNS = (
    ("id", "pair", "file", "filename", "file_name", "image", "name"),
    ("label", "class", "category", "target"),
)
"""What tables call their columns of ids and of classes, in small letters."""
_NAME_FILES = ("classes.txt", "obj.names", "data.yaml", "dataset.yaml")
_SAMPLED = 32


@dataclass(frozen=True)
class Pairs:
    """The pairs that labels may belong to."""

    ids: Sequence[str]
    rgb: str
    """Pattern of the RGB pictures, relative to the root."""
    thermal: str
    root: Path


@dataclass(frozen=True)
class FoundLabels:
    """Labels as the card names them."""

    fields: dict[str, Any] = field(default_factory=dict)
    """Of the card, as plain YAML content."""
    split_of: dict[str, str | None] = field(default_factory=dict)
    """Labelled id → the split that its label names."""
    elsewhere: int = 0
    """Labelled images that are none of the pairs."""
    class_of: dict[str, str] = field(default_factory=dict)
    """Labelled id → class of the whole picture; empty where labels say none."""


def find_labels(
    path: Path | None, pairs: Pairs, names: tuple[str, ...], inside: Callable[[Path], str], assumed: list[str]
) -> FoundLabels:
    """Look at labels in a file (COCO, table) or a folder (VOC, YOLO, masks); None: the folders of ids may be classes.

    Args:
        path: File or folder; None where the user named none.
        pairs: What there is to label.
        names: Classes in the order of their indices, where files hold numbers; () takes what files say.
        inside: Makes a path relative to the card's root.
        assumed: What was assumed is added here.

    Raises:
        DataError: labels of no known kind, of no pair, or without names for their numbers.
    """
    if path is None:
        return _folders(pairs, assumed)
    if path.is_file():
        readers = {".json": _coco, ".csv": _table}
        if path.suffix.lower() not in readers:
            raise DataError(f"{path}: expected COCO boxes (.json) or a table of classes (.csv)")
        return readers[path.suffix.lower()](path, pairs, names, inside, assumed)
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder of labels")
    suffixes = Counter(one.suffix.lower() for one in path.rglob("*.*") if one.name not in _NAME_FILES)
    for kind, read in ((".xml", _voc), (".txt", _yolo)):
        if suffixes[kind]:
            return read(path, pairs, names, inside, assumed)
    if any(suffixes[kind] for kind in _PICTURES):
        return _masks(path, pairs, names, inside, assumed)
    raise DataError(f"{path}: no labels here: expected VOC (.xml), YOLO (.txt) or masks ({', '.join(_PICTURES)})")


def _coco(
    path: Path, pairs: Pairs, names: tuple[str, ...], inside: Callable[[Path], str], assumed: list[str]
) -> FoundLabels:
    images, classes = read_coco(path, names or None)
    found = {id_from_name(image.file_name, pairs.rgb): image for image in images}
    known = set(pairs.ids)
    labelled = {one: image for one, image in found.items() if one is not None and one in known}
    if not labelled:
        first = images[0].file_name if images else "none"
        raise DataError(f"{path}: no file_name (first: '{first}') is that of an RGB picture {pairs.rgb}")
    boxes = sum(int((image.labels >= 0).sum()) for image in labelled.values())
    without = len(pairs.ids) - len(labelled)
    assumed.append(f"labels are boxes in RGB pixels: {boxes} on {len(labelled)} pairs; {without} pairs have none")
    if clipped := [line for image in labelled.values() for line in image.clipped]:
        assumed.append(f"! {len(clipped)} boxes leave their pictures and are clipped to them (first: {clipped[0]})")
    elsewhere = len(images) - len(labelled)
    if elsewhere:
        assumed.append(f"! {elsewhere} labelled images have no pair of pictures and are left out")
    fields = {"classes": tuple(classes), "labels": {"format": "coco", "path": inside(path)}}
    return FoundLabels(fields, {one: image.split for one, image in labelled.items()}, elsewhere)


def _table(
    path: Path, pairs: Pairs, names: tuple[str, ...], inside: Callable[[Path], str], assumed: list[str]
) -> FoundLabels:
    columns, rows = read_rows(path)
    one, label = (next((i for i, c in enumerate(columns) if c.lower() in known), -1) for known in _COLUMNS)
    if -1 in (one, label):
        raise DataError(f"{path}:1: columns are {', '.join(columns)[:200]}; expected one of ids and one of classes")
    listed = {pair: name for pair, (name, _) in classes_by_id(rows, one, label).items()}
    labelled = [known for known in pairs.ids if known in listed]
    if not labelled:
        raise DataError(f"{path}: no '{columns[one]}' (first: '{next(iter(listed), 'none')}') is the id of a pair")
    assumed.append(f"classes of pictures are those of {path.name}, column '{columns[label]}', on {len(labelled)} pairs")
    spec = {"format": "csv", "path": inside(path), "id": columns[one], "label": columns[label]}
    fields = {"image_classes": names or tuple(sorted(set(listed.values()))), "image_labels": spec}
    return FoundLabels(fields, dict.fromkeys(labelled), class_of={pair: listed[pair] for pair in labelled})


def _folders(pairs: Pairs, assumed: list[str]) -> FoundLabels:
    """Folders whose names hold no digit are classes; with digits they are recordings."""
    folders = Counter(PurePosixPath(one).parent.name for one in pairs.ids)
    if len(folders) < 2 or any(not name or re.search(r"\d", name) for name in folders):
        assumed.append("no labels: every pair is in the split 'unlabelled'")
        return FoundLabels()
    assumed.append(f"the class of a picture is the folder that it lies in: {len(folders)} classes")
    fields = {"image_classes": tuple(sorted(folders)), "image_labels": {"format": "folder"}}
    return FoundLabels(
        fields, dict.fromkeys(pairs.ids), class_of={one: PurePosixPath(one).parent.name for one in pairs.ids}
    )


def _voc(
    path: Path, pairs: Pairs, names: tuple[str, ...], inside: Callable[[Path], str], assumed: list[str]
) -> FoundLabels:
    pattern, labelled = _files(path, ("{id}",), (".xml",), pairs, inside)
    files = [pairs.root / fill(pattern, one) for one in labelled]
    found = Counter((thing.findtext("name") or "").strip() for file in files for thing in read_xml(file).iter("object"))
    if not found and not names:
        raise DataError(f"{path}: none of {len(files)} annotations holds an object; say --classes a,b,c")
    left_out = {name: None for name in sorted(found) if names and name not in names}
    assumed.append(f"labels are VOC boxes: {found.total()} on {len(labelled)} pairs, {pattern}")
    if left_out:
        assumed.append(f"! boxes of {', '.join(left_out)} are left out, as --classes says")
    spec = {"format": "voc", "path": pattern} | ({"names": left_out} if left_out else {})
    return FoundLabels({"classes": names or tuple(sorted(found)), "labels": spec}, dict.fromkeys(labelled))


def _yolo(
    path: Path, pairs: Pairs, names: tuple[str, ...], inside: Callable[[Path], str], assumed: list[str]
) -> FoundLabels:
    pattern, labelled = _files(path, ("{id}",), (".txt",), pairs, inside)
    classes = names or _yolo_names(path, pairs.root)
    assumed.append(f"labels are YOLO boxes on {len(labelled)} pairs, {pattern}; classes count from 0")
    spec = {"format": "yolo", "path": pattern}
    return FoundLabels({"classes": classes, "labels": spec}, dict.fromkeys(labelled))


def _yolo_names(path: Path, root: Path) -> tuple[str, ...]:
    for folder in (path, path.parent, root):
        for name in _NAME_FILES:
            file = folder / name
            if not file.is_file():
                continue
            if file.suffix != ".yaml":
                return tuple(line.strip() for line in read_text(file, "the names").splitlines() if line.strip())
            content, _ = read_yaml(file)
            listed = content.get("names") if isinstance(content, dict) else None
            if isinstance(listed, dict):
                if set(listed) != set(range(len(listed))):
                    keys = ", ".join(map(str, listed))
                    raise DataError(f"{file}: names are numbered {keys:.80}; YOLO counts classes from 0, none left out")
                return tuple(str(listed[number]) for number in range(len(listed)))
            if isinstance(listed, list):
                return tuple(map(str, listed))
    raise DataError(f"{path}: YOLO files hold numbers; say their names as --classes a,b,c ({', '.join(_NAME_FILES)})")


def _masks(
    path: Path, pairs: Pairs, names: tuple[str, ...], inside: Callable[[Path], str], assumed: list[str]
) -> FoundLabels:
    pattern, labelled = _files(path, MASK_NAMES, _PICTURES, pairs, inside)
    sampled = {labelled[k] for k in np.linspace(0, len(labelled) - 1, min(_SAMPLED, len(labelled))).astype(int)}
    values = set[int]()
    for one in sorted(sampled):
        values |= set(np.unique(read_indices(pairs.root / fill(pattern, one))).tolist())
    judged = sorted(values - {0, 255})
    if not names or (judged and judged[-1] > len(names)):
        shown = ", ".join(map(str, sorted(values)))
        raise DataError(
            f"{path}: masks hold {shown:.200}; name the classes 1 … "
            f"{judged[-1] if judged else 1} as --classes a,b,c (0 is background, 255 is not judged)"
        )
    assumed.append(f"labels are masks on {len(labelled)} pairs, {pattern}: 0 is background, 255 is not judged")
    return FoundLabels({"classes": names, "masks": pattern}, dict.fromkeys(labelled))


def _files(
    folder: Path, namings: Sequence[str], suffixes: Sequence[str], pairs: Pairs, inside: Callable[[Path], str]
) -> tuple[str, list[str]]:
    """The pattern that names files for the most pairs, and these pairs."""
    best: tuple[str, list[str]] = ("", [])
    for naming in namings:
        for text in (naming, naming.replace("{id}", "{name}")):
            for suffix in suffixes:
                pattern = str(PurePosixPath(inside(folder)) / f"{text}{suffix}")
                if pattern in (pairs.rgb, pairs.thermal):
                    continue
                labelled = [one for one in pairs.ids if (pairs.root / fill(pattern, one)).is_file()]
                if len(labelled) > len(best[1]):
                    best = (pattern, labelled)
    if not best[1]:
        first = next((one.name for one in sorted(folder.rglob("*.*")) if one.suffix.lower() in suffixes), "none")
        raise DataError(f"{folder}: no file (first: {first}) has the name of a pair (first: {pairs.ids[0]})")
    return best
