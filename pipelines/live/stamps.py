"""When a frame of a live source was taken: pure, without a clock, so that a test can play any timing."""

from collections import deque

_HISTORY_NS = 5_000_000_000
_LATE_FOR_NS = 1_000_000_000
_LEAST_PACKETS = 10


class Stamper:
    """Maps presentation times onto the clock of arrival, where they are trustworthy; elsewhere arrival it is.

    They are trusted once they rose strictly for five seconds while no packet came later against them than half a frame.
    Then a frame's time is its presentation time plus the least delay of the last five seconds: a packet that was held
    up on its way keeps its true place. Trust ends when the times jump or run backwards, when packets come earlier
    than they allow, or when all of a second come late; then the five seconds begin anew.
    """

    def __init__(self) -> None:
        self.is_trusting = False
        self._last_ns: int | None = None
        self._times: deque[int] = deque()
        self._delays: deque[tuple[int, int]] = deque()  # of falling age and rising delay: the first is the least
        self._newest_ns: int | None = None
        self._since_ns: int | None = None
        self._on_time_ns: int | None = None

    def __call__(self, presented_ns: int | None, arrived_ns: int) -> int:
        """Time of a frame in ns of the clock of arrival; strictly rising, never after its arrival (but for ties).

        Args:
            presented_ns: Presentation time on any clock; None where the stream has none.
            arrived_ns: When its packet was received.
        """
        stamp = arrived_ns
        if presented_ns is None:
            self._forget()
        else:
            self._learn(presented_ns, arrived_ns)
            if self.is_trusting:
                stamp = min(arrived_ns, presented_ns + self._delays[0][1])
        if self._last_ns is not None:
            stamp = max(stamp, self._last_ns + 1)
        self._last_ns = stamp
        return stamp

    def _learn(self, presented_ns: int, arrived_ns: int) -> None:
        delay = arrived_ns - presented_ns
        if self._newest_ns is not None and (presented_ns <= self._newest_ns or self._has_jumped(presented_ns, delay)):
            self._forget()
        self._newest_ns = presented_ns
        self._times.append(presented_ns)
        while self._times[0] < presented_ns - _HISTORY_NS:
            self._times.popleft()
        while self._delays and self._delays[-1][1] >= delay:
            self._delays.pop()
        self._delays.append((presented_ns, delay))
        while self._delays[0][0] < presented_ns - _HISTORY_NS:
            self._delays.popleft()
        self._judge(presented_ns, delay)

    def _has_jumped(self, presented_ns: int, delay: int) -> bool:
        """True when a packet comes earlier than all before it allow, by more than half a frame."""
        half = self._half_frame_ns()
        return bool(half and self._delays and delay < self._delays[0][1] - half)

    def _judge(self, presented_ns: int, delay: int) -> None:
        half, least = self._half_frame_ns(), self._delays[0][1]
        if half is None:
            return
        is_late = delay - least > half
        if is_late and not self.is_trusting:  # the five seconds without a late one begin behind it
            self._forget()
        elif not is_late:
            self._on_time_ns = presented_ns
            first_ns = self._since_ns if self._since_ns is not None else presented_ns
            self._since_ns = first_ns
            self.is_trusting |= presented_ns - first_ns >= _HISTORY_NS
        elif self._on_time_ns is not None and presented_ns - self._on_time_ns > _LATE_FOR_NS:
            self._forget()

    def _half_frame_ns(self) -> int | None:
        """Half of the mean distance of presentation times; None before there are enough."""
        if len(self._times) < _LEAST_PACKETS:
            return None
        return (self._times[-1] - self._times[0]) // (2 * (len(self._times) - 1))

    def _forget(self) -> None:
        self.is_trusting = False
        self._times.clear()
        self._delays.clear()
        self._newest_ns = self._since_ns = self._on_time_ns = None
