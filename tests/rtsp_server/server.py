"""A real RTSP server (GStreamer) that sends pre-encoded H.264, and obeys a line of text at a time.

Run by the system's Python, which has the bindings: ``python3 server.py PORT PATH=FILE.h264@FPS PATH>FILE …``. The
files hold access units in Annex B, each with its length (4 bytes, big endian) before it; they are sent in a loop, one
for each frame period. Every client of a path gets the same pictures at the same time. ``PATH>FILE`` takes what a client
sends (RECORD), and appends its access units to the file. Says ``ready`` when it listens.

Lines on stdin, each answered with ``done``: ``drop PATH`` closes the clients' connections, ``pause PATH`` and
``resume PATH`` stop the pictures and let them go on, ``freeze PATH`` and ``thaw PATH`` send key frames of one picture,
``garbage PATH`` and ``clean PATH`` random bytes for pictures, ``play PATH FILE`` goes over to another file,
``lock PATH USER PASSWORD`` lets only this user in.
"""

import random
import struct
import sys
import threading
import time
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

LAUNCH = (
    "( appsrc name=units is-live=true format=time do-timestamp=false "
    "caps=video/x-h264,stream-format=byte-stream,alignment=au "
    "! rtph264pay name=pay0 pt=96 config-interval=-1 aggregate-mode=zero-latency )"
)
TAKE = (
    "( rtph264depay name=depay0 ! h264parse config-interval=-1 "
    "! video/x-h264,stream-format=byte-stream,alignment=au ! appsink name=taken emit-signals=true sync=false )"
)


def read_units(path):
    """Access units of a file."""
    units = []
    with Path(path).open("rb") as file:
        while head := file.read(4):
            units.append(file.read(struct.unpack(">I", head)[0]))
    return units


class Camera:
    """What is sent on one path."""

    def __init__(self, server, path, file, fps):
        self.units = read_units(file)
        self.period_s = 1 / fps
        self.is_paused = self.is_frozen = self.is_garbage = False
        self.sources = []
        self.lock = threading.Lock()
        self.path = path
        self.factory = GstRtspServer.RTSPMediaFactory()
        self.factory.set_launch(LAUNCH)
        self.factory.set_shared(True)
        self.factory.connect("media-configure", self.configure)
        server.get_mount_points().add_factory(f"/{path}", self.factory)
        threading.Thread(target=self.send, daemon=True).start()

    def configure(self, factory, media):
        """Begin to feed a new pipeline."""
        media.set_reusable(False)
        source = media.get_element().get_child_by_name("units")
        entry = {"source": source, "start": None, "is_key_due": True}
        with self.lock:
            self.sources.append(entry)
        media.connect("unprepared", lambda _: self.forget(entry))

    def forget(self, entry):
        """Feed it no more."""
        with self.lock:
            if entry in self.sources:
                self.sources.remove(entry)

    def send(self):
        """Push one access unit each frame period."""
        number, due = 0, time.monotonic()
        while True:
            due += self.period_s
            time.sleep(max(0.0, due - time.monotonic()))
            if self.is_paused:
                continue
            unit = self.units[0] if self.is_frozen else self.units[number % len(self.units)]
            is_key = self.is_frozen or number % len(self.units) == 0 or self.is_key(unit)
            number += 1
            if self.is_garbage:
                unit = b"\0\0\0\1\x41" + random.randbytes(len(unit))
            with self.lock:
                sources = list(self.sources)
            for entry in sources:
                self.push(entry, unit, is_key, due)

    def push(self, entry, unit, is_key, due):
        """Hand a unit to one pipeline, from its first key frame on."""
        if entry["is_key_due"] and not is_key:
            return
        entry["is_key_due"] = False
        if entry["start"] is None:
            entry["start"] = due
        buffer = Gst.Buffer.new_wrapped(unit)
        buffer.pts = buffer.dts = round((due - entry["start"]) * 1e9)
        buffer.duration = round(self.period_s * 1e9)
        if entry["source"].emit("push-buffer", buffer) != Gst.FlowReturn.OK:
            entry["start"], entry["is_key_due"] = None, True

    @staticmethod
    def is_key(unit):
        """True when a unit holds an IDR slice."""
        return any(bytes([0, 0, 1, head]) in unit for head in (0x25, 0x45, 0x65))


def take(server, path, file):
    """Let clients send pictures to a path."""

    def keep(sink):
        buffer = sink.emit("pull-sample").get_buffer()
        with Path(file).open("ab") as out:
            out.write(buffer.extract_dup(0, buffer.get_size()))
        return Gst.FlowReturn.OK

    def configure(_, media):
        media.get_element().get_child_by_name("taken").connect("new-sample", keep)

    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(TAKE)
    factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
    factory.connect("media-configure", configure)
    server.get_mount_points().add_factory(f"/{path}", factory)


def lock(server, factory, user, password):
    """Ask whoever comes for this name and password."""
    token, permissions, auth = GstRtspServer.RTSPToken(), GstRtspServer.RTSPPermissions(), GstRtspServer.RTSPAuth()
    token.set_string("media.factory.role", "user")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    for what in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role("user", what, True)
    factory.set_permissions(permissions)
    server.set_auth(auth)


def obey(server, cameras, line):
    """Do what a line says."""
    word, path, *rest = line.split()
    camera = cameras[path]
    if word == "drop":
        server.client_filter(lambda *_: GstRtspServer.RTSPFilterResult.REMOVE)
    elif word == "lock":
        lock(server, camera.factory, *rest)
    elif word == "play":
        camera.units = read_units(rest[0])
    else:
        what, value = {
            "pause": ("is_paused", True), "resume": ("is_paused", False),
            "freeze": ("is_frozen", True), "thaw": ("is_frozen", False),
            "garbage": ("is_garbage", True), "clean": ("is_garbage", False),
        }[word]  # fmt: skip
        setattr(camera, what, value)
    print("done", flush=True)


def main():
    """Serve until stdin closes."""
    port, *given = sys.argv[1:]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    cameras = {}
    for text in given:
        if "=" not in text:
            take(server, *text.split(">"))
            continue
        path, _, rest = text.partition("=")
        file, _, fps = rest.rpartition("@")
        cameras[path] = Camera(server, path, file, float(fps))
    loop = GLib.MainLoop()

    def listen():
        for line in sys.stdin:
            GLib.idle_add(obey, server, cameras, line)
        loop.quit()

    if not server.attach(None):
        sys.exit(f"port {port} is taken")
    threading.Thread(target=listen, daemon=True).start()
    print("ready", flush=True)
    loop.run()


main()
