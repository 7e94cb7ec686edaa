"""From decoded video frames to the numbers that the bundle takes: RGB as rgb24, thermal at its own depth."""

from collections.abc import Callable

import av
import numpy as np
from av import VideoFormat, VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter

from data.errors import DataError
from data.frame import Image
from data.thermal import ThermalSpec
from pipelines.live.pairing import Sensor

MAX_PIXELS = 1 << 25
"""Of one picture: 8K, and not the gigabytes that a few bytes of a hostile stream could ask for."""
_GREY_SPREAD = 12.0
"""Mean distance of R, G, B that lossy coding of a grey picture stays under; a palette lies far above."""
_WANTED = {
    "intensity8": "8 bits, grey",
    "counts16": "one channel of 9 to 16 bits, such as FFV1 gray16le",
    "celsius": "one channel of float32; videos of counts are for bundles of unit 'counts16'",
}


class PixelReader:
    """Converts the frames of one video; looks at the pixel format whenever it changes.

    Args:
        name: Of the source, for errors.
        sensor: Which sensor it shows.
        spec: What the bundle takes for thermal; unused for RGB.
    """

    def __init__(self, name: str, sensor: Sensor, spec: ThermalSpec) -> None:
        self._name = name
        self._sensor = sensor
        self._spec = spec
        self._reformatter = VideoReformatter()
        self._pixels = ""
        self._raw: Callable[[VideoFrame], Image] | None = None
        """Reads the stored numbers of thermal; None: brightness of a colour format."""
        self._is_first = True

    def __call__(self, frame: VideoFrame) -> Image:
        """Return the frame's image; DataError when its pixels are not what the bundle takes."""
        self.choose(frame.format)
        if self._sensor == "rgb":
            image = self._rgb(frame)
        else:
            image = self._spec.convert(self._luma(frame) if self._raw is None else self._raw(frame), self._name)
        self._is_first = False
        return image

    def choose(self, pixels: VideoFormat) -> None:
        """Get ready for frames of this format; DataError when the bundle does not take such."""
        if pixels.name == self._pixels:
            return
        bits, channels = pixels.components[0].bits, len(pixels.components)
        if self._sensor == "rgb":
            if channels == 1 and bits > 8:
                raise DataError(
                    f"{self._name}: RGB is {pixels.name}, one channel of {bits} bits; are --rgb and --thermal swapped?"
                )
        else:
            # A plain function: one bound to this object would be a circle, and keep decoders alive until it is found.
            self._raw = self._thermal_reader(pixels)
        self._pixels = pixels.name

    def _thermal_reader(self, pixels: VideoFormat) -> Callable[[VideoFrame], Image] | None:
        """Choose what reads the stored numbers of this format; DataError when the spec does not convert such."""
        unit, is_grey, bits = self._spec.unit, pixels.name.startswith("gray"), pixels.components[0].bits
        channels = len(pixels.components)
        converts = self._spec.stored not in ("unit", "radiometric")
        if pixels.name == "grayf32le":
            if unit == "celsius" and self._spec.stored != "planck":
                return _floats
        elif channels == 1 and is_grey and 8 < bits <= 16:
            if unit == "counts16" or converts:
                return _big_endian_counts if pixels.is_big_endian else _counts
        elif unit == "intensity8" and bits == 8:
            return _grey if is_grey else None
        raise DataError(
            f"{self._name}: thermal video is {pixels.name} ({bits} bits, {channels} channels), but "
            f"{wanted_thermal(self._spec)}"
        )

    def _rgb(self, frame: VideoFrame) -> Image:
        return self._reformatter.reformat(frame, format="rgb24").to_ndarray()

    def _luma(self, frame: VideoFrame) -> Image:
        """Brightness of a colour format: full range, except where the video leaves untold that it is limited.

        Spreading an untold range would clip a camera that uses the full one; the model measures the range itself.
        """
        if self._is_first:
            refuse_colour(self._rgb(frame), self._name)
        is_limited = frame.color_range == ColorRange.MPEG
        is_yuv = not frame.format.is_rgb
        return (
            _grey(frame) if is_yuv and not is_limited else self._reformatter.reformat(frame, format="gray").to_ndarray()
        )


def limit_pixels(stream: "av.VideoStream", name: str) -> None:
    """Have the decoder refuse larger pictures than MAX_PIXELS, also later on; DataError when the first one is larger.

    For a stream whose decoder is not open yet.
    """
    coding = stream.codec_context
    coding.options = {**coding.options, "max_pixels": str(MAX_PIXELS)}
    _refuse_size(coding.width, coding.height, name)


def refuse_large(stream: "av.VideoStream", packet: "av.Packet[av.VideoStream]", name: str) -> None:
    """DataError when a packet that the decoder did not take holds a larger picture than MAX_PIXELS."""
    coding = stream.codec_context
    _refuse_size(*(jpeg_size(bytes(packet)) if coding.name == "mjpeg" else (coding.width, coding.height)), name)


def jpeg_size(coded: bytes) -> tuple[int, int]:
    """Width, height that a JPEG picture says it has; 0, 0 where it says nothing."""
    at = 2  # behind the start of the image
    while len(coded) >= at + 9 and coded[at] == 0xFF:
        kind, length = coded[at + 1], int.from_bytes(coded[at + 2 : at + 4])
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # the frame's header, but not tables
            return int.from_bytes(coded[at + 7 : at + 9]), int.from_bytes(coded[at + 5 : at + 7])
        at += 2 + length
    return 0, 0


def _refuse_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(f"{name}: {width}×{height} is more than {MAX_PIXELS >> 20} megapixels")


def wanted_thermal(spec: ThermalSpec) -> str:
    """What the bundle takes for thermal, and what to do, as the end of an error."""
    raw = spec.stored in ("unit", "radiometric")
    wanted = _WANTED[spec.unit] if raw else f"raw numbers, stored: {spec.stored}"
    return (
        f"the bundle takes unit '{spec.unit}' ({wanted}); deliver such a recording, or use a bundle that was trained "
        "on this unit"
    )


def refuse_colour(image: Image, name: str) -> None:
    """DataError when an H×W×3 picture that ought to be a grey thermal one is coloured."""
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
