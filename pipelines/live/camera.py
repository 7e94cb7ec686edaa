"""USB and V4L2 cameras, and GStreamer pipelines, through OpenCV: 8 bits, or the 16 bits of a thermal camera."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns
from typing import Any, Literal, Protocol
from urllib.parse import parse_qsl

import cv2
import numpy as np

from data.errors import DataError
from data.frame import Frame, Image
from data.thermal import ThermalSpec
from pipelines.live.pairing import Sensor
from pipelines.live.pixels import refuse_colour, wanted_thermal
from pipelines.live.reconnect import LostError
from pipelines.live.redact import fill_in, redact
from pipelines.live.usage import UsageError

_OPTIONS = ("format", "size", "fps")


class Device(Protocol):
    """What cv2.VideoCapture does, as far as it is needed."""

    def isOpened(self) -> bool:
        """True when it could be opened."""

    def set(self, property_id: int, value: float) -> bool:
        """Ask for a setting."""

    def get(self, property_id: int) -> float:
        """Read a setting back."""

    def grab(self) -> bool:
        """Wait for the next frame."""

    def retrieve(self) -> tuple[bool, Any]:
        """Return the frame."""

    def release(self) -> None:
        """Let go of the camera."""


@dataclass(frozen=True)
class CameraAddress:
    """Which camera, and what to ask it for."""

    device: str
    """/dev/videoN."""
    format: str | None = None
    """Four letters as V4L2 has them, such as Y16, MJPG or YUYV; None: the camera's own."""
    size: tuple[int, int] | None = None
    """Height, width; None: the camera's own."""
    fps: float | None = None

    @classmethod
    def parse(cls, text: str) -> "CameraAddress":
        """Read ``usb:N`` or ``/dev/videoN``, with ``?format=Y16&size=640x512&fps=30``; DataError when it is else."""
        where, _, query = text.partition("?")
        if re.fullmatch(r"usb:\d+", where):
            where = f"/dev/video{where.removeprefix('usb:')}"
        options = dict(parse_qsl(query, keep_blank_values=True))
        unknown = sorted(set(options) - set(_OPTIONS))
        if not re.fullmatch(r"/dev/[\w./:-]+", where) or unknown:
            wrong = f"?{unknown[0]}= is no option; one of {', '.join(_OPTIONS)}" if unknown else "write usb:0"
            raise UsageError(f"{text}: {wrong}, such as usb:0?format=Y16&size=640x512&fps=30")
        size = re.fullmatch(r"(\d+)x(\d+)", options.get("size", "1x1"))
        pace = re.fullmatch(r"\d+(\.\d+)?", options.get("fps", "1"))
        if size is None or pace is None or not 1 <= len(options.get("format", "Y16")) <= 4:
            raise UsageError(f"{text}: write such as usb:0?format=Y16&size=640x512&fps=30")
        return cls(
            where,
            options.get("format"),
            (int(size[2]), int(size[1])) if "size" in options else None,
            float(options["fps"]) if "fps" in options else None,
        )


