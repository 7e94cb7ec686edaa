"""Files that others wrote: plain files of bounded size, text in UTF-8, an error in one line."""

import json
from pathlib import Path
from typing import Any

from data.errors import DataError

MAX_TEXT = 1 << 28
"""Most bytes of a JSON file, a list or a picture; the largest label files of the field stay below 100 MiB."""


def read_text(path: Path, what: str, limit: int = MAX_TEXT) -> str:
    """Read a file as UTF-8 text; ``what`` it should be stands in errors.

    Raises:
        DataError: it is not there, no plain file (a pipe would block for ever), above ``limit`` bytes, or no text.
    """
    return str(_decoded(read_bytes(path, what, limit), path, what))


def read_bytes(path: Path, what: str, limit: int = MAX_TEXT, first: int | None = None) -> bytes:
    """Read a plain file of at most ``limit`` bytes, or its ``first`` bytes; DataError as ``read_text``."""
    try:
        size, plain = path.stat().st_size, path.is_file()
        raw = b""
        if plain and size <= limit:
            with path.open("rb") as file:
                raw = file.read(size if first is None else first)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file ({what})") from None
    except OSError as error:  # also a loop of symbolic links
        raise DataError(f"{path}: {what} cannot be read ({error.strerror})") from None
    except ValueError:  # a NUL in the path
        raise DataError(f"{str(path)!r}: {what} cannot be read (not a path)") from None
    if not plain or size > limit:
        why = f"more than {limit >> 10} KiB" if plain else "not a file"
        raise DataError(f"{path}: {what} cannot be read ({why})")
    return raw


def _decoded(raw: bytes, path: Path, what: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: {what} cannot be read (not UTF-8 text)") from None


def read_json(path: Path, what: str) -> Any:  # noqa: ANN401 - what JSON holds
    """Read a JSON file; DataError names the line where it is none."""
    text = read_text(path, what)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from None
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{path}: not valid JSON ({error})") from None
    except RecursionError:
        raise DataError(f"{path}: not valid JSON (lists within lists, more deeply than any label file)") from None
