"""One thread for each source, at the edge of the pipeline; everything behind it runs in the main thread."""

import threading
from collections import deque
from time import monotonic

from data.frame import Frame
from pipelines.live.source_status import SourceState, SourceStatus
from pipelines.live.sources import Source

_DEPTH = {"ordered": 4, "latest": 2}


class NoFrameYetError(Exception):
    """No frame came within the time that ``get`` was given."""


class Capture:
    """Reads a source on its own thread into a bounded queue, and closes it when done.

    ``ordered`` sources wait while the queue is full, so nothing is lost; of a ``latest`` source the oldest
    frame gives way, and ``dropped`` counts it. An error of the source is raised in the thread that calls ``get``
    or ``poll``. ``wake`` is set whenever a frame has come and at the end, for who waits for several captures at once.
    """

    def __init__(self, source: Source, depth: int | None = None, wake: threading.Event | None = None) -> None:
        self.source = source
        self.dropped = 0
        self._taken = 0
        self._wake = wake
        self._depth = depth or _DEPTH[source.policy]
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"capture {source.name}", daemon=True)
        self._thread.start()

    def get(self, timeout_s: float | None = None) -> Frame | None:
        """Wait for the next frame and return it; None at the end of the source.

        Raises:
            NoFrameYetError: no frame came within ``timeout_s``.
            Exception: what the source raised, after the frames that it gave before.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._frames or self._ended, timeout_s):
                raise NoFrameYetError(f"{self.source.name}: no frame within {timeout_s} s")
            if self._frames:
                self._changed.notify_all()
                return self._frames.popleft()
            if self._error is not None:
                raise self._error
            return None

    def poll(self) -> Frame | None:
        """Return the next frame that is there, None where there is none; never waits.

        Raises:
            Exception: what the source raised, after the frames that it gave before.
        """
        with self._changed:
            if self._frames:
                self._changed.notify_all()
                return self._frames.popleft()
            if self._error is not None:
                raise self._error
            return None

    @property
    def ended(self) -> bool:
        """Whether the source has ended and every frame was taken."""
        with self._changed:
            return self._ended and not self._frames and self._error is None

    def status(self) -> SourceStatus:
        """What the source is about."""
        with self._changed:
            state: SourceState = "ended" if self._ended else "up" if self._taken else "connecting"
            return SourceStatus(self.source.name, state, self._taken, self.dropped, 0, 0, None, None, None)

    def stop(self, deadline_s: float = 2.0) -> bool:
        """Ask the thread to end and wait for it; False when a hanging read kept it beyond the deadline."""
        with self._changed:
            self._stopping = True
            self._frames.clear()
            self._changed.notify_all()
        self._thread.join(max(0.0, deadline_s))
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping:
                frame = self.source.read()
                if frame is None or not self._put(frame):
                    break
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread, by get()
            self._error = error
        finally:
            self.source.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            self._call()

    def _put(self, frame: Frame) -> bool:
        with self._changed:
            if self.source.policy == "latest":
                while len(self._frames) >= self._depth:
                    self._frames.popleft()
                    self.dropped += 1
            else:
                self._changed.wait_for(lambda: len(self._frames) < self._depth or self._stopping)
            if self._stopping:
                return False
            self._frames.append(frame)
            self._taken += 1
            self._changed.notify_all()
        self._call()
        return True

    def _call(self) -> None:
        """Wake who waits for any of several captures."""
        if self._wake is not None:
            self._wake.set()


def stop_all(captures: list[Capture], deadline_s: float = 2.0) -> list[str]:
    """Stop captures within one deadline; return the names of sources that still hang."""
    end = monotonic() + deadline_s
    return [capture.source.name for capture in captures if not capture.stop(end - monotonic())]
