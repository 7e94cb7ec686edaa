"""Video files through PyAV: every frame, in order, with the file's time stamps in nanoseconds."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
from av import VideoFrame

from data.errors import DataError
from data.frame import Frame
from data.thermal import ThermalSpec
from export.cores import cores
from pipelines.live.pairing import Sensor
from pipelines.live.pixels import PixelReader, limit_pixels

DECODING_THREADS = min(4, cores())
"""Slices of one frame that are decoded at once, where the coding has slices."""


class VideoFile:
    """Every frame of a video file, in order; times are the file's presentation times.

    Args:
        path: The file.
        sensor: Which sensor it shows.
        spec: What the bundle takes for thermal; unused for RGB.

    Raises:
        DataError: no such file, no video in it, too many pixels, or pixels of another depth than the spec's.
    """

    policy: Literal["ordered", "latest"] = "ordered"

    def __init__(self, path: Path, sensor: Sensor, spec: ThermalSpec) -> None:
        self.name = str(path)
        self._container = _open(path)
        self._stream = self._container.streams.video[0]
        # Frame threads would hold back one frame each; slices of one frame cost no latency and no memory.
        self._stream.thread_type = "SLICE"
        self._stream.codec_context.thread_count = DECODING_THREADS
        self._pixels = PixelReader(self.name, sensor, spec)
        self._frames: Iterator[VideoFrame] = self._container.decode(self._stream)
        self._sequence = 0
        self._time_ns: int | None = None
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.period_ns: int | None = round(1e9 / rate) if rate else None
        try:  # refuse at once what the first frame would be refused for
            limit_pixels(self._stream, self.name)
            if self._stream.format is not None:
                self._pixels.choose(self._stream.format)
        except DataError:
            self._container.close()
            raise

    def read(self) -> Frame | None:
        """Return the next frame, None at the end of the file.

        Raises:
            DataError: the frame cannot be decoded, or its pixels are not what the bundle takes.
        """
        try:
            decoded = next(self._frames, None)
        except (av.error.FFmpegError, OSError) as error:
            raise DataError(f"{self.name}: frame {self._sequence} cannot be decoded ({error.strerror})") from None
        if decoded is None:
            return None
        frame = Frame(self._pixels(decoded), self._stamp(decoded), self._sequence, self.name)
        self._sequence += 1
        return frame

    def close(self) -> None:
        """Release file and decoder."""
        self._container.close()

    def _stamp(self, frame: VideoFrame) -> int:
        """Presentation time in ns; where the file has none, one frame period after the last."""
        if frame.pts is not None and frame.time_base is not None:
            time_ns = round(Fraction(frame.pts) * frame.time_base * 1_000_000_000)
        elif self._time_ns is None:
            time_ns = 0
        else:
            time_ns = self._time_ns + (self.period_ns or 1)
        self._time_ns = time_ns
        return time_ns


def _open(path: Path) -> "av.container.InputContainer":
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"{path}: not a video that can be read ({error.strerror})") from None
    if not container.streams.video:
        container.close()
        raise DataError(f"{path}: holds no video stream")
    return container
