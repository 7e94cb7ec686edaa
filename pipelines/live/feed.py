"""The two cameras of a rig as one stream of pairs, of which the newest is there when it is asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from data.errors import DataError
from data.frame import Frame, Pair
from pipelines.live.camera_pairing import LivePairer
from pipelines.live.capture import Capture
from pipelines.live.pairing import OTHER, Sensor
from pipelines.live.usage import UsageError

Admit = Callable[[Sensor, Frame], None]
"""Raises DataError for a frame that the model cannot take."""

_COUNTS = (
    "pairs", "rgb_alone", "thermal_alone", "rgb_dropped", "thermal_dropped",
    "rgb_late", "thermal_late", "rgb_refused", "thermal_refused",
)  # fmt: skip
_WAITING = 8
"""Frames of one sensor that wait to be paired where none may be lost."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A pair that can be answered."""

    pair: Pair
    waited_ns: int
    """Since the first of its frames was taken in."""


class Feed:
    """Takes frames in as they come, and hands out the newest pair, or every pair in order.

    Of several pairs that are ready the newest whole one is answered; the others were overtaken, and their frames are
    counted as dropped. A frame that the model cannot take is counted as refused, and the other camera goes on alone;
    where a camera begins with such frames, their fault is raised.

    Args:
        captures: One or both sensors.
        pairer: Decides what belongs together.
        admit: Refuses frames.
        required: Sensors without which the model has no answer.
        keeps_all: Every pair, however late; frames wait in the captures meanwhile.
        tell: Told why a frame was refused, once for each fault.
    """

    def __init__(
        self,
        captures: Mapping[Sensor, Capture],
        pairer: LivePairer,
        admit: Admit,
        *,
        required: Sequence[Sensor] = (),
        keeps_all: bool = False,
        tell: Callable[[Sensor, str], None] | None = None,
    ) -> None:
        self.captures = captures
        self.pairer = pairer
        self._admit = admit
        self._required = required
        self._keeps_all = keeps_all
        self._tell = tell
        self._accepted: dict[Sensor, tuple[object, ...]] = {}
        self._refused: dict[Sensor, tuple[object, ...]] = {}
        self._ended: set[Sensor] = set()
        for sensor in OTHER:
            if sensor not in captures:
                pairer.end(sensor)

    def next(self, now_ns: int) -> Ready | None:
        """Return what is to be answered now; None when nothing is ready.

        Raises:
            UsageError: a camera begins with frames that are not fit.
            DataError: a source has failed for good.
        """
        self._take_in(now_ns)
        ready: list[Ready] = []
        while (pair := self.pairer.poll(now_ns)) is not None:
            if any(getattr(pair, sensor) is None for sensor in self._required):
                self._overtake(pair)
                continue
            ready.append(Ready(pair, self.pairer.waited_ns))
            if self._keeps_all:
                return ready[0]
        if not ready:
            return None
        newest = self._newest(ready)
        for other in ready:
            if other is not newest:
                self._overtake(other.pair)
        return newest

    def due_ns(self) -> int | None:
        """The moment at which to ask again though no frame has come."""
        return self.pairer.due_ns()

    @property
    def ended(self) -> bool:
        """Whether no source will give another frame and every pair was handed out."""
        return len(self._ended) == len(self.captures) and self.pairer.due_ns() is None

    def counts(self) -> dict[str, int]:
        """As LiveReport; of a frame that was handed out, and overtaken, only that it was dropped."""
        counts = {name: self.pairer.counts[name] for name in _COUNTS}
        for sensor, capture in self.captures.items():
            counts[f"{sensor}_dropped"] += capture.dropped
        return counts

    def _take_in(self, now_ns: int) -> None:
        for sensor, capture in self.captures.items():
            has_ended = capture.ended  # asked before the last frames are taken
            while not (self._keeps_all and self.pairer.waiting(sensor) >= _WAITING):
                frame = capture.poll()
                if frame is None:
                    break
                if self._is_admitted(sensor, frame):
                    self.pairer.push_at(sensor, frame, now_ns)
            if has_ended and sensor not in self._ended:
                self._ended.add(sensor)
                self.pairer.end(sensor)

    def _is_admitted(self, sensor: Sensor, frame: Frame) -> bool:
        kind = (frame.image.shape, frame.image.dtype)
        if self._accepted.get(sensor) == kind:
            return True
        if self._refused.get(sensor) != kind:
            try:
                self._admit(sensor, frame)
            except DataError as error:
                if sensor not in self._accepted and self.captures[sensor].is_beginning:
                    raise UsageError(str(error)) from None
                self._refused[sensor] = kind
                if self._tell is not None:
                    self._tell(sensor, str(error))
            else:
                self._accepted[sensor] = kind
                return True
        self.pairer.counts[f"{sensor}_refused"] += 1
        return False

    def _newest(self, ready: Sequence[Ready]) -> Ready:
        """The newest whole pair, unless it lies more than a budget behind the newest lone frame."""
        whole = [one for one in ready if one.pair.skew_ns is not None]
        if whole and ready[-1].pair.time_ns - whole[-1].pair.time_ns <= self.pairer.budget_ns:
            return whole[-1]
        return ready[-1]

    def _overtake(self, pair: Pair) -> None:
        counts = self.pairer.counts
        counts["pairs" if pair.skew_ns is not None else "rgb_alone" if pair.rgb is not None else "thermal_alone"] -= 1
        for sensor in OTHER:  # a held frame serves other pairs too
            counts[f"{sensor}_dropped"] += getattr(pair, sensor) is not None and sensor != self.pairer.rules.hold
