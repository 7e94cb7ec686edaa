import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.frame import Frame
from pipelines.live.camera_pairing import LivePairer
from pipelines.live.pairing import PairingRules

MS = 1_000_000
PIXEL = np.zeros((1, 1), np.uint8)
BUDGET = 100 * MS


def play(arrivals, budget=BUDGET, learns=False, every_ns=None, **rules):
    """Play (moment, sensor, stamp) through a pairer on a fake clock, polled at each arrival and when it is due.

    Returns (moment, pair) of what came out, and the pairer.
    """
    pairer = LivePairer(PairingRules(**{"max_skew_ns": 20 * MS, **rules}), budget, learns_skew=learns)
    out, number, pushed = [], {"rgb": 0, "thermal": 0}, {}

    def poll(now):
        while pair := pairer.poll(now):
            out.append((now, pair))
            assert 0 <= pairer.waited_ns <= budget

    for moment, sensor, stamp in sorted(arrivals, key=lambda arrival: arrival[0]):
        while (due := pairer.due_ns()) is not None and due <= moment:
            before = len(out)
            poll(due)
            assert len(out) > before or pairer.due_ns() != due, "due, but nothing comes"
        pairer.push_at(sensor, Frame(PIXEL, stamp, number[sensor], sensor), moment)
        pushed[sensor, number[sensor]] = moment
        number[sensor] += 1
        poll(moment)
    while (due := pairer.due_ns()) is not None:
        poll(due)
    for moment, pair in out:
        for sensor in ("rgb", "thermal"):
            frame = getattr(pair, sensor)
            if frame is not None and sensor != rules.get("hold"):
                assert moment - pushed[sensor, frame.sequence] <= budget, "it waited longer than the budget"
    return out, pairer


def numbers(out):
    return [
        (None if p.rgb is None else p.rgb.sequence, None if p.thermal is None else p.thermal.sequence) for _, p in out
    ]


def camera(sensor, period_ms, count=30, first_ms=0.0, delay_ms=5.0, lost=()):
    """Arrivals of a camera: each frame ``delay_ms`` after its stamp."""
    stamps = [round((first_ms + n * period_ms) * MS) for n in range(count) if n not in lost]
    return [(stamp + round(delay_ms * MS), sensor, stamp) for stamp in stamps]


@st.composite
def any_camera(draw, sensor):
    """Jitter, bursts, gaps, clocks that are set back or forward: stamps and the moments at which they come."""
    moment, shift, arrivals = draw(st.integers(0, 300 * MS)), 0, []
    for _ in range(draw(st.integers(0, 40))):
        moment += draw(st.one_of(st.integers(0, 60 * MS), st.just(0), st.integers(0, 900 * MS)))
        shift += draw(st.sampled_from([0] * 20 + [-5_000 * MS, 5_000 * MS, -30 * MS]))
        arrivals.append((moment, sensor, moment + shift - draw(st.integers(0, 40 * MS))))
    return arrivals


@settings(max_examples=150, deadline=None)
@given(
    rgb=any_camera("rgb"),
    thermal=any_camera("thermal"),
    skew=st.integers(0, 60 * MS),
    offset=st.integers(-150 * MS, 150 * MS),
    hold=st.sampled_from([None, "rgb", "thermal"]),
    budget=st.integers(0, 300 * MS),
    learns=st.booleans(),
)
def test_any_timing_keeps_skew_order_use_and_budget(rgb, thermal, skew, offset, hold, budget, learns):
    out, pairer = play(
        rgb + thermal, budget, learns=learns, max_skew_ns=skew, thermal_offset_ns=offset, hold=hold
    )  # the budget itself is asserted in there
    if not learns:
        assert all(p.skew_ns is None or abs(p.skew_ns) <= skew for _, p in out)
    for sensor, arrivals in (("rgb", rgb), ("thermal", thermal)):
        used = [getattr(p, sensor).sequence for _, p in out if getattr(p, sensor) is not None]
        assert used == sorted(used)
        assert hold == sensor or len(set(used)) == len(used), "a frame was used twice"
        lost = pairer.counts[f"{sensor}_dropped"] + pairer.counts[f"{sensor}_late"]
        assert len(set(used)) + lost == len(arrivals), "a frame was lost uncounted"
    if not any(a[0] for a in thermal):
        assert len(out) + pairer.counts["rgb_late"] + pairer.counts["rgb_dropped"] >= len(rgb)


@settings(max_examples=60, deadline=None)
@given(
    phase=st.floats(0, 16),
    jitter=st.lists(st.floats(-4, 4), min_size=80, max_size=80),
    delays=st.lists(st.floats(0, 15), min_size=80, max_size=80),
    offset=st.sampled_from([0, -120, 60]),
)
def test_every_pair_of_two_jittering_cameras_is_the_true_one(phase, jitter, delays, offset):
    """Two of 30/s, frame n of one shows the moment of frame n of the other; ``offset`` is what the rig adds."""
    arrivals = []
    for n in range(40):
        for sensor, shift, late in (("rgb", 0.0, 0), ("thermal", phase / 4, -offset)):
            stamp = n * 33.3 + shift + late + jitter[2 * n + (sensor == "rgb")] / 2
            arrivals.append((round((stamp + delays[2 * n]) * MS), sensor, round(stamp * MS)))
    out, pairer = play(arrivals, 250 * MS, learns=True, max_skew_ns=50 * MS, thermal_offset_ns=offset * MS)
    met = [(r, t) for r, t in numbers(out) if r is not None and t is not None]
    assert all(r == t for r, t in met)
    assert len(met) >= 38 and pairer.counts["pairs"] == len(met)


