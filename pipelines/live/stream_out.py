"""The annotated picture as a stream: pushed to an RTSP server, or written as HLS for a web server."""

import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from data.frame import Pair
from data.prepare import Prepared
from pipelines.live.answer import Answer
from pipelines.live.draw import Composer
from pipelines.live.endpoint import RTSP_PORTS, Endpoint, read_endpoint
from pipelines.live.lines import check_place
from pipelines.live.outbox import RetryError
from pipelines.live.redact import fill_in, redact, redact_address
from pipelines.live.usage import UsageError

_GREETING_S = 2.0
_PATIENCE_S = 3.0
"""For one picture, or the first one and the server's consent; then the child process ends itself."""
_START_S = 15.0
"""For Python to begin, on a busy machine."""
_FAREWELL_S = 1.0
_PIPE_BYTES = 1 << 20
_CHILD = Path(__file__).with_name("stream_child.py")


class StreamSink:
    """H.264 of both sensors side by side; the server (MediaMTX, go2rtc …) is connected to again whenever it is lost.

    A process of its own encodes and sends, so that whatever the server does keeps nothing here from going on.

    Args:
        address: ``rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH`` that a server takes, or a file OUT.m3u8 beside which the
            segments of HLS are written, of which the last ones are kept.
        composer: Draws the pictures.
        period_ns: Time between two of them, where it is known.
    """

    def __init__(self, address: str, composer: Composer, period_ns: int | None = None) -> None:
        self._name = redact_address(address)
        self._is_rtsp = address.lower().startswith(tuple(f"{scheme}://" for scheme in RTSP_PORTS))
        if not self._is_rtsp and not address.lower().endswith(".m3u8"):
            raise UsageError(f"--stream {self._name}: give rtsp://SERVER/PATH, or a file such as page/live.m3u8")
        self._address = fill_in(address) if self._is_rtsp else address
        self._server = (
            read_endpoint(address, "--stream", tuple(RTSP_PORTS), "rtsp://SERVER/PATH") if self._is_rtsp else None
        )
        self._compose = composer
        self._rate = Fraction(1_000_000_000, period_ns).limit_denominator(1001) if period_ns else Fraction(30)
        self._child: _Child | None = None
        self._first_ns = 0
        self._last_pts = -1
        if not self._is_rtsp:
            check_place(Path(address))

    def write(self, pair: Pair, prepared: Prepared, answer: Answer) -> None:
        """Draw, encode and send one answer; RetryError while the server is away."""
        picture = self._compose(pair, prepared, answer)
        try:
            if self._child is None:
                if self._server is not None:
                    greet(self._server)  # cheaper than a process for each attempt, while nobody is there
                self._child = _Child(self._order(picture))
                self._first_ns, self._last_pts = pair.time_ns, -1
            self._last_pts = max(self._last_pts + 1, (pair.time_ns - self._first_ns) // 1_000_000)
            self._child.send(self._last_pts, picture)
        except OSError as error:
            self._abandon()
            reason = (error.strerror or str(error)).lower()
            raise RetryError(f"{self._name}: the stream cannot be sent ({redact(reason)})") from None

    def close(self, *, failed: bool = False) -> None:
        """Send what the encoder still holds, and say farewell."""
        child, self._child = self._child, None
        if child is not None:
            child.end(_FAREWELL_S)

    def _abandon(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end(0.0)

    def _order(self, picture: NDArray[np.uint8]) -> dict[str, object]:
        """What the child is told first; not on its command line, which anybody may read."""
        if self._is_rtsp:
            kind, options = "rtsp", {"rtsp_transport": "tcp"}
        else:
            flags = "delete_segments+independent_segments"
            kind, options = "hls", {"hls_time": "1", "hls_list_size": "6", "hls_flags": flags}
        return {
            "address": self._address,
            "format": kind,
            "options": options,
            "height": picture.shape[0],
            "width": picture.shape[1],
            "rate": self._rate.as_integer_ratio(),
            "patience_s": _PATIENCE_S,
        }


class _Child:
    """The process of stream_child.py; OSError, and never more than the time it has, where it does not get on."""

    def __init__(self, order: dict[str, object]) -> None:
        # -P: this folder must not lie on its path. A session of its own: Ctrl-C is for us to handle.
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pipesize=_PIPE_BYTES,
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._input, False)
        self._said = b""
        try:
            self._listen(monotonic() + _START_S)
            self._give(json.dumps(order).encode() + b"\n", monotonic() + _PATIENCE_S)
        except OSError:
            self.end(0.0)
            raise

    def send(self, time_ms: int, picture: NDArray[np.uint8]) -> None:
        """Have an H×W×3 picture (R, G, B) sent, and wait until it is."""
        end_s = monotonic() + _PATIENCE_S + 1.0
        self._give(time_ms.to_bytes(8), end_s)
        self._give(np.ascontiguousarray(picture).data.cast("B"), end_s)
        if reason := self._listen(end_s):
            raise OSError(reason)

    def end(self, deadline_s: float) -> None:
        """Let it finish within that time, or else kill it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):  # it may be gone already
            self._process.stdin.close()
        try:
            if not deadline_s:
                self._process.kill()
            self._process.wait(deadline_s or None)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _give(self, given: bytes | memoryview, end_s: float) -> None:
        rest = memoryview(given)
        while rest:
            _wait(self._input, select.POLLOUT, end_s)
            rest = rest[os.write(self._input, rest) :]

    def _listen(self, end_s: float) -> str:
        """Wait for the child's next line."""
        while b"\n" not in self._said:
            _wait(self._output, select.POLLIN, end_s)
            if not (more := os.read(self._output, 4096)):
                code = self._process.wait(_FAREWELL_S)
                raise OSError("timed out" if code == -signal.SIGALRM else f"its process ended with code {code}")
            self._said += more
        line, _, self._said = self._said.partition(b"\n")
        return line.decode(errors="replace")


def _wait(descriptor: int, what: int, end_s: float) -> None:
    """Wait until a pipe is ready; TimeoutError beyond that moment of the monotonic clock."""
    waiting = select.poll()
    waiting.register(descriptor, what)
    if not waiting.poll(max(0.0, end_s - monotonic()) * 1e3):
        raise TimeoutError("timed out")


def greet(server: Endpoint) -> None:
    """Ask an RTSP server whether it answers at all; OSError when it does not."""
    place = (server.host, server.port or RTSP_PORTS[server.scheme])
    host = f"[{server.host}]" if ":" in server.host else server.host
    question = f"OPTIONS {server.scheme}://{host}:{place[1]}{server.path} RTSP/1.0\r\nCSeq: 1\r\n\r\n"
    with ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection(place, _GREETING_S))
        if server.scheme == "rtsps":
            trusting = ssl.create_default_context()
            trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE  # as FFmpeg; no secret is sent here
            connection = stack.enter_context(trusting.wrap_socket(connection, server_hostname=server.host))
        connection.sendall(question.encode())
        if not connection.recv(64).startswith(b"RTSP/"):
            raise OSError("no RTSP server there")
