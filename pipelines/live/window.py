"""A desktop window that shows the answers; the loop itself draws it."""

import os
import sys
import threading
from dataclasses import replace

import cv2

from data.errors import DataError
from data.frame import Pair
from data.prepare import Prepared
from pipelines.live.answer import Answer
from pipelines.live.draw import Composer
from pipelines.live.outbox import SinkStatus
from pipelines.live.windows import window_system


class WindowSink:
    """A desktop window; closing it, q or Esc ends the run.

    A window belongs to the thread that opened it, so that it is drawn and closed by the loop, which waits meanwhile.
    What OpenCV cannot show is counted and told of as with any other sink, and the run goes on.

    Raises:
        DataError: this OpenCV has no windows, or there is no desktop.
    """

    name = "window"

    def __init__(self, composer: Composer, stop: threading.Event, title: str = "rgbt live") -> None:
        missing = windows_missing()
        if missing:
            raise DataError(f"--show: {missing}; use --save out.mkv instead")
        self.status = SinkStatus()
        self._compose = composer
        self._stop = stop
        self._title = title
        self._is_open = False

    def write(self, pair: Pair, prepared: Prepared, answer: Answer) -> None:
        """Show one answer."""
        was = self.status
        try:
            self._show(pair, prepared, answer)
        except cv2.error as error:
            why = f"--show: OpenCV cannot show it ({error.err or error})"
            self.status = replace(was, dropped=was.dropped + 1, errors=was.errors + 1, last_error=why, failing=True)
        else:
            self.status = replace(was, delivered=was.delivered + 1, failing=False)

    def close(self, *, failed: bool = False) -> None:
        """Close the window."""
        if not self._is_open:
            return
        try:
            cv2.destroyWindow(self._title)
        except cv2.error as error:  # it is gone already
            self.status = replace(self.status, errors=self.status.errors + 1, last_error=str(error.err or error))

    def _show(self, pair: Pair, prepared: Prepared, answer: Answer) -> None:
        if not self._is_open:
            cv2.namedWindow(self._title, cv2.WINDOW_NORMAL)
        cv2.imshow(self._title, cv2.cvtColor(self._compose(pair, prepared, answer), cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(1) & 0xFF
        is_closed = self._is_open and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1
        self._is_open = True
        if key in (ord("q"), 27) or is_closed:
            self._stop.set()


def windows_missing() -> str | None:
    """Say why a desktop window cannot be opened here; None where it can."""
    if window_system(cv2.getBuildInformation()) is None:
        return "this OpenCV is built without windows (opencv-python-headless)"
    # Qt ends the whole process where it finds no display.
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "no desktop (neither DISPLAY nor WAYLAND_DISPLAY is set)"
    return None
