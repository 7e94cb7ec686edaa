"""Folders of pictures as recordings: where each picture stands in time."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

from data.errors import DataError
from data.frame import Frame
from data.images import SUFFIXES, read_rgb, read_thermal
from data.thermal import ThermalSpec
from pipelines.live.pairing import Sensor

_SLOWEST, _FASTEST = 1e-6, 1e6
"""Pictures per second: one in eleven days … times of a microsecond's distance."""


class FolderOrder:
    """Where each picture of one or two folders stands in time: its position in all names taken together.

    So a picture that is missing in one folder is a missing frame, and no later one moves.
    Names match when they are equal without suffix, or (``FLIR_01_RGB``, ``FLIR_01_PreviewData``) when they are
    equal without what all names of their folder begin and end with.

    Args:
        folders: The folders that are read together.
        fps: Pictures per second.

    Raises:
        DataError: a folder holds no picture, or no name of one is found in the other.
    """

    def __init__(self, folders: Sequence[Path], fps: float) -> None:
        if not _SLOWEST <= fps <= _FASTEST:
            raise DataError(f"--fps {fps:g}: give the recording's pictures per second, such as --fps 25")
        self.period_ns = round(1e9 / fps)
        pictures = {folder: _pictures(folder) for folder in folders}
        named = {folder: {path.stem: path for path in paths} for folder, paths in pictures.items()}
        if len(named) > 1 and not set.intersection(*(set(paths) for paths in named.values())):
            named = {folder: _shortened(paths) for folder, paths in pictures.items()}
            if not set.intersection(*(set(paths) for paths in named.values())):
                first, second = (paths[0] for paths in pictures.values())
                raise DataError(
                    f"no picture of {first.parent} has a partner in {second.parent} (they begin with "
                    f"{first.name} and {second.name}); give partners the same name"
                )
        names = sorted({name for paths in named.values() for name in paths}, key=_natural)
        self._named = named
        self._position = {name: position for position, name in enumerate(names)}

    def of(self, folder: Path) -> list[tuple[int, Path]]:
        """(position in time, file) of one folder's pictures, in order."""
        return sorted((self._position[name], path) for name, path in self._named[folder].items())


class ImageFolder:
    """The pictures of a folder as a recording, see FolderOrder."""

    policy: Literal["ordered", "latest"] = "ordered"

    def __init__(self, text: str, sensor: Sensor, spec: ThermalSpec, order: FolderOrder) -> None:
        self.name = text
        self.period_ns: int | None = order.period_ns
        self._step_ns = order.period_ns
        self._sensor = sensor
        self._spec = spec
        self._files = iter(order.of(Path(text)))

    def read(self) -> Frame | None:
        """Return the next picture, None after the last; DataError when it cannot be read."""
        position, path = next(self._files, (0, None))
        if path is None:
            return None
        image = read_rgb(path) if self._sensor == "rgb" else read_thermal(path, self._spec)
        return Frame(image, position * self._step_ns, position, self.name)

    def close(self) -> None:
        """Nothing is held between pictures."""


def _pictures(folder: Path) -> list[Path]:
    paths = sorted((p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES), key=lambda p: _natural(p.stem))
    if not paths:
        raise DataError(f"{folder}: holds no picture ({', '.join(SUFFIXES)})")
    for before, path in pairwise(paths):
        if before.stem == path.stem:
            raise DataError(f"{folder}: {before.name} and {path.name} share one name; remove one of them")
    return paths


def _shortened(paths: list[Path]) -> dict[str, Path]:
    """Names without what they all begin and end with, as far as that is not part of a number."""
    stems = [path.stem for path in paths]
    begin = _common_start(stems).rstrip("0123456789")
    end = _common_start([stem[::-1] for stem in stems])[::-1].lstrip("0123456789")
    return {path.stem.removeprefix(begin).removesuffix(end): path for path in paths}


def _common_start(words: list[str]) -> str:
    first, last = min(words), max(words)
    return first[: next((i for i, letter in enumerate(first) if letter != last[i : i + 1]), len(first))]


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts frame9 before frame10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]
