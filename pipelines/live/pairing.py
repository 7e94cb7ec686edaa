"""Pairing by capture time: pure, without clock and thread, so that a test can play any timing."""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from data.frame import Frame, Pair

Sensor = Literal["rgb", "thermal"]
OTHER: dict[Sensor, Sensor] = {"rgb": "thermal", "thermal": "rgb"}

_UNKNOWN_SKEW_NS = 50_000_000
_TICK_NS = 1_000_000  # Matroska keeps whole milliseconds, so a stamp may be off by half a tick each


@dataclass(frozen=True)
class PairingRules:
    """What makes two frames one moment."""

    max_skew_ns: int
    """Largest difference of capture times within a pair."""
    thermal_offset_ns: int = 0
    """Added to thermal capture times, see Rig.time_offset_ms."""
    rgb_period_ns: int | None = None
    """Time between two RGB frames where it is known; tells a dropped frame from a silent camera."""
    hold: Sensor | None = None
    """The slower sensor, whose frame serves every frame of the other one that is near; None: each frame once."""


def default_max_skew_ns(*periods_ns: int | None) -> int:
    """Half the slower sensor's frame period, or 50 ms where no period is known."""
    known = [period for period in periods_ns if period]
    return max(known) // 2 + _TICK_NS if known else _UNKNOWN_SKEW_NS


