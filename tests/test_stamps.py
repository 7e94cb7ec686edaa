"""Times of live frames, on a clock that the test plays."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.live.stamps import Stamper

PERIOD = 33_333_333
MS = 1_000_000
S = 1_000_000_000


def play(stamper, frames, jitter_ms=0.0, start=0, offset=77 * S, seed=0, drift=0.0):
    """(presented, arrived, stamp) of frames of one rate, whose packets are held up by 0 … jitter_ms."""
    rng = random.Random(seed)
    rows = []
    for number in range(start, start + frames):
        presented = round(number * PERIOD * (1 + drift))
        arrived = offset + number * PERIOD + round(rng.uniform(0, jitter_ms) * MS)
        rows.append((presented, arrived, stamper(presented, arrived)))
    return rows


def test_arrival_counts_until_the_times_have_proven_themselves():
    stamper = Stamper()
    rows = play(stamper, 140, jitter_ms=5)
    assert all(stamp == arrived for _, arrived, stamp in rows)
    assert not stamper.is_trusting
    play(stamper, 30, jitter_ms=5, start=140)
    assert stamper.is_trusting


def test_trusted_times_take_the_jitter_out():
    stamper = Stamper()
    play(stamper, 400, jitter_ms=12)
    rows = play(stamper, 300, jitter_ms=12, start=400, seed=1)
    assert max(arrived - (77 * S + n * PERIOD) for n, (_, arrived, _) in enumerate(rows, 400)) > 11 * MS
    steps = [b[2] - a[2] for a, b in pairwise(rows)]
    assert max(abs(step - PERIOD) for step in steps) < MS


def test_a_packet_that_was_held_up_keeps_its_place():
    stamper = Stamper()
    play(stamper, 200)
    late = stamper(200 * PERIOD, 77 * S + 200 * PERIOD + 400 * MS)
    assert late == 77 * S + 200 * PERIOD
    assert stamper.is_trusting


def test_times_that_are_off_by_more_than_half_a_frame_are_never_trusted():
    stamper = Stamper()
    rows = play(stamper, 900, jitter_ms=30)
    assert not stamper.is_trusting
    assert all(stamp == arrived for _, arrived, stamp in rows)


@pytest.mark.parametrize("jump_s", [-3, -0.5, 0.5, 3600])
def test_a_clock_that_jumps_loses_trust_and_wins_it_again(jump_s):
    stamper = Stamper()
    play(stamper, 200)
    assert stamper.is_trusting
    for number in range(200, 240):
        arrived = 77 * S + number * PERIOD
        stamp = stamper(round(number * PERIOD + jump_s * S), arrived)
        if jump_s > 0 or number > 232:  # of packets that seem late, a second is waited for
            assert stamp == arrived
    assert not stamper.is_trusting
    for number in range(240, 420):
        stamper(round(number * PERIOD + jump_s * S), 77 * S + number * PERIOD)
    assert stamper.is_trusting


def test_a_slow_drift_is_followed():
    stamper = Stamper()
    rows = play(stamper, 30 * 600, drift=100e-6)
    assert stamper.is_trusting
    assert max(arrived - stamp for _, arrived, stamp in rows) < MS


def test_a_rate_that_is_not_the_streams_is_not_trusted():
    """FFmpeg numbers pictures of MJPEG over HTTP at 25 a second, whatever the camera does."""
    stamper = Stamper()
    for number in range(600):
        arrived = number * 50 * MS
        assert stamper(number * 40 * MS, arrived) == arrived
    assert not stamper.is_trusting


def test_no_presentation_times_means_arrival():
    stamper = Stamper()
    assert [stamper(None, n * PERIOD) for n in range(300)] == [n * PERIOD for n in range(300)]


@given(st.lists(st.tuples(st.one_of(st.none(), st.integers(-10 * S, 10 * S)), st.integers(0, S)), max_size=300))
def test_stamps_rise_whatever_comes(packets):
    stamper, arrived, stamps = Stamper(), 0, []
    for presented, later in packets:
        arrived += later
        stamps.append((stamper(presented, arrived), arrived))
    assert all(a[0] < b[0] for a, b in pairwise(stamps))
    assert all(stamp <= at + len(packets) for stamp, at in stamps)
