"""Where the files of a pair lie: paths in which ``{id}``, or its parts ``{dir}`` and ``{name}``, stand for the pair."""

import re
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator

from data.errors import DataError

_FIELD = re.compile(r"\{(id|dir|name)\}")


def _pattern(text: str) -> str:
    if re.search(r"[{}]", _FIELD.sub("", text)) or not _FIELD.search(text.replace("{dir}", "")):
        raise ValueError(
            "a path pattern holds {id} and no other braces, such as visible/{id}.jpg; {dir} and {name} are the id's "
            "folders and its last part, such as {dir}/visible/{name}.jpg"
        )
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]


def as_pattern(text: str, where: str) -> str:
    """Return ``text``, which must be a path pattern; DataError that begins with ``where`` if it is none."""
    try:
        return _pattern(text)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def fill(pattern: str, one: str) -> str:
    """Put an id into a pattern: the path of a pair's file, relative to the root.

    The id ``train/00001`` fills ``{id}`` with itself, ``{dir}`` with ``train`` and ``{name}`` with ``00001``; where an
    id has no folder, ``{dir}/`` falls away.
    """
    folder, _, name = one.rpartition("/")
    if not folder:
        pattern = pattern.replace("{dir}/", "")
    parts = {"id": one, "dir": folder, "name": name}
    return _FIELD.sub(lambda field: parts[field[1]], pattern)


def id_of(path: str, pattern: str) -> str | None:
    """Find the id in a file's whole path, relative to the root; None: it does not follow ``pattern``."""
    match = re.fullmatch(_expression(pattern), path)
    if match is None:
        return None
    found = match.groupdict()
    return found.get("id") or "/".join(filter(None, (found.get("dir"), found["name"])))


def id_from_name(name: str, pattern: str) -> str | None:
    """Find the id in a file name that follows ``pattern``, with or without its leading folders; else None."""
    parts = PurePosixPath(pattern).parts
    for start in range(len(parts)):
        tail = "/".join(parts[start:])
        whole = "{name}" in tail and ("{dir}" in tail or "{dir}" not in pattern)
        if "{id}" not in tail and not whole:
            break
        one = id_of(name, tail)
        if one is not None:
            return one
    return None


def _expression(pattern: str) -> str:
    """The regular expression that a filled pattern fits; a field that stands twice has the same text twice."""
    expression, seen = "", set[str]()
    for number, part in enumerate(_FIELD.split(pattern)):
        if number % 2 == 0:
            expression += re.escape(part)
        elif part in seen:
            expression += f"(?P={part})"
        else:
            expression += f"(?P<{part}>{'[^/]+' if part == 'name' else '.+'})"
            seen.add(part)
    return expression
