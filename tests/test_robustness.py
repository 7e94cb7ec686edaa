"""What is done to a pair before a model sees it: padding stays, what is absent stays so, thermal moves as said."""

import numpy as np
import pytest

from data.augment.degrade import DEGRADATIONS
from data.prepare import RGB_PADDING, InputSpec, Preparer
from data.rig import Rig
from data.thermal import ThermalSpec
from pipelines.robustness import choose, fitting, mean

COUNTS = ThermalSpec(unit="counts16")
PLAIN = InputSpec(rgb_size=(48, 64), thermal_size=(24, 32), thermal=COUNTS)
CANVAS = InputSpec(rgb_size=(64, 96), thermal_size=(64, 96), letterbox=True, thermal=COUNTS)
BOTH = ("rgb", "thermal")


def prepared(inputs, rgb_size, thermal_size):
    noise = np.random.default_rng(0)
    rgb = noise.integers(40, 200, (*rgb_size, 3), np.uint8)
    thermal = noise.integers(21000, 23000, thermal_size).astype(np.uint16)
    return Preparer(inputs, Rig())(rgb, thermal)


def changes(inputs, pair, **asked):
    condition = choose("model", BOTH, without=(), **asked)[-1]
    return [change(pair, "pair 1", inputs) for change in condition.changes]


def test_thermal_moves_by_pixels_of_rgb_and_leaves_invalid_behind():
    pair = prepared(PLAIN, (48, 64), (24, 32))
    right, left, down, up = changes(PLAIN, pair, shift=[4])  # two pixels of a thermal of half the size
    np.testing.assert_array_equal(right.thermal[:, 2:], pair.thermal[:, :-2])
    np.testing.assert_array_equal(left.thermal[:, :-2], pair.thermal[:, 2:])
    np.testing.assert_array_equal(down.thermal[2:], pair.thermal[:-2])
    np.testing.assert_array_equal(up.thermal[:-2], pair.thermal[2:])
    for moved, gone in ((right, np.s_[:, :2]), (left, np.s_[:, -2:]), (down, np.s_[:2]), (up, np.s_[-2:])):
        assert (moved.thermal[gone] == COUNTS.invalid).all()
        assert moved.rgb is pair.rgb and moved.present.tolist() == [1, 1]


def test_a_part_of_a_pixel_never_mixes_in_what_is_invalid():
    pair = prepared(PLAIN, (48, 64), (24, 32))
    pair.thermal[10, 10] = COUNTS.invalid
    moved = changes(PLAIN, pair, shift=[1])[0].thermal
    assert (moved[10, 10:12] == 0).all() and (moved[:, 0] == 0).all()
    valid = moved[moved > 0]
    assert valid.min() >= 21000 and len(valid) == moved.size - 24 - 2


def test_on_a_canvas_the_padding_stays_and_pixels_are_those_of_the_delivered_frame():
    pair = prepared(CANVAS, (96, 96), (96, 96))
    assert pair.scale == pytest.approx(2 / 3)
    right = changes(CANVAS, pair, shift=[6])[0]
    np.testing.assert_array_equal(right.thermal[:, 4:64], pair.thermal[:, :60])
    assert (right.thermal[:, 64:] == COUNTS.invalid).all()


@pytest.mark.parametrize("name", list(DEGRADATIONS))
def test_worse_in_its_own_sensor_within_the_picture_and_the_same_again(name):
    pair = prepared(CANVAS, (96, 96), (96, 96))
    once, again = (changes(CANVAS, pair, degrade=[name])[0] for _ in range(2))
    changed = DEGRADATIONS[name].sensor
    for sensor in BOTH:
        before, after = getattr(pair, sensor), getattr(once, sensor)
        assert np.array_equal(before, after) == (sensor != changed)
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(after, getattr(again, sensor))
    assert (once.rgb[:, 64:] == RGB_PADDING).all() and (once.thermal[:, 64:] == COUNTS.invalid).all()
    other = choose("model", BOTH, (), degrade=[name])[-1].changes[0](pair, "pair 2", CANVAS)
    if "noise" in name:  # others draw from few values
        assert not np.array_equal(getattr(once, changed), getattr(other, changed))


def test_what_is_absent_is_not_made_worse():
    pair = Preparer(PLAIN, Rig())(np.full((48, 64, 3), 99, np.uint8), None)
    for name in fitting(["all"], ("thermal",)):
        assert not changes(PLAIN, pair, degrade=[name])[0].thermal.any()


def test_rows_in_their_order():
    asked = choose("model", BOTH, None, [2.5], ["glare", "all", "night"])
    words = ["", "rgb absent", "thermal absent", "thermal moved 2.5 px", "glare"]
    assert [one.words for one in asked][:5] == words
    assert [one.words for one in asked][4:] == list(
        dict.fromkeys(["glare", *(name.replace("_", " ") for name in DEGRADATIONS)])
    )
    assert [one.words for one in choose("model", BOTH, ["thermal"])] == ["thermal absent"]
    assert [one.words for one in choose("model", BOTH, ["thermal"], [1])][:2] == ["", "thermal absent"]
    assert [one.words for one in choose("model", ("rgb",))] == [""]
    twice = choose("model", BOTH, ["rgb", "rgb"], [2, 2.0], ["fog", "fog"])
    assert [one.words for one in twice] == ["", "rgb absent", "thermal moved 2 px", "fog"]


@pytest.mark.parametrize("absent", [(), ("rgb",), ("thermal",)])
def test_content_is_what_the_frame_covers(absent):
    rgb, thermal = np.full((100, 50, 3), 99, np.uint8), np.full((100, 50), 22000, np.uint16)
    pair = Preparer(CANVAS, Rig())(None if "rgb" in absent else rgb, None if "thermal" in absent else thermal)
    assert pair.content == (64, 32)
    assert prepared(PLAIN, (48, 64), (24, 32)).content == (48, 64)


def test_thermal_alone_on_a_canvas_moves_within_its_own_frame():
    pair = Preparer(CANVAS, Rig())(None, np.full((96, 48), 22000, np.uint16))
    right = changes(CANVAS, pair, shift=[3])[0]
    assert (right.thermal[:, 2:32] == 22000).all() and (right.thermal[:, 32:] == COUNTS.invalid).all()


def test_means():
    one = {"ap50": 0.2, "per_class": {"a": {"iou": 1.0, "pixels": 4}}, "confusion": [[1, 2], [3, 4]]}
    other = {
        "ap50": 0.4,
        "per_class": {"a": {"iou": 0.5, "pixels": 4}, "b": {"iou": 0.1}},
        "confusion": [[3, 2], [3, 0]],
    }
    assert mean([one, other]) == {
        "ap50": pytest.approx(0.3),
        "per_class": {"a": {"iou": 0.75, "pixels": 4}, "b": {"iou": 0.1}},
        "confusion": [[2, 2], [3, 2]],
    }
    assert mean([one]) == one