class Pairer:
    """Pairs frames of recordings that are nearest in time; buffers two frames of each sensor at most.

    Each frame is used at most once (unless held) and order is kept. RGB sets the pace: an RGB frame without a
    partner goes on alone; a thermal frame without one is dropped where a nearer one served the RGB frame beside
    it, and goes on alone where RGB is silent.

    Feed it what ``step`` asks for. ``counts`` holds pairs, rgb_alone, thermal_alone, rgb_dropped,
    thermal_dropped, rgb_late, thermal_late (frames whose stamp does not rise).
    """

    def __init__(self, rules: PairingRules) -> None:
        self.rules = rules
        self.counts: Counter[str] = Counter()
        self._buffer: dict[Sensor, deque[Frame]] = {"rgb": deque(), "thermal": deque()}
        self._newest: dict[Sensor, int | None] = {"rgb": None, "thermal": None}
        self._ended: set[Sensor] = set()
        self._last_served: dict[Sensor, int | None] = {"rgb": None, "thermal": None}
        self._held_is_used = False

    @property
    def max_skew_ns(self) -> int:
        """Largest difference of capture times within a pair."""
        return self.rules.max_skew_ns

    def period_ns(self, sensor: Sensor) -> int | None:
        """Time between two frames of a sensor, where it is known."""
        return self.rules.rgb_period_ns if sensor == "rgb" else None

    def push(self, sensor: Sensor, frame: Frame) -> None:
        """Take the next frame of a sensor; one that is not newer than the last is dropped and counted."""
        if sensor == "thermal" and self.rules.thermal_offset_ns:
            frame = replace(frame, time_ns=frame.time_ns + self.rules.thermal_offset_ns)
        newest = self._newest[sensor]
        if newest is not None and frame.time_ns <= newest:
            self.counts[f"{sensor}_late"] += 1
            return
        self._newest[sensor] = frame.time_ns
        self._buffer[sensor].append(frame)

    def end(self, sensor: Sensor) -> None:
        """Say that no further frame of this sensor will come."""
        self._ended.add(sensor)

    def step(self) -> Pair | Sensor | None:
        """Return the next pair, or the sensor whose next frame decides it, or None when both have ended."""
        try:
            return self._next_held(self.rules.hold) if self.rules.hold else self._next()
        except NeedsFrameError as need:
            return need.sensor

    def _next(self) -> Pair | None:
        while True:
            rgb, thermal = self._peek("rgb"), self._peek("thermal")
            if rgb is None and thermal is None:
                return None
            if thermal is None:
                return self._alone("rgb")
            gap = None if rgb is None else thermal.time_ns - rgb.time_ns
            if gap is None or gap < -self.max_skew_ns or (gap < 0 and self._is_displaced("thermal")):
                lone = self._leave("thermal")
                if lone is not None:
                    return lone
            elif gap > self.max_skew_ns or (gap > 0 and self._is_displaced("rgb")):
                return self._alone("rgb")
            else:
                return self._count(Pair(self._pop("rgb"), self._pop("thermal")))

    def _is_displaced(self, sensor: Sensor) -> bool:
        """True when the frame after this sensor's first suits the other's first better, and no other one more."""
        first, partner = self._buffer[sensor][0], self._buffer[OTHER[sensor]][0]
        after = self._peek_after(sensor, partner)
        if after is None or distance(after, partner) >= distance(first, partner):
            return False
        rival = self._peek(OTHER[sensor], 1)
        return rival is None or distance(after, rival) >= distance(after, partner)

    def _next_held(self, held: Sensor) -> Pair | None:
        """As ``_next``, but the held sensor's first frame stays until its next one is nearer."""
        pace = OTHER[held]
        while True:
            frame, kept = self._peek(pace), self._peek(held)
            if frame is None and kept is None:
                return None
            if kept is None:
                return self._alone(pace)
            if frame is None or self._is_passed(held, frame):
                lone = self._release(held)
                if lone is not None:
                    return lone
            elif distance(kept, frame) > self.max_skew_ns:
                return self._alone(pace)
            else:
                self._held_is_used = True
                self._pop(pace)
                return self._count(Pair(frame, kept) if pace == "rgb" else Pair(kept, frame))

    def _is_passed(self, held: Sensor, frame: Frame) -> bool:
        """True when the held sensor's first frame has no more use: too old and unused, or its next one is nearer."""
        kept = self._buffer[held][0]
        if kept.time_ns >= frame.time_ns:
            return False
        if not self._held_is_used and distance(kept, frame) > self.max_skew_ns:
            return True
        after = self._peek_after(held, frame)
        return after is not None and distance(after, frame) < distance(kept, frame)

    def _release(self, held: Sensor) -> Pair | None:
        used, self._held_is_used = self._held_is_used, False
        if used:
            self._pop(held)
            return None
        return self._leave(held)

    def _leave(self, sensor: Sensor) -> Pair | None:
        """Drop the first frame of ``sensor``, or let it go on alone where the other sensor is silent."""
        time_ns, other = self._buffer[sensor][0].time_ns, OTHER[sensor]
        silence_ns, rgb_period_ns = self.max_skew_ns, self.period_ns("rgb")
        if other == "rgb" and rgb_period_ns:
            silence_ns = max(silence_ns, rgb_period_ns // 2 + _TICK_NS)
        ahead = self._buffer[other][0].time_ns if self._buffer[other] else None
        if any(t is not None and abs(t - time_ns) <= silence_ns for t in (self._last_served[other], ahead)):
            self._pop(sensor)
            self.counts[f"{sensor}_dropped"] += 1
            return None
        return self._alone(sensor)

    def _alone(self, sensor: Sensor) -> Pair:
        frame = self._pop(sensor)
        return self._count(Pair(frame, None) if sensor == "rgb" else Pair(None, frame))

    def _count(self, pair: Pair) -> Pair:
        kind = "pairs" if pair.skew_ns is not None else "rgb_alone" if pair.rgb is not None else "thermal_alone"
        self.counts[kind] += 1
        return pair

    def _peek(self, sensor: Sensor, index: int = 0) -> Frame | None:
        """Frame ``index`` in waiting, None where the sensor ended before; asks for it where it is to come."""
        if index < len(self._buffer[sensor]):
            return self._buffer[sensor][index]
        if sensor in self._ended:
            return None
        raise NeedsFrameError(sensor)

    def _peek_after(self, sensor: Sensor, partner: Frame) -> Frame | None:
        """The second frame in waiting, which may suit ``partner`` better than the first one."""
        del partner
        return self._peek(sensor, 1)

    def _pop(self, sensor: Sensor) -> Frame:
        frame = self._buffer[sensor].popleft()
        self._last_served[sensor] = frame.time_ns
        return frame


class NeedsFrameError(Exception):
    """The next pair cannot be decided before this sensor's next frame is known."""

    def __init__(self, sensor: Sensor) -> None:
        self.sensor: Sensor = sensor


def distance(a: Frame, b: Frame) -> int:
    """Difference of capture times in nanoseconds."""
    return abs(a.time_ns - b.time_ns)


def pair_frames(pull: Callable[[Sensor], Frame | None], pairer: Pairer) -> Iterator[Pair]:
    """Yield pairs until both sensors have ended; ``pull`` gives a sensor's next frame, None at its end."""
    while (step := pairer.step()) is not None:
        if isinstance(step, Pair):
            yield step
            continue
        frame = pull(step)
        if frame is None:
            pairer.end(step)
        else:
            pairer.push(step, frame)
