"""What rigs write, send to or open alone: two of them at one place would lose or mix up what is there."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from pipelines.live.camera import CameraAddress
from pipelines.live.endpoint import RTSP_PORTS, read_endpoint
from pipelines.live.mqtt import broker_of
from pipelines.live.redact import redact, redact_address
from pipelines.live.site import RigOptions
from pipelines.live.sources import kind_of
from pipelines.live.usage import UsageError

_READ = ("rgb", "thermal", "rig")
_WRITTEN = ("save", "jsonl", "csv", "stream")
_HEARD_AT = ("udp", "srt")
"""Schemes of streams that this machine listens for, so that one process takes the port."""


class Place(NamedTuple):
    """Something that one option takes."""

    option: str
    key: tuple[object, ...]
    """Two options that take the same one have equal keys."""
    shown: str
    """What it is, for people."""
    is_shared: bool = False
    """Whether others that share it too may have it: files that are read."""


def refuse_shared_places(rigs: Mapping[str, RigOptions], named: Callable[[str, str], str], where: str = "") -> None:
    """Refuse a file, topic, address, device or port that two options, of one rig or of two, would take.

    Args:
        rigs: Name → options.
        named: How people know an option: (rig, option) → text.
        where: Stands first in the error.

    Raises:
        UsageError: one line that names both options.
    """
    taken: dict[tuple[object, ...], tuple[str, Place]] = {}
    for rig, options in rigs.items():
        for place in _places(options):
            owner, first = taken.setdefault(place.key, (rig, place))
            if first is not place and not (first.is_shared and place.is_shared):
                raise UsageError(
                    f"{where}{named(rig, place.option)}: {place.shown} is taken by {named(owner, first.option)}; "
                    "give each its own"
                )


def _places(options: RigOptions) -> Iterator[Place]:
    yield from _files(options)
    for sensor in ("rgb", "thermal"):
        text = getattr(options, sensor)
        kind = None if text is None else kind_of(text)
        if kind == "camera":
            device = CameraAddress.parse(text).device
            yield Place(sensor, ("device", Path(device).resolve()), f"the camera {device}")
        elif kind == "gstreamer":
            yield Place(sensor, ("pipeline", text), "the pipeline")
        elif kind == "stream" and text.partition("://")[0].lower() in _HEARD_AT:
            yield Place(sensor, ("port", urlsplit(text).netloc), f"the port of {redact_address(text)}")
    if options.mqtt is not None:
        broker, topic, client = broker_of(options.mqtt)
        at = f"at {broker[0]}:{broker[1]}"
        yield Place("mqtt", ("topic", *broker, topic), f"the topic {topic} {at}")
        yield Place("mqtt", ("topic", *broker, f"{topic}/status"), f"the topic {topic}/status {at}")
        if client:
            yield Place("mqtt", ("client", *broker, client), f"the client's name {client} {at}")
    if options.webhook is not None:
        yield Place("webhook", ("webhook", options.webhook), f"the address {redact_address(options.webhook)}")
    if options.stream is not None and "://" in options.stream:
        server = read_endpoint(options.stream, "--stream", tuple(RTSP_PORTS), "rtsp://SERVER/PATH")
        port = server.port or RTSP_PORTS[server.scheme]
        key = ("stream", server.host, port, server.path.rstrip("/"))
        yield Place("stream", key, f"the address {server.name}")


def _files(options: RigOptions) -> Iterator[Place]:
    """Pipes, devices and folders may be shared."""
    for option in (*_READ, *_WRITTEN):
        given = getattr(options, option)
        if given is None or "://" in str(given) or (Path(given).exists() and not Path(given).is_file()):
            continue
        yield Place(option, ("file", Path(given).resolve()), f"the file {redact(str(given))}", option in _READ)
