"""The loop over cameras, on doubles that deliver when the test says so."""

import io
import json
import queue
import threading
import time

import numpy as np
import pytest

from data.errors import DataError
from data.frame import Frame
from data.prepare import InputSpec
from data.rig import Rig
from data.thermal import ThermalSpec
from pipelines.live.camera_pairing import LivePairer
from pipelines.live.cameras import CameraRig, run_cameras
from pipelines.live.feed import Feed
from pipelines.live.log import Log
from pipelines.live.operation import Operation
from pipelines.live.outbox import Outbox
from pipelines.live.pairing import PairingRules
from pipelines.live.report import LiveSettings
from pipelines.live.run import run_live
from pipelines.live.sinks import CollectingSink
from pipelines.live.state import LiveState
from pipelines.live.status import StatusLine

MS = 1_000_000
S = 20.0
"""Longest wait for another thread; only a failing test takes so long."""
INPUTS = InputSpec(rgb_size=(48, 64), thermal_size=(30, 40), thermal=ThermalSpec(unit="counts16"))
SHAPES = {"rgb": ((48, 64, 3), np.uint8), "thermal": ((30, 40), np.uint16)}


class Echo:
    """A double of a Session: one box for each pair, which says what it was given; counts batches."""

    def __init__(self, takes_s=0.0):
        self.sizes, self.present = [], []
        self.takes_s = takes_s

    def run(self, rgb, thermal, present):
        assert len(rgb) == len(thermal) == len(present)
        self.sizes.append(len(rgb))
        self.present += present.tolist()
        time.sleep(self.takes_s)
        boxes = np.zeros((len(rgb), 2, 6), np.float32)
        boxes[:, 0, 0], boxes[:, 0, 1], boxes[:, 0, 4] = rgb.max((1, 2, 3)), thermal.max((1, 2)), 0.9
        return {"boxes": boxes}


def frame(sensor, number, time_ns, size=None):
    shape, dtype = SHAPES[sensor]
    shape = shape if size is None else (*size, *shape[2:])
    return Frame(np.full(shape, number % 250 + 1, dtype), time_ns, number, f"{sensor} camera")


class Waiting:
    """A capture's double for a Feed: frames that the test put there."""

    def __init__(self):
        self.frames, self.ended, self.dropped, self.is_beginning = [], False, 0, True

    def poll(self):
        return self.frames.pop(0) if self.frames else None


def feed(budget_ms=100, skew_ms=20, admit=lambda sensor, given: None, offset_ms=0, **options):
    captures = {"rgb": Waiting(), "thermal": Waiting()}
    pairer = LivePairer(PairingRules(skew_ms * MS, offset_ms * MS), budget_ms * MS)
    return Feed(captures, pairer, admit, **options), captures


def numbers(ready):
    pair = ready.pair
    return tuple(None if one is None else one.sequence for one in (pair.rgb, pair.thermal))


def test_the_newest_whole_pair_wins_and_the_overtaken_are_counted():
    live, captures = feed()
    for number in range(4):
        captures["rgb"].frames.append(frame("rgb", number, number * 33 * MS))
        captures["thermal"].frames.append(frame("thermal", number, number * 33 * MS + MS))
    captures["rgb"].frames.append(frame("rgb", 4, 4 * 33 * MS))
    assert numbers(live.next(200 * MS)) == (3, 3)
    assert live.counts()["pairs"] == 1
    assert (live.counts()["rgb_dropped"], live.counts()["thermal_dropped"]) == (3, 3)
    assert live.next(201 * MS) is None
    assert numbers(live.next(300 * MS)) == (4, None)  # its budget is over
    assert live.due_ns() is None


def test_a_lone_frame_that_is_much_newer_than_the_last_pair_is_answered():
    live, captures = feed(budget_ms=50)
    captures["rgb"].frames = [frame("rgb", 0, 0), frame("rgb", 1, 400 * MS)]
    captures["thermal"].frames = [frame("thermal", 0, 0)]
    live._take_in(0)
    assert numbers(live.next(500 * MS)) == (1, None)


def test_every_frame_is_answered_in_order_where_asked_for():
    live, captures = feed(keeps_all=True)
    captures["rgb"].frames = [frame("rgb", n, n * 33 * MS) for n in range(30)]
    captures["thermal"].frames = [frame("thermal", n, n * 33 * MS) for n in range(30)]
    seen = []
    while (ready := live.next(10**9)) is not None:
        seen.append(numbers(ready))
        assert max(live.pairer.waiting("rgb"), live.pairer.waiting("thermal")) <= 8
    assert seen == [(n, n) for n in range(30)]
    assert sum(count for name, count in live.counts().items() if name != "pairs") == 0


