"""Keeps a live source open: a reader thread for each connection, and a watch that stands outside of it."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from time import monotonic

from data.errors import DataError
from data.frame import Frame
from pipelines.live.reconnect import Backoff, LiveSource, LostError, Stillness
from pipelines.live.source_status import SourceState
from pipelines.live.usage import UsageError

_TICK_S = 0.1
_GRACE_S = 1.0
"""Beyond a connection's own time-out: only a read that does not even keep that is left behind."""
_STAYED_S = 1.0
_MOST_HANGING = 3
_RECENT = 64


class Keeper:
    """Opens a live source, hands its frames on, and opens it again with back-off whenever it is lost.

    What the bundle can never take (another depth, another size) ends the source with a UsageError where the first
    connection begins with it: that is a user's mistake. Later, and where the camera was away at first, it is tried
    again: what comes back with other settings may be set right, and the other camera must go on. A read that hangs is
    left behind on its thread, which closes its connection if it ever returns; at most three such threads are put up
    with.

    Args:
        source: What is kept open.
        put: Takes each frame on the reader's thread; may wait (a full queue), which is no fault of the source.
        finish: Called once at the end, with the error that ended the source or None.
    """

    def __init__(
        self, source: LiveSource, put: Callable[[Frame], None], finish: Callable[[BaseException | None], None]
    ) -> None:
        self.frames = self.reconnects = self.stalls = 0
        self.last_error: str | None = None
        self.is_beginning = True
        """Until the first connection has ended, or could not be had."""
        self._source = source
        self._rules = source.rules
        self._put = put
        self._finish = finish
        self._changed = threading.Condition()
        self._is_stopping = self._has_given_up = False
        self._reader: _Reader | None = None
        self._left: list[_Reader] = []
        self._backoff = Backoff()
        self._stillness = Stillness()
        self._is_frozen = False
        self._arrivals: deque[float] = deque(maxlen=_RECENT)
        self._seen_s = monotonic()
        """When the last frame came, or when it all began."""
        self._watcher = threading.Thread(target=self._watch, name=f"watch {source.name}", daemon=True)

    @property
    def has_given_up(self) -> bool:
        """Whether the source was away for too long; then ``last_error`` says so already."""
        with self._changed:
            return self._has_given_up

    def start(self) -> None:
        """Begin to open the source."""
        self._watcher.start()

    def stop(self, deadline_s: float) -> bool:
        """Ask everything to end and wait for it; False when a hanging read kept its thread beyond the deadline."""
        end = monotonic() + deadline_s
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
            threads = [self._watcher, *self._left, *([self._reader] if self._reader else [])]
        for thread in threads:
            thread.join(max(0.0, end - monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def state(self) -> SourceState:
        """How the source is just now, but for its end."""
        with self._changed:
            reader = self._reader
            if self._is_frozen or (reader is not None and reader.is_stalled):
                return "stalled"
            if reader is not None and reader.frames:
                return "up"
            return "connecting" if not self.frames and self.last_error is None else "down"

    def age_s(self) -> float | None:
        """Seconds since the last frame; None before the first."""
        return monotonic() - self._seen_s if self.frames else None

    def fps(self) -> float | None:
        """Frames per second of late; 0 while none come, None before the second."""
        with self._changed:
            times = list(self._arrivals)
            if self.frames < 2:
                return None
            if len(times) < 2 or monotonic() - times[-1] > self._rules.bridge_s:
                return 0.0
            return (len(times) - 1) / max(times[-1] - times[0], 1e-6)

    def take(self, reader: "_Reader", frame: Frame) -> None:
        """Hand a frame of this reader on; DataError when it is not as it must be, _LeftError when it is not wanted."""
        self._source.check(frame)
        with self._changed:
            if self._is_stopping or reader is not self._reader:
                raise _LeftError
            now = monotonic()
            self._refuse_frozen(frame, now)
            if not reader.frames:
                self.reconnects += 1 if self.frames else 0
                self._arrivals.clear()
                reader.first_s = now
            reader.frames += 1
            reader.moved_s = self._seen_s = now
            reader.is_stalled = False
            if now - reader.first_s > _STAYED_S:
                self._backoff.reset()
            frame = replace(frame, sequence=self.frames)
            self.frames += 1
            self._arrivals.append(now)
            reader.is_handing_on = True
        self._put(frame)
        with self._changed:
            reader.is_handing_on = False
            reader.moved_s = monotonic()

    def _refuse_frozen(self, frame: Frame, now: float) -> None:
        limit = self._rules.frozen_after_s
        if limit is None:
            return
        was_frozen, self._is_frozen = self._is_frozen, self._stillness(frame.image, now) > limit
        if self._is_frozen:
            self.stalls += 0 if was_frozen else 1
            raise LostError(f"{self._source.name}: the very same picture for {limit:g} s")

    def _watch(self) -> None:
        error: BaseException | None = None
        try:
            while not self._is_stopping and not self._has_given_up and error is None:
                if self._may_open():
                    reader = self._reader = _Reader(self, self._source)
                    reader.start()
                    error = self._follow(reader)
                    self.is_beginning = False
                self._rest()
        finally:
            self._finish(error)

    def _may_open(self) -> bool:
        self._left = [reader for reader in self._left if reader.is_alive()]
        if len(self._left) < _MOST_HANGING:
            return True
        self.last_error = f"{self._source.name}: {len(self._left)} reads hang; opened again when one of them returns"
        return False

    def _follow(self, reader: "_Reader") -> BaseException | None:
        """Wait for the end of a connection; return the error that is the end of the source too."""
        with self._changed:
            while not self._is_stopping and not reader.is_done and not self._gives_up():
                self._changed.wait(_TICK_S)
                if self._is_hanging(reader):
                    self._left.append(reader)
                    break
            self._reader = None
            self._is_frozen = self._is_frozen and reader.is_open
            if not reader.is_done:
                if self._is_stopping or self._has_given_up:
                    self._left.append(reader)  # stop() waits for it
                return None
            return self._note(reader.error)

    def _note(self, error: BaseException | None) -> BaseException | None:
        if error is None or isinstance(error, _LeftError):
            return None
        if not isinstance(error, DataError):
            return error  # a fault of ours
        self.last_error = str(error)
        is_refused = not isinstance(error, LostError) and self.is_beginning and not self.frames
        return UsageError(self.last_error) if is_refused else None

    def _is_hanging(self, reader: "_Reader") -> bool:
        """Count a stall when it begins; True when the reader is to be left behind."""
        if reader.is_done or reader.is_handing_on:
            return False
        silent_s = monotonic() - reader.moved_s
        name = self._source.name
        if reader.is_open and not reader.is_stalled and silent_s > self._rules.bridge_s:
            reader.is_stalled = True
            self.stalls += 1
            self.last_error = f"{name}: open, but no frame for {self._rules.bridge_s:g} s"
        limit = self._rules.reopen_after_s if reader.is_open else self._rules.open_within_s
        if silent_s > limit + _GRACE_S:
            doing = "reading" if reader.is_open else "opening"
            self.last_error = f"{name}: {doing} hangs since {silent_s:.0f} s; left behind and opened anew"
            return True
        return False

    def _gives_up(self) -> bool:
        limit = self._rules.give_up_after_s
        if self._has_given_up or limit is None:
            return self._has_given_up
        if not self._is_busy() and monotonic() - self._seen_s > limit:
            self.last_error = f"{self.last_error or f'{self._source.name}: no frame'}; given up after {limit:g} s"
            self._has_given_up = True
        return self._has_given_up

    def _is_busy(self) -> bool:
        return self._reader is not None and self._reader.is_handing_on

    def _rest(self) -> None:
        """Wait before the next attempt."""
        end = monotonic() + self._backoff.next_s(monotonic() - self._seen_s)
        with self._changed:
            while not self._is_stopping and not self._gives_up() and (left_s := end - monotonic()) > 0:
                self._changed.wait(min(left_s, _TICK_S))

    def done(self) -> None:
        """A reader says that it has ended."""
        with self._changed:
            self._changed.notify_all()


class _LeftError(Exception):
    """This reader's frames are not wanted any more."""


class _Reader(threading.Thread):
    """One connection, from its opening to its loss."""

    def __init__(self, keeper: Keeper, source: LiveSource) -> None:
        super().__init__(name=f"capture {source.name}", daemon=True)
        self.frames = 0
        self.first_s = 0.0
        self.moved_s = monotonic()
        """When it last did something: began to open, was open, gave a frame."""
        self.is_open = self.is_stalled = self.is_handing_on = self.is_done = False
        self.error: BaseException | None = None
        self._keeper = keeper
        self._source = source

    def run(self) -> None:
        """Open, read until nothing comes any more, close."""
        try:
            self._read()
        except BaseException as error:  # noqa: BLE001 - judged by the keeper, raised again in the main thread
            if isinstance(error, DataError):  # what it remembers would keep the connection's decoder alive
                error.__traceback__ = error.__context__ = None
            self.error = error
        finally:
            self.is_done = True
            self._keeper.done()

    def _read(self) -> None:
        connection = self._source.connect()
        try:
            self.moved_s = monotonic()
            self.is_open = True
            self._source.period_ns = connection.period_ns
            while (frame := connection.read()) is not None:
                self._keeper.take(self, frame)
        finally:
            connection.close()
        raise LostError(f"{self._source.name}: the other side ended the stream")
