"""Threads only at the edge of the pipeline, to read each source; everything behind runs in the main thread."""

import threading
from collections import deque
from time import monotonic

from data.frame import Frame
from pipelines.live.keeper import Keeper
from pipelines.live.reconnect import LiveSource
from pipelines.live.source_status import SourceState, SourceStatus
from pipelines.live.sources import Source

_DEPTH = {"ordered": 4, "latest": 2}
_LIVE_DEPTH = {"ordered": 64, "latest": 2}


class NoFrameYetError(Exception):
    """No frame came within the time that ``get`` was given."""


class Capture:
    """Reads a source on its own thread into a bounded queue, and closes it when done.

    ``ordered`` sources wait while the queue is full, so nothing is lost; of a ``latest`` source the oldest
    frame gives way, and ``dropped`` counts it. An error of the source is raised in the thread that calls ``get``.
    A LiveSource is kept open: what is lost is opened again, and only what can never work is an error.

    Args:
        source: What is read.
        depth: Frames that wait at most; None: as befits the source.
        wake: Set whenever a frame came or the source ended, so that one thread can wait for several captures.
    """

    def __init__(
        self, source: Source | LiveSource, depth: int | None = None, wake: threading.Event | None = None
    ) -> None:
        self.source = source
        self.dropped = 0
        self._depth = depth or (_LIVE_DEPTH if isinstance(source, LiveSource) else _DEPTH)[source.policy]
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._wake = wake or threading.Event()
        self._stopping = False
        self._ended = False
        self._error: BaseException | None = None
        self._times: deque[float] = deque(maxlen=64)
        self._count = 0
        self._thread: threading.Thread | None = None
        self._keeper: Keeper | None = None
        if isinstance(source, LiveSource):
            self._keeper = Keeper(source, self._put, self._finish)
            self._keeper.start()
        else:
            self._thread = threading.Thread(
                target=self._run, args=(source,), name=f"capture {source.name}", daemon=True
            )
            self._thread.start()

    @property
    def ended(self) -> bool:
        """True when the source has ended, every frame was taken, and no error is left to be raised."""
        with self._changed:
            return self._ended and not self._frames and self._error is None

    @property
    def gave_up(self) -> bool:
        """True when a live source was away for longer than the rules allow."""
        return self._keeper is not None and self._keeper.has_given_up

    @property
    def is_beginning(self) -> bool:
        """True while what is wrong with a frame is a mistake of the user, and not of a camera that came back."""
        return self._keeper is None or self._keeper.is_beginning

    def get(self, timeout_s: float | None = None) -> Frame | None:
        """Wait for the next frame and return it; None at the end of the source.

        Raises:
            NoFrameYetError: no frame came within ``timeout_s``.
            Exception: what the source raised, after the frames that it gave before.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._frames or self._ended, timeout_s):
                raise NoFrameYetError(f"{self.source.name}: no frame within {timeout_s} s")
            return self._next()

    def poll(self) -> Frame | None:
        """Return the next frame if there is one, without waiting; see ``ended`` for what None means.

        Raises:
            Exception: what the source raised, after the frames that it gave before.
        """
        with self._changed:
            return self._next()

    def status(self) -> SourceStatus:
        """How the source is just now."""
        if self._keeper is None:
            return self._plain_status()
        keeper = self._keeper
        return SourceStatus(
            name=self.source.name,
            state="ended" if self._ended else keeper.state(),
            frames=keeper.frames,
            dropped=self.dropped,
            reconnects=keeper.reconnects,
            stalls=keeper.stalls,
            last_error=keeper.last_error if self._error is None else str(self._error),
            fps=keeper.fps(),
            age_s=keeper.age_s(),
        )

    def stop(self, deadline_s: float = 2.0) -> bool:
        """Ask the threads to end and wait for them; False when a hanging read kept one beyond the deadline."""
        with self._changed:
            self._stopping = True
            self._frames.clear()
            self._changed.notify_all()
        if self._keeper is not None:
            return self._keeper.stop(max(0.0, deadline_s))
        assert self._thread is not None
        self._thread.join(max(0.0, deadline_s))
        return not self._thread.is_alive()

    def _next(self) -> Frame | None:
        if self._frames:
            self._changed.notify_all()
            return self._frames.popleft()
        if self._error is not None:
            raise self._error
        return None

    def _plain_status(self) -> SourceStatus:
        with self._changed:
            state: SourceState = "ended" if self._ended else "up" if self._count else "connecting"
            span_s = self._times[-1] - self._times[0] if len(self._times) > 1 else 0.0
            return SourceStatus(
                name=self.source.name,
                state=state,
                frames=self._count,
                dropped=self.dropped,
                reconnects=0,
                stalls=0,
                last_error=None if self._error is None else str(self._error),
                fps=(len(self._times) - 1) / span_s if span_s > 0 else None,
                age_s=monotonic() - self._times[-1] if self._times else None,
            )

    def _run(self, source: Source) -> None:
        error: BaseException | None = None
        try:
            while not self._stopping:
                frame = source.read()
                if frame is None:
                    break
                self._times.append(monotonic())
                self._count += 1
                self._put(frame)
        except BaseException as raised:  # noqa: BLE001 - raised again in the main thread, by get()
            error = raised
        finally:
            source.close()
            self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        with self._changed:
            self._error = error
            self._ended = True
            self._changed.notify_all()
        self._wake.set()

    def _put(self, frame: Frame) -> None:
        with self._changed:
            if self.source.policy == "latest":
                while len(self._frames) >= self._depth:
                    self._frames.popleft()
                    self.dropped += 1
            else:
                self._changed.wait_for(lambda: len(self._frames) < self._depth or self._stopping)
            if self._stopping:
                return
            self._frames.append(frame)
            self._changed.notify_all()
        self._wake.set()


def stop_all(captures: list[Capture], deadline_s: float = 2.0) -> list[str]:
    """Stop captures within one deadline; return the names of sources that still hang."""
    end = monotonic() + deadline_s
    return [capture.source.name for capture in captures if not capture.stop(end - monotonic())]