class Camera:
    """One opened camera or pipeline; its frames' times are those of their receipt on time.monotonic_ns.

    The first frame is read at once, so that a wrong depth is refused when opened.

    Args:
        name: For messages.
        sensor: Which sensor it shows.
        spec: What the bundle takes for thermal; unused for RGB.
        open_device: Opens it.

    Raises:
        LostError: it is not to be had just now.
        DataError: it delivers another depth than the bundle takes.
    """

    policy: Literal["ordered", "latest"] = "latest"

    def __init__(self, name: str, sensor: Sensor, spec: ThermalSpec, open_device: Callable[[], Device]) -> None:
        self.name = name
        self._sensor = sensor
        self._spec = spec
        self._sequence = 0
        self._device = open_device()
        try:
            if not self._device.isOpened():
                raise LostError(f"{name}: cannot be opened; is it there, and free?")
            self._first: Frame | None = self._next()
            rate = self._device.get(cv2.CAP_PROP_FPS)
        except BaseException:
            self._device.release()
            raise
        self.period_ns: int | None = round(1e9 / rate) if 1 <= rate <= 1000 else None

    def read(self) -> Frame | None:
        """Wait for the next frame; LostError when none comes, DataError when it has another depth."""
        first, self._first = self._first, None
        return first or self._next()

    def close(self) -> None:
        """Let go of the camera."""
        self._device.release()

    def _next(self) -> Frame:
        try:
            is_there = self._device.grab()
            time_ns = monotonic_ns()
            is_there, image = self._device.retrieve() if is_there else (False, None)
        except cv2.error as error:
            raise LostError(f"{self.name}: {redact(error.err or 'OpenCV cannot read it')}") from None
        if not is_there or image is None:
            raise LostError(f"{self.name}: gives no frame")
        frame = Frame(self._convert(image), time_ns, self._sequence, self.name)
        self._sequence += 1
        return frame

    def _convert(self, image: Image) -> Image:
        if self._sensor == "rgb":
            if image.ndim != 3 or image.dtype != np.uint8:
                raise DataError(
                    f"{self.name}: RGB frames are {image.dtype} {image.shape}; are --rgb and --thermal swapped?"
                )
            return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        grey = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
        if grey.ndim == 3 and grey.dtype == np.uint8:
            if self._sequence == 0:
                refuse_colour(grey, self.name)
            grey = cv2.cvtColor(grey, cv2.COLOR_BGR2GRAY)
        converts = self._spec.stored not in ("unit", "radiometric")
        wanted = np.dtype(np.uint8 if self._spec.unit == "intensity8" else np.uint16)
        if grey.dtype != wanted or (self._spec.unit == "celsius" and not converts):
            advice = "ask for it with ?format=Y16; " if wanted == np.uint16 and grey.dtype == np.uint8 else ""
            raise DataError(
                f"{self.name}: thermal frames are {grey.dtype} of {grey.dtype.itemsize * 8} bits, but {advice}"
                f"{wanted_thermal(self._spec)}"
            )
        return self._spec.convert(grey, self.name)


def open_camera(address: CameraAddress) -> Device:
    """Open a V4L2 camera and ask for format, size and rate; LostError when it is not there or refuses the format."""
    if not Path(address.device).exists():
        raise LostError(f"{address.device}: no such camera")
    is_raw = address.format is not None and address.format.strip().upper() in ("Y16", "Y10", "Y12", "Y14")
    device = cv2.VideoCapture(address.device, cv2.CAP_V4L2)
    ask_for(device, address, is_raw=is_raw)
    return device


def ask_for(device: Device, address: CameraAddress, *, is_raw: bool) -> None:
    """Set format, size and rate, and read the format back; DataError when the camera gives another.

    Without CAP_PROP_CONVERT_RGB=0 OpenCV makes 8 bits of 16.
    """
    if address.format is not None:
        code = address.format.ljust(4)
        device.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*code))
        given = int(device.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode("latin-1")
        if device.isOpened() and given != code:
            device.release()
            raise DataError(
                f"{address.device}: gives {given.strip() or 'no'} frames, not {code.strip()}; "
                f"'v4l2-ctl -d {address.device} --list-formats-ext' lists what it has"
            )
    if is_raw:
        device.set(cv2.CAP_PROP_CONVERT_RGB, 0)
    if address.size is not None:
        device.set(cv2.CAP_PROP_FRAME_HEIGHT, address.size[0])
        device.set(cv2.CAP_PROP_FRAME_WIDTH, address.size[1])
    if address.fps is not None:
        device.set(cv2.CAP_PROP_FPS, address.fps)
    device.set(cv2.CAP_PROP_BUFFERSIZE, 2)


def gstreamer_pipeline(text: str) -> str:
    """``gst:PIPELINE`` with its secrets filled in and a sink that keeps the latest frame, if it names none.

    Raises:
        DataError: this OpenCV was built without GStreamer, or there is no pipeline.
    """
    pipeline = fill_in(text.removeprefix("gst:")).strip()
    if not pipeline:
        raise UsageError("gst: needs a pipeline, such as 'gst:v4l2src device=/dev/video0 ! videoconvert ! appsink'")
    if cv2.CAP_GSTREAMER not in cv2.videoio_registry.getBackends():
        raise DataError(
            "gst:… needs an OpenCV with GStreamer, and this one (from pip) has none: use the system's OpenCV, as on a "
            "Jetson, or give rtsp://… or usb:N, which work without"
        )
    return pipeline if "appsink" in pipeline else f"{pipeline} ! appsink drop=true max-buffers=2 sync=false"


def open_pipeline(pipeline: str) -> Device:
    """Open a GStreamer pipeline; its pixels stay as its caps say."""
    device = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
    if "GRAY16" in pipeline:
        device.set(cv2.CAP_PROP_CONVERT_RGB, 0)
    return device
