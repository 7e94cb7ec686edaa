"""A sink on a thread of its own behind a bounded queue: whatever happens to it, the pipeline does not wait."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import Any, Protocol, runtime_checkable

import numpy as np

from data.errors import DataError
from data.frame import Frame, Pair
from data.prepare import Prepared
from pipelines.live.answer import Answer
from pipelines.live.redact import redact
from pipelines.live.sinks import Sink

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 2.0
_NO_PIXELS = np.zeros((0, 0), np.uint8)

Item = tuple[Pair, Prepared, Answer]


class RetryError(DataError):
    """What was handed over could not be delivered now, but may be later: the answer is kept while there is room."""


class BatchSink(Protocol):
    """A sink that takes several answers at once."""

    most: int
    """Answers at once."""

    def write_many(self, items: Sequence[Item]) -> None:
        """Take answers, in order; RetryError when they may be handed over again."""


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """A sink at one moment."""

    queued: int = 0
    """Answers that wait."""
    delivered: int = 0
    dropped: int = 0
    """Answers that were lost: they made room for newer ones, or could not be delivered."""
    errors: int = 0
    """Attempts that failed."""
    last_error: str | None = None
    """One line; None when nothing ever failed."""
    failing: bool = False
    """Whether the last attempt failed."""


class Outbox:
    """A sink that never keeps its caller waiting and never raises: the oldest answer makes room for the newest.

    A failing sink is tried again after 0.25 s, then less often, up to every 2 s; losses and failures are counted.

    Args:
        name: For messages.
        sink: It is written and closed on the outbox's own thread; ``lost``, if it has that, counts answers that it
            had taken and that never arrived.
        depth: Answers that wait at most.
        pictures: False: the sink looks at times and answers alone, so that no picture is kept for it.
        patience_s: How long ``write`` waits for room, for recordings, which can wait; only while the sink gets on.
    """

    def __init__(
        self,
        name: str,
        sink: Sink,
        depth: int = 8,
        *,
        pictures: bool = True,
        patience_s: float = 0.0,
    ) -> None:
        self.name = name
        self._sink = sink
        self._depth = depth
        self._has_pictures = pictures
        self._patience_s = patience_s
        self._items: deque[Item] = deque()
        self._in_hand = 0
        self._status = SinkStatus()
        self._changed = threading.Condition()
        self._pause_s = 0.0
        self._is_stuck = False
        self._ends_at: float | None = None
        self._failed = False
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)
        self._thread.start()

    @property
    def status(self) -> SinkStatus:
        """Counts so far."""
        with self._changed:
            queued, lost = len(self._items) + self._in_hand, getattr(self._sink, "lost", 0)
            delivered, dropped = self._status.delivered - lost, self._status.dropped + lost
            return replace(self._status, queued=queued, delivered=delivered, dropped=dropped, failing=self._pause_s > 0)

    def write(self, pair: Pair, prepared: Prepared, answer: Answer) -> None:
        """Queue one answer."""
        if not self._has_pictures:
            pair, prepared = _without_pictures(pair), replace(prepared, rgb=_NO_PIXELS, thermal=_NO_PIXELS)
        with self._changed:
            if self._patience_s and not self._is_stuck and len(self._items) >= self._depth:
                self._is_stuck = not self._changed.wait_for(lambda: len(self._items) < self._depth, self._patience_s)
            self._items.append((pair, prepared, answer))
            self._shorten()
            self._changed.notify_all()

    def finish(self, deadline_s: float, *, failed: bool = False) -> None:
        """Ask the thread to deliver what waits, for so long at most, and to close the sink; does not wait."""
        with self._changed:
            self._ends_at, self._failed = monotonic() + deadline_s, failed
            self._changed.notify_all()

    def close(self, *, failed: bool = False, deadline_s: float = 2.0) -> None:
        """Deliver what waits, for so long at most, and close the sink; what hangs is left behind and counted."""
        if self._ends_at is None:
            self.finish(deadline_s, failed=failed)
        self._thread.join(max(0.0, deadline_s))
        with self._changed:
            if self._thread.is_alive():
                lost = len(self._items) + self._in_hand
                self._items.clear()
                why = self._status.last_error if self._pause_s else "it did not end in time"
                self._status = replace(self._status, dropped=self._status.dropped + lost, last_error=why)

    def _run(self) -> None:
        while batch := self._take():
            try:
                self._deliver(batch)
            except RetryError as error:
                self._fail(batch, error, again=True)
            except Exception as error:  # noqa: BLE001 - counted and told; a sink never ends the pipeline
                self._fail(batch, error, again=False)
            else:
                self._succeed(len(batch))
        try:
            self._sink.close(failed=self._failed)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail([], error, again=False)

    def _deliver(self, batch: Sequence[Item]) -> None:
        write_many = getattr(self._sink, "write_many", None)
        if write_many is not None:
            write_many(batch)
        else:
            self._sink.write(*batch[0])

    def _take(self) -> list[Item]:
        """Wait for answers, and out the pause after a failure; none when it is time to close."""
        most = getattr(self._sink, "most", 1)
        with self._changed:
            if self._pause_s:
                is_ending = self._ends_at is not None
                pause_s = self._pause_s
                if self._ends_at is not None:
                    pause_s = max(0.0, min(_FIRST_PAUSE_S, self._ends_at - monotonic()))
                self._changed.wait_for(lambda: self._ends_at is not None and not is_ending, pause_s)
            self._changed.wait_for(lambda: self._items or self._ends_at is not None)
            if self._ends_at is not None and monotonic() >= self._ends_at:
                self._lose(len(self._items))
                self._items.clear()
            batch = [self._items.popleft() for _ in range(min(most, len(self._items)))]
            self._in_hand = len(batch)
            self._changed.notify_all()
            return batch

    def _succeed(self, count: int) -> None:
        with self._changed:
            self._pause_s, self._in_hand, self._is_stuck = 0.0, 0, False
            self._status = replace(self._status, delivered=self._status.delivered + count)

    def _fail(self, batch: Sequence[Item], error: Exception, *, again: bool) -> None:
        ours = error if isinstance(error, DataError) else DataError(redact(f"{type(error).__name__}: {error}"))
        text = str(ours)
        with self._changed:
            self._pause_s = min(max(_FIRST_PAUSE_S, 2 * self._pause_s), _LONGEST_PAUSE_S)
            self._in_hand = 0
            self._status = replace(self._status, errors=self._status.errors + 1, last_error=text)
            if again:
                self._items.extendleft(reversed(batch))
                self._shorten()
            else:
                self._lose(len(batch))

    def _shorten(self) -> None:
        while len(self._items) > self._depth:
            self._items.popleft()
            self._lose(1)

    def _lose(self, count: int) -> None:
        self._status = replace(self._status, dropped=self._status.dropped + count)


def close_sinks(sinks: Sequence[Sink], deadline_s: float, *, failed: bool) -> list[DataError]:
    """Close every sink, the outboxes all within one deadline; return what went wrong with the others."""
    ends_at = monotonic() + deadline_s
    for sink in sinks:
        if isinstance(sink, Outbox):
            sink.finish(deadline_s * 0.9, failed=failed)
    errors = []
    for sink in sinks:
        if isinstance(sink, Outbox):
            sink.close(failed=failed, deadline_s=ends_at - monotonic())
            continue
        try:
            sink.close(failed=failed)
        except DataError as error:
            errors.append(error)
    return errors


@runtime_checkable
class Counted(Protocol):
    """A sink that counts what becomes of its answers, as an outbox does."""

    name: str

    @property
    def status(self) -> SinkStatus:
        """Counts so far."""


def statuses(sinks: Sequence[Sink]) -> dict[str, dict[str, Any]]:
    """Name → status of every sink that counts, as plain JSON."""
    return {sink.name: asdict(sink.status) for sink in sinks if isinstance(sink, Counted)}


def _without_pictures(pair: Pair) -> Pair:
    def light(frame: Frame | None) -> Frame | None:
        return None if frame is None else replace(frame, image=_NO_PIXELS)

    return Pair(light(pair.rgb), light(pair.thermal))
