"""Folders that appear whole or not at all."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_folder(path: Path, marker: str | None = None) -> Iterator[Path]:
    """Yield a new folder beside ``path``; on success flush it to disk and rename it there, else remove it.

    A folder that already lies at ``path`` is replaced as a whole, and stays as it was when anything fails.

    Args:
        path: Where the finished folder shall lie; its parents are made.
        marker: Name of a file that every folder of this kind holds. An existing, non-empty folder without it
            belongs to somebody else and is never replaced.

    Raises:
        FileExistsError: ``path`` is a file, or a folder without the marker.
    """
    path = path.resolve()  # a link to a folder stays a link: its target is replaced
    _refuse_foreign(path, marker)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        yield temporary
        _flush(temporary)
        _replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync(path.parent)


def _refuse_foreign(path: Path, marker: str | None) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise FileExistsError(errno.EEXIST, "is a file where a folder shall be written; name another path", str(path))
    if marker is not None and not (path / marker).exists() and any(path.iterdir()):
        text = f"is a folder with other things in it (no {marker}), so it is not replaced; name another path"
        raise FileExistsError(errno.EEXIST, text, str(path))


def _replace(temporary: Path, path: Path) -> None:
    """Rename ``temporary`` to ``path``; what lay there is moved aside first, and back when that fails."""
    if not path.exists():
        temporary.rename(path)
        return
    aside = path.with_name(f"{temporary.name}.old")
    path.rename(aside)
    try:
        temporary.rename(path)
    except BaseException:
        aside.rename(path)
        raise
    shutil.rmtree(aside)


def _flush(folder: Path) -> None:
    for entry in folder.rglob("*"):
        _sync(entry)
    _sync(folder)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
