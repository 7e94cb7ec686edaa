"""Video files through PyAV: RGB as rgb24, thermal at its own depth, time stamps in nanoseconds."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av import VideoFormat, VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter

from data.errors import DataError
from data.frame import Frame, Image
from data.thermal import ThermalSpec
from export.cores import cores
from pipelines.live.pairing import Sensor

DECODING_THREADS = min(4, cores())
"""Slices of one frame that are decoded at once, where the coding has slices."""
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
        self._stream.codec_context.thread_count = DECODING_THREADS
        self._reformatter = VideoReformatter()
        self._sensor = sensor
        self._pixels = ""
        self._convert: Callable[[VideoFrame], Image]
        self._frames: Iterator[VideoFrame] = self._container.decode(self._stream)
        self._sequence = 0
        self._time_ns: int | None = None
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.period_ns: int | None = round(1e9 / rate) if rate else None
        if self._stream.format is not None:  # refuse at once what the first frame would be refused for
            try:
                self._choose(self._stream.format)
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
        self._choose(decoded.format)
        frame = Frame(self._convert(decoded), self._stamp(decoded), self._sequence, self.name)
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

    def _choose(self, pixels: VideoFormat) -> None:
        if pixels.name != self._pixels:
            self._convert = self._converter(pixels)
            self._pixels = pixels.name

    def _converter(self, pixels: VideoFormat) -> Callable[[VideoFrame], Image]:
        """Choose how pixels of this format become what the bundle takes; DataError when they cannot."""
        bits, channels = pixels.components[0].bits, len(pixels.components)
        if self._sensor == "rgb":
            if channels == 1 and bits > 8:
                raise DataError(
                    f"{self.name}: RGB is {pixels.name}, one channel of {bits} bits; are --rgb and --thermal swapped?"
                )
            return self._rgb
        reader = self._thermal_reader(pixels)
        if reader is None:
            unit, stored = self._spec.unit, self._spec.stored
            wanted = _WANTED[unit] if stored in ("unit", "radiometric") else f"raw numbers, stored: {stored}"
            raise DataError(
                f"{self.name}: thermal video is {pixels.name} ({bits} bits, {channels} channels), but the bundle takes "
                f"unit '{unit}' ({wanted}); deliver such a recording, or use a bundle that was trained on this unit"
            )
        return lambda frame: self._spec.convert(reader(frame), self.name)

    def _thermal_reader(self, pixels: VideoFormat) -> Callable[[VideoFrame], Image] | None:
        """Choose what reads the stored numbers of this format; None when the spec does not convert such."""
        unit, is_grey, bits = self._spec.unit, pixels.name.startswith("gray"), pixels.components[0].bits
        counts = _big_endian_counts if pixels.is_big_endian else _counts
        if pixels.name == "grayf32le":
            return _floats if unit == "celsius" and self._spec.stored != "planck" else None
        if len(pixels.components) == 1 and is_grey and 8 < bits <= 16:
            converts = self._spec.stored not in ("unit", "radiometric")
            return counts if unit == "counts16" or converts else None
        if unit == "intensity8" and bits == 8:
            return _grey if is_grey else self._luma
        return None

    def _rgb(self, frame: VideoFrame) -> Image:
        return self._reformatter.reformat(frame, format="rgb24").to_ndarray()

    def _luma(self, frame: VideoFrame) -> Image:
        """Brightness of a colour format: full range, except where the video leaves untold that it is limited.

        Spreading an untold range would clip a camera that uses the full one; the model measures the range itself.
        """
        if self._sequence == 0:
            _refuse_colour(self._rgb(frame), self.name)
        is_limited = frame.color_range == ColorRange.MPEG
        is_yuv = not frame.format.is_rgb
        return (
            _grey(frame) if is_yuv and not is_limited else self._reformatter.reformat(frame, format="gray").to_ndarray()
        )


_WANTED = {
    "intensity8": "8 bits, grey",
    "counts16": "one channel of 9 to 16 bits, such as FFV1 gray16le",
    "celsius": "one channel of float32; videos of counts are for bundles of unit 'counts16'",
}


def _open(path: Path) -> "av.container.InputContainer":
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"{path}: not a video that can be read ({error.strerror})") from None
    if not container.streams.video:
        container.close()
        raise DataError(f"{path}: holds no video stream")
    return container


def _refuse_colour(image: Image, name: str) -> None:
    spread = float(np.ptp(image.astype(np.int16), axis=2).mean())
    if spread > _GREY_SPREAD:
        raise DataError(
            f"{name}: thermal is a colour video (channels differ by {spread:.0f} on average): a false-colour picture "
            "holds no measurement; record the grey or raw frames"
        )


def _plane(frame: VideoFrame, dtype: str) -> Image:
    """H×W view of the first plane, raw values; it keeps the decoder's buffer alive."""
    rows = np.frombuffer(memoryview(frame.planes[0]), dtype).reshape(frame.height, -1)
    return rows[:, : frame.width]


def _grey(frame: VideoFrame) -> Image:
    return _plane(frame, "u1")


def _counts(frame: VideoFrame) -> Image:
    return _plane(frame, "<u2")


def _big_endian_counts(frame: VideoFrame) -> Image:
    return _plane(frame, ">u2").astype(np.uint16)


def _floats(frame: VideoFrame) -> Image:
    return _plane(frame, "<f4")
