"""The process that encodes and sends what StreamSink draws; run as a script, it needs PyAV and nothing of ours.

PyAV holds Python's lock while FFmpeg greets an RTSP server, and FFmpeg has no time-out there: a server that hangs would
stall whatever else the process does. So this one does nothing else, and ends by itself when it gets no further.

On stdin: a line of JSON, see ``main``; then for each picture its time (8 bytes, big endian, milliseconds) and its
pixels (H×W×3, R, G, B). On stdout: a line when it is ready, then one for each picture: empty when it was sent, else
the reason.
"""

import json
import math
import signal
import sys
from fractions import Fraction
from typing import Any

import av
import numpy as np

_KEY_FRAME_EVERY = 30
_TIME_BASE = Fraction(1, 1000)


def main() -> None:
    """Send pictures until stdin ends; a first line holds address, format, options, width, height, rate, patience_s."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # its parent ends it, when the last picture is sent
    _say("ready")
    source = sys.stdin.buffer
    given = json.loads(source.readline())
    size = (given["height"], given["width"], 3)
    length = 8 + math.prod(size)
    container: av.container.OutputContainer | None = None
    stream: Any = None
    while len(sent := source.read(length)) == length:
        # SIGALRM ends the process whatever it waits for, and whatever holds its lock.
        signal.setitimer(signal.ITIMER_REAL, given["patience_s"])
        try:
            if container is None:
                container, stream = _open(given)
            picture = av.VideoFrame.from_ndarray(np.frombuffer(sent, np.uint8, offset=8).reshape(size), format="rgb24")
            picture.pts, picture.time_base = int.from_bytes(sent[:8]), _TIME_BASE
            container.mux(stream.encode(picture))
        except (OSError, av.error.FFmpegError) as error:
            _say((error.strerror or str(error) or type(error).__name__).lower())
            sys.exit(1)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _say("")
    if container is not None:
        signal.setitimer(signal.ITIMER_REAL, given["patience_s"])
        container.mux(stream.encode())
        container.close()


def _open(given: dict[str, Any]) -> tuple["av.container.OutputContainer", Any]:
    container = av.open(given["address"], "w", format=given["format"], options=given["options"])
    codec = {"preset": "superfast", "tune": "zerolatency", "crf": "23", "g": str(_KEY_FRAME_EVERY)}
    stream = container.add_stream("libx264", rate=Fraction(*given["rate"]), options=codec)
    stream.width, stream.height, stream.pix_fmt = given["width"], given["height"], "yuv420p"
    stream.codec_context.time_base = _TIME_BASE
    stream.codec_context.thread_count = 1
    return container, stream


def _say(line: str) -> None:
    print(" ".join(line.split()), flush=True)


if __name__ == "__main__":
    main()
