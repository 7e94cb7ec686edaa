"""What becomes of a run when a camera is given up; and that a pause at its end dilutes no rate."""

import io
import json
import threading
import time

import numpy as np
import pytest

from data.frame import Frame
from data.prepare import InputSpec
from data.rig import Rig
from data.thermal import ThermalSpec
from pipelines.live.cameras import CameraRig, run_cameras
from pipelines.live.keeper import Keeper
from pipelines.live.log import Log
from pipelines.live.operation import Operation
from pipelines.live.reconnect import LiveRules, LiveSource, LostError
from pipelines.live.report import LiveSettings
from pipelines.live.run import run_live
from pipelines.live.sinks import CollectingSink
from pipelines.live.sources import ScriptedSource
from pipelines.live.state import LiveState
from pipelines.live.status import StatusLine

S = 30.0
INPUTS = InputSpec(rgb_size=(48, 64), thermal_size=(30, 40), thermal=ThermalSpec(unit="counts16"))
IMPATIENT = LiveRules(give_up_after_s=0.3, frozen_after_s=None)
STEADY = LiveRules(frozen_after_s=None)
SHAPES = {"rgb": ((48, 64, 3), np.uint8), "thermal": ((30, 40), np.uint16)}


class Nothing:
    """A double of a Session that finds nothing, at once."""

    def run(self, rgb, thermal, present):
        return {"boxes": np.zeros((len(rgb), 1, 6), np.float32)}


class Steady:
    """A connection that gives a frame every 20 ms, until it is closed, but none while the site is silent."""

    policy, period_ns, name = "latest", 20_000_000, "steady"

    def __init__(self, sensor, site):
        self.sensor, self.site, self.closed = sensor, site, threading.Event()

    def read(self):
        while self.site.silent.is_set() and not self.site.stop.wait(0.01):
            pass
        shape, dtype = SHAPES[self.sensor]
        return None if self.closed.wait(0.02) else Frame(np.ones(shape, dtype), time.monotonic_ns(), 0, "steady")

    def close(self):
        self.closed.set()


def away():
    raise LostError("camera: connection refused")


class Site:
    """Rigs on one loop, on a thread; ``there`` names the cameras of each that are up."""

    def __init__(self, *there, **settings):
        self.silent, self.stop, self.result = threading.Event(), threading.Event(), []
        self.people, self.log = io.StringIO(), io.StringIO()
        names = ["gate", "yard"][: len(there)]
        self.rigs = [
            CameraRig(
                name,
                {
                    sensor: LiveSource(sensor, lambda s=sensor: Steady(s, self), STEADY)
                    if sensor in up
                    else LiveSource(sensor, away, IMPATIENT)
                    for sensor in ("rgb", "thermal")
                },
                Rig(),
                [CollectingSink()],
                LiveSettings(**settings),
                LiveState(name),
            )
            for name, up in zip(names, there, strict=True)
        ]
        operation = Operation(StatusLine(self.people), Log(self.log))
        self.thread = threading.Thread(
            target=lambda: self.result.append(
                run_cameras(Nothing(), INPUTS, self.rigs, stop=self.stop, operation=operation)
            ),
            daemon=True,  # a test that fails leaves it behind
        )
        self.thread.start()

    def events(self, name):
        return [line for line in map(json.loads, self.log.getvalue().splitlines()) if line["event"] == name]

    def end(self, *, by_itself=False):
        if not by_itself:
            self.stop.set()
        self.thread.join(S)
        assert not self.thread.is_alive()
        return self.result[0]


def until(holds):
    deadline = time.monotonic() + S
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        threading.Event().wait(0.01)


def test_the_other_camera_goes_on_and_it_is_said_once():
    site = Site(["thermal"])
    until(lambda: site.events("given up"))
    answers = site.rigs[0].state.snapshot()["answers"]
    until(lambda: site.rigs[0].state.snapshot()["answers"] > answers + 5)
    report = site.end()["gate"]
    assert (report.ended_by, report.given_up) == ("stop", ("rgb",))
    assert (
        site.people.getvalue().count(
            "rgb: camera: connection refused; given up after 0.3 s; the run goes on with thermal"
        )
        == 1
    )
    assert len(site.events("given up")) == 1 and site.events("given up")[0]["left"] == "thermal"
    assert report.as_dict()["given_up"] == ["rgb"]


