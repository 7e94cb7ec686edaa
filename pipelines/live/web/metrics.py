"""Figures for Prometheus: base units, totals as counters, one name for each thing and labels for its kinds."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, get_args

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipelines.live.source_status import SourceState
from pipelines.live.web.viewed import Viewed

_QUANTILES = {"p50": "0.5", "p95": "0.95", "p99": "0.99"}
_COUNTED = {
    "frames": "Frames taken in",
    "dropped": "Frames that made room for newer ones",
    "reconnects": "Times that a source was opened anew and gave a frame",
    "stalls": "Times that a source stopped without closing",
}
_QUEUED = {
    "delivered": "Answers that a sink has delivered",
    "dropped": "Answers that a sink could not take in time",
    "errors": "Failures of a sink",
}
_SAMPLES = {"frames": "rgbt_live_source_frames", "dropped": "rgbt_live_source_frames_dropped"}


class LiveCollector(Collector):
    """Asks every rig when it is scraped.

    Args:
        states: What is asked, by the name that becomes the label ``rig``.
        viewers: Streams of a rig's pictures that are open.
        encoded: Pictures of a rig encoded so far.
    """

    def __init__(
        self, states: Mapping[str, Viewed], viewers: Callable[[str], int], encoded: Callable[[str], int]
    ) -> None:
        self._states = states
        self._viewers = viewers
        self._encoded = encoded

    def collect(self) -> Iterator[Metric]:
        """Yield every figure of one snapshot of each rig."""
        families: dict[str, Metric] = {}
        for rig, state in self._states.items():
            for metric in self._of_one(rig, state):
                labelled = [sample._replace(labels={"rig": rig, **sample.labels}) for sample in metric.samples]
                family = families.setdefault(metric.name, metric)
                family.samples = labelled if family is metric else [*family.samples, *labelled]
        yield from families.values()

    def _of_one(self, rig: str, state: Viewed) -> Iterator[Metric]:
        told = state.snapshot()
        yield _answers(told["present"])
        yield _gauge("rgbt_live_answer_rate", "Answers per second of late", told["rate"])
        yield _gauge("rgbt_live_ready", "1 where an answer came of late", float(told["ready"]))
        yield _gauge("rgbt_live_start_time_seconds", "Unix time at which the run began", told["started_at"])
        yield from _frames(told["counts"])
        yield _quantiles(
            "rgbt_live_latency_seconds", "From the newer frame's receipt to the answer", told["latency_ms"]
        )
        yield _quantiles("rgbt_live_skew_seconds", "Difference of capture times in a pair", told["skew_ms"])
        yield _stages(told["stage_ms"])
        yield from _sources(told["sources"])
        yield from _sinks(told["sinks"])
        yield _gauge("rgbt_live_page_viewers", "Streams of pictures that are open", self._viewers(rig))
        yield _counter("rgbt_live_page_pictures", "Pictures encoded for the page", self._encoded(rig))


def metrics_text(collector: Collector) -> Callable[[], bytes]:
    """Make what /metrics answers, the figures of the process (memory, descriptors, CPU) included."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)
    return lambda: generate_latest(registry)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=float(value))


def _answers(present: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily("rgbt_live_answers", "Answers given, by the sensors there were", labels=["present"])
    for name, count in present.items():
        family.add_metric([name], float(count))
    return family


def _frames(counts: Mapping[str, int]) -> Iterator[Metric]:
    late = CounterMetricFamily("rgbt_live_frames_late", "Frames that came after their turn", labels=["sensor"])
    lost = CounterMetricFamily("rgbt_live_frames_dropped", "Frames that no answer was given to", labels=["sensor"])
    refused = CounterMetricFamily(
        "rgbt_live_frames_refused", "Frames of a size or depth that the model does not take", labels=["sensor"]
    )
    for sensor in ("rgb", "thermal"):
        late.add_metric([sensor], float(counts.get(f"{sensor}_late", 0)))
        lost.add_metric([sensor], float(counts.get(f"{sensor}_dropped", 0)))
        refused.add_metric([sensor], float(counts.get(f"{sensor}_refused", 0)))
    yield late
    yield lost
    yield refused


def _quantiles(name: str, text: str, told_ms: Mapping[str, float | None]) -> Metric:
    family = Metric(name, f"{text}; of the last moments", "summary")
    _add_quantiles(family, {}, told_ms)
    return family


def _stages(told_ms: Mapping[str, Mapping[str, float | None]]) -> Metric:
    family = Metric("rgbt_live_stage_seconds", "Time of a stage for each answer; of the last moments", "summary")
    for stage, points in told_ms.items():
        _add_quantiles(family, {"stage": stage}, points)
    return family


def _add_quantiles(family: Metric, labels: dict[str, str], told_ms: Mapping[str, float | None]) -> None:
    for point, quantile in _QUANTILES.items():
        value = told_ms.get(point)
        if value is not None:
            family.add_sample(family.name, {**labels, "quantile": quantile}, value / 1e3)


def _sources(sources: Mapping[str, Any]) -> Iterator[Metric]:
    told = {sensor: asdict(status) if is_dataclass(status) else status for sensor, status in sources.items()}  # type: ignore[arg-type]
    for field, text in _COUNTED.items():
        name = _SAMPLES.get(field, f"rgbt_live_source_{field}")
        yield _labelled(CounterMetricFamily(name, text, labels=["sensor"]), told, field)
    state = GaugeMetricFamily("rgbt_live_source_state", "1 for the state a source is in", labels=["sensor", "state"])
    for sensor, status in told.items():
        for name in get_args(SourceState):
            state.add_metric([sensor, name], float(status["state"] == name))
    yield state
    yield _labelled(GaugeMetricFamily("rgbt_live_source_frame_rate", "Frames/s", labels=["sensor"]), told, "fps")
    age = GaugeMetricFamily("rgbt_live_source_frame_age_seconds", "Since the last frame", labels=["sensor"])
    yield _labelled(age, told, "age_s")


def _sinks(sinks: Mapping[str, Any]) -> Iterator[Metric]:
    for field, text in _QUEUED.items():
        yield _labelled(CounterMetricFamily(f"rgbt_live_sink_{field}", text, labels=["sink"]), sinks, field)
    yield _labelled(
        GaugeMetricFamily("rgbt_live_sink_queued", "Answers in a sink's queue", labels=["sink"]), sinks, "queued"
    )
    failing = GaugeMetricFamily("rgbt_live_sink_failing", "1 where a sink's last attempt failed", labels=["sink"])
    yield _labelled(failing, sinks, "failing")


def _labelled(
    family: CounterMetricFamily | GaugeMetricFamily, told: Mapping[str, Mapping[str, Any]], field: str
) -> Metric:
    rows: Iterable[tuple[str, Any]] = ((name, figures.get(field)) for name, figures in told.items())
    for name, value in rows:
        if value is not None:
            family.add_metric([name], float(value))
    return family