def test_a_model_of_one_sensor_is_never_asked_without_it():
    live, captures = feed(required=("rgb",), budget_ms=10)
    captures["thermal"].frames = [frame("thermal", 0, 0)]
    live._take_in(0)
    assert live.next(50 * MS) is None
    assert live.counts()["thermal_dropped"] == 1
    captures["rgb"].frames = [frame("rgb", 0, 60 * MS)]
    assert numbers(live.next(60 * MS)) == (0, None)


def test_a_frame_of_another_size_later_on_is_refused_and_the_other_camera_goes_on():
    told = []

    def admit(sensor, given):
        if given.size == (10, 20):
            raise DataError("20×10, expected 64×48")

    live, captures = feed(budget_ms=5, admit=admit, tell=lambda sensor, why: told.append((sensor, why)))
    captures["rgb"].frames = [frame("rgb", 0, 0)]
    captures["thermal"].frames = [frame("thermal", 0, 0)]
    assert numbers(live.next(1 * MS)) == (0, 0)
    for number in (1, 2):
        captures["rgb"].frames.append(frame("rgb", number, number * 33 * MS, (10, 20)))
        captures["thermal"].frames.append(frame("thermal", number, number * 33 * MS))
        assert numbers(live.next(number * 33 * MS)) == (None, number)
    assert live.counts()["rgb_refused"] == 2
    assert told == [("rgb", "20×10, expected 64×48")]
    live, captures = feed(admit=admit)
    captures["rgb"].frames = [frame("rgb", 0, 0, (10, 20))]
    with pytest.raises(DataError, match="expected 64×48"):  # it never was fit: that is a mistake to be told
        live.next(0)
    live, captures = feed(budget_ms=5, admit=admit)
    captures["rgb"].is_beginning = False  # it was away at first
    captures["rgb"].frames = [frame("rgb", 0, 0, (10, 20))]
    captures["thermal"].frames = [frame("thermal", 0, 0)]
    assert live.next(0) is None
    assert numbers(live.next(10 * MS)) == (None, 0)


def test_the_feed_ends_when_all_was_handed_out():
    live, captures = feed()
    captures["rgb"].frames = [frame("rgb", 0, 0), frame("rgb", 1, 33 * MS)]
    captures["rgb"].ended = captures["thermal"].ended = True
    assert numbers(live.next(0)) == (1, None)
    assert live.ended


class Camera:
    """A live source that the test feeds through a queue: a frame, None for the end, or an error."""

    def __init__(self, sensor, period_ns=33 * MS, policy="latest"):
        self.name, self.period_ns, self.policy = f"{sensor} camera", period_ns, policy
        self.sensor = sensor
        self.given = queue.Queue()
        self.closed, self.unplugged = threading.Event(), threading.Event()
        self._count = 0

    def send(self, size=None, time_ns=None):
        self.given.put(frame(self.sensor, self._count, time.monotonic_ns() if time_ns is None else time_ns, size))
        self._count += 1

    def read(self):
        while not (self.unplugged.is_set() and self.given.empty()):
            try:
                given = self.given.get(timeout=0.02)
            except queue.Empty:
                continue
            if isinstance(given, Exception):
                raise given
            return given
        return None

    def close(self):
        self.closed.set()


class Running:
    """run_live on its own thread, with two cameras in the test's hand."""

    def __init__(self, sinks=(), model=None, offset_ms=0, log=None, **settings):
        self.cameras = {"rgb": Camera("rgb"), "thermal": Camera("thermal")}
        self.sink, self.stop, self.state = CollectingSink(), threading.Event(), LiveState()
        self.model = model or Echo()
        operation = Operation(StatusLine(None), Log(log))
        self.result = []
        arguments = (self.model, INPUTS, self.cameras, Rig(time_offset_ms=offset_ms), [self.sink, *sinks])
        self.thread = threading.Thread(
            target=lambda: self.result.append(
                run_live(*arguments, LiveSettings(**settings), stop=self.stop, state=self.state, operation=operation)
            ),
            daemon=True,  # a test that fails leaves it behind
        )
        self.thread.start()

    def answer(self, index):
        latest = self.state.wait(index - 1, S)
        assert latest is not None, "no answer came"
        return latest

    def end(self):
        self.stop.set()
        for camera in self.cameras.values():
            camera.unplugged.set()
        self.thread.join(S)
        assert not self.thread.is_alive()
        return self.result[0]


