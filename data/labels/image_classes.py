"""Classes of whole pictures: the folder that a pair lies in, or a table."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from data.card_fields import ImageLabels
from data.errors import DataError
from data.ids import safe_id
from data.text_file import read_text

ImageLabelReader = Callable[[ImageLabels, Path, Sequence[str], Sequence[str]], dict[str, int]]
"""From the card's field, its root, the classes and the ids that are wanted, to id → index of its class."""


def read_folder_labels(spec: ImageLabels, folder: Path, classes: Sequence[str], ids: Sequence[str]) -> dict[str, int]:
    """The class is the last folder of the id: ``train/dry/0001`` is ``dry``; an id without a folder has none.

    Raises:
        DataError: a folder is none of the classes.
    """
    named = {one: PurePosixPath(one).parent.name for one in ids if "/" in one}
    return {one: _index(name, classes, f"pair '{one}'") for one, name in named.items()}


def read_csv_labels(spec: ImageLabels, folder: Path, classes: Sequence[str], ids: Sequence[str]) -> dict[str, int]:
    """A table with a header; pairs that it does not name are unlabelled, rows of other pairs are read all the same.

    Raises:
        DataError: no such columns, a line that is none, an unknown class, or two rows for one pair.
    """
    assert spec.path is not None
    path = folder / spec.path
    rows = csv.reader(read_text(path, "the table of classes").splitlines(), strict=True)
    found: dict[str, int] = {}
    try:
        header = next(rows, [])
        columns = [_column(header, name, path) for name in (spec.id, spec.label)]
        for row in rows:
            if not row:
                continue
            where = f"{path}:{rows.line_num}"
            if len(row) != len(header):
                raise DataError(f"{where}: {len(row)} columns, the header has {len(header)}")
            one, name = (row[column].strip() for column in columns)
            if safe_id(one, where) in found:
                raise DataError(f"{where}: a second row for the pair '{one}'")
            found[one] = _index(name, classes, where)
    except csv.Error as error:
        raise DataError(f"{path}:{rows.line_num}: not a table ({error})") from None
    return found


def _column(header: list[str], name: str, path: Path) -> int:
    names = [text.strip() for text in header]
    if names.count(name) != 1:
        raise DataError(
            f"{path}:1: {names.count(name) or 'no'} columns are called '{name}' (image_labels); there is "
            f"{', '.join(names)[:200] or 'none'}"
        )
    return names.index(name)


def _index(name: str, classes: Sequence[str], where: str) -> int:
    if name not in classes:
        raise DataError(f"{where}: class '{name:.60}' is not among the card's image_classes ({', '.join(classes)})")
    return list(classes).index(name)


IMAGE_LABEL_FORMATS: dict[str, ImageLabelReader] = {"folder": read_folder_labels, "csv": read_csv_labels}
"""Formats of ``image_labels`` in a card."""
