"""Answers as text, a line at a time: JSON lines and CSV."""

import csv
import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

import av

from data.errors import DataError
from data.frame import Pair
from data.prepare import Prepared
from pipelines.live.answer import Answer


class LineFile:
    """A text file that grows by whole pieces, each flushed, so that a kill loses no answer.

    A file that lies there is replaced at the first piece, or at the end of a run in order without one.

    Args:
        path: The file.
        continues: Of cameras: what lies there stays, and grows; half a line that a kill left is ended first.
    """

    def __init__(self, path: Path, *, continues: bool = False) -> None:
        self._path = path
        self._mode = "a" if continues else "w"
        self._of_whom = " of this run" if continues else ""
        self._file: FileIO | None = None
        self._whole = self._answers = 0
        self._is_half = False
        check_place(path)

    def append(self, text: str, header: str = "") -> None:
        """Append the text of one answer, or nothing of it; ``header`` goes before it where the file is empty."""
        with told(self._path, self._answers, self._of_whom):
            self._file = self._file or self._open()
            before = "\n" if self._is_half else header if not self._whole else ""
            rest = memoryview((before + text).encode())
            length = len(rest)
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                with suppress(OSError):  # a pipe has no length
                    self._file.seek(self._whole)
                    self._file.truncate()
                raise
        self._whole += length
        self._answers += 1
        self._is_half = False

    def close(self, *, failed: bool) -> None:
        """Close the file; a run in order without an answer leaves an empty one."""
        with told(self._path, self._answers, self._of_whom):
            if self._file is None and not failed:
                self._file = self._open()
            if self._file is not None:
                self._file.close()

    def _open(self) -> FileIO:
        file = FileIO(self._path, self._mode)
        if self._mode == "a" and self._path.is_file():
            self._whole = self._path.stat().st_size
            with self._path.open("rb") as lying:
                lying.seek(max(0, self._whole - 1))
                self._is_half = lying.read(1) not in (b"", b"\n")
        return file


class JsonLinesSink:
    """One JSON object a line.

    Keys: index, time_ns (of the newer frame), skew_ms (thermal minus RGB, null when one is absent), present
    [rgb, thermal], frames [number of the RGB frame, of the thermal frame; null when absent], and what the answer is:

    - detect: boxes, a list of {box: [x1, y1, x2, y2] in pixels of the delivered RGB frame, score, class};
    - segment: classes, name → {share of the pixels, mean confidence}; with ``rle`` masks too, name → {size, counts};
    - classify: class, probability, and probabilities, name → probability.

    Of cameras also ``utc``, the time of day of time_ns, and a file that lies there is continued.
    """

    def __init__(self, path: Path, classes: tuple[str, ...], rle: bool = False, *, is_live: bool = False) -> None:
        self._lines = LineFile(path, continues=is_live)
        self._as_line = LineWriter(classes, rle, is_live=is_live)

    def write(self, pair: Pair, prepared: Prepared, answer: Answer) -> None:
        """Append one line."""
        self._lines.append(self._as_line(pair, answer) + "\n")

    def close(self, *, failed: bool = False) -> None:
        """Finish the file."""
        self._lines.close(failed=failed)


class CsvSink:
    """A table with a header, also where nothing was found: index, time_ns, and what the answer is.

    - detect: a row for each object: class, score, x1, y1, x2, y2; a pair without any has none;
    - segment: a row for each class that is there: class, share, confidence;
    - classify: one row: class, probability, and a column for the probability of each class.

    Of cameras a file that lies there is continued, without a second header.
    """

    def __init__(self, path: Path, classes: tuple[str, ...], *, is_live: bool = False) -> None:
        self._lines = LineFile(path, continues=is_live)
        self._classes = classes

    def write(self, pair: Pair, prepared: Prepared, answer: Answer) -> None:
        """Append the rows of one answer."""
        header, rows = io.StringIO(), io.StringIO()
        csv.writer(header, lineterminator="\n").writerow(["index", "time_ns", *answer.columns(self._classes)])
        writer = csv.writer(rows, lineterminator="\n")
        writer.writerows([answer.index, pair.time_ns, *row] for row in answer.rows(self._classes))
        self._lines.append(rows.getvalue(), header.getvalue())

    def close(self, *, failed: bool = False) -> None:
        """Finish the file."""
        self._lines.close(failed=failed)


class LineWriter:
    """Writes an answer as one line of JSON, see JsonLinesSink.

    Args:
        classes: Names of the model's classes.
        rle: Whether masks are told too.
        is_live: Whether the frames' times are those of this machine's monotonic clock, so that ``utc`` is known.
    """

    def __init__(self, classes: tuple[str, ...], rle: bool = False, *, is_live: bool = False) -> None:
        self._classes = classes
        self._rle = rle
        self._is_live = is_live

    def __call__(self, pair: Pair, answer: Answer) -> str:
        """Return the line, without its end."""
        moment = _moment(pair, answer)
        if self._is_live:
            moment["utc"] = utc(pair.time_ns)
        return json.dumps(moment | answer.as_json(self._classes, self._rle), ensure_ascii=False)


def utc(time_ns: int) -> str:
    """The time of day at a moment of the monotonic clock, to the millisecond."""
    now_ns = time.time_ns() - time.monotonic_ns() + time_ns
    return datetime.fromtimestamp(now_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _moment(pair: Pair, answer: Answer) -> dict[str, Any]:
    frames = (pair.rgb, pair.thermal)
    return {
        "index": answer.index,
        "time_ns": pair.time_ns,
        "skew_ms": None if pair.skew_ns is None else round(pair.skew_ns / 1e6, 3),
        "present": [int(frame is not None) for frame in frames],
        "frames": [None if frame is None else frame.sequence for frame in frames],
    }


def check_place(path: Path) -> None:
    """Refuse a place where no file can be made, before the first answer; nothing is written yet."""
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path}: its folder cannot be made ({error.strerror})") from None
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise DataError(f"{path}: cannot be written (permission denied)")


@contextmanager
def told(path: Path, answers: int, but: str = "") -> Iterator[None]:
    """Turn a failing write into one line that says how many answers the file holds, and what may be missing."""
    try:
        yield
    except (OSError, av.error.FFmpegError) as error:
        held = "no answer of this run" if not answers else f"{answers} answer{'s' if answers > 1 else ''}{but}"
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{path}: cannot be written ({reason}); it holds {held}") from None