@pytest.mark.parametrize(("there", "required"), [([], ()), (["thermal"], ("rgb",))])
def test_a_rig_to_which_nothing_is_left_ends_at_once(there, required):
    site = Site(there, required=required)
    report = site.end(by_itself=True)["gate"]
    assert report.ended_by == "gave up" and "rgb" in report.given_up
    assert "given up" not in site.people.getvalue() or not required  # the report says it, if rgb was the last one
    assert any("given up after 0.3 s" in line for line in report.warnings())


def test_a_rig_that_was_given_up_leaves_the_other_rigs_running():
    site = Site([], ["rgb", "thermal"])
    until(lambda: len(site.events("given up")) == 2)
    answers = site.rigs[1].state.snapshot()["answers"]
    until(lambda: site.rigs[1].state.snapshot()["answers"] > answers + 5)
    reports = site.end()
    assert [reports[name].ended_by for name in ("gate", "yard")] == ["gave up", "stop"]
    assert reports["yard"].given_up == ()
    assert "gate rgb: camera: connection refused; given up after 0.3 s" in site.people.getvalue()


def test_the_rate_of_a_run_ends_with_its_last_answer(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("pipelines.live.cameras.perf_counter", lambda: now[0])
    site = Site(["rgb", "thermal"])
    state = site.rigs[0].state
    until(lambda: state.snapshot()["answers"] >= 3)
    now[0] += 2
    answers = state.snapshot()["answers"]
    until(lambda: state.snapshot()["answers"] > answers + 1)
    site.silent.set()
    until(lambda: state.snapshot()["age_s"] > 0.4)
    now[0] += 500
    until(lambda: state.snapshot()["age_s"] > 0.8 and state.silent_s < 0.3)
    report = site.end()["gate"]
    assert report.seconds == 2
    assert report.pairs_per_s == pytest.approx(report.stats.answers / 2)


def test_recordings_have_the_same_log():
    log, frames = io.StringIO(), [Frame(np.zeros((48, 64, 3), np.uint8), n * 40_000_000, n, "rgb") for n in range(3)]
    operation = Operation(log=Log(log))
    source = ScriptedSource(frames, name="rgb.mp4", period_ns=40_000_000)
    run_live(Nothing(), INPUTS, {"rgb": source}, Rig(), [], operation=operation)
    said = [json.loads(line) for line in log.getvalue().splitlines()]
    assert said[0]["event"] == "started" and said[-1] == {**said[-1], "event": "stopped", "by": "end"}
    assert next(line for line in said if line["event"] == "summary")["answers"] == 3


def test_a_rig_that_has_ended_is_closed_and_frozen_while_the_other_goes_on():
    site = Site([], ["rgb", "thermal"])
    until(lambda: len(site.events("given up")) == 2)
    gate, yard = site.rigs
    until(lambda: gate.sinks[0].closed)  # long before the last rig ends
    said = gate.state.snapshot()
    assert [of.state for of in said["sources"].values()] == ["ended", "ended"] and not said["ready"]
    before = said["counts"], {sensor: of.age_s for sensor, of in said["sources"].items()}
    answers = yard.state.snapshot()["answers"]
    until(lambda: yard.state.snapshot()["answers"] > answers + 5)
    said = gate.state.snapshot()
    assert (said["counts"], {sensor: of.age_s for sensor, of in said["sources"].items()}) == before
    reports = site.end()
    assert reports["gate"].ended_by == "gave up" and not yard.sinks[0].failed


@pytest.mark.parametrize(("there", "by"), [([[], []], "gave-up"), ([["rgb", "thermal"], []], "stop")])
def test_the_log_s_last_line_says_by_what_the_run_ended(there, by):
    site = Site(*there)
    until(lambda: len(site.events("given up")) >= 2)
    site.end(by_itself=by != "stop")
    assert site.events("stopped")[-1]["by"] == by


def test_a_camera_that_only_fell_silent_says_so_when_it_is_given_up():
    keeper = Keeper(LiveSource("rgb", away, LiveRules(give_up_after_s=0.0)), lambda frame: None, lambda error: None)
    keeper._seen_s -= 1
    assert keeper._gives_up() and keeper.has_given_up
    assert keeper.last_error == "rgb: no frame; given up after 0 s"
