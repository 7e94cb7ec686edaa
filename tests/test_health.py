"""/healthz: whether the loop that answers still turns, by the heartbeat that systemd's watchdog is fed with."""

import threading

import httpx
import numpy as np
import pytest

from data.frame import Frame
from data.prepare import InputSpec
from data.rig import Rig
from data.thermal import ThermalSpec
from pipelines.live.cameras import CameraRig, run_cameras
from pipelines.live.run import run_live
from pipelines.live.sources import ScriptedSource
from pipelines.live.state import LiveState
from pipelines.live.web.app import HANGS_S
from pipelines.live.web.server import serve

S = 20.0
INPUTS = InputSpec(rgb_size=(48, 64), thermal_size=(30, 40), thermal=ThermalSpec(unit="counts16"))


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Hanging:
    """A double of a Session that is held until the test lets it go."""

    def __init__(self):
        self.entered, self.go_on = threading.Event(), threading.Event()

    def run(self, rgb, thermal, present):
        self.entered.set()
        assert self.go_on.wait(S)
        return {"boxes": np.zeros((len(rgb), 1, 6), np.float32)}


@pytest.fixture
def health():
    """Serves states, and returns what asks after their health: code and text."""
    ends = []

    def start(*states):
        server = serve({state.name: state for state in states}, ("person",), INPUTS, port=0)
        browser = httpx.Client(base_url=server.url, timeout=10, trust_env=False)
        ends.extend([browser.close, server.stop])

        def ask():
            answer = browser.get("/healthz")
            return answer.status_code, answer.text

        return ask

    yield start
    for end in ends:
        end()


def test_a_loop_that_does_not_turn_is_not_healthy(health):
    clock = Clock()
    gate, yard = LiveState("gate", clock), LiveState("yard", clock)
    ask = health(gate, yard)
    clock.now += 100
    assert ask() == (200, "ok\n")  # it has not begun: that is /readyz's to tell
    for state in (gate, yard):
        state.beat()
    clock.now += HANGS_S - 0.1
    assert ask() == (200, "ok\n")
    clock.now += 0.2
    assert ask() == (503, "the loop hangs: it has not turned for 15 s\n")
    yard.beat()  # one loop turns for all rigs
    assert ask() == (200, "ok\n")
    clock.now += 100
    assert ask()[0] == 503
    gate.end()
    yard.end()
    assert ask() == (200, "ok\n")


@pytest.mark.parametrize("policy", ["latest", "ordered"])
def test_a_model_that_hangs_shows_in_the_health_of_cameras_and_of_recordings(health, policy):
    clock, model = Clock(), Hanging()
    state = LiveState(clock=clock)
    ask = health(state)
    frames = [Frame(np.zeros((48, 64, 3), np.uint8), 0, 0, "rgb")]
    source = ScriptedSource(frames, period_ns=40_000_000, policy=policy)
    thread = threading.Thread(
        target=run_live, args=(model, INPUTS, {"rgb": source}, Rig(), []), kwargs={"state": state}, daemon=True
    )
    thread.start()
    assert model.entered.wait(S)
    assert ask()[0] == 200
    clock.now += 60
    assert ask() == (503, "the loop hangs: it has not turned for 60 s\n")
    model.go_on.set()
    thread.join(S)
    assert ask()[0] == 200


def test_a_loop_that_waits_for_frames_is_healthy(health):
    clock, stop = Clock(), threading.Event()
    state = LiveState(clock=clock)
    ask = health(state)

    class Silent(ScriptedSource):
        def read(self):
            stop.wait(S)

    rig = CameraRig("live", {"rgb": Silent([], policy="latest")}, Rig(), [], state=state)
    thread = threading.Thread(target=run_cameras, args=(Hanging(), INPUTS, [rig]), kwargs={"stop": stop}, daemon=True)
    thread.start()
    try:
        for _ in range(3):
            clock.now += 60
            beaten_at, waited = clock.now, threading.Event()
            for _ in range(int(S / 0.01)):
                if state.silent_s == 0:
                    break
                waited.wait(0.01)
            assert clock.now == beaten_at and ask() == (200, "ok\n")
    finally:
        stop.set()
        thread.join(S)
