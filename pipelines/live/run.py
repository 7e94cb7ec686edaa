"""The loop: pair, prepare, infer, hand on."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol, TextIO

from numpy.typing import NDArray

from data.errors import DataError
from data.frame import Frame, Pair
from data.prepare import InputSpec, Preparer
from data.rig import Rig
from pipelines.live.answer import read_answer
from pipelines.live.capture import Capture, NoFrameYetError, stop_all
from pipelines.live.pairing import Pairer, PairingRules, Sensor, default_max_skew_ns, pair_frames
from pipelines.live.sinks import Sink
from pipelines.live.sources import Source
from pipelines.live.stats import LiveStats
from pipelines.live.status import StatusLine

_LOOK_FOR_STOP_S = 0.2


class Model(Protocol):
    """What answers a batch: an export.session.Session, or a double of it."""

    def run(self, rgb: NDArray[Any], thermal: NDArray[Any], present: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Answer rgb [1,H,W,3], thermal [1,H,W], present [1,2]."""


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
    """Time that capture threads have to end."""


@dataclass(frozen=True)
class LiveReport:
    """What a run did; ``as_dict`` is what ``--json`` prints."""

    seconds: float
    """From the first pair to the last answer."""
    counts: Mapping[str, int]
    """pairs, rgb_alone, thermal_alone, and the frames dropped of each sensor."""
    stats: LiveStats
    ended_by: str
    """end of the sources, limit, or stop."""
    hanging: tuple[str, ...] = ()
    """Sources whose read did not return within the deadline."""

    @property
    def pairs_per_s(self) -> float:
        """Answers for each second between the first pair and the last answer."""
        return self.stats.answers / self.seconds if self.seconds > 0 else 0.0

    def warnings(self) -> list[str]:
        """What a user should know: sources that hang, two sensors that never met."""
        lines = [f"{name}: a read did not return; the thread was left behind" for name in self.hanging]
        if self.counts["rgb_alone"] and self.counts["thermal_alone"] and not self.counts["pairs"]:
            lines.append(
                "no RGB frame met a thermal frame: the recordings' times do not overlap; "
                "set time_offset_ms in the rig (added to thermal times), or --max-skew"
            )
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text."""
        return {
            **self.stats.as_dict(),
            "seconds": round(self.seconds, 3),
            "pairs_per_s": round(self.pairs_per_s, 2),
            "counts": dict(self.counts),
            "ended_by": self.ended_by,
            "warnings": self.warnings(),
        }


def run_live(
    model: Model,
    inputs: InputSpec,
    sources: Mapping[Sensor, Source],
    rig: Rig,
    sinks: Sequence[Sink],
    settings: LiveSettings = LiveSettings(),
    *,
    stop: threading.Event | None = None,
    status: TextIO | None = None,
) -> LiveReport:
    """Answer every pair of one or two sources until they end, the limit is reached or ``stop`` is set.

    Sources and sinks are closed in any case. The answers are those of ``model`` on the pairs as data.prepare
    makes them, frame by frame as ``rgbt evaluate`` would give them.

    Args:
        model: Answers a batch of one.
        inputs: What it takes.
        sources: One or both sensors.
        rig: How thermal lies on RGB, and its time offset.
        sinks: Each is given every answer, in order.
        settings: Score, pairing, limit.
        stop: Ends the run after the pair in hand; a signal handler may set it.
        status: Where a status line goes, if anywhere.

    Raises:
        DataError: a source cannot be read, a frame does not fit the bundle, or a sink cannot be written.
    """
    stop = stop or threading.Event()
    pairer = Pairer(pairing_rules(sources, rig, settings))
    answerer = _Answerer(model, inputs, rig, sinks, settings.score)
    line = StatusLine(status)
    captures = {sensor: Capture(source) for sensor, source in sources.items()}
    started = perf_counter()
    seconds, ended_by = 0.0, "end"
    try:
        for pair, waited_s in _waits(pair_frames(_pull(captures, stop), pairer)):
            if stop.is_set():
                break
            answerer(pair, waited_s)
            seconds = perf_counter() - started
            line.show(answerer.stats.answers, pairer.counts, seconds)
            if answerer.stats.answers == settings.limit:
                ended_by = "limit"
                break
    except BaseException:
        _shut(captures, sinks, line, settings.deadline_s, is_failing=True)
        raise
    hanging = _shut(captures, sinks, line, settings.deadline_s, is_failing=False)
    ended_by = "stop" if stop.is_set() else ended_by
    return LiveReport(seconds, _counts(pairer, captures), answerer.stats, ended_by, hanging)


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


class _Answerer:
    """Prepares a pair, has it answered, hands the answer to every sink, and times each stage."""

    def __init__(self, model: Model, inputs: InputSpec, rig: Rig, sinks: Sequence[Sink], score: float) -> None:
        self.stats = LiveStats()
        self._model = model
        self._prepare = Preparer(inputs, rig)
        self._sinks = sinks
        self._score = score
        self._rgb_size = rig.rgb_size if inputs.letterbox else inputs.rgb_size

    def __call__(self, pair: Pair, waited_s: float) -> None:
        start = perf_counter()
        if pair.rgb is not None:
            self._rgb_size = pair.rgb.size
        rgb = None if pair.rgb is None else pair.rgb.image
        thermal = None if pair.thermal is None else pair.thermal.image
        prepared = self._prepare(rgb, thermal, _name(pair), rgb_size=self._rgb_size)
        prepared_at = perf_counter()
        outputs = self._model.run(prepared.rgb[None], prepared.thermal[None], prepared.present[None])
        inferred_at = perf_counter()
        size = self._rgb_size or self._upright(pair)
        answer = read_answer(outputs, prepared, size, self.stats.answers, self._score)
        for sink in self._sinks:
            sink.write(pair, prepared, answer)
        stages = {
            "wait": waited_s,
            "prepare": prepared_at - start,
            "infer": inferred_at - prepared_at,
            "sinks": perf_counter() - inferred_at,
        }
        self.stats.add(pair.skew_ns, stages, answer.count)

    def _upright(self, pair: Pair) -> tuple[int, int]:
        """Where no RGB frame was ever seen, boxes are in pixels of the upright thermal frame."""
        assert pair.thermal is not None
        height, width = pair.thermal.size
        return (width, height) if self._prepare.rig.rotate in (90, 270) else (height, width)


def _name(pair: Pair) -> str:
    return " + ".join(f"{frame.source} frame {frame.sequence}" for frame in (pair.rgb, pair.thermal) if frame)


def _pull(captures: Mapping[Sensor, Capture], stop: threading.Event) -> Callable[[Sensor], Frame | None]:
    def pull(sensor: Sensor) -> Frame | None:
        while sensor in captures and not stop.is_set():
            try:
                return captures[sensor].get(_LOOK_FOR_STOP_S)
            except NoFrameYetError:
                continue
        return None

    return pull


def _waits(pairs: Iterator[Pair]) -> Iterator[tuple[Pair, float]]:
    """Yield each pair with the seconds that were spent waiting for it."""
    start = perf_counter()
    for pair in pairs:
        yield pair, perf_counter() - start
        start = perf_counter()


def _counts(pairer: Pairer, captures: Mapping[Sensor, Capture]) -> dict[str, int]:
    names = ("pairs", "rgb_alone", "thermal_alone", "rgb_dropped", "thermal_dropped", "rgb_late", "thermal_late")
    counts = {name: pairer.counts[name] for name in names}
    for sensor, capture in captures.items():
        counts[f"{sensor}_dropped"] += capture.dropped
    return counts


def _shut(
    captures: Mapping[Sensor, Capture],
    sinks: Sequence[Sink],
    line: StatusLine,
    deadline_s: float,
    *,
    is_failing: bool,
) -> tuple[str, ...]:
    """Stop captures and close every sink; where the run is failing already, its own error is the one to tell."""
    hanging = stop_all(list(captures.values()), deadline_s)
    line.close()
    errors = []
    for sink in sinks:
        try:
            sink.close(failed=is_failing)
        except DataError as error:
            errors.append(error)
    if errors and not is_failing:
        raise errors[0]
    return tuple(hanging)