def test_a_pair_is_handed_out_the_moment_that_its_second_frame_comes():
    out, pairer = play(camera("rgb", 33) + camera("thermal", 33, first_ms=7), learns=True)
    assert numbers(out) == [(n, n) for n in range(30)]
    assert all(moment == pair.time_ns + 5 * MS for moment, pair in out[2:])  # periods are learned from the second on
    assert pairer.max_skew_ns == 33 * MS // 2 + MS + 33 * MS // 8


def test_a_camera_that_stops_costs_the_budget_once_and_then_nothing():
    out, _ = play(camera("rgb", 33, 60) + camera("thermal", 33, 20, first_ms=3))
    waited = [moment - pair.rgb.time_ns - 5 * MS for moment, pair in out if pair.rgb is not None]
    assert [t for _, t in numbers(out)] == [*range(20), *[None] * 40]
    assert max(waited) <= BUDGET and waited[20] > 60 * MS
    assert waited[30:] == [0] * 30  # nobody waits any more


def test_a_camera_that_comes_back_is_paired_from_its_second_frame_on():
    out, _ = play(camera("rgb", 33, 90) + camera("thermal", 33, 90, first_ms=3, lost=range(20, 60)))
    met = [(r, t) for r, t in numbers(out) if r is not None and t is not None]
    assert [r for r, _ in met] == [*range(20), *range(61, 90)]


def test_a_camera_that_was_never_there_is_awaited_for_one_budget():
    out, pairer = play(camera("rgb", 33, 20))
    waits = [moment - pair.rgb.time_ns - 5 * MS for moment, pair in out]
    assert waits[0] == BUDGET and waits[10:] == [0] * 10
    assert pairer.counts == {"rgb_alone": 20}


@pytest.mark.parametrize("alone", ["rgb", "thermal"])
def test_one_source_never_waits_once_the_other_has_ended(alone):
    pairer = LivePairer(PairingRules(max_skew_ns=MS), BUDGET)
    pairer.end("thermal" if alone == "rgb" else "rgb")
    for number in range(3):
        pairer.push_at(alone, Frame(PIXEL, number * 40 * MS, number, alone), number * 40 * MS)
        assert getattr(pairer.poll(number * 40 * MS), alone).sequence == number


def test_a_shutter_pause_is_bridged_and_the_pairs_after_it_are_true():
    out, _ = play(camera("rgb", 33, 60) + camera("thermal", 33, 60, first_ms=2, lost=range(30, 45)), learns=True)
    assert {p.skew_ns for _, p in out} == {None, 2 * MS}
    assert [r for r, t in numbers(out) if t is None] == list(range(30, 46))


def test_thirty_beside_nine_a_second():
    out, pairer = play(
        camera("rgb", 33.3, 90) + camera("thermal", 111, 27, first_ms=1), 150 * MS, learns=True, max_skew_ns=50 * MS
    )
    skews = [abs(p.skew_ns) for _, p in out if p.skew_ns is not None]
    assert pairer.counts["pairs"] == 27 and pairer.counts["rgb_alone"] == 63
    assert max(skews[3:]) <= 17 * MS  # the nearest of the fast camera's frames


def test_holding_thermal_gives_each_rgb_frame_its_nearest_without_waiting_for_the_next_thermal_frame():
    out, pairer = play(
        camera("rgb", 33, 60) + camera("thermal", 111, 18, first_ms=1), 150 * MS, learns=True, hold="thermal"
    )
    assert pairer.counts["pairs"] >= 55
    for moment, pair in out[10:50]:
        assert abs(pair.skew_ns) <= 111 * MS / 2 + 16 * MS
        assert moment - pair.rgb.time_ns <= 65 * MS  # until the nearer thermal frame is there, half its period


def test_a_clock_that_is_set_back_costs_a_few_frames_and_not_the_camera():
    back = [(m, s, stamp - (500 * MS if m > 500 * MS else 0)) for m, s, stamp in camera("rgb", 33, 60)]
    _, pairer = play(back)
    assert pairer.counts["rgb_late"] == 7 and pairer.counts["rgb_alone"] == 53
    hours = [(m, s, stamp - (3_600_000 * MS if m > 500 * MS else 0)) for m, s, stamp in camera("rgb", 33, 60)]
    assert play(hours)[1].counts == {"rgb_alone": 60}


def test_what_nobody_polls_stays_bounded():
    pairer = LivePairer(PairingRules(max_skew_ns=MS), BUDGET)
    for number in range(1000):
        pairer.push_at("rgb", Frame(PIXEL, number, number, "rgb"), number)
    assert pairer.counts["rgb_dropped"] == 1000 - 64
    assert pairer.poll(10**12).rgb.sequence == 1000 - 64
