"""The loop over recordings, and the door to the one over cameras."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter

from data.errors import DataError
from data.frame import Frame, Pair
from data.prepare import InputSpec
from data.rig import Rig
from pipelines.live.answering import Answerer, Model, answer_one
from pipelines.live.cameras import CameraRig, run_cameras
from pipelines.live.capture import Capture, NoFrameYetError, stop_all
from pipelines.live.operation import Operation
from pipelines.live.outbox import close_sinks, statuses
from pipelines.live.pairing import Pairer, Sensor, pair_frames
from pipelines.live.reconnect import LiveSource
from pipelines.live.report import DEFAULTS, LiveReport, LiveSettings, pairing_rules
from pipelines.live.sinks import Sink
from pipelines.live.sources import Source
from pipelines.live.state import LiveState

_LOOK_FOR_STOP_S = 0.2


def run_live(
    model: Model,
    inputs: InputSpec,
    sources: Mapping[Sensor, Source],
    rig: Rig,
    sinks: Sequence[Sink],
    settings: LiveSettings = DEFAULTS,
    *,
    stop: threading.Event | None = None,
    state: LiveState | None = None,
    operation: Operation | None = None,
) -> LiveReport:
    """Answer what one or two sources give until they end, the limit is reached or ``stop`` is set.

    Of recordings every pair is answered in order, with the answers that ``model`` gives on the pairs as data.prepare
    makes them, frame by frame as ``rgbt evaluate`` would. Of cameras the newest pair is, see pipelines.live.cameras.
    Sources and sinks are closed in any case.

    Args:
        model: Answers a batch of one.
        inputs: What it takes.
        sources: One or both sensors.
        rig: How thermal lies on RGB, and its time offset.
        sinks: Each is given every answer, in order.
        settings: Score, pairing, limit.
        stop: Ends the run after the pair in hand; a signal handler may set it.
        state: Is kept up to date for viewers.
        operation: Status line, log lines, notes to systemd.

    Raises:
        DataError: a source cannot be read, a frame does not fit the bundle, or a sink cannot be written.
    """
    stop, operation = stop or threading.Event(), operation or Operation()
    are_cameras = {isinstance(source, LiveSource) or source.policy == "latest" for source in sources.values()}
    if len(are_cameras) > 1:
        _release(sources, sinks)
        raise DataError("a recording beside a camera: their times have no common clock; give two of one kind")
    rig_of_sources = CameraRig("live", sources, rig, sinks, settings, state or LiveState())
    if are_cameras == {True}:
        return run_cameras(model, inputs, [rig_of_sources], stop=stop, operation=operation)["live"]
    return _run_recordings(model, inputs, rig_of_sources, stop, operation)


def _run_recordings(
    model: Model, inputs: InputSpec, one: CameraRig, stop: threading.Event, operation: Operation
) -> LiveReport:
    pairer, settings, sinks = Pairer(pairing_rules(one.sources, one.rig, one.settings)), one.settings, one.sinks
    captures = {sensor: Capture(source) for sensor, source in one.sources.items()}
    state = one.state
    state.watch(lambda: {s: capture.status() for s, capture in captures.items()}, lambda: statuses(sinks))
    answerer = Answerer(inputs, one.rig, sinks, settings.score, state=state, counts=lambda: _counts(pairer, captures))
    pairs = pair_frames(_pull(captures, stop, lambda: operation.turn([state])), pairer)
    operation.begin([state])
    ended_by = "failure"
    try:
        seconds, is_whole = _answer_all(model, answerer, pairs, settings.limit, stop, lambda: operation.turn([state]))
        ended_by = "stop" if stop.is_set() else "end" if is_whole else "limit"
    finally:
        operation.stopping([state])
        hanging = _shut(captures, sinks, settings.deadline_s, is_failing=ended_by == "failure")
        operation.end(ended_by, [state])
    counts = _counts(pairer, captures)
    return LiveReport(seconds, counts, answerer.stats, ended_by, hanging, sinks=statuses(sinks))


def _answer_all(
    model: Model,
    answerer: Answerer,
    pairs: Iterator[Pair],
    limit: int | None,
    stop: threading.Event,
    turn: Callable[[], None],
) -> tuple[float, bool]:
    """Return the seconds until the last answer, and whether the limit was not reached."""
    started = asked_at = perf_counter()
    seconds = 0.0
    for pair in pairs:
        if stop.is_set():
            break
        answer_one(model, answerer, answerer.prepare(pair, perf_counter() - asked_at))
        asked_at = perf_counter()
        seconds = asked_at - started
        turn()
        if answerer.stats.answers == limit:
            return seconds, False
    return seconds, True


def _pull(
    captures: Mapping[Sensor, Capture], stop: threading.Event, turn: Callable[[], None]
) -> Callable[[Sensor], Frame | None]:
    def pull(sensor: Sensor) -> Frame | None:
        while sensor in captures and not stop.is_set():
            try:
                return captures[sensor].get(_LOOK_FOR_STOP_S)
            except NoFrameYetError:
                turn()
        return None

    return pull


def _counts(pairer: Pairer, captures: Mapping[Sensor, Capture]) -> dict[str, int]:
    names = ("pairs", "rgb_alone", "thermal_alone", "rgb_dropped", "thermal_dropped", "rgb_late", "thermal_late")
    counts = {name: pairer.counts[name] for name in names}
    for sensor, capture in captures.items():
        counts[f"{sensor}_dropped"] += capture.dropped
    return counts


def _shut(
    captures: Mapping[Sensor, Capture], sinks: Sequence[Sink], deadline_s: float, *, is_failing: bool
) -> tuple[str, ...]:
    """Stop captures and close every sink; where the run is failing already, its own error is the one to tell."""
    hanging = stop_all(list(captures.values()), deadline_s)
    errors = close_sinks(sinks, deadline_s, failed=is_failing)
    if errors and not is_failing:
        raise errors[0]
    return tuple(hanging)


def _release(sources: Mapping[Sensor, Source], sinks: Sequence[Sink]) -> None:
    """Close what was opened for a run that does not begin."""
    for source in sources.values():
        source.close()
    close_sinks(sinks, 0.0, failed=True)
