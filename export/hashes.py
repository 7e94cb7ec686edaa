"""SHA-256 of every file of a bundle; that of bundle.json is taken with its own digest written as 64 zeros."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from export.errors import ExportError

NO_DIGEST = "0" * 64


def digests(folder: Path, info_name: str) -> dict[str, str]:
    """Digest of each file under ``folder`` by its relative POSIX path, with zeros for the description."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / info_name)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files} | {info_name: NO_DIGEST}


def seal(path: Path, text: str) -> None:
    """Write the description, its own digest in place of the zeros."""
    raw = text.encode()
    path.write_bytes(raw.replace(NO_DIGEST.encode(), sha256(raw).encode()))


def check(folder: Path, info_name: str, raw: bytes, files: Mapping[str, str]) -> None:
    """Compare every file with its digest.

    Args:
        folder: The bundle.
        info_name: Name of the description.
        raw: Its bytes.
        files: Relative path → digest, as it says.

    Raises:
        ExportError: a file is missing or was changed.
    """
    for name, expected in files.items():
        if name == info_name:
            found = sha256(raw.replace(expected.encode(), NO_DIGEST.encode()))
        elif (folder / name).is_file():
            found = file_sha256(folder / name)
        else:
            raise ExportError(f"{folder / name}: is missing from the bundle; copy the folder again")
        if found != expected:
            raise ExportError(
                f"{folder / name}: was changed after export (its sha256 begins {found[:8]}, {info_name} says "
                f"{expected[:8]}); copy the folder again, or export anew"
            )


def sha256(content: bytes) -> str:
    """Digest of bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def file_sha256(path: Path) -> str:
    """Digest of a file, in hexadecimal, read in parts; ExportError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({error.strerror}); copy the folder again") from None
