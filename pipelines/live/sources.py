"""Where frames come from: one class for each kind, one method and ``close()``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from data.errors import DataError
from data.frame import Frame
from data.prepare import InputSpec
from data.rig import Rig
from data.thermal import ThermalSpec
from pipelines.live.camera import Camera, CameraAddress, gstreamer_pipeline, open_camera, open_pipeline
from pipelines.live.folders import FolderOrder, ImageFolder
from pipelines.live.pairing import Sensor
from pipelines.live.reconnect import LiveRules, LiveSource
from pipelines.live.redact import redact
from pipelines.live.stream import Stream, StreamAddress
from pipelines.live.synthetic import Scene, Synthetic, parse_options
from pipelines.live.usage import UsageError
from pipelines.live.video import VideoFile

Policy = Literal["ordered", "latest"]
"""ordered: every frame, in order. latest: when the pipeline is slower, old frames make room for new ones."""

_FPS = 25.0


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


@dataclass(frozen=True)
class SourceContext:
    """What sources of one rig share."""

    order: FolderOrder
    rules: LiveRules = field(default_factory=LiveRules)
    sizes: Mapping[Sensor, tuple[int, int] | None] = field(default_factory=dict)
    """Height, width that frames of live sources must have; None or left out: any."""
    scene: Scene = field(default_factory=Scene)


class SourceFactory(Protocol):
    """What SOURCES holds."""

    def __call__(self, text: str, sensor: Sensor, spec: ThermalSpec, context: SourceContext) -> Source:
        """Open a recording, or get ready to open a camera; DataError when the text or the unit can never work."""


def _video_file(text: str, sensor: Sensor, spec: ThermalSpec, context: SourceContext) -> Source:
    return VideoFile(Path(text), sensor, spec)


def _folder(text: str, sensor: Sensor, spec: ThermalSpec, context: SourceContext) -> Source:
    return ImageFolder(text, sensor, spec, context.order)


def _stream(text: str, sensor: Sensor, spec: ThermalSpec, context: SourceContext) -> Source:
    address, rules = StreamAddress.parse(text), context.rules
    if sensor == "thermal" and spec.unit != "intensity8" and text.lower().startswith("rtsp"):
        raise UsageError(
            f"{address.name}: RTSP carries 8 bits after the camera's gain control, but the bundle takes unit "
            f"'{spec.unit}'; take the camera's 16 bits, such as usb:0?format=Y16, or a bundle of unit 'intensity8'"
        )
    return LiveSource(address.name, lambda: Stream(address, sensor, spec, rules), rules, context.sizes.get(sensor))


def _camera(text: str, sensor: Sensor, spec: ThermalSpec, context: SourceContext) -> Source:
    address = CameraAddress.parse(text)

    def connect() -> Source:
        return Camera(text, sensor, spec, lambda: open_camera(address))

    return LiveSource(text, connect, context.rules, context.sizes.get(sensor))


def _gstreamer(text: str, sensor: Sensor, spec: ThermalSpec, context: SourceContext) -> Source:
    pipeline, name = gstreamer_pipeline(text), redact(text)

    def connect() -> Source:
        return Camera(name, sensor, spec, lambda: open_pipeline(pipeline))

    return LiveSource(name, connect, context.rules, context.sizes.get(sensor))


def _synthetic(text: str, sensor: Sensor, spec: ThermalSpec, context: SourceContext) -> Source:
    options, scene = parse_options(text), context.scene
    scene.sizes.update({of: size for of, size in context.sizes.items() if size is not None})
    scene.stage(options["seconds"], options["seed"])  # before the watch over an opening begins
    return LiveSource(text, lambda: Synthetic(text, sensor, spec, scene), context.rules, context.sizes.get(sensor))


SOURCES: dict[str, SourceFactory] = {
    "file": _video_file,
    "folder": _folder,
    "stream": _stream,
    "camera": _camera,
    "gstreamer": _gstreamer,
    "synthetic": _synthetic,
}
"""Kind of source → what opens it."""

RECORDINGS = frozenset({"file", "folder"})
"""Kinds that end; the others are cameras."""

STREAMS = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "srt")
"""Schemes of addresses that are streams."""


def kind_of(text: str) -> str:
    """Name the kind in SOURCES that an argument means; DataError when there is nothing of that name."""
    scheme = text.partition("://")[0].lower() if "://" in text.partition("!")[0] else None
    for start, kind in (("synthetic:", "synthetic"), ("gst:", "gstreamer"), ("usb:", "camera"), ("/dev/v", "camera")):
        if text.startswith(start):
            return kind
    if scheme in STREAMS:
        return "stream"
    if scheme is not None:
        raise UsageError(f"{scheme}://…: not a source; addresses begin with one of {', '.join(STREAMS)}")
    if not Path(text).exists():
        raise DataError(
            f"{redact(text)}: no such file or folder (cameras: rtsp://…, http://…, usb:0, gst:PIPELINE, synthetic:)"
        )
    return "folder" if Path(text).is_dir() else "file"


def open_sources(
    arguments: dict[Sensor, str],
    spec: ThermalSpec,
    fps: float | None,
    rules: LiveRules | None = None,
    sizes: Mapping[Sensor, tuple[int, int] | None] | None = None,
) -> dict[Sensor, Source]:
    """Open the source of each sensor that was given; cameras are opened by their Capture, and need not be up yet.

    Args:
        arguments: What the user gave for one or both sensors.
        spec: What the bundle takes for thermal.
        fps: Pictures per second of folders; None: 25, which is only a guess and so is refused beside a file.
        rules: How cameras are kept open.
        sizes: Height, width that frames of cameras must have, see ``wanted_sizes``; None: any.

    Raises:
        UsageError: nothing was given, or what does not go together.
        DataError: a source cannot be read; those opened before are closed.
    """
    if not arguments:
        raise UsageError("no source; give --rgb, --thermal or both")
    kinds = {sensor: kind_of(text) for sensor, text in arguments.items()}
    live = sorted(set(kinds.values()) - RECORDINGS)
    if live and set(kinds.values()) & RECORDINGS:
        raise UsageError(
            f"a recording beside a camera ({live[0]}): their times lie on two clocks; give two recordings, or two "
            "cameras"
        )
    if fps is None and set(kinds.values()) == RECORDINGS:
        raise UsageError("a folder beside a video: say at how many pictures per second it was taken, such as --fps 25")
    folders = [Path(text) for sensor, text in arguments.items() if kinds[sensor] == "folder"]
    order = FolderOrder(folders, _FPS if fps is None else fps)
    context = SourceContext(order, rules or LiveRules(), sizes or {})
    opened: dict[Sensor, Source] = {}
    try:
        for sensor, text in arguments.items():
            opened[sensor] = SOURCES[kinds[sensor]](text, sensor, spec, context)
    except DataError:
        for source in opened.values():
            source.close()
        raise
    return opened


def wanted_sizes(inputs: InputSpec, rig: Rig) -> dict[Sensor, tuple[int, int] | None]:
    """Height, width that each camera's frames must have for the rig and the bundle; None where any will do."""
    rgb = rig.rgb_size or (None if inputs.letterbox else inputs.rgb_size)
    thermal = rig.thermal_size
    if thermal is None and not inputs.letterbox:
        height, width = inputs.thermal_size
        thermal = (width, height) if rig.rotate in (90, 270) else (height, width)
    return {"rgb": rgb, "thermal": thermal}
