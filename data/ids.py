"""Ids of pairs and lists of them: no id leads out of the data set's folder."""

from pathlib import Path, PurePosixPath, PureWindowsPath

from data.errors import DataError
from data.text_file import read_text

MAX_ID = 512
"""Longest id in characters."""
_MAX_NAME = 200
"""Longest part of an id in bytes: file systems end at 255 with what a pattern adds."""


def safe_id(one: str, where: str) -> str:
    """Return an id as it is.

    Raises:
        DataError: it is no plain relative path, so that it could name a file outside of the data set; ``where`` it was
            found comes first.
    """
    if not one or one != one.strip() or len(one) > MAX_ID or any(len(_utf8(p)) > _MAX_NAME for p in one.split("/")):
        raise DataError(f"{where}: {one!r:.60} is no id: expected a name of 1 to {_MAX_NAME} letters in each folder")
    if "\\" in one or not one.isprintable():
        raise DataError(f"{where}: {one!r:.60} is no id: expected letters, digits and '/' between folders")
    if PurePosixPath(one).is_absolute() or PureWindowsPath(one).drive or {"..", "."} & set(one.split("/")):
        raise DataError(f"{where}: the id {one!r:.60} climbs out of the data set's folder; expected a path inside it")
    return one


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def read_ids(path: Path) -> list[str]:
    """Read a list of ids, one on each line; DataError when it cannot be read, or an id is wrong or there twice."""
    text = read_text(path, "the list of ids")
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    ids = [safe_id(line, f"{path}:{number}") for number, line in lines if line]
    seen: set[str] = set()
    for number, one in enumerate(ids, 1):
        if one in seen:
            raise DataError(f"{path}: id '{one}' is listed twice (entry {number})")
        seen.add(one)
    return ids
