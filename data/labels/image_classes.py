"""Classes of whole pictures: the folder that a pair lies in, or a table."""

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from data.card_fields import ImageLabels
from data.encoded import SUFFIXES
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
    header, rows = read_rows(path)
    table = classes_by_id(rows, _column(header, spec.id, path), _column(header, spec.label, path))
    return {one: _index(name, classes, where) for one, (name, where) in table.items()}


def read_rows(path: Path) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Read a table: its header, and each row with the file and line that it stands in; cells without blanks around.

    Raises:
        DataError: it cannot be read, a line is none of a table, or a row is too short or too long.
    """
    lines = csv.reader(read_text(path, "the table of classes").splitlines(), strict=True)
    rows: list[tuple[str, list[str]]] = []
    try:
        header = [text.strip() for text in next(lines, [])]
        for row in lines:
            where = f"{path}:{lines.line_num}"
            if row and len(row) != len(header):
                raise DataError(f"{where}: {len(row)} columns, the header has {len(header)}")
            if row:
                rows.append((where, [text.strip() for text in row]))
    except csv.Error as error:  # a field of 128 KiB and more, or an open quotation mark
        raise DataError(f"{path}:{lines.line_num}: not a table ({error})") from None
    return header, rows


def classes_by_id(rows: Iterable[tuple[str, list[str]]], one: int, label: int) -> dict[str, tuple[str, str]]:
    """Id → name of its class, and the file and line that say so.

    A pair may also be named by a picture's file, with its suffix: ``dry/0001.png`` stands for ``dry/0001`` too.

    Args:
        rows: Of ``read_rows``.
        one: Number of the column of ids.
        label: Number of the column of classes.

    Raises:
        DataError: an id that is none or stands twice, or a row without a class.
    """
    found: dict[str, tuple[str, str]] = {}
    for where, row in rows:
        if safe_id(row[one], where) in found:
            raise DataError(f"{where}: a second row for the pair '{row[one]}'")
        if not row[label]:
            raise DataError(f"{where}: no class for the pair '{row[one]}'; leave out the rows of pairs without one")
        found[row[one]] = row[label], where
    for name in [name for name in found if PurePosixPath(name).suffix.lower() in SUFFIXES]:
        bare = name.removesuffix(PurePosixPath(name).suffix)
        if bare in found:
            raise DataError(f"{found[name][1]}: a second row for the pair '{bare}'")
        found[bare] = found[name]
    return found


def _column(names: Sequence[str], name: str, path: Path) -> int:
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
