import json
import threading

import numpy as np
import pytest

from data.frame import Frame, Pair
from data.prepare import Prepared
from pipelines.live.answer import BoxAnswer
from pipelines.live.state import Latest, LiveState, Recent

MS = 1_000_000


class Clock:
    """Seconds that a test moves."""

    now = 100.0

    def __call__(self):
        return self.now


def answered(state, index=0, latency_s=0.004, skew_ms=3):
    """Tell the state of one answer with two boxes."""
    rgb = Frame(np.zeros((2, 2, 3), np.uint8), 0, index, "r")
    thermal = Frame(np.zeros((2, 2), np.uint16), skew_ms * MS, index, "t")
    prepared = Prepared(rgb.image, thermal.image, np.ones(2, np.float32), 1.0, (2, 2))
    latest = Latest(Pair(rgb, thermal), prepared, BoxAnswer(index, np.zeros((2, 6), np.float32), (2, 2)))
    state.answered(latest, {"infer": 0.01, "wait": 0.001}, latency_s, {"pairs": index + 1})
    return latest


def test_before_the_first_answer_all_is_there_and_nothing_is_ready():
    said = LiveState(clock=Clock()).snapshot()
    json.dumps(said)
    assert (said["answers"], said["rate"], said["ready"], said["age_s"]) == (0, 0.0, False, None)
    assert said["latency_ms"] == {"p50": None, "p95": None, "p99": None, "max": None}
    assert said["sources"] == said["sinks"] == {}


def test_an_answer_makes_it_ready_for_five_seconds():
    clock = Clock()
    state = LiveState("gate", clock)
    latest = answered(state)
    assert state.latest is latest
    clock.now += 4.9
    said = state.snapshot()
    assert (said["name"], said["ready"], said["answers"], said["detections"]) == ("gate", True, 1, 2)
    assert said["counts"] == {"pairs": 1}
    assert said["latency_ms"]["p50"] == pytest.approx(4, rel=0.02)
    assert said["stage_ms"]["infer"]["p50"] == pytest.approx(10, rel=0.02)
    assert said["skew_ms"]["max"] == 3
    clock.now += 0.2
    assert not state.snapshot()["ready"]


@pytest.mark.parametrize(("per_s", "seconds"), [(30, 2), (30, 60), (10, 7), (1000, 6)])
def test_the_rate_is_that_of_the_last_seconds(per_s, seconds):
    clock = Clock()
    state = LiveState(clock=clock)
    for index in range(per_s * seconds):
        answered(state, index)
        clock.now += 1 / per_s
    assert state.snapshot()["rate"] == pytest.approx(per_s, rel=0.03)
    clock.now += 6
    assert state.snapshot()["rate"] == 0


def test_percentiles_forget_what_is_more_than_a_minute_old():
    recent = Recent()
    recent.add(500, 0.0)
    for second in range(1, 62):
        recent.add(5, float(second))
    assert recent.as_dict(61.0)["max"] == 5
    assert recent.as_dict(200.0)["p50"] is None


def test_sources_and_sinks_are_asked_at_the_snapshot():
    state = LiveState()
    told = {"frames": 1}
    state.watch(lambda: told, lambda: {"mqtt": {"queued": 0}})
    told["frames"] = 2
    assert state.snapshot()["sources"] == {"frames": 2}
    assert state.snapshot()["sinks"] == {"mqtt": {"queued": 0}}


def test_a_viewer_waits_for_the_next_answer_and_not_beyond_its_time():
    state = LiveState()
    assert state.wait(-1, 0.0) is None
    answered(state, 0)
    assert state.wait(-1, 0.0).answer.index == 0
    assert state.wait(0, 0.0) is None
    seen = []
    viewer = threading.Thread(target=lambda: seen.append(state.wait(0, 10)))
    viewer.start()
    answered(state, 1)
    viewer.join(10)
    assert seen[0].answer.index == 1


def test_the_heartbeat_is_that_of_the_loop():
    clock = Clock()
    state = LiveState(clock=clock)
    assert state.silent_s is None  # it has not begun
    state.beat()
    clock.now += 7
    assert state.silent_s == 7
    answered(state)
    assert state.silent_s == 0
    state.end()
    clock.now += 100
    assert state.silent_s is None


def test_when_the_loop_has_ended_nothing_is_ready_and_the_rate_stays():
    clock = Clock()
    state = LiveState(clock=clock)
    for index in range(100):
        clock.now += 0.1
        answered(state, index)
    state.end()
    clock.now += 4
    said = state.snapshot()
    assert not said["ready"] and said["rate"] == pytest.approx(10, rel=0.03)
