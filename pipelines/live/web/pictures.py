"""The pictures of the page: one thread draws and encodes, once for all viewers, and only while somebody looks."""

import logging
import threading
import time
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from data.prepare import InputSpec
from pipelines.live.state import Latest
from pipelines.live.views import Scene, ThermalScale, Thermometer, View
from pipelines.live.web.feed import Channel
from pipelines.live.web.viewed import Viewed

BOUNDARY = "picture"
_LOG = logging.getLogger(__name__)
_QUALITY = 82
_FASTEST_S = 1 / 30
"""Between two pictures; no browser gains by more."""
_SHARE = 0.5
"""Of one core at most: views that many viewers choose differently lower their rate, not the pipeline's."""
_LOOK_S = 0.2


class Pictures(threading.Thread):
    """Draws the latest answer in every view that somebody looks at.

    Args:
        state: What is shown.
        inputs: What the model takes.
        classes: Names of its classes.
        channel: Viewers by view.
        publish: Hands a part of the stream to the viewers of a view; called from this thread.
    """

    def __init__(
        self,
        state: Viewed,
        inputs: InputSpec,
        classes: tuple[str, ...],
        channel: Channel[View],
        publish: Callable[[View, bytes], None],
    ) -> None:
        super().__init__(name="page pictures", daemon=True)
        self.encoded = 0
        """Pictures since the start."""
        self.thermometer = Thermometer(inputs)
        self._scale = ThermalScale(inputs.thermal)
        self._state = state
        self._inputs = inputs
        self._classes = classes
        self._channel = channel
        self._publish = publish
        self._made: dict[View, tuple[Latest, bytes]] = {}
        self._wake = threading.Event()
        self._is_stopped = False

    def look(self) -> None:
        """Say that somebody came to look."""
        self._wake.set()

    def made(self, view: View) -> bytes | None:
        """The newest part of a view that somebody looks at already."""
        made = self._made.get(view)
        return None if made is None else made[1]

    def ends(self) -> tuple[float | None, float | None]:
        """Low and high end of thermal's colours, in the thermometer's unit."""
        ends = self._scale.ends
        return (None, None) if ends is None else (self.thermometer.told(ends[0]), self.thermometer.told(ends[1]))

    def stop(self, deadline_s: float) -> None:
        """End the thread."""
        self._is_stopped = True
        self._wake.set()
        self.join(deadline_s)

    def run(self) -> None:
        """Draw until stopped."""
        while not self._is_stopped:
            views = self._channel.keys
            if not views:
                self._made.clear()
                self._wake.wait()
                self._wake.clear()
                continue
            latest = self._state.latest
            if latest is None:
                self._state.wait(-1, _LOOK_S)
                continue
            started, spent = time.perf_counter(), time.thread_time()
            self._draw(latest, views)
            spent = time.thread_time() - spent
            time.sleep(max(0.0, spent * (1 / _SHARE - 1), _FASTEST_S - (time.perf_counter() - started)))
            if not self._wake.is_set():  # who came in the meantime is not kept waiting
                self._state.wait(latest.answer.index, _LOOK_S)
            self._wake.clear()

    def _draw(self, latest: Latest, views: tuple[View, ...]) -> None:
        scene: Scene | None = None
        for view in views:
            made = self._made.get(view)
            if made is not None and made[0] is latest:
                continue
            try:
                scene = scene or Scene(latest, self._inputs, self._classes, self._scale)
                part = _part(scene.picture(view), latest.answer.index)
            except (cv2.error, ValueError, IndexError) as error:  # the page goes on with the next answer
                _LOG.warning("answer %d cannot be drawn: %s", latest.answer.index, error)
                return
            self.encoded += 1
            self._made[view] = latest, part
            self._publish(view, part)
        for view in self._made.keys() - set(views):
            del self._made[view]


def _part(picture: NDArray[np.uint8], index: int) -> bytes:
    """One part of a multipart/x-mixed-replace stream: a JPEG and the number of its answer."""
    ok, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert ok, "a picture of uint8 can be encoded"
    jpeg = encoded.tobytes()
    head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\nX-Answer: {index}\r\n\r\n"
    return head.encode() + jpeg + b"\r\n"
