"""Where frames come from: one class for each kind, one method and ``close()``."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol

from data.errors import DataError
from data.frame import Frame
from data.images import SUFFIXES, read_rgb, read_thermal
from data.thermal import ThermalSpec
from pipelines.live.pairing import Sensor
from pipelines.live.video import VideoFile

Policy = Literal["ordered", "latest"]
"""ordered: every frame, in order. latest: when the pipeline is slower, old frames make room for new ones."""

_FPS = 25.0
_SLOWEST, _FASTEST = 1e-6, 1e6
"""Pictures per second: one in eleven days … times of a microsecond's distance."""


class Source(Protocol):
    """A stream of frames of one sensor."""

    name: str
    """For messages; without credentials."""
    period_ns: int | None
    """Time between two frames, where it is known."""
    policy: Policy

    def read(self) -> Frame | None:
        """Wait for the next frame; None at the end."""

    def close(self) -> None:
        """Release what the source holds."""


class SourceFactory(Protocol):
    """What SOURCES holds."""

    def __call__(self, text: str, sensor: Sensor, spec: ThermalSpec, order: "FolderOrder") -> Source:
        """Open a source; DataError when it cannot be read."""


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

    policy: Policy = "ordered"

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


class ScriptedSource:
    """A test double: frames from a list, then the end, or an error."""

    def __init__(
        self,
        frames: Iterable[Frame],
        *,
        name: str = "scripted",
        period_ns: int | None = None,
        policy: Policy = "ordered",
        error: Exception | None = None,
    ) -> None:
        self.name = name
        self.period_ns = period_ns
        self.policy: Policy = policy
        self.closed = False
        self._frames = iter(frames)
        self._error = error

    def read(self) -> Frame | None:
        """Return the next frame; after the last one raise the error, or None."""
        frame = next(self._frames, None)
        if frame is None and self._error is not None:
            raise self._error
        return frame

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True


def _video_file(text: str, sensor: Sensor, spec: ThermalSpec, order: FolderOrder) -> Source:
    return VideoFile(Path(text), sensor, spec)


SOURCES: dict[str, SourceFactory] = {"file": _video_file, "folder": ImageFolder}
"""Kind of source → what opens it."""


def kind_of(text: str) -> str:
    """Name the kind in SOURCES that an argument means; DataError when there is nothing of that name."""
    if "://" in text:
        raise DataError(f"{text.partition('://')[0]}://…: not a source; one of {', '.join(SOURCES)}")
    if not Path(text).exists():
        raise DataError(f"{text}: no such file or folder")
    return "folder" if Path(text).is_dir() else "file"


def open_sources(arguments: dict[Sensor, str], spec: ThermalSpec, fps: float | None) -> dict[Sensor, Source]:
    """Open the source of each sensor that was given.

    Args:
        arguments: What the user gave for one or both sensors.
        spec: What the bundle takes for thermal.
        fps: Pictures per second of folders; None: 25, which is only a guess and so is refused beside a file.

    Raises:
        DataError: nothing was given, or a source cannot be read; those opened before are closed.
    """
    if not arguments:
        raise DataError("no source; give --rgb, --thermal or both")
    kinds = {sensor: kind_of(text) for sensor, text in arguments.items()}
    if fps is None and set(kinds.values()) == {"file", "folder"}:
        raise DataError("a folder beside a video: say at how many pictures per second it was taken, such as --fps 25")
    folders = [Path(text) for sensor, text in arguments.items() if kinds[sensor] == "folder"]
    order = FolderOrder(folders, _FPS if fps is None else fps)
    opened: dict[Sensor, Source] = {}
    try:
        for sensor, text in arguments.items():
            opened[sensor] = SOURCES[kinds[sensor]](text, sensor, spec, order)
    except DataError:
        for source in opened.values():
            source.close()
        raise
    return opened


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
