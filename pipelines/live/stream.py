"""RTSP and HTTP streams through PyAV: one connection, read with time-outs and without a queue.

FFmpeg hands out a picture of H.264 or HEVC over RTSP when the next one begins, for it does not look at RTP's marker:
the stamp of receipt, and the picture itself, come one frame period after the camera's last packet of it. That is alike
for both cameras of one rate; between cameras of two rates the rig's time offset holds the difference.
"""

import re
from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction
from time import monotonic, monotonic_ns
from typing import Literal
from urllib.parse import urlsplit

import av
from av import Packet, VideoFrame
from av.codec.context import Flags
from av.codec.hwaccel import HWAccel, hwdevices_available

from data.errors import DataError
from data.frame import Frame
from data.thermal import ThermalSpec
from pipelines.live.pairing import Sensor
from pipelines.live.pixels import MAX_PIXELS, PixelReader, limit_pixels, refuse_large
from pipelines.live.reconnect import LiveRules, LostError
from pipelines.live.redact import fill_in, redact, redact_address
from pipelines.live.stamps import Stamper
from pipelines.live.usage import UsageError
from pipelines.live.video import DECODING_THREADS

TRANSPORTS = ("tcp", "udp")
_IN_FLIGHT = 64
_HARDWARE_PIXELS = ("nv12", "nv16", "nv24", "p010", "p012", "p016", "p210", "p410")
"""What hardware decoders hand out; software decoders of camera streams hand out planar pixels."""


@dataclass(frozen=True)
class StreamAddress:
    """An address and how to open it."""

    url: str
    """With credentials: never shown."""
    name: str
    """Without."""
    transport: str = "tcp"
    """RTSP: tcp or udp."""
    hwaccel: str | None = None
    """Hardware that decodes, such as cuda or vaapi; None: the CPU."""

    @classmethod
    def parse(cls, text: str) -> "StreamAddress":
        """Read ``URL[#transport=tcp|udp&hwaccel=NAME]`` with ``${NAME}`` in it; DataError when it says else."""
        name, options = redact_address(text), {}
        address, _, fragment = text.rpartition("#")
        if address and re.fullmatch(r"[a-z]+=[^@/]*", fragment):
            name, text = redact_address(address), address
            options = dict(part.partition("=")[::2] for part in fragment.split("&"))
        unknown = sorted(set(options) - {"transport", "hwaccel"})
        if unknown:
            raise UsageError(f"{name}: #{unknown[0]}= is no option; one of transport, hwaccel")
        if options.get("transport", "tcp") not in TRANSPORTS:
            raise UsageError(f"{name}: transport {options['transport']}; one of {', '.join(TRANSPORTS)}")
        if "hwaccel" in options:
            _require_hardware(options["hwaccel"], name)
        url = fill_in(text)
        try:
            _ = urlsplit(url).port
        except ValueError:  # its text may quote a password
            raise UsageError(f"{name}: the port is no number from 0 to 65535, or the host is none") from None
        return cls(url, name, **options)


