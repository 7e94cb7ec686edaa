"""Pairing of cameras that deliver now: as of recordings, but nothing waits longer than a budget."""

from collections import deque
from collections.abc import Iterable
from itertools import pairwise

from data.frame import Frame, Pair
from pipelines.live.pairing import OTHER, NeedsFrameError, Pairer, PairingRules, Sensor, default_max_skew_ns, distance

_MOST = 64
"""Frames of one sensor that wait at most; a budget is over long before."""
_LEARNED_FROM = 16
_PAUSE_NS = 1_000_000_000
"""Stamps that are so far apart are no neighbours; one that lies so far back tells of a clock that was set back."""
_LATE_IN_A_ROW = 8
_PAUSE_RATIO = 6


class LivePairer(Pairer):
    """Pairs frames that are nearest in time as they come; pure, the clock is handed in.

    It decides as soon as the next frame, one period later, cannot suit better; periods are learned from the stamps.
    A frame whose partner has not come within the budget goes on alone, and nobody waits for a sensor that was silent
    for the budget and two of its periods. ``counts`` is as that of Pairer.

    Args:
        rules: As of recordings.
        budget_ns: Longest time between ``push`` and the moment that ``poll`` hands the frame out.
        learns_skew: True: the largest skew is half the slower sensor's period, and an eighth for jitter, as soon as
            the periods are known; that of the rules until then.
    """

    def __init__(self, rules: PairingRules, budget_ns: int, *, learns_skew: bool = False) -> None:
        super().__init__(rules)
        self.budget_ns = budget_ns
        self.waited_ns = 0
        """Of the pair that was handed out last: since its first frame was pushed."""
        self._learns_skew = learns_skew
        self._skew_ns = rules.max_skew_ns
        self._now_ns = 0
        self._pushed: dict[Sensor, deque[int]] = {"rgb": deque(), "thermal": deque()}
        self._popped: dict[Sensor, int] = {}
        self._heard_ns: dict[Sensor, int | None] = {"rgb": None, "thermal": None}
        self._stamps: dict[Sensor, deque[int]] = {sensor: deque(maxlen=_LEARNED_FROM + 1) for sensor in OTHER}
        self._period_ns: dict[Sensor, int | None] = {"rgb": None, "thermal": None}
        self._late: dict[Sensor, int] = {"rgb": 0, "thermal": 0}

    @property
    def max_skew_ns(self) -> int:
        """Largest difference of capture times within a pair."""
        return self._skew_ns

    def period_ns(self, sensor: Sensor) -> int | None:
        """Mean time between a sensor's last frames, or what the rules say of it."""
        return self._period_ns[sensor] or super().period_ns(sensor)

    def push_at(self, sensor: Sensor, frame: Frame, now_ns: int) -> None:
        """Take the next frame of a sensor, at this moment; one that is not newer than the last is counted as late.

        A clock that was set back, so that all frames would be late, is taken as it is from then on.
        """
        offset_ns = self.rules.thermal_offset_ns if sensor == "thermal" else 0
        self._note(sensor, frame.time_ns + offset_ns, now_ns)
        if len(self._buffer[sensor]) == _MOST:
            self._pop(sensor)
            self._held_is_used = self._held_is_used and sensor != self.rules.hold
            self.counts[f"{sensor}_dropped"] += 1
        before = len(self._buffer[sensor])
        self.push(sensor, frame)
        if len(self._buffer[sensor]) > before:
            self._pushed[sensor].append(now_ns)

    def poll(self, now_ns: int) -> Pair | None:
        """Return the next pair that can be decided at this moment, None when there is none yet."""
        self._now_ns = now_ns
        if not self._waiting():
            return None
        try:
            pair = self._next_held(self.rules.hold) if self.rules.hold else self._next()
        except NeedsFrameError:
            return None
        if pair is not None:
            own = [s for s in OTHER if getattr(pair, s) is not None and (s != self.rules.hold or pair.skew_ns is None)]
            self.waited_ns = now_ns - min(self._popped[sensor] for sensor in own)
        self._popped.clear()
        return pair

    def due_ns(self) -> int | None:
        """The moment from which ``poll`` may give a pair without a further frame; None while nothing waits."""
        waiting = self._waiting()
        if not waiting:
            return None
        silent = [self._silent_from(sensor) for sensor in OTHER if not self._buffer[sensor]]
        return min([min(waiting) + self.budget_ns, *(at for at in silent if at >= self._now_ns)])

    def waiting(self, sensor: Sensor) -> int:
        """Frames of a sensor that wait."""
        return len(self._buffer[sensor])

    def _note(self, sensor: Sensor, time_ns: int, now_ns: int) -> None:
        """Learn the period; notice a clock that was set back."""
        for other in OTHER:  # one that was never heard is given the budget from the first frame on
            if self._heard_ns[other] is None:
                self._heard_ns[other] = now_ns
        self._heard_ns[sensor] = now_ns
        newest, stamps = self._newest[sensor], self._stamps[sensor]
        if newest is not None and time_ns <= newest:
            self._late[sensor] += 1
            if newest - time_ns < _PAUSE_NS and self._late[sensor] < _LATE_IN_A_ROW:
                return
            self._newest[sensor] = self._last_served[sensor] = None
            stamps.clear()
        self._late[sensor] = 0
        if stamps and time_ns - stamps[-1] > _PAUSE_NS:
            stamps.clear()
        stamps.append(time_ns)
        self._period_ns[sensor] = _mean_interval(stamps)
        periods = [self.period_ns(s) for s in OTHER]
        if self._learns_skew and any(periods):
            slower = max(period for period in periods if period)
            self._skew_ns = default_max_skew_ns(slower) + slower // 8

    def _waiting(self) -> list[int]:
        """When the frames that nobody has used were pushed, of each sensor the oldest one."""
        waiting = []
        for sensor, pushed in self._pushed.items():
            is_held = sensor == self.rules.hold and self._held_is_used
            if len(pushed) > is_held:
                waiting.append(pushed[int(is_held)])
        return waiting

    def _silent_from(self, sensor: Sensor) -> int:
        """From this moment on nobody waits for a sensor, unless it is heard again."""
        return (self._heard_ns[sensor] or 0) + self.budget_ns + 2 * (self.period_ns(sensor) or 0)

    def _peek(self, sensor: Sensor, index: int = 0) -> Frame | None:
        if index < len(self._buffer[sensor]):
            return self._buffer[sensor][index]
        oldest_ns = min(self._waiting(), default=self._now_ns)
        is_awaited = self._now_ns < self._silent_from(sensor) and self._now_ns - oldest_ns < self.budget_ns
        if sensor in self._ended or not is_awaited:
            return None
        raise NeedsFrameError(sensor)

    def _peek_after(self, sensor: Sensor, partner: Frame) -> Frame | None:
        period_ns = self.period_ns(sensor)
        gap_ns = distance(self._buffer[sensor][0], partner)
        is_surely_nearest = len(self._buffer[sensor]) == 1 and period_ns is not None and 2 * gap_ns <= period_ns
        return None if is_surely_nearest else self._peek(sensor, 1)

    def _pop(self, sensor: Sensor) -> Frame:
        self._popped[sensor] = self._pushed[sensor].popleft()
        return super()._pop(sensor)


def _mean_interval(stamps: Iterable[int]) -> int | None:
    """Mean interval of rising stamps without one that is a pause: as when a thermal camera closes its shutter."""
    intervals = [after - before for before, after in pairwise(stamps)]
    if not intervals:
        return None
    longest, total = max(intervals), sum(intervals)
    if len(intervals) > 1 and longest * (len(intervals) - 1) > _PAUSE_RATIO * (total - longest):
        return (total - longest) // (len(intervals) - 1)
    return total // len(intervals)
