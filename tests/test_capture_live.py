"""Live sources kept open, with connections that the test plays: real threads, no camera, no sleeps."""

import threading
from itertools import count, pairwise
from time import monotonic, monotonic_ns

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.frame import Frame
from pipelines.live.capture import Capture, NoFrameYetError, stop_all
from pipelines.live.reconnect import Backoff, LiveRules, LiveSource, LostError, Stillness

PATIENCE_S = 20.0
QUICK = LiveRules(bridge_s=0.2, reopen_after_s=0.3, open_within_s=0.5)


class Connection:
    """Plays a list of frames and what else happens: an exception is raised, a callable is called, None is the end."""

    period_ns = 33_000_000
    policy = "latest"
    name = "played"

    def __init__(self, *steps):
        self.steps = iter(steps)
        self.closed = threading.Event()

    def read(self):
        step = next(self.steps, None)
        if isinstance(step, Exception):
            raise step
        return step() if callable(step) else step

    def close(self):
        self.closed.set()


def picture(value, size=(4, 6)):
    return Frame(np.full((*size, 3), value, np.uint8), monotonic_ns(), 0, "played")


def wait(event):
    """A step that hangs until the event, and then ends the connection."""

    def step():
        event.wait(PATIENCE_S)

    return step


@pytest.fixture
def play():
    """Makes a capture whose connections are, one after another, those given; LostError after the last."""
    captures, release = [], threading.Event()

    def start(*connections, rules=QUICK, size=None, **options):
        left = iter(connections)

        def connect():
            connection = next(left, None)
            if connection is None:
                raise LostError("played: nobody there")
            if isinstance(connection, Exception):
                raise connection
            return connection(release) if callable(connection) else connection

        captures.append(Capture(LiveSource("played", connect, rules, size), **options))
        return captures[-1]

    yield start
    release.set()
    assert stop_all(captures, 5) == []


def until(what):
    start, tick = monotonic(), threading.Event()
    while not what():
        assert monotonic() - start < PATIENCE_S, "not within the time"
        tick.wait(0.01)


def hanging(*frames):
    """A connection that gives frames and then hangs until the test ends."""
    return lambda release: Connection(*frames, wait(release))


def test_numbers_go_on_over_reconnects(play):
    first, second = Connection(picture(1), picture(2), LostError("gone")), Connection(picture(3), picture(4))
    capture = play(first, second, depth=9)
    frames = [capture.get(PATIENCE_S) for _ in range(4)]
    assert [frame.sequence for frame in frames] == [0, 1, 2, 3]
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [1, 2, 3, 4]
    assert all(a.time_ns < b.time_ns for a, b in pairwise(frames))
    until(lambda: capture.status().state == "down" and second.closed.is_set())
    assert first.closed.is_set()
    assert capture.status().reconnects == 1
    assert capture.source.period_ns == 33_000_000


def test_a_read_that_hangs_is_left_behind_and_closed_when_it_returns(play):
    gate = threading.Event()
    stuck = Connection(picture(1), wait(gate))
    capture = play(stuck, hanging(picture(2)), depth=9)
    assert [capture.get(PATIENCE_S).sequence for _ in range(2)] == [0, 1]
    status = capture.status()
    assert (status.stalls, status.reconnects) == (1, 1)
    assert "hangs" in status.last_error
    assert not stuck.closed.is_set()
    gate.set()
    assert stuck.closed.wait(PATIENCE_S)


def test_what_a_reader_left_behind_brings_is_not_wanted(play):
    gate = threading.Event()

    def late():
        gate.wait(PATIENCE_S)
        return picture(99)

    stuck = Connection(picture(1), late)
    capture = play(stuck, hanging(picture(2)), depth=9)
    frames = [capture.get(PATIENCE_S) for _ in range(2)]
    gate.set()
    assert stuck.closed.wait(PATIENCE_S)
    assert capture.poll() is None
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [1, 2]


def test_no_more_than_three_reads_hang_at_once(play):
    opened = count()

    def connection(release):
        next(opened)
        return Connection(wait(release))

    capture = play(*[connection] * 9)
    until(lambda: "3 reads hang" in (capture.status().last_error or ""))
    assert threading.active_count() <= 6
    assert next(opened) == 3


