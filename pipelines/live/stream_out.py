"""The annotated picture as a stream: pushed to an RTSP server, or written as HLS for a web server."""

import socket
import ssl
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from data.errors import DataError
from data.frame import Pair
from data.prepare import Prepared
from pipelines.live.answer import Answer
from pipelines.live.draw import Composer
from pipelines.live.endpoint import Endpoint, read_endpoint
from pipelines.live.lines import check_place
from pipelines.live.outbox import RetryError
from pipelines.live.redact import fill_in, redact

_KEY_FRAME_EVERY = 30
_TIMEOUT_S = 2.0
_PORTS = {"rtsp": 554, "rtsps": 322}


class StreamSink:
    """H.264 of both sensors side by side; the server (MediaMTX, go2rtc …) is connected to again whenever it is lost.

    Args:
        address: ``rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH`` that a server takes, or a file OUT.m3u8 beside which the
            segments of HLS are written, of which the last ones are kept.
        composer: Draws the pictures.
        period_ns: Time between two of them, where it is known.
    """

    def __init__(self, address: str, composer: Composer, period_ns: int | None = None) -> None:
        self._is_rtsp = address.lower().startswith(tuple(f"{scheme}://" for scheme in _PORTS))
        if not self._is_rtsp and not address.lower().endswith(".m3u8"):
            raise DataError(f"--stream {redact(address)}: give rtsp://SERVER/PATH, or a file such as page/live.m3u8")
        self._address, self._name = fill_in(address) if self._is_rtsp else address, redact(address)
        self._server = (
            read_endpoint(address, "--stream", tuple(_PORTS), "rtsp://SERVER/PATH") if self._is_rtsp else None
        )
        self._compose = composer
        self._rate = Fraction(1_000_000_000, period_ns).limit_denominator(1001) if period_ns else Fraction(30)
        self._container: av.container.OutputContainer | None = None
        self._stream: Any = None
        self._first_ns = 0
        self._last_pts = -1
        if not self._is_rtsp:
            check_place(Path(address))

    def write(self, pair: Pair, prepared: Prepared, answer: Answer) -> None:
        """Draw, encode and send one answer; RetryError while the server is away."""
        picture = av.VideoFrame.from_ndarray(self._compose(pair, prepared, answer), format="rgb24")
        try:
            if self._container is None:
                self._open(picture.width, picture.height)
                self._first_ns, self._last_pts = pair.time_ns, -1
            assert self._container is not None
            self._last_pts = max(self._last_pts + 1, (pair.time_ns - self._first_ns) // 1_000_000)
            picture.pts, picture.time_base = self._last_pts, Fraction(1, 1000)
            self._container.mux(self._stream.encode(picture))
        except (OSError, av.error.FFmpegError) as error:
            self._abandon()
            reason = (error.strerror or str(error)).lower()
            raise RetryError(f"{self._name}: the stream cannot be sent ({redact(reason)})") from None

    def close(self, *, failed: bool = False) -> None:
        """Send what the encoder still holds, and say farewell."""
        container = self._container
        if container is not None:
            with suppress(OSError, av.error.FFmpegError):  # nobody is there to see the last frame
                container.mux(self._stream.encode())
            self._abandon()

    def _open(self, width: int, height: int) -> None:
        if self._server is not None:
            greet(self._server)
            silent_us = str(round(_TIMEOUT_S * 1e6))
            options = {"rtsp_transport": "tcp", "timeout": silent_us, "rw_timeout": silent_us}
            self._container = av.open(self._address, "w", format="rtsp", options=options)
        else:
            options = {"hls_time": "1", "hls_list_size": "6", "hls_flags": "delete_segments+independent_segments"}
            self._container = av.open(self._address, "w", format="hls", options=options)
        codec = {"preset": "superfast", "tune": "zerolatency", "crf": "23", "g": str(_KEY_FRAME_EVERY)}
        self._stream = self._container.add_stream("libx264", rate=self._rate, options=codec)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, 1000)
        self._stream.codec_context.thread_count = 1

    def _abandon(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            with suppress(OSError, av.error.FFmpegError):  # it has failed already
                container.close()


def greet(server: Endpoint) -> None:
    """Ask an RTSP server whether it answers at all; OSError when it does not.

    PyAV holds Python's lock while FFmpeg says hello, so a server that hangs would stall the whole process.
    """
    place = (server.host, server.port or _PORTS[server.scheme])
    host = f"[{server.host}]" if ":" in server.host else server.host
    question = f"OPTIONS {server.scheme}://{host}:{place[1]}{server.path} RTSP/1.0\r\nCSeq: 1\r\n\r\n"
    with ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection(place, _TIMEOUT_S))
        if server.scheme == "rtsps":
            trusting = ssl.create_default_context()
            trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE  # as FFmpeg; no secret is sent here
            connection = stack.enter_context(trusting.wrap_socket(connection, server_hostname=server.host))
        connection.sendall(question.encode())
        if not connection.recv(64).startswith(b"RTSP/"):
            raise OSError("no RTSP server there")
