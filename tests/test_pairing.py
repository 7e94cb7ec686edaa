import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.frame import Frame, Pair
from pipelines.live.pairing import Pairer, PairingRules, default_max_skew_ns, pair_frames

MS = 1_000_000
PIXEL = np.zeros((1, 1), np.uint8)


def frames(times_ns, name="s"):
    return [Frame(PIXEL, time, number, name) for number, time in enumerate(times_ns)]


def play(rgb_ns, thermal_ns, **rules):
    """Pair two lists of capture times; return the pairs and the pairer."""
    sources = {"rgb": iter(frames(rgb_ns)), "thermal": iter(frames(thermal_ns))}
    pairer = Pairer(PairingRules(**{"max_skew_ns": 20 * MS, **rules}))
    return list(pair_frames(lambda sensor: next(sources[sensor], None), pairer)), pairer


def numbers(pairs):
    return [
        (None if p.rgb is None else p.rgb.sequence, None if p.thermal is None else p.thermal.sequence) for p in pairs
    ]


def rising(period_ms):
    """Capture times of a camera with jitter, gaps and bursts; strictly rising."""
    gaps = st.lists(st.integers(1, period_ms * 3 * MS), max_size=40)
    return st.tuples(st.integers(0, 200 * MS), gaps).map(
        lambda drawn: [drawn[0] + sum(drawn[1][:n]) for n in range(len(drawn[1]) + 1)]
    )


@settings(max_examples=300, deadline=None)
@given(
    rgb=rising(33) | st.just([]),
    thermal=rising(40) | st.just([]),
    skew=st.integers(0, 60 * MS),
    offset=st.integers(-100 * MS, 100 * MS),
    hold=st.sampled_from([None, "rgb", "thermal"]),
)
def test_any_timing_keeps_skew_order_and_use(rgb, thermal, skew, offset, hold):
    pairs, pairer = play(rgb, thermal, max_skew_ns=skew, thermal_offset_ns=offset, hold=hold)

    assert all(p.skew_ns is None or abs(p.skew_ns) <= skew for p in pairs)
    for sensor, shift, times in (("rgb", 0, rgb), ("thermal", offset, thermal)):
        shown = [getattr(p, sensor) for p in pairs if getattr(p, sensor) is not None]
        used = [f.sequence for f in shown]
        assert used == sorted(used)
        assert hold == sensor or len(set(used)) == len(used), "a frame was used twice"
        assert all(f.time_ns == times[f.sequence] + shift for f in shown)
        assert len(set(used)) + pairer.counts[f"{sensor}_dropped"] == len(times), "a frame was lost uncounted"
    if hold != "rgb":
        assert {p.rgb.sequence for p in pairs if p.rgb} == set(range(len(rgb))), "every RGB frame goes on"


@settings(max_examples=300, deadline=None)
@given(rgb=rising(33), thermal=rising(40), skew=st.integers(0, 60 * MS))
def test_two_frames_that_could_meet_are_never_both_alone(rgb, thermal, skew):
    pairs, _ = play(rgb, thermal, max_skew_ns=skew)
    met = [(p.rgb.sequence, p.thermal.sequence) for p in pairs if p.rgb and p.thermal]
    for r in set(range(len(rgb))) - {r for r, _ in met}:
        for t in set(range(len(thermal))) - {t for _, t in met}:
            if abs(thermal[t] - rgb[r]) <= skew:  # only a pair between them, whose order they would break
                assert any((r - other_r) * (t - other_t) < 0 for other_r, other_t in met)


def test_buffers_stay_small_when_one_sensor_is_silent():
    asked = []
    sources = {"rgb": iter(frames(range(0, 1000 * MS, 33 * MS))), "thermal": iter(frames([5 * MS, 900 * MS]))}
    pairer = Pairer(PairingRules(max_skew_ns=20 * MS))

    def pull(sensor):
        asked.append(sensor)
        return next(sources[sensor], None)

    pulled_before_first = None
    for _ in pair_frames(pull, pairer):
        pulled_before_first = pulled_before_first or len(asked)
    assert pulled_before_first <= 4


def test_equal_rates_pair_one_to_one():
    pairs, pairer = play(range(0, 300 * MS, 33 * MS), range(7 * MS, 307 * MS, 33 * MS))
    assert numbers(pairs) == [(n, n) for n in range(10)]
    assert pairer.counts == {"pairs": 10}


def test_thirty_rgb_beside_twenty_five_thermal_frames_a_second():
    rgb = [round(n * 1e9 / 30) for n in range(60)]
    thermal = [round(n * 1e9 / 25) for n in range(50)]
    pairs, pairer = play(rgb, thermal, max_skew_ns=default_max_skew_ns(rgb[1], thermal[1]), rgb_period_ns=rgb[1])

    assert pairer.counts == {"pairs": 50, "rgb_alone": 10}
    for p in pairs:
        if p.skew_ns is not None:  # every pair is the true one: nearest, seen from either side
            assert abs(p.skew_ns) == min(abs(t - p.rgb.time_ns) for t in thermal)
            assert abs(p.skew_ns) == min(abs(t - p.thermal.time_ns) for t in rgb)


