"""The loop over cameras: of one rig, or of several that share a session."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic, monotonic_ns, perf_counter

from data.errors import DataError
from data.frame import Frame
from data.prepare import InputSpec
from data.rig import Rig
from pipelines.live.answering import Answerer, Job, Model, answer_batches
from pipelines.live.camera_pairing import LivePairer
from pipelines.live.capture import Capture, stop_all
from pipelines.live.feed import Feed
from pipelines.live.operation import Operation
from pipelines.live.outbox import Outbox, close_sinks, statuses
from pipelines.live.pairing import Sensor
from pipelines.live.report import DEFAULTS, LiveReport, LiveSettings, budget_ns, pairing_rules
from pipelines.live.sinks import Sink
from pipelines.live.source_status import SourceStatus
from pipelines.live.sources import Source
from pipelines.live.state import LiveState

_LOOK_S = 0.1
"""Longest sleep: then the stop is looked at, and the watchdog is told."""
_PERIOD_NS = 33_000_000
_LATEST_DEPTH, _DEEPEST = 2, 16
_GRACE_S = 0.5
"""Beyond the time that captures and then outboxes have to end, for threads on a busy machine."""


@dataclass(frozen=True)
class CameraRig:
    """What belongs to one pair of cameras."""

    name: str
    sources: Mapping[Sensor, Source]
    rig: Rig
    sinks: Sequence[Sink]
    """They must not keep the loop waiting, see pipelines.live.outbox."""
    settings: LiveSettings = DEFAULTS
    state: LiveState = field(default_factory=LiveState)
    """Is kept up to date for viewers."""


def run_cameras(
    model: Model,
    inputs: InputSpec,
    rigs: Sequence[CameraRig],
    *,
    stop: threading.Event,
    operation: Operation | None = None,
    batch: int = 8,
) -> dict[str, LiveReport]:
    """Answer the newest pair of every rig until all sources have ended, a limit is reached or ``stop`` is set.

    Pairs of several rigs that are ready at one moment share a batch; nobody waits for a rig that has none. A rig that
    fails among others is left behind, which is told at once and in its report. A rig that has ended is closed, on a
    thread, while the others go on.

    Args:
        model: Answers batches.
        inputs: What it takes.
        rigs: Their names differ.
        stop: Ends the run after the batch in hand; a signal handler may set it.
        operation: Status line, log lines, notes to systemd.
        batch: Pairs at once; 1 for an engine that takes no more.

    Returns:
        Name of the rig → report.

    Raises:
        DataError: the only rig fails, or the last one that was left.
    """
    operation = operation or Operation()
    wake = threading.Event()
    stations = [_Station(inputs, rig, wake, operation) for rig in rigs]
    states = [station.state for station in stations]
    operation.begin(states)
    ended_by = "failure"
    try:
        _turn(model, stations, stop, wake, operation, batch)
        ended_by = "stop" if stop.is_set() else _ended_by(stations)
    finally:
        operation.stopping(states)
        _shut(stations, is_failing=ended_by == "failure")
        operation.end(ended_by, states)
    return {station.rig.name: station.report(stop.is_set()) for station in stations}


def _turn(
    model: Model,
    stations: Sequence["_Station"],
    stop: threading.Event,
    wake: threading.Event,
    operation: Operation,
    batch: int,
) -> None:
    states = [station.state for station in stations]
    while not stop.is_set():
        running = [station for station in stations if station.ended_by is None]
        if not running:
            break
        wake.clear()  # before the captures are asked, so that no frame is missed
        jobs = []
        for station in running:
            try:
                job = station.next()
            except DataError as error:
                if len(running) == 1:
                    raise
                station.fail(error, operation)
            else:
                jobs += [(station.answerer, job)] if job is not None else []
        if jobs:
            answer_batches(model, jobs, batch)
        operation.turn(states)
        for station in running:
            station.look_for_end(operation)
        if not jobs:
            wake.wait(min(station.sleep_s() for station in running))


class _Station:
    """One rig at work."""

    def __init__(self, inputs: InputSpec, rig: CameraRig, wake: threading.Event, operation: Operation) -> None:
        self.rig = rig
        self.state = rig.state
        self.ended_by: str | None = None
        self._failure: str | None = None
        self._hanging: tuple[str, ...] = ()
        self._statuses: dict[Sensor, SourceStatus] = {}
        self._given_up: list[Sensor] = []
        self._counts: dict[str, int] = {}
        self._errors: list[DataError] = []
        self._closing: threading.Thread | None = None
        self._seconds, self._answers = 0.0, 0
        self._first_at: float | None = None
        self._asked_at = perf_counter()
        settings, rules = rig.settings, pairing_rules(rig.sources, rig.rig, rig.settings)
        pairer = LivePairer(rules, budget_ns(rules, settings), learns_skew=settings.max_skew_ns is None)
        self.captures = {sensor: _capture(source, rig, wake) for sensor, source in rig.sources.items()}
        self._feed = Feed(
            self.captures,
            pairer,
            self._admit,
            required=settings.required,
            keeps_all=settings.every_frame,
            tell=lambda sensor, why: operation.refuse(rig.name, sensor, why),
        )
        self.answerer = Answerer(
            inputs, rig.rig, rig.sinks, settings.score, state=self.state, counts=self._feed.counts, is_live=True
        )
        self.state.watch(self._source_statuses, lambda: statuses(rig.sinks))

    def next(self) -> Job | None:
        """Return the pair that is to be answered now, made ready."""
        ready = self._feed.next(monotonic_ns())
        if ready is None:
            return None
        now = perf_counter()
        waited_s = 0.0 if self._first_at is None else now - self._asked_at
        self._first_at, self._asked_at = self._first_at or now, now
        return self.answerer.prepare(ready.pair, waited_s, ready.waited_ns / 1e9)

    def sleep_s(self) -> float:
        """How long nothing needs to be looked at, unless a frame comes."""
        due_ns = self._feed.due_ns()
        return _LOOK_S if due_ns is None else min(_LOOK_S, max(0.0, (due_ns - monotonic_ns()) / 1e9))

    def look_for_end(self, operation: Operation) -> None:
        """Notice that the limit is reached, or that the sources have ended; tell what was counted without an answer."""
        if self.ended_by is not None:
            return
        self.state.counted(self._feed.counts())
        answers = self.answerer.stats.answers
        if answers > self._answers and self._first_at is not None:
            self._answers, self._seconds = answers, perf_counter() - self._first_at
        self._look_for_given_up(operation)
        if self.ended_by is None:
            self.ended_by = "limit" if answers == self.rig.settings.limit else "end" if self._feed.ended else None
        if self.ended_by is not None:
            self.begin_to_close()

    def _look_for_given_up(self, operation: Operation) -> None:
        """Tell once of a camera that stayed away for too long; end where the others are no use without it."""
        lost = [sensor for sensor, capture in self.captures.items() if capture.gave_up]
        left = [sensor for sensor in self.captures if sensor not in lost]
        if lost and (not left or set(lost) & set(self.rig.settings.required)):
            self.ended_by = "gave up"
        for sensor in lost:
            if sensor not in self._given_up:
                why = self.captures[sensor].status().last_error or "given up"
                operation.give_up(self.rig.name, sensor, why, left[0] if self.ended_by is None else None)
        self._given_up = lost

    def fail(self, error: DataError, operation: Operation) -> None:
        """Leave the run, so that the other rigs go on."""
        self.ended_by, self._failure = "failure", str(error)
        operation.fail(self.rig.name, str(error))
        self.begin_to_close(is_failing=True)

    def begin_to_close(self, *, is_failing: bool = False) -> None:
        """Stop captures and close sinks on a thread; what was counted and how the cameras were stays as it is now."""
        if self._closing is not None:
            return
        self._statuses = {sensor: _status(capture) for sensor, capture in self.captures.items()}
        self._counts = self._feed.counts()
        self.state.counted(self._counts)
        self.state.end()
        self._closing = threading.Thread(target=self._close, args=(is_failing,), name="close", daemon=True)
        self._closing.start()
        # Here, as a window belongs to the thread that opened it; whatever may take its time is an outbox.
        here = [sink for sink in self.rig.sinks if not isinstance(sink, Outbox)]
        self._errors += close_sinks(here, 0.0, failed=is_failing)

    def wait_until_closed(self, ends_at: float) -> list[DataError]:
        """Wait for it until that moment of the monotonic clock; return what went wrong."""
        assert self._closing is not None
        self._closing.join(max(0.0, ends_at - monotonic()))
        return self._errors

    def _close(self, is_failing: bool) -> None:
        deadline_s = self.rig.settings.deadline_s
        self._hanging = tuple(stop_all(list(self.captures.values()), deadline_s))
        outboxes = [sink for sink in self.rig.sinks if isinstance(sink, Outbox)]
        self._errors += close_sinks(outboxes, deadline_s, failed=is_failing)

    def _source_statuses(self) -> dict[str, SourceStatus]:
        """How the cameras are; of a rig that has ended none is open."""
        if self._closing is None:
            return {sensor: _status(capture) for sensor, capture in self.captures.items()}
        return {sensor: replace(status, state="ended") for sensor, status in self._statuses.items()}

    def report(self, was_stopped: bool) -> LiveReport:
        """What this rig did."""
        return LiveReport(
            self._seconds,
            self._counts,
            self.answerer.stats,
            self.ended_by or ("stop" if was_stopped else "end"),
            self._hanging,
            self._statuses,
            statuses(self.rig.sinks),
            self._failure,
            tuple(self._given_up),
        )

    def _admit(self, sensor: Sensor, frame: Frame) -> None:
        """Have a frame of a new size or depth refused here, where the other sensor can go on without it."""
        image, where = frame.image, f"{frame.source} frame {frame.sequence}"
        size = self.answerer.rgb_size
        if sensor == "rgb":
            self.answerer.preparer(image, None, where)
        else:
            self.answerer.preparer(None, image, where, rgb_size=size)


def _status(capture: Capture) -> SourceStatus:
    """How a camera is; one that is given up has ended, though its threads may be about to."""
    status = capture.status()
    return replace(status, state="ended") if capture.gave_up else status


def _capture(source: Source, rig: CameraRig, wake: threading.Event) -> Capture:
    """Keep as many of the newest frames as the rig's offset makes one camera wait for the other."""
    if rig.settings.every_frame:
        source.policy = "ordered"
        return Capture(source, wake=wake)
    late = -(-abs(rig.rig.time_offset_ns) // (source.period_ns or _PERIOD_NS))
    return Capture(source, min(_DEEPEST, _LATEST_DEPTH + late), wake)


def _ended_by(stations: Sequence[_Station]) -> str:
    """Why the loop has come to its end: because nothing is left to look at, or in order."""
    return "gave-up" if all(station.ended_by in ("gave up", "failure") for station in stations) else "end"


def _shut(stations: Sequence[_Station], *, is_failing: bool) -> None:
    """Close all rigs at once, within one deadline; where the run is failing, its own error is the one to tell."""
    for station in stations:
        station.begin_to_close(is_failing=is_failing)
    ends_at = monotonic() + _GRACE_S + 2 * max(station.rig.settings.deadline_s for station in stations)
    errors = [
        error for station in stations for error in station.wait_until_closed(ends_at) if station.ended_by != "failure"
    ]
    if errors and not is_failing:
        raise errors[0]
