"""From what a user says of a rig to its sources and sinks; and the page of all rigs."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from data.errors import DataError
from data.prepare import InputSpec
from data.rig import Rig
from export.bundle import Bundle
from pipelines.live.arguments import read_address
from pipelines.live.cameras import CameraRig
from pipelines.live.draw import Composer
from pipelines.live.log import Log
from pipelines.live.outbox import Outbox, close_sinks
from pipelines.live.pairing import Sensor
from pipelines.live.reconnect import LiveRules, LiveSource
from pipelines.live.redact import fill_in
from pipelines.live.report import LiveSettings
from pipelines.live.sinks import SINKS, Sink
from pipelines.live.site import RigOptions
from pipelines.live.sources import Source, open_sources, wanted_sizes
from pipelines.live.state import LiveState

_PATIENCE_S = 5.0
"""How long a recording waits for a sink over the network."""
_QUEUES = {
    "jsonl": (256, False),
    "csv": (256, False),
    "video": (8, True),
    "mqtt": (64, False),
    "webhook": (256, False),
    "stream": (2, True),
}
"""Kind of sink → answers that wait at most, and whether their pictures wait with them."""


class Page(Protocol):
    """A page that is being served, see pipelines.live.web.server."""

    url: str

    @property
    def announcement(self) -> str:
        """One line for the terminal."""

    def stop(self, deadline_s: float = 3.0) -> None:
        """End it."""


@dataclass(frozen=True)
class Setting:
    """What all rigs of a run share."""

    bundle: Bundle
    inputs: InputSpec
    rules: LiveRules
    stop: threading.Event
    log: Log
    fps: float | None = None
    show: bool = False
    settings: LiveSettings = field(default_factory=LiveSettings)
    """Limit, every_frame and required; the rig's options add the rest."""


@dataclass(frozen=True)
class Assembled:
    """A rig that is ready to run."""

    camera_rig: CameraRig
    is_live: bool
    videos: list[Path] = field(default_factory=list)
    """Files of --save that hold an answer."""

    def close(self) -> None:
        """Release what a run that does not begin would have closed."""
        for source in self.camera_rig.sources.values():
            source.close()
        close_sinks(self.camera_rig.sinks, 1.0, failed=True)


def assemble(name: str, options: RigOptions, setting: Setting) -> Assembled:
    """Open the sources and sinks of one rig.

    Raises:
        DataError: one of them cannot be opened; those opened before are closed.
    """
    rig = Rig() if options.rig is None else Rig.load(options.rig)
    if setting.inputs.rig_baked and rig.moves:
        raise DataError(
            f"{setting.bundle.path}: the rig is baked into this bundle's graph, which takes the camera's own frames; "
            "leave --rig out, or give one that holds time_offset_ms alone"
        )
    given: dict[Sensor, str | None] = {"rgb": options.rgb, "thermal": options.thermal}
    arguments = {sensor: text for sensor, text in given.items() if text is not None}
    sizes = wanted_sizes(setting.inputs, rig)
    sources = open_sources(arguments, setting.inputs.thermal, setting.fps, setting.rules, sizes)
    is_live = any(isinstance(source, LiveSource) for source in sources.values())
    state = LiveState(name)
    sinks: list[Sink] = []
    made = Assembled(CameraRig(name, sources, rig, sinks, _settings(options, setting), state), is_live)
    try:
        sinks.extend(_open_sinks(options, setting, sources, is_live, made.videos.append))
    except BaseException:
        made.close()
        raise
    return made


def _settings(options: RigOptions, setting: Setting) -> LiveSettings:
    return replace(
        setting.settings,
        score=options.score,
        max_skew_ns=None if options.max_skew is None else round(options.max_skew * 1e6),
        budget_ns=None if options.max_wait is None else round(options.max_wait * 1e6),
        hold=options.hold,
    )


def _open_sinks(
    options: RigOptions,
    setting: Setting,
    sources: Mapping[Sensor, Source],
    is_live: bool,
    opened: Callable[[Path], None],
) -> Iterator[Sink]:
    """Open each sink that was asked for; a file of a recording needs no thread of its own, and loses nothing."""
    classes, rle = setting.bundle.info.classes, options.rle
    period_ns = (sources.get("rgb") or sources["thermal"]).period_ns
    arguments: dict[str, tuple[Any, Callable[[Any], Sink]]] = {
        "jsonl": (options.jsonl, lambda place: SINKS["jsonl"](place, classes, rle, is_live=is_live)),
        "csv": (options.csv, lambda place: SINKS["csv"](place, classes, is_live=is_live)),
        "video": (options.save, lambda p: SINKS["video"](p, compose(), period_ns, in_parts=is_live, opened=opened)),
        "mqtt": (options.mqtt, lambda address: SINKS["mqtt"](address, classes, rle, is_live=is_live)),
        "webhook": (options.webhook, lambda address: SINKS["webhook"](address, classes, rle, is_live=is_live)),
        "stream": (options.stream, lambda address: SINKS["stream"](address, compose(), period_ns)),
    }

    def compose() -> Composer:
        return Composer(setting.inputs, classes)  # its own for each thread

    for kind, (place, make) in arguments.items():
        if place is not None:
            depth, pictures = _QUEUES[kind]
            sink, patience_s = make(place), 0.0 if is_live else _PATIENCE_S
            is_file = kind in ("jsonl", "csv", "video")
            yield (
                sink if is_file and not is_live else Outbox(kind, sink, depth, pictures=pictures, patience_s=patience_s)
            )
    if setting.show:
        yield SINKS["window"](compose(), setting.stop)


def serve_page(
    address: str, states: Mapping[str, LiveState], setting: Setting, token: str | None, hosts: Sequence[str] = ()
) -> Page:
    """Serve the page of all rigs.

    Args:
        address: HOST:PORT, see pipelines.live.arguments.read_address.
        states: Name of the rig → what is shown.
        setting: The bundle says what is shown.
        token: What viewers must know, or ``${NAME}``; None: see pipelines.live.web.server.
        hosts: Further names under which the page may be asked for.

    Raises:
        DataError: the address is taken, or the packages of the page are not installed.
    """
    try:
        from pipelines.live.web.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "pipelines":
            raise
        raise DataError(f"--serve needs the package '{error.name}'; pip install 'rgbt-fusion[live]'") from None
    host, port = read_address(address)
    token = None if token is None else fill_in(token)
    return serve(states, setting.bundle.info.classes, setting.inputs, host, port, token, hosts=hosts)
