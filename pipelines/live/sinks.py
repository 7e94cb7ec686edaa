"""Where answers go: one class for each kind, one method and ``close()``."""

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import av

from data.errors import DataError
from data.frame import Pair
from data.prepare import Prepared
from pipelines.live.answer import Answer
from pipelines.live.draw import Composer
from pipelines.live.lines import CsvSink, JsonLinesSink, check_place, told
from pipelines.live.usage import UsageError

_KEY_FRAME_EVERY = 30
_MOST_PARTS = 1000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
"""Between the failure of a part and the beginning of the next one."""


class Sink(Protocol):
    """Takes every answer of a run."""

    def write(self, pair: Pair, prepared: Prepared, answer: Answer) -> None:
        """Take one answer; DataError when it cannot be kept."""

    def close(self, *, failed: bool = False) -> None:
        """Finish; what was written stays readable.

        Args:
            failed: The run ends by an error: a sink that was given no answer leaves what lay at its place.
        """


class VideoSink:
    """Annotated H.264 in Matroska, both sensors side by side, at the capture times of the pairs.

    Clusters are closed every second, so that a kill loses the last second at most.

    Args:
        path: The file.
        composer: Draws the pictures.
        period_ns: Time between two of them, where it is known.
        in_parts: Of cameras: nothing that lies there is replaced: a new run, and what comes after a failure, goes to
            the next free name, OUT.2.mkv and so on.
        opened: Told each file that holds an answer.
    """

    def __init__(
        self,
        path: Path,
        composer: Composer,
        period_ns: int | None = None,
        *,
        in_parts: bool = False,
        opened: Callable[[Path], None] | None = None,
    ) -> None:
        if path.suffix.lower() != ".mkv":
            raise UsageError(f"{path}: the annotated video is Matroska, which survives a kill; name it {path.stem}.mkv")
        self._path = self._first_path = path
        self._in_parts = in_parts
        self._opened = opened
        self._compose = composer
        self._rate = Fraction(1_000_000_000, period_ns).limit_denominator(1001) if period_ns else Fraction(30)
        self._container: av.container.OutputContainer | None = None
        self._stream: Any = None
        self._first_ns = 0
        self._last_pts = -1
        self._answers = 0
        """In the file that is written now."""
        self._has_begun = False
        """Whether the file at the path is this run's."""
        self._begun_s = self._pause_s = 0.0
        self._resting: tuple[float, str] | None = None
        """Until when no new file is begun, and why."""
        check_place(path)

    def write(self, pair: Pair, prepared: Prepared, answer: Answer) -> None:
        """Draw and encode one answer."""
        if self._resting is not None and monotonic() < self._resting[0]:
            raise DataError(self._resting[1])
        picture = av.VideoFrame.from_ndarray(self._compose(pair, prepared, answer), format="rgb24")
        try:
            self._encode(picture, pair)
        except DataError as error:
            if self._in_parts:
                self._rest(str(error))
            raise

    def _encode(self, picture: av.VideoFrame, pair: Pair) -> None:
        with self._told():
            if self._container is None:
                self._open(picture.width, picture.height)
                self._first_ns = pair.time_ns
            assert self._container is not None
            self._last_pts = max(self._last_pts + 1, (pair.time_ns - self._first_ns) // 1_000_000)
            picture.pts, picture.time_base = self._last_pts, Fraction(1, 1000)
            self._container.mux(self._stream.encode(picture))
            self._answers += 1
            if self._answers == 1 and self._opened is not None:
                self._opened(self._path)

    def close(self, *, failed: bool = False) -> None:
        """Write the frames that the encoder still holds, and finish the file."""
        container, self._container = self._container, None
        if container is None:
            return
        with self._told():
            try:
                container.mux(self._stream.encode())
            finally:
                container.close()

    def _told(self) -> AbstractContextManager[None]:
        return told(self._path, self._answers, ", the last second perhaps not")

    def _rest(self, why: str) -> None:
        """Leave this file, and begin another after a pause that grows while files fail soon after they were begun."""
        container, answers, has_begun = self._container, self._answers, self._has_begun
        self._container, self._last_pts, self._answers, self._has_begun = None, -1, 0, False
        with suppress(OSError, av.error.FFmpegError):  # it has failed already
            if container is not None:
                container.close()
        if has_begun and not answers:
            with suppress(OSError):  # a full disk shall not be littered with files that show nothing
                self._path.unlink()
        now = monotonic()
        has_lasted = has_begun and now - self._begun_s >= _LONGEST_PAUSE_S
        self._pause_s = _FIRST_PAUSE_S if has_lasted else min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, 2 * self._pause_s))
        self._resting = now + self._pause_s, why

    def _next_free(self) -> Path:
        for part in range(1, _MOST_PARTS + 1):
            name = self._first_path.name if part == 1 else f"{self._first_path.stem}.{part}{self._first_path.suffix}"
            path = self._first_path.with_name(name)
            if not path.exists():
                return path
        raise DataError(f"{self._first_path}: {_MOST_PARTS} parts of it lie there; move them away")

    def _open(self, width: int, height: int) -> None:
        if self._in_parts:
            self._path = self._next_free()
            self._path.touch(exist_ok=False)
            self._has_begun, self._begun_s = True, monotonic()
        self._container = av.open(
            str(self._path), "w", format="matroska", options={"cluster_time_limit": "1000", "flush_packets": "1"}
        )
        options = {"preset": "superfast", "tune": "zerolatency", "crf": "23", "g": str(_KEY_FRAME_EVERY)}
        self._stream = self._container.add_stream("libx264", rate=self._rate, options=options)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, 1000)
        self._stream.codec_context.thread_count = 1


class CollectingSink:
    """A test double: keeps what it is given; fails at answer ``fail_at`` where asked to."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.answers: list[Answer] = []
        self.pairs: list[Pair] = []
        self.closed = False
        self.failed = False
        self._fail_at = fail_at

    def write(self, pair: Pair, prepared: Prepared, answer: Answer) -> None:
        """Keep one answer."""
        if answer.index == self._fail_at:
            raise DataError(f"answer {answer.index} refused")
        self.answers.append(answer)
        self.pairs.append(pair)

    def close(self, *, failed: bool = False) -> None:
        """Remember that it was closed, and whether the run failed."""
        self.closed, self.failed = True, failed


def _by(module: str, name: str) -> Callable[..., Sink]:
    """The sink of that name, imported when it is asked for."""

    def make(*arguments: Any, **options: Any) -> Sink:  # noqa: ANN401 - whatever its class takes
        sink: Sink = getattr(import_module(f"pipelines.live.{module}"), name)(*arguments, **options)
        return sink

    return make


SINKS: dict[str, Callable[..., Sink]] = {
    "video": VideoSink,
    "jsonl": JsonLinesSink,
    "csv": CsvSink,
    "window": _by("window", "WindowSink"),
    "mqtt": _by("mqtt", "MqttSink"),
    "webhook": _by("webhook", "WebhookSink"),
    "stream": _by("stream_out", "StreamSink"),
}
"""Kind of sink → its class."""