def test_an_opening_that_hangs_is_left_behind_too(play):
    def connect(release):
        release.wait(PATIENCE_S)
        raise LostError("too late")

    capture = play(connect, hanging(picture(1)))
    assert capture.get(PATIENCE_S).sequence == 0
    assert "opening hangs" in capture.status().last_error


def test_a_frozen_picture_is_a_stall_and_held_back(play):
    still = picture(7).image
    clock = count(1)

    def frames(_):
        return Connection(*(Frame(still, next(clock), 0, "played") for _ in range(40)))

    rules = LiveRules(bridge_s=5, reopen_after_s=5, frozen_after_s=0.0)
    capture = play(frames, frames, Connection(picture(8), picture(9)), rules=rules, depth=99)
    seen = [int(capture.get(PATIENCE_S).image[0, 0, 0]) for _ in range(3)]
    assert seen == [7, 8, 9]
    assert capture.status().stalls == 1
    assert capture.status().reconnects == 1


def test_a_picture_may_stand_still_where_the_rules_say_so(play):
    still = picture(7).image
    steps = [Frame(still, number, 0, "played") for number in range(1, 30)]
    capture = play(Connection(*steps), rules=LiveRules(frozen_after_s=None), depth=99)
    assert [capture.get(PATIENCE_S).sequence for _ in range(29)] == list(range(29))
    assert capture.status().stalls == 0


def test_what_can_never_work_is_an_error_at_the_start(play):
    capture = play(DataError("played: 8 bits, not 16"))
    with pytest.raises(DataError, match="8 bits, not 16"):
        capture.get(PATIENCE_S)
    assert capture.status().state == "ended"
    assert capture.status().last_error == "played: 8 bits, not 16"


@pytest.mark.parametrize("wrong", ["depth", "size", "frame"])
def test_a_camera_that_was_away_at_first_and_comes_up_wrong_is_tried_again(play, wrong):
    refused = {
        "depth": DataError("played: 8 bits, not 16"),  # as it is opened
        "size": Connection(picture(9, (8, 8))),
        "frame": Connection(DataError("played: thermal is a colour video")),
    }[wrong]
    capture = play(LostError("played: nobody there"), refused, Connection(picture(2)), size=(4, 6), depth=9)
    assert int(capture.get(PATIENCE_S).image[0, 0, 0]) == 2
    assert not capture.ended


def test_an_opening_that_hung_is_no_beginning_any_more(play):
    def connect(release):
        release.wait(PATIENCE_S)
        raise LostError("too late")

    capture = play(connect, DataError("played: 8 bits, not 16"), Connection(picture(2)))
    assert int(capture.get(PATIENCE_S).image[0, 0, 0]) == 2


def test_what_is_wrong_is_told_while_it_is_tried_again(play):
    capture = play(LostError("played: nobody there"), *[DataError("played: 8 bits, not 16")] * 9)
    until(lambda: capture.status().last_error == "played: 8 bits, not 16")
    assert capture.status().state == "down" and not capture.is_beginning


def test_later_it_is_tried_again(play):
    back = Connection(picture(2))
    capture = play(Connection(picture(1)), DataError("played: 8 bits, not 16"), back, depth=9)
    assert [capture.get(PATIENCE_S).sequence for _ in range(2)] == [0, 1]
    assert capture.status().reconnects == 1


def test_a_fault_of_ours_is_raised_in_the_main_thread(play):
    capture = play(Connection(picture(1), ZeroDivisionError("a bug")))
    assert capture.get(PATIENCE_S).sequence == 0
    with pytest.raises(ZeroDivisionError, match="a bug"):
        capture.get(PATIENCE_S)


def test_giving_up_ends_the_source(play):
    capture = play(Connection(picture(1)), rules=LiveRules(give_up_after_s=0.4))
    assert capture.get(PATIENCE_S).sequence == 0
    assert capture.get(PATIENCE_S) is None
    assert capture.gave_up and capture.ended
    assert capture.status().last_error == "played: nobody there; given up after 0.4 s"