def test_a_pair_is_answered_as_soon_as_it_is_there_and_the_figures_say_so():
    log = io.StringIO()
    live = Running(log=log)
    for index in range(5):
        live.cameras["rgb"].send()
        live.cameras["thermal"].send()
        latest = live.answer(index)
        assert latest.pair.skew_ns is not None and latest.prepared.present.tolist() == [1, 1]
    said = live.state.snapshot()
    assert (said["answers"], said["ready"], said["counts"]["pairs"]) == (5, True, 5)
    assert said["sources"]["rgb"].state == "up"
    report = live.end()
    assert report.ended_by == "stop" and report.counts["pairs"] == 5
    told = json.loads(json.dumps(report.as_dict()))
    assert told["latency_ms"]["p50"] >= 0 and told["stage_ms"]["pair"]["p50"] is not None
    assert told["sources"]["thermal"]["frames"] == 5
    assert live.sink.closed and all(camera.closed.is_set() for camera in live.cameras.values())
    events = [json.loads(line)["event"] for line in log.getvalue().splitlines()]
    assert events[0] == "started" and events[-1] == "stopped" and "summary" in events


def test_one_camera_goes_on_alone_while_the_other_is_away():
    live = Running(budget_ns=20 * MS)
    live.cameras["rgb"].send()
    live.cameras["thermal"].send()
    live.answer(0)
    start_ns = time.monotonic_ns()
    for index in (1, 2, 3):
        live.cameras["thermal"].send(time_ns=start_ns + index * 100 * MS)
        assert live.answer(index).prepared.present.tolist() == [0, 1]
    live.cameras["rgb"].send(time_ns=start_ns + 900 * MS)
    live.cameras["thermal"].send(time_ns=start_ns + 900 * MS)
    live.answer(4)
    counts = live.end().counts
    assert counts["thermal_alone"] >= 3 and counts["pairs"] + counts["rgb_alone"] >= 2


def test_a_slow_model_answers_the_newest_and_drops_what_was_overtaken():
    live = Running(model=Echo(takes_s=0.05))
    for _ in range(60):
        live.cameras["rgb"].send()
        live.cameras["thermal"].send()
        time.sleep(0.005)
    report = live.end()
    assert report.stats.answers < 30
    assert report.counts["rgb_dropped"] + report.counts["thermal_dropped"] > 30
    assert report.stats.latency_ms.percentile(99) < 2 * 50 + 60  # two inferences, and a busy machine


def test_a_sink_that_hangs_does_not_hold_up_the_answers():
    class Hanging(CollectingSink):
        def write(self, pair, prepared, answer):
            release.wait(S)

    release = threading.Event()
    outbox = Outbox("mqtt", Hanging(), depth=2)
    live = Running([outbox], deadline_s=0.1)
    for index in range(10):
        live.cameras["rgb"].send()
        live.cameras["thermal"].send()
        live.answer(index)
    assert live.state.snapshot()["sinks"]["mqtt"]["dropped"] == 7
    report = live.end()
    release.set()
    assert "mqtt: 10 answers were not delivered" in report.warnings()[0]


def test_an_error_that_can_never_be_mended_ends_the_run_with_its_line():
    cameras = {"rgb": Camera("rgb"), "thermal": Camera("thermal")}
    sink = CollectingSink()
    cameras["thermal"].given.put(DataError("thermal is a colour video"))
    cameras["rgb"].unplugged.set()
    with pytest.raises(DataError, match="colour video"):
        run_live(Echo(), INPUTS, cameras, Rig(), [sink])
    assert sink.closed and sink.failed and cameras["rgb"].closed.is_set()


def test_what_is_lost_is_shown_though_no_answer_comes():
    live = Running(required=("rgb",))
    live.cameras["thermal"].send()
    until(lambda: live.state.snapshot()["counts"].get("thermal_dropped"))
    said = live.state.snapshot()
    assert said["answers"] == 0 and said["counts"]["thermal_dropped"] == 1
    live.end()


def test_limit_ends_cameras_too():
    live = Running(limit=2)
    for index in range(2):
        live.cameras["rgb"].send()
        live.cameras["thermal"].send()
        live.answer(index)
    for camera in live.cameras.values():
        camera.unplugged.set()
    live.thread.join(S)
    assert live.result[0].ended_by == "limit"


def test_a_recording_beside_a_camera_is_one_line():
    cameras = {"rgb": Camera("rgb"), "thermal": Camera("thermal", policy="ordered")}
    with pytest.raises(DataError, match="no common clock"):
        run_live(Echo(), INPUTS, cameras, Rig(), [])
    assert all(camera.closed.is_set() for camera in cameras.values())


def sources_of(rig):
    return rig.state.snapshot()["sources"].values()


def until(holds):
    """Wait until something holds."""
    deadline = time.monotonic() + S
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        threading.Event().wait(0.005)


class Site:
    """Several rigs on one loop."""

    def __init__(self, count, model, operation=None, **settings):
        self.operation = operation
        self.rigs = [
            CameraRig(
                f"rig {number}",
                {"rgb": Camera("rgb"), "thermal": Camera("thermal")},
                Rig(),
                [CollectingSink()],
                LiveSettings(**settings),
                LiveState(f"rig {number}"),
            )
            for number in range(count)
        ]
        self.stop, self.result, self.errors = threading.Event(), [], []
        self.thread = threading.Thread(target=self._run, args=(model,), daemon=True)
        self.thread.start()

    def _run(self, model):
        try:
            self.result.append(run_cameras(model, INPUTS, self.rigs, stop=self.stop, operation=self.operation))
        except DataError as error:
            self.errors.append(error)

    def end(self):
        self.stop.set()
        for rig in self.rigs:
            for camera in rig.sources.values():
                camera.unplugged.set()
        self.thread.join(S)
        assert not self.thread.is_alive()
        return self.result[0] if self.result else None


