"""What a user may choose about a run, and what the run says at its end."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from data.rig import Rig
from pipelines.live.pairing import PairingRules, Sensor, default_max_skew_ns
from pipelines.live.source_status import SourceStatus
from pipelines.live.sources import Source
from pipelines.live.stats import Histogram, LiveStats
from pipelines.live.status import counted

_LATE_NS = 50_000_000
"""That a frame may come late by: network, decoder, scheduler."""
_LEAST_BUDGET_NS = 100_000_000


@dataclass(frozen=True)
class LiveSettings:
    """What a user may choose about a run."""

    score: float = 0.3
    """Least score of a box that is handed on."""
    max_skew_ns: int | None = None
    """Largest difference of capture times in a pair; None: half the slower sensor's period, or 50 ms."""
    hold: bool = False
    """True: a frame of the slower sensor serves every frame of the other that is near."""
    limit: int | None = None
    """End after this many answers."""
    deadline_s: float = 2.0
    """Time that capture threads have to end, and outboxes to deliver what waits."""
    budget_ns: int | None = None
    """Of cameras: longest that a frame waits for its partner; None: see budget_ns()."""
    every_frame: bool = False
    """Of cameras: every pair is answered, however late; False: the newest one."""
    required: tuple[Sensor, ...] = ()
    """Of cameras: sensors without which the model has no answer."""


DEFAULTS = LiveSettings()


@dataclass(frozen=True)
class LiveReport:
    """What a run did; ``as_dict`` is what ``--json`` prints."""

    seconds: float
    """From the first pair to the last answer."""
    counts: Mapping[str, int]
    """pairs, rgb_alone, thermal_alone, and the frames dropped of each sensor."""
    stats: LiveStats
    ended_by: str
    """end (of the sources), limit, stop, failure, or gave up (on the cameras that it needs)."""
    hanging: tuple[str, ...] = ()
    """Sources whose read did not return within the deadline."""
    sources: Mapping[Sensor, SourceStatus] = field(default_factory=dict)
    """Of cameras: how they were at the end."""
    sinks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of outboxes: what they delivered and lost."""
    failure: str | None = None
    """Of one rig among several: why it ended before the others."""
    given_up: tuple[Sensor, ...] = ()
    """Cameras that stayed away for too long."""

    @property
    def pairs_per_s(self) -> float:
        """Answers for each second between the first pair and the last answer."""
        return self.stats.answers / self.seconds if self.seconds > 0 else 0.0

    def warnings(self) -> list[str]:
        """What a user should know: sources that hang, two sensors that never met."""
        lines = [f"{name}: a read did not return; the thread was left behind" for name in self.hanging]
        for sensor, source in self.sources.items():
            if source.state in ("ended", "down") and source.last_error not in (None, self.failure):
                is_over = "ended" if source.state == "ended" else "was down at the end"
                lines.append(f"{sensor} {is_over}: {source.last_error}")
        if self.counts["rgb_alone"] and self.counts["thermal_alone"] and not self.counts["pairs"]:
            lines.append(
                "no RGB frame met a thermal frame: the recordings' times do not overlap; "
                "set time_offset_ms in the rig (added to thermal times), or --max-skew"
            )
        for name, status in self.sinks.items():
            if status["dropped"]:
                why = f" (last: {status['last_error']})" if status["last_error"] else ""
                lines.append(f"{name}: {status['dropped']} answers were not delivered{why}")
        return lines if self.failure is None else [self.failure, *lines]

    def lines(self, provider: str | None) -> list[str]:
        """What ``rgbt live`` prints for people; no provider: nothing was ever computed."""
        if provider is None:
            return ["stopped before the first frame"]
        infer, skew, latency = self.stats.stage_ms["infer"], self.stats.skew_ms, self.stats.latency_ms
        lines = [f"{self.stats.answers} answers, {self.pairs_per_s:.1f}/s: {counted(self.counts)}"]
        if self.stats.answers:
            lines.append(f"inference {_figures(infer)} on {provider}")
        if skew.count:
            lines.append(f"skew {_figures(skew)}")
        if latency.count:
            lines.append(f"latency {_figures(latency)}, wait for the partner {_figures(self.stats.stage_ms['pair'])}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text."""
        told: dict[str, Any] = {
            **self.stats.as_dict(),
            "seconds": round(self.seconds, 3),
            "pairs_per_s": round(self.pairs_per_s, 2),
            "counts": dict(self.counts),
            "ended_by": self.ended_by,
            "warnings": self.warnings(),
        }
        if self.sources:
            told["sources"] = {sensor: asdict(status) for sensor, status in self.sources.items()}
            told["given_up"] = list(self.given_up)
        if self.sinks:
            told["sinks"] = dict(self.sinks)
        return told


def never_begun() -> LiveReport:
    """Of a run that was stopped before its first frame."""
    names = ("pairs", "rgb_alone", "thermal_alone", "rgb_dropped", "thermal_dropped")
    return LiveReport(0.0, dict.fromkeys(names, 0), LiveStats(), "stop")


def _figures(of: Histogram) -> str:
    return f"{of.percentile(50):.1f} ms (99 %: {of.percentile(99):.1f} ms)"


def pairing_rules(sources: Mapping[Sensor, Source], rig: Rig, settings: LiveSettings) -> PairingRules:
    """Rules of pairing from what the sources say of their rates."""
    periods = {sensor: source.period_ns for sensor, source in sources.items()}
    rgb, thermal = periods.get("rgb"), periods.get("thermal")
    slower: Sensor = "rgb" if rgb and thermal and rgb > thermal else "thermal"
    skew_ns = settings.max_skew_ns
    return PairingRules(
        max_skew_ns=default_max_skew_ns(rgb, thermal) if skew_ns is None else skew_ns,
        thermal_offset_ns=rig.time_offset_ns,
        rgb_period_ns=rgb,
        hold=slower if settings.hold else None,
    )


def budget_ns(rules: PairingRules, settings: LiveSettings) -> int:
    """Longest that a camera's frame waits: for the skew, the offset that the rig knows of, and 50 ms of lateness."""
    if settings.budget_ns is not None:
        return settings.budget_ns
    return max(_LEAST_BUDGET_NS, rules.max_skew_ns + abs(rules.thermal_offset_ns) + _LATE_NS)
