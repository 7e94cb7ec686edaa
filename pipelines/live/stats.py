"""Counters and percentiles of a running pipeline, in memory that does not grow."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

_STEP = math.log(1.02)
_SMALLEST = 1e-3


class Histogram:
    """Percentiles of values from 0 up, to within 1 %: counts in bins that widen by 2 % each."""

    def __init__(self) -> None:
        self.count = 0
        self.largest = 0.0
        self._bins: Counter[int] = Counter()

    def add(self, value: float) -> None:
        """Count one value; below a thousandth counts as zero."""
        self.count += 1
        self.largest = max(self.largest, value)
        self._bins[round(math.log(value / _SMALLEST) / _STEP) + 1 if value > _SMALLEST else 0] += 1

    def percentile(self, percent: float) -> float | None:
        """The value that ``percent`` of all values do not exceed; None before the first."""
        if not self.count:
            return None
        rank = max(1, math.ceil(percent / 100 * self.count))
        seen = 0
        for index in sorted(self._bins):
            seen += self._bins[index]
            if seen >= rank:
                return 0.0 if index == 0 else min(self.largest, _SMALLEST * math.exp((index - 1) * _STEP))
        raise AssertionError("bins hold every value")

    def with_those_of(self, other: "Histogram") -> "Histogram":
        """Return a new one that holds the values of both."""
        both = Histogram()
        both.count, both.largest = self.count + other.count, max(self.largest, other.largest)
        both._bins = self._bins + other._bins
        return both

    def as_dict(self) -> dict[str, float | None]:
        """p50, p95, p99 and the largest, None before the first value."""
        points = {f"p{percent}": self.percentile(percent) for percent in (50, 95, 99)}
        points["max"] = self.largest if self.count else None
        return {name: None if value is None else round(value, 3) for name, value in points.items()}


class LiveStats:
    """What a live run tells of itself."""

    STAGES = ("wait", "pair", "prepare", "infer", "sinks")
    """pair: what the first frame of a pair waited for the other one, of cameras only."""

    def __init__(self) -> None:
        self.answers = 0
        self.detections = 0
        self.skew_ms = Histogram()
        self.latency_ms = Histogram()
        """From the stamp of the newer frame to its answer, of cameras only."""
        self.stage_ms = {stage: Histogram() for stage in self.STAGES}

    def add(
        self, skew_ns: int | None, stage_s: Mapping[str, float], detections: int, latency_s: float | None = None
    ) -> None:
        """Count one answered pair: its skew, the seconds of each stage, and how many objects (or classes) it shows."""
        self.answers += 1
        self.detections += detections
        if skew_ns is not None:
            self.skew_ms.add(abs(skew_ns) / 1e6)
        if latency_s is not None:
            self.latency_ms.add(max(0.0, latency_s * 1e3))
        for stage, seconds in stage_s.items():
            self.stage_ms[stage].add(seconds * 1e3)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers: answers, detections, percentiles of skew (absolute) and of each stage in ms.

        Of cameras also the latency, and the stage ``pair``.
        """
        is_live = self.latency_ms.count > 0
        return {
            "answers": self.answers,
            "detections": self.detections,
            "skew_ms": self.skew_ms.as_dict(),
            "stage_ms": {name: of.as_dict() for name, of in self.stage_ms.items() if of.count or name != "pair"},
            **({"latency_ms": self.latency_ms.as_dict()} if is_live else {}),
        }
