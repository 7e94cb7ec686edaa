"""Starts, stops, kills and commands the RTSP server of server.py; makes what it sends."""

import os
import signal
import socket
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

PYTHON = "/usr/bin/python3"
_HERE = Path(__file__).parent
_HAS_IT = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"


def is_here():
    """True when the system's Python has GStreamer's RTSP server."""
    if not Path(PYTHON).exists():
        return False
    return subprocess.run([PYTHON, "-c", _HAS_IT], capture_output=True, check=False).returncode == 0


def write_units(path, images, gop=15, slices=1, pixels="yuv420p"):
    """Encode H×W×3 uint8 images once, as server.py reads them, and return the path; ``pixels`` as FFmpeg calls them."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = images[0].shape[:2]
    encoder.pix_fmt, encoder.time_base, encoder.framerate = pixels, Fraction(1, 30), Fraction(30, 1)
    encoder.thread_count = 1
    parameters = f"keyint={gop}:scenecut=0:repeat-headers=1:slices={slices}:sliced-threads=0"
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": parameters}
    units = []
    for number, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = number
        units += [bytes(packet) for packet in encoder.encode(frame)]
    units += [bytes(packet) for packet in encoder.encode(None)]
    assert len(units) == len(images)
    path.write_bytes(b"".join(struct.pack(">I", len(unit)) + unit for unit in units))
    return path


def moving_bar(size=(96, 128), count=30, colour=(200, 60, 40)):
    """Images in which a bar moves over faint noise: no two are alike."""
    noise, images = np.random.default_rng(0), []
    for number in range(count):
        image = noise.integers(30, 40, (*size, 3), dtype=np.uint8)
        left = number * (size[1] - 16) // count
        image[8:-8, left : left + 16] = colour
        images.append(image)
    return images


class RtspServer:
    """The server in a process of its own; one port for its whole life, through restarts.

    Args:
        paths: What is sent: path → (file of ``write_units``, frames per second). Or what is taken: path → file.
    """

    def __init__(self, paths):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._given = [
            f"{path}={given[0]}@{given[1]}" if isinstance(given, tuple) else f"{path}>{given}"
            for path, given in paths.items()
        ]
        self._process = None

    def url(self, path):
        """Address of a path."""
        return f"rtsp://127.0.0.1:{self.port}/{path}"

    def send(self, path, file, fps=30):
        """Send another file from the next start on."""
        self._given = [one for one in self._given if not one.startswith(f"{path}=")] + [f"{path}={file}@{fps}"]

    def start(self):
        """Start it and wait until it listens."""
        command = [PYTHON, str(_HERE / "server.py"), str(self.port), *self._given]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
        )
        assert self._process.stdout.readline() == "ready\n"
        return self

    def tell(self, line):
        """Give a command of server.py, and wait until it is obeyed."""
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def kill(self):
        """End it at once, as a pulled plug does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None

    def suspend(self):
        """Let it hang: connections stay open, nothing is sent or answered."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self):
        """Let it go on."""
        os.kill(self._process.pid, signal.SIGCONT)