def test_pairs_of_several_rigs_share_batches_and_each_gets_its_own_answer():
    gate, is_held = threading.Event(), threading.Event()

    class Gated(Echo):
        def run(self, rgb, thermal, present):
            is_held.set()
            assert gate.wait(S)
            return super().run(rgb, thermal, present)

    model = Gated()
    site = Site(3, model)
    first = site.rigs[0]
    first.sources["rgb"].send()
    first.sources["thermal"].send()
    assert is_held.wait(S)
    for number, rig in enumerate(site.rigs):  # the model is held until all have a pair
        for count in range(number + 1):
            moment_ns = time.monotonic_ns() + count * 33 * MS
            rig.sources["rgb"].send(time_ns=moment_ns)
            rig.sources["thermal"].send(time_ns=moment_ns)
    until(lambda: all(source.frames >= n + 1 for n, rig in enumerate(site.rigs) for source in sources_of(rig)))
    gate.set()
    for rig in site.rigs:
        assert rig.state.wait(-1, S) is not None
    until(lambda: rig.state.latest.answer.boxes[0, :2].tolist() == [3, 3])
    reports = site.end()
    assert set(model.sizes) <= {1, 2, 4, 8} and max(model.sizes) >= 2
    assert [report.stats.answers >= 1 for report in reports.values()] == [True] * 3
    for rig in site.rigs:
        for pair, answer in zip(rig.sinks[0].pairs, rig.sinks[0].answers, strict=True):
            if pair.rgb is not None:
                assert answer.boxes[0, 0] == pair.rgb.image.max()


def test_a_rig_that_fails_leaves_the_others_running():
    site = Site(2, Echo())
    broken, good = site.rigs
    broken.sources["rgb"].given.put(DataError("RGB is 16 bits"))
    broken.sources["thermal"].unplugged.set()
    for index in range(3):
        good.sources["rgb"].send()
        good.sources["thermal"].send()
        assert good.state.wait(index - 1, S) is not None
    reports = site.end()
    assert reports["rig 0"].ended_by == "failure" and reports["rig 0"].warnings() == ["RGB is 16 bits"]
    assert reports["rig 1"].ended_by == "stop" and reports["rig 1"].counts["pairs"] >= 1


def test_a_rig_that_fails_is_told_at_once_and_its_slow_close_holds_up_nobody():
    release, people, log = threading.Event(), io.StringIO(), io.StringIO()

    class Hanging(CollectingSink):
        def close(self, *, failed=False):
            release.wait(S)

    site = Site(2, Echo(), Operation(StatusLine(people), Log(log)), deadline_s=S)
    broken, good = site.rigs
    broken.sinks.append(Outbox("mqtt", Hanging()))
    broken.sources["rgb"].given.put(DataError("RGB is 16 bits"))
    until(lambda: "failed" in log.getvalue())
    begun = time.monotonic()
    for index in range(3):
        good.sources["rgb"].send()
        good.sources["thermal"].send()
        assert good.state.wait(index - 1, S) is not None
    assert time.monotonic() - begun < S / 2
    release.set()
    site.end()
    assert "rgbt: rig 0 failed: RGB is 16 bits; the other rigs go on\n" in people.getvalue()
    told = next(line for line in map(json.loads, log.getvalue().splitlines()) if line["event"] == "failed")
    assert (told["level"], told["rig"], told["error"]) == ("error", "rig 0", "RGB is 16 bits")


def test_a_window_is_closed_by_the_thread_that_drew_it():
    class Window(CollectingSink):
        def write(self, *answer):
            self.drawn_by = threading.current_thread()

        def close(self, *, failed=False):
            self.closed_by = threading.current_thread()

    window = Window()
    live = Running([window])
    live.cameras["rgb"].send()
    live.cameras["thermal"].send()
    live.answer(0)
    live.end()
    assert window.closed_by is window.drawn_by is live.thread


def test_a_rig_that_is_silent_holds_up_nobody():
    site = Site(2, Echo())
    for index in range(5):
        site.rigs[1].sources["rgb"].send()
        site.rigs[1].sources["thermal"].send()
        assert site.rigs[1].state.wait(index - 1, S) is not None
    reports = site.end()
    assert reports["rig 0"].stats.answers == 0
    assert reports["rig 1"].stats.latency_ms.percentile(50) < 200