def test_slow_rgb_takes_the_nearest_of_a_fast_thermal_camera_and_the_rest_is_dropped():
    rgb, thermal = [n * 100 * MS for n in range(5)], [3 * MS + n * 33 * MS for n in range(14)]
    pairs, pairer = play(rgb, thermal, max_skew_ns=default_max_skew_ns(100 * MS, 33 * MS), rgb_period_ns=100 * MS)
    assert numbers(pairs) == [(0, 0), (1, 3), (2, 6), (3, 9), (4, 12)]
    assert pairer.counts == {"pairs": 5, "thermal_dropped": 9}


def test_a_narrow_skew_does_not_turn_surplus_thermal_frames_into_answers():
    rgb, thermal = [n * 100 * MS for n in range(5)], [n * 25 * MS for n in range(17)]
    pairs, pairer = play(rgb, thermal, max_skew_ns=2 * MS, rgb_period_ns=100 * MS)
    assert numbers(pairs) == [(n, 4 * n) for n in range(5)]
    assert pairer.counts["thermal_dropped"] == 12


@pytest.mark.parametrize(
    ("rgb_ms", "thermal_ms", "expected"),
    [
        ([0, 40, 80, 120], [0, 40, 120], [(0, 0), (1, 1), (2, None), (3, 2)]),  # a thermal frame is missing
        ([0, 80, 120], [0, 40, 80, 120], [(0, 0), (None, 1), (1, 2), (2, 3)]),  # an RGB frame is missing
        ([0, 40], [0, 40, 80, 120], [(0, 0), (1, 1), (None, 2), (None, 3)]),  # RGB ends first
        ([0, 40, 80], [0], [(0, 0), (1, None), (2, None)]),  # thermal ends first
        ([], [0, 40], [(None, 0), (None, 1)]),
        ([0, 40], [], [(0, None), (1, None)]),
        ([0, 33, 66], [18], [(0, None), (1, 0), (2, None)]),  # thermal goes to the RGB frame that is nearer
        ([0, 33], [18, 35], [(0, 0), (1, 1)]),  # … unless that one has a nearer partner
    ],
)
def test_lone_frames_go_on_alone(rgb_ms, thermal_ms, expected):
    pairs, _ = play([t * MS for t in rgb_ms], [t * MS for t in thermal_ms])
    assert numbers(pairs) == expected


def test_offset_brings_thermal_onto_rgb_clock():
    pairs, _ = play([100 * MS, 140 * MS], [20 * MS, 60 * MS], thermal_offset_ns=80 * MS)
    assert numbers(pairs) == [(0, 0), (1, 1)]
    assert [p.skew_ns for p in pairs] == [0, 0]


def test_holding_a_slow_thermal_camera_gives_every_rgb_frame_its_nearest():
    rgb, thermal = [n * 33 * MS for n in range(10)], [n * 111 * MS for n in range(4)]
    pairs, pairer = play(rgb, thermal, max_skew_ns=default_max_skew_ns(33 * MS, 111 * MS), hold="thermal")
    assert [t for _, t in numbers(pairs)] == [0, 0, 1, 1, 1, 1, 2, 2, 2, 3]
    assert pairer.counts == {"pairs": 10}


def test_holding_a_slow_rgb_camera_is_paced_by_thermal():
    pairs, _ = play([0, 100 * MS], [n * 33 * MS for n in range(5)], max_skew_ns=51 * MS, hold="rgb")
    assert numbers(pairs) == [(0, 0), (0, 1), (1, 2), (1, 3), (1, 4)]


def test_a_held_frame_never_serves_beyond_the_skew():
    pairs, _ = play([n * 33 * MS for n in range(6)], [0], max_skew_ns=40 * MS, hold="thermal")
    assert numbers(pairs) == [(0, 0), (1, 0), (2, None), (3, None), (4, None), (5, None)]


def test_a_stamp_that_does_not_rise_is_dropped_and_counted():
    pairer = Pairer(PairingRules(max_skew_ns=MS))
    for frame in frames([10, 10, 5, 20]):
        pairer.push("rgb", frame)
    pairer.end("rgb")
    pairer.end("thermal")
    out = []
    while isinstance(step := pairer.step(), Pair):
        out.append(step.rgb.sequence)
    assert out == [0, 3]
    assert pairer.counts == {"rgb_late": 2, "rgb_alone": 2}


def test_default_skew():
    assert default_max_skew_ns(33 * MS, 40 * MS) == 21 * MS  # half the slower, and a tick of Matroska's clock
    assert default_max_skew_ns(None, 40 * MS) == 21 * MS
    assert default_max_skew_ns(None, None) == 50 * MS