class Stream:
    """One connection to a stream; its frames' times are on the clock of time.monotonic_ns.

    Args:
        address: Where it is.
        sensor: Which sensor it shows.
        spec: What the bundle takes for thermal; unused for RGB.
        rules: For the time-outs.

    Raises:
        LostError: it is not to be had just now.
        DataError: it is no video, too large, of another depth than the spec's, or the hardware does not decode it.
    """

    policy: Literal["ordered", "latest"] = "latest"

    def __init__(self, address: StreamAddress, sensor: Sensor, spec: ThermalSpec, rules: LiveRules) -> None:
        self.name = address.name
        self._silent_s = rules.reopen_after_s
        self._hwaccel = address.hwaccel
        self._pixels = PixelReader(self.name, sensor, spec)
        self._stamp = Stamper()
        self._arrivals: OrderedDict[int | None, int] = OrderedDict()
        self._sequence = 0
        self._container = _open(address, rules)
        try:
            self._stream = self._choose_stream()
            self._frames = self._decode()
        except BaseException:
            self._container.close()
            raise
        rate = self._stream.average_rate
        self.period_ns: int | None = round(1e9 / rate) if rate else None

    def read(self) -> Frame | None:
        """Wait for the next frame; None when the other side ended the stream.

        Raises:
            LostError: the connection is lost, or nothing that can be decoded comes.
            DataError: the pixels are not what the bundle takes.
        """
        try:
            decoded = next(self._frames, None)
            if decoded is None:
                return None
            if self._hwaccel is not None and self._sequence == 0:
                self._refuse_software(decoded)
            image = self._pixels(decoded)
        except (av.error.FFmpegError, OSError) as error:
            raise LostError(f"{self.name}: {_reason(error)}") from None
        presented, time_base = decoded.pts, decoded.time_base
        presented_ns = None if presented is None or time_base is None else _ns(presented, time_base)
        frame = Frame(image, self._stamp(presented_ns, self._arrived_ns(presented)), self._sequence, self.name)
        self._sequence += 1
        return frame

    def close(self) -> None:
        """Release connection and decoder."""
        self._frames.close()
        self._container.close()

    def _choose_stream(self) -> "av.VideoStream":
        if not self._container.streams.video:
            raise DataError(f"{self.name}: holds no video")
        stream = self._container.streams.video[0]
        limit_pixels(stream, self.name)
        # Frame threads would hold back one frame each; slices of one frame cost no latency.
        stream.thread_type = "SLICE"
        stream.codec_context.thread_count = DECODING_THREADS
        if not stream.codec_context.has_b_frames:
            stream.codec_context.flags |= Flags.low_delay
        if stream.format is not None and self._hwaccel is None:
            self._pixels.choose(stream.format)
        return stream

    def _decode(self) -> Generator[VideoFrame, None, None]:
        """Frames as their packets come; what cannot be decoded is passed over, but not for ever."""
        good_s = monotonic()
        for packet in self._container.demux(self._stream):
            self._note_arrival(packet)
            try:
                frames = packet.decode()
            except (av.error.InvalidDataError, av.error.UnknownError, av.error.ArgumentError):
                refuse_large(self._stream, packet, self.name)
                frames = []
            for frame in frames:
                if not frame.is_corrupt:
                    good_s = monotonic()
                    yield frame
            if monotonic() - good_s > self._silent_s:
                raise LostError(
                    f"{self.name}: data come, but for {self._silent_s:g} s no picture could be made of them"
                )

    def _note_arrival(self, packet: "Packet[av.VideoStream]") -> None:
        self._arrivals[packet.pts] = self._newest_ns = monotonic_ns()
        while len(self._arrivals) > _IN_FLIGHT:
            self._arrivals.popitem(last=False)

    def _arrived_ns(self, presented: int | None) -> int:
        return self._arrivals.pop(presented, self._newest_ns)

    def _refuse_software(self, frame: VideoFrame) -> None:
        """PyAV says ``is_hwaccel`` also where FFmpeg decodes on the CPU after all: the pixels do not lie."""
        if not self._stream.codec_context.is_hwaccel or not frame.format.name.startswith(_HARDWARE_PIXELS):
            raise DataError(
                f"{self.name}: {self._hwaccel} does not decode this stream ({self._stream.codec_context.name}, "
                f"{frame.format.name}); leave #hwaccel= out"
            )


def _require_hardware(device: str, name: str) -> None:
    """DataError when this PyAV, or this machine, has no such decoder."""
    if device not in hwdevices_available():
        raise DataError(f"{name}: hwaccel {device} is not in this PyAV; one of {', '.join(hwdevices_available())}")
    try:
        HWAccel(device).create(av.Codec("h264", "r"))
    except (av.error.FFmpegError, OSError, NotImplementedError) as error:
        reason = redact(str(getattr(error, "strerror", None) or error)).lower()
        raise DataError(f"{name}: no {device} decoder on this machine ({reason}); leave #hwaccel= out") from None


def _open(address: StreamAddress, rules: LiveRules) -> "av.container.InputContainer":
    # A camera's first packet says it all: to look at more would only hold back pictures.
    options = {"analyzeduration": "1", "probesize": "32", "fpsprobesize": "0", "max_pixels": str(MAX_PIXELS)}
    if address.url.lower().startswith("rtsp"):
        silent_us = str(round(rules.reopen_after_s * 1e6))
        options |= {"rtsp_transport": address.transport, "timeout": silent_us, "allowed_media_types": "video"}
    else:
        options |= {"probesize": "65536", "rw_timeout": str(round(rules.reopen_after_s * 1e6))}
    hwaccel = None if address.hwaccel is None else HWAccel(address.hwaccel, allow_software_fallback=False)
    try:
        return av.open(
            address.url, options=options, timeout=(rules.open_within_s, rules.reopen_after_s), hwaccel=hwaccel
        )
    except (av.error.FFmpegError, OSError) as error:
        raise LostError(f"{address.name}: {_reason(error)}") from None
    except (RuntimeError, NotImplementedError) as error:  # what PyAV says of hardware that is not here
        raise DataError(f"{address.name}: {address.hwaccel} cannot decode here ({redact(str(error))})") from None


def _reason(error: Exception) -> str:
    """What went wrong, without the address that FFmpeg puts into its errors."""
    if isinstance(error, av.error.ExitError | av.error.TimeoutError | TimeoutError):
        return "no answer within the time"
    return redact(str(getattr(error, "strerror", None) or type(error).__name__)).lower()


def _ns(presented: int, time_base: Fraction) -> int:
    return round(Fraction(presented) * time_base * 1_000_000_000)