def test_giving_up_does_not_wait_for_a_read_that_hangs(play):
    capture = play(hanging(picture(1)), rules=LiveRules(give_up_after_s=0.4))
    assert capture.get(PATIENCE_S).sequence == 0
    assert capture.get(PATIENCE_S) is None
    assert capture.gave_up


def test_latest_wins_and_every_frame_waits(play):
    def frames(_):
        return Connection(*(picture(number) for number in range(1, 100)))

    latest = play(frames)
    until(lambda: latest.status().state == "down")
    assert [latest.poll().sequence for _ in range(2)] == [97, 98]
    assert latest.poll() is None and latest.status().dropped == 97

    every = play(frames, rules=LiveRules(every_frame=True, reopen_after_s=0.1, bridge_s=0.1), depth=4)
    until(lambda: len(every._frames) == 4)
    with pytest.raises(NoFrameYetError):
        Capture.get(latest, 1.5)  # meanwhile the reader waits for the pipeline, which is no fault of the source
    assert every.status().state == "up"
    assert [every.get(PATIENCE_S).sequence for _ in range(99)] == list(range(99))
    assert every.status().dropped == every.status().stalls == 0


def test_another_size_is_refused_and_the_right_one_taken_again(play):
    capture = play(
        Connection(picture(1)), Connection(picture(2, (8, 8))), Connection(picture(3)), size=(4, 6), depth=9
    )  # fmt: skip
    assert [int(capture.get(PATIENCE_S).image[0, 0, 0]) for _ in range(2)] == [1, 3]


def test_every_state_can_be_stopped(play):
    start = monotonic()
    for connections in ([], [Connection(picture(1))], [hanging(picture(1))]):
        capture = play(*connections)
        until(lambda capture=capture: capture.status().state in ("down", "up", "stalled"))
    release = threading.Event()
    stuck = Capture(LiveSource("stuck", lambda: Connection(wait(release)), QUICK))
    until(lambda: stuck._keeper._reader is not None)
    assert stop_all([stuck], 0.1) == ["stuck"]
    release.set()
    assert stop_all([stuck], 5) == []
    assert monotonic() - start < PATIENCE_S


def test_a_hundred_reconnects_leave_no_thread(play, monkeypatch):
    monkeypatch.setattr(Backoff, "next_s", lambda *_: 0.0)
    before = threading.active_count()
    connections = [Connection(picture(number % 250)) for number in range(101)]
    capture = play(*connections, rules=LiveRules(give_up_after_s=0.3, every_frame=True))
    frames = 0
    while capture.get(PATIENCE_S) is not None:
        frames += 1
    assert frames == 101
    assert capture.status().reconnects == 100
    assert all(connection.closed.is_set() for connection in connections)
    until(lambda: threading.active_count() == before)


def test_back_off_is_quick_for_a_minute_and_then_patient():
    backoff = Backoff(uniform=lambda low, high: high)
    assert [backoff.next_s(down_s) for down_s in (0, 0.25, 0.75, 2, 50)] == [0.25, 0.5, 1, 1, 1]
    assert [backoff.next_s(down_s) for down_s in (61, 63, 67, 80, 100, 130, 9999)] == [1, 2, 4, 8, 16, 30, 30]
    backoff.reset()
    assert backoff.next_s(0) == 0.25


@given(st.lists(st.floats(0, 1e5), max_size=40), st.floats(0, 1))
def test_back_off_stays_within_its_limits(downs, drawn):
    backoff = Backoff(uniform=lambda low, high: low + drawn * (high - low))
    for down_s in sorted(downs):
        assert 0.2 <= backoff.next_s(down_s) <= (1 if down_s < 60 else 30)


def test_stillness_sees_a_single_pixel():
    stillness, image = Stillness(), np.zeros((64, 64), np.uint8)
    assert [stillness(image.copy(), now) for now in (1.0, 2.0, 5.0)] == [0, 1, 4]
    image[3, 5] = 1
    assert stillness(image.copy(), 6.0) == 0
    assert stillness(image.astype(np.uint16), 7.0) == 0
