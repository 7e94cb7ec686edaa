"""Video files through PyAV: RGB as rgb24, thermal at its own depth, time stamps in nanoseconds."""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from data.errors import DataError
from data.frame import Frame, Image
from data.thermal import ThermalSpec
from pipelines.live.pairing import Sensor

_DECODING_THREADS = 4
_GREY_SPREAD = 12.0
"""Mean distance of R, G, B that lossy coding of a grey picture stays under; a palette lies far above."""


class VideoFile:
    """Every frame of a video file, in order; times are the file's presentation times.

    Args:
        path: The file.
        sensor: Which sensor it shows.
        spec: What the bundle takes for thermal; unused for RGB.

    Raises:
        DataError: no such file, no video in it, or pixels of another depth than the spec's.
    """

    policy: Literal["ordered", "latest"] = "ordered"

    def __init__(self, path: Path, sensor: Sensor, spec: ThermalSpec) -> None:
        self.name = str(path)
        self._spec = spec
        self._container = _open(path)
        self._stream = self._container.streams.video[0]
        # Frame threads would hold back one frame each; slices of one frame cost no latency and no memory.
        self._stream.thread_type = "SLICE"
        self._stream.codec_context.thread_count = min(_DECODING_THREADS, os.cpu_count() or 1)
        self._reformatter = VideoReformatter()
        self._decode = self._rgb if sensor == "rgb" else self._thermal
        self._frames: Iterator[av.VideoFrame] = self._container.decode(self._stream)
        self._sequence = 0
        self._time_ns: int | None = None
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.period_ns: int | None = round(1e9 / rate) if rate else None

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
        frame = Frame(self._decode(decoded), self._stamp(decoded), self._sequence, self.name)
        self._sequence += 1
        return frame

    def close(self) -> None:
        """Release file and decoder."""
        self._container.close()

    def _stamp(self, frame: av.VideoFrame) -> int:
        """Presentation time in ns; where the file has none, one frame period after the last."""
        if frame.pts is not None and frame.time_base is not None:
            time_ns = round(Fraction(frame.pts) * frame.time_base * 1_000_000_000)
        elif self._time_ns is None:
            time_ns = 0
        else:
            time_ns = self._time_ns + (self.period_ns or 1)
        self._time_ns = time_ns
        return time_ns

    def _rgb(self, frame: av.VideoFrame) -> Image:
        if frame.format.components[0].bits > 8 and len(frame.format.components) == 1:
            raise DataError(
                f"{self.name}: RGB is {frame.format.name}, a single channel of {frame.format.components[0].bits} "
                "bits; are --rgb and --thermal swapped?"
            )
        return self._reformatter.reformat(frame, format="rgb24").to_ndarray()

    def _thermal(self, frame: av.VideoFrame) -> Image:
        unit, bits = self._spec.unit, frame.format.components[0].bits
        if unit == "counts16" and _is_one_channel(frame) and 8 < bits <= 16:
            return _plane(frame, ">u2" if frame.format.is_big_endian else "<u2")
        if unit == "celsius" and frame.format.name == "grayf32le":
            return _plane(frame, "<f4")
        if unit == "intensity8" and bits == 8:
            return _plane(frame, "u1") if _is_one_channel(frame) else self._luma(frame)
        raise DataError(
            f"{self.name}: thermal video is {frame.format.name} ({bits} bits, {len(frame.format.components)} "
            f"channels), but the bundle takes unit '{unit}' ({_WANTED[unit]}); deliver such a recording, "
            "or use a bundle that was trained on this unit"
        )

    def _luma(self, frame: av.VideoFrame) -> Image:
        if self._sequence == 0:
            channels = self._reformatter.reformat(frame, format="rgb24").to_ndarray()
            spread = float(np.ptp(channels.astype(np.int16), axis=2).mean())
            if spread > _GREY_SPREAD:
                raise DataError(
                    f"{self.name}: thermal is a colour video (channels differ by {spread:.0f} on average): a "
                    "false-colour picture holds no measurement; record the grey or raw frames"
                )
        return self._reformatter.reformat(frame, format="gray").to_ndarray()


_WANTED = {
    "intensity8": "8 bits, grey",
    "counts16": "one channel of 9 to 16 bits, such as FFV1 gray16le",
    "celsius": "one channel of float32; videos of counts are for bundles of unit 'counts16'",
}


def _open(path: Path) -> "av.container.InputContainer":
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"{path}: not a video that can be read ({error.strerror})") from None
    if not container.streams.video:
        container.close()
        raise DataError(f"{path}: holds no video stream")
    return container


def _is_one_channel(frame: av.VideoFrame) -> bool:
    return len(frame.format.components) == 1 and frame.format.name.startswith("gray")


def _plane(frame: av.VideoFrame, dtype: str) -> Image:
    """H×W view of the first plane, raw values, in the machine's byte order; keeps the decoder's buffer alive."""
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), dtype).reshape(frame.height, -1)
    return np.asarray(rows[:, : frame.width], np.dtype(dtype).newbyteorder("="))
