import threading
import time

import numpy as np
import pytest

from data.errors import DataError
from data.frame import Frame, Pair
from data.prepare import Prepared
from pipelines.live.answer import BoxAnswer
from pipelines.live.outbox import Outbox, RetryError, close_sinks, statuses
from pipelines.live.sinks import CollectingSink

S = 20.0
"""Longest wait for another thread; only a failing test takes so long."""


def item(index):
    rgb = Frame(np.zeros((4, 4, 3), np.uint8), index, index, "r")
    prepared = Prepared(rgb.image, np.zeros((4, 4), np.uint8), np.array([1, 0], np.float32), 1.0, (4, 4))
    return Pair(rgb, None), prepared, BoxAnswer(index, np.zeros((0, 6), np.float32), (4, 4))


class Gate(CollectingSink):
    """Holds each answer until the test opens it; fails with the errors that it was given first."""

    def __init__(self, *errors, is_open=False):
        super().__init__()
        self.errors = list(errors)
        self.entered, self.open = threading.Event(), threading.Event()
        if is_open:
            self.open.set()

    def write(self, pair, prepared, answer):
        self.entered.set()
        assert self.open.wait(S)
        if self.errors:
            raise self.errors.pop(0)
        super().write(pair, prepared, answer)

    @property
    def indices(self):
        return [answer.index for answer in self.answers]


def test_everything_arrives_in_order_and_the_sink_is_closed_on_its_own_thread():
    sink = Gate(is_open=True)
    outbox = Outbox("jsonl", sink, depth=100)
    for index in range(100):
        outbox.write(*item(index))
    outbox.close(deadline_s=S)
    assert sink.indices == list(range(100))
    assert sink.closed and not sink.failed
    assert (outbox.status.delivered, outbox.status.dropped, outbox.status.queued) == (100, 0, 0)


def test_a_sink_that_stalls_keeps_the_newest_and_its_caller_never_waits():
    sink = Gate()
    outbox = Outbox("video", sink, depth=4)
    outbox.write(*item(0))
    assert sink.entered.wait(S)
    for index in range(1, 50):
        outbox.write(*item(index))
    assert outbox.status.queued == 5 and outbox.status.dropped == 45
    sink.open.set()
    outbox.close(deadline_s=S)
    assert sink.indices == [0, 46, 47, 48, 49]


def test_a_sink_that_hangs_is_left_behind_at_the_deadline_and_counted():
    sink = Gate()
    outbox = Outbox("hanging", sink, depth=4)
    for index in range(3):
        outbox.write(*item(index))
    started = time.monotonic()
    outbox.close(deadline_s=0.05)
    assert time.monotonic() - started < S / 2
    assert outbox.status.dropped == 3 and outbox.status.last_error == "it did not end in time"
    sink.open.set()


def test_what_may_be_tried_again_is_not_lost():
    sink = Gate(RetryError("no broker"), RetryError("no broker"), is_open=True)
    outbox = Outbox("mqtt", sink)
    outbox.write(*item(0))
    outbox.write(*item(1))
    outbox.close(deadline_s=S)
    assert sink.indices == [0, 1]
    assert (outbox.status.errors, outbox.status.dropped, outbox.status.last_error) == (2, 0, "no broker")
    assert not outbox.status.failing


@pytest.mark.parametrize("error", [DataError("disk full"), OSError("boom"), ValueError("odd")])
def test_what_failed_is_counted_and_the_next_one_goes_on(error):
    sink = Gate(error, is_open=True)
    outbox = Outbox("csv", sink)
    outbox.write(*item(0))
    outbox.write(*item(1))
    outbox.close(deadline_s=S)
    assert sink.indices == [1]
    assert (outbox.status.errors, outbox.status.dropped, outbox.status.delivered) == (1, 1, 1)
    assert str(error) in outbox.status.last_error


def test_nothing_is_kept_for_longer_than_the_deadline_where_it_never_works():
    sink = Gate(*[RetryError("down")] * 1000, is_open=True)
    outbox = Outbox("mqtt", sink)
    for index in range(3):
        outbox.write(*item(index))
    outbox.close(deadline_s=0.6)
    outbox._thread.join(S)
    assert outbox.status.delivered == 0 and outbox.status.dropped == 3 and outbox.status.failing
    assert sink.closed


def test_what_never_worked_ends_in_time_and_says_why():
    sink = Gate(*[RetryError("nobody there")] * 99, is_open=True)
    outbox = Outbox("webhook", sink, depth=4)
    outbox.write(*item(0))
    assert close_sinks([outbox], 0.6, failed=False) == []
    assert sink.closed and outbox.status.dropped == 1 and outbox.status.last_error == "nobody there"


def test_no_picture_is_kept_for_a_sink_that_looks_at_none():
    sink = CollectingSink()
    outbox = Outbox("jsonl", sink, pictures=False)
    outbox.write(*item(7))
    outbox.close(deadline_s=S)
    assert sink.pairs[0].rgb.image.size == 0
    assert (sink.pairs[0].rgb.sequence, sink.pairs[0].time_ns) == (7, 7)


def test_a_recording_waits_for_a_slow_sink_but_not_for_a_dead_one():
    class Slow(CollectingSink):
        def write(self, pair, prepared, answer):
            time.sleep(0.002)
            super().write(pair, prepared, answer)

    sink = Slow()
    outbox = Outbox("mqtt", sink, depth=2, patience_s=S)
    for index in range(50):
        outbox.write(*item(index))
    outbox.close(deadline_s=S)
    assert len(sink.answers) == 50 and outbox.status.dropped == 0

    dead = Gate()
    outbox = Outbox("mqtt", dead, depth=2, patience_s=0.05)
    started = time.monotonic()
    for index in range(200):
        outbox.write(*item(index))
    assert time.monotonic() - started < 5  # it waited once, not two hundred times
    dead.open.set()
    outbox.close(deadline_s=S)


def test_a_sink_that_takes_many_is_given_what_waits():
    class Many(Gate):
        most = 3

        def write_many(self, items):
            self.entered.set()
            assert self.open.wait(S)
            self.batches.append([answer.index for _, _, answer in items])

    sink = Many()
    sink.batches = []
    outbox = Outbox("webhook", sink, depth=10)
    outbox.write(*item(0))
    assert sink.entered.wait(S)
    for index in range(1, 6):
        outbox.write(*item(index))
    sink.open.set()
    outbox.close(deadline_s=S)
    assert sink.batches == [[0], [1, 2, 3], [4, 5]]


def test_all_are_closed_within_one_deadline_and_only_plain_sinks_raise():
    hanging = [Outbox(str(number), Gate()) for number in range(3)]
    for outbox in hanging:
        outbox.write(*item(0))
    plain = CollectingSink()

    class Broken(CollectingSink):
        def close(self, *, failed=False):
            raise DataError("cannot be closed")

    started = time.monotonic()
    errors = close_sinks([*hanging, plain, Broken()], 0.2, failed=True)
    assert time.monotonic() - started < 5
    assert [str(error) for error in errors] == ["cannot be closed"]
    assert plain.closed and plain.failed
    assert statuses(hanging)["1"]["dropped"] == 1
    for outbox in hanging:
        outbox._sink.open.set()


def test_errors_of_others_are_told_without_secrets():
    outbox = Outbox("hook", Gate(ValueError("Invalid header value b'Bearer s3cret'"), is_open=True))
    outbox.write(*item(0))
    outbox.close(deadline_s=S)
    assert outbox.status.last_error == "ValueError: Invalid header value b'Bearer ***'"
