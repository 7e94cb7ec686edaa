"""What a running pipeline says of itself, to be read from any thread."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from data.frame import Pair
from data.prepare import Prepared
from pipelines.live.answer import Answer
from pipelines.live.stats import Histogram, LiveStats

READY_S = 5.0
"""A pipeline that answered so lately is ready."""
_WINDOW_S = 30.0
_RATE_S = 5.0


class Latest(NamedTuple):
    """The newest answer, and what it was given to."""

    pair: Pair
    prepared: Prepared
    answer: Answer


Reporting = Callable[[], Mapping[str, Any]]
"""What returns name → what it says of itself now."""


def _nothing() -> Mapping[str, Any]:
    return {}


class Recent:
    """Percentiles of the last half to whole minute: two histograms, of which the older one gives way."""

    def __init__(self) -> None:
        self._older, self._newer = Histogram(), Histogram()
        self._since: float | None = None

    def add(self, value: float, now_s: float) -> None:
        """Count one value."""
        self._turn(now_s)
        self._newer.add(value)

    def as_dict(self, now_s: float) -> dict[str, float | None]:
        """p50, p95, p99, max; None where there was no value."""
        self._turn(now_s)
        return self._older.with_those_of(self._newer).as_dict()

    def _turn(self, now_s: float) -> None:
        if self._since is None:
            self._since = now_s
        elif now_s - self._since >= _WINDOW_S:
            is_stale = now_s - self._since >= 2 * _WINDOW_S
            self._older = Histogram() if is_stale else self._newer
            self._newer, self._since = Histogram(), now_s


class LiveState:
    """Thread-safe account of one rig: the loop writes it, the page, health checks and log lines read it.

    Percentiles and rates are those of the last moments (30 to 60 s, and 5 s), the counts those of the whole run.

    Args:
        name: Of the rig.
        clock: Seconds that only rise.
    """

    def __init__(self, name: str = "live", clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.started_at = time.time()
        """Unix time."""
        self._clock = clock
        self._changed = threading.Condition()
        self._latest: Latest | None = None
        self._answers = 0
        self._present = dict.fromkeys(("both", "rgb", "thermal"), 0)
        self._detections = 0
        self._answered_at: float | None = None
        self._beat_at: float | None = None
        self._ended_at: float | None = None
        self._counts: dict[str, int] = {}
        self._skew, self._latency = Recent(), Recent()
        self._stages = {stage: Recent() for stage in LiveStats.STAGES}
        self._times: deque[float] = deque(maxlen=1024)
        self._sources: Reporting = _nothing
        self._sinks: Reporting = _nothing

    @property
    def latest(self) -> Latest | None:
        """The newest answer with its pair and what the model was given; None before the first."""
        return self._latest

    @property
    def silent_s(self) -> float | None:
        """Seconds since the loop last turned; None before it began, and when it has ended."""
        beat_at = self._beat_at
        return None if beat_at is None or self._ended_at is not None else self._clock() - beat_at

    def beat(self) -> None:
        """Take a heartbeat of the loop, whether or not there was anything to answer."""
        self._beat_at = self._clock()

    def end(self) -> None:
        """The loop has ended: from now on nothing is ready, and the rate stays what it was."""
        with self._changed:
            self._ended_at = self._ended_at or self._clock()

    def watch(self, sources: Reporting, sinks: Reporting) -> None:
        """Say how sources and sinks are asked; both are called by whoever takes a snapshot."""
        self._sources, self._sinks = sources, sinks

    def wait(self, index: int, timeout_s: float) -> Latest | None:
        """Wait for an answer of a higher index than this; None when none came in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._latest is not None and self._latest.answer.index > index, timeout_s)
            return self._latest if self._latest is not None and self._latest.answer.index > index else None

    def answered(
        self,
        latest: Latest,
        stage_s: Mapping[str, float],
        latency_s: float | None,
        counts: Mapping[str, int],
    ) -> None:
        """Take one answer: how long each stage took, how old the newer frame was, and the run's counts so far."""
        now, skew_ns = self._clock(), latest.pair.skew_ns
        with self._changed:
            self._latest = latest
            self._answers += 1
            self._present["thermal" if latest.pair.rgb is None else "both" if skew_ns is not None else "rgb"] += 1
            self._detections += latest.answer.count
            self._answered_at = self._beat_at = now
            self._counts = dict(counts)
            self._times.append(now)
            if skew_ns is not None:
                self._skew.add(abs(skew_ns) / 1e6, now)
            if latency_s is not None:
                self._latency.add(max(0.0, latency_s * 1e3), now)
            for stage, seconds in stage_s.items():
                self._stages[stage].add(seconds * 1e3, now)
            self._changed.notify_all()

    def counted(self, counts: Mapping[str, int]) -> None:
        """Take the run's counts where no answer came."""
        with self._changed:
            self._counts = dict(counts)

    def snapshot(self) -> dict[str, Any]:
        """Everything but the pictures.

        Returns:
            name, answers, present (answers by the sensors that there were: both, rgb, thermal), detections, rate
            (answers per second over the last 5 s), counts (as LiveReport's), stage_ms (stage → p50, p95, p99, max),
            skew_ms and latency_ms (likewise), sources (sensor → SourceStatus), sinks (name → SinkStatus as a dict),
            started_at (Unix time), uptime_s, age_s (seconds since the last answer, None before the first) and ready
            (an answer within 5 s, and the loop runs).
        """
        now = self._clock()
        with self._changed:
            age_s = None if self._answered_at is None else now - self._answered_at
            told = {
                "name": self.name,
                "answers": self._answers,
                "present": dict(self._present),
                "detections": self._detections,
                "rate": self._rate(now if self._ended_at is None else self._ended_at),
                "counts": dict(self._counts),
                "stage_ms": {stage: recent.as_dict(now) for stage, recent in self._stages.items()},
                "skew_ms": self._skew.as_dict(now),
                "latency_ms": self._latency.as_dict(now),
                "started_at": self.started_at,
                "uptime_s": time.time() - self.started_at,
                "age_s": age_s,
                "ready": age_s is not None and age_s <= READY_S and self._ended_at is None,
            }
        return {**told, "sources": dict(self._sources()), "sinks": dict(self._sinks())}

    def _rate(self, now: float) -> float:
        """Answers per second over the last 5 s, or since the first one where that is shorter."""
        while self._times and now - self._times[0] > _RATE_S:
            self._times.popleft()
        if not self._times:
            return 0.0
        is_whole = self._answers > len(self._times) and len(self._times) < (self._times.maxlen or 0)
        return len(self._times) / max(_RATE_S if is_whole else now - self._times[0], 1 / _RATE_S)
