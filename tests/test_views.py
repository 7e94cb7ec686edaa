"""What the page shows: panels of one size, thermal's colours, and what its numbers mean."""

import numpy as np
import pytest

from data.frame import Frame, Pair
from data.prepare import InputSpec, Preparer
from data.rig import Rig
from data.thermal import Planck, ThermalSpec, counts_to_celsius
from pipelines.live.answer import BoxAnswer, LabelAnswer, MapAnswer
from pipelines.live.draw import COLOURS, false_colour
from pipelines.live.state import Latest
from pipelines.live.views import Scene, ThermalScale, Thermometer, View

PLANCK = Planck(r1=17096.453, r2=0.04351, b=1428.0, f=1.0, o=-342.0)
GREY = 90


def inputs_of(unit="celsius", size=(360, 480), **fields):
    spec = ThermalSpec(unit=unit, **fields)
    return InputSpec(rgb_size=size, thermal_size=size, thermal=spec)


def latest_of(inputs, thermal, rgb=GREY, boxes=(), size=None):
    """An answer on a grey RGB frame (None: absent) and this thermal frame (None: absent)."""
    size = size or inputs.rgb_size
    image = None if rgb is None else np.full((*size, 3), rgb, np.uint8)
    pair = Pair(
        None if image is None else Frame(image, 0, 0, "rgb"), None if thermal is None else Frame(thermal, 0, 0, "th")
    )
    prepared = Preparer(inputs, Rig())(image, thermal, rgb_size=size)
    return Latest(pair, prepared, BoxAnswer(0, np.array(boxes, np.float32).reshape(-1, 6), size))


def slope(size=(360, 480), dtype=np.float32, low=0.0, high=40.0):
    """Thermal that rises from left to right."""
    return np.tile(np.linspace(low, high, size[1]), (size[0], 1)).astype(dtype)


def scene(latest, inputs):
    return Scene(latest, inputs, ("person", "car"), ThermalScale(inputs.thermal))


def test_all_holds_fused_and_both_halves():
    inputs = inputs_of()
    made = scene(latest_of(inputs, slope()), inputs)
    whole = made.picture(View("all", 50, False))
    assert whole.shape == (360, 720, 3) and whole.dtype == np.uint8
    np.testing.assert_array_equal(whole[:, :480], made.picture(View("fused", 50, False)))
    assert (whole[:180, 480:] == GREY).all()
    thermal = made.picture(View("thermal", 50, False)).astype(int)
    halved = whole[180:, 480:].astype(int)
    assert np.abs(halved - thermal.reshape(180, 2, 240, 2, 3).mean((1, 3))).max() <= 2


@pytest.mark.parametrize("opacity", [0, 30, 100])
def test_opacity_is_thermals_share(opacity):
    inputs = inputs_of()
    made = scene(latest_of(inputs, slope()), inputs)
    thermal = made.picture(View("thermal", 0, False)).astype(float)
    wanted = GREY * (1 - opacity / 100) + thermal * opacity / 100
    assert np.abs(made.picture(View("fused", opacity, False)) - wanted).max() <= 1


def test_where_thermal_shows_nothing_rgb_stays_as_it_is():
    inputs = inputs_of()
    thermal = slope()
    thermal[:100, :100] = inputs.thermal.invalid
    fused = scene(latest_of(inputs, thermal), inputs).picture(View("fused", 80, False))
    assert (fused[:99, :99] == GREY).all()
    assert (fused[110:, 110:] != GREY).any()


@pytest.mark.parametrize(("rgb", "thermal"), [(None, True), (GREY, False)])
def test_a_lone_sensor_is_shown_alone_and_the_other_said_to_be_missing(rgb, thermal):
    inputs = inputs_of()
    made = scene(latest_of(inputs, slope() if thermal else None, rgb), inputs)
    there, absent = ("thermal", "rgb") if rgb is None else ("rgb", "thermal")
    alone = made.picture(View(there, 0, False))
    np.testing.assert_array_equal(made.picture(View("fused", 50, False)), alone)
    missing = made.picture(View(absent, 0, False))
    assert missing.mean() < 40 and missing.max() > 100  # dark, with words on it


def test_answers_are_drawn_named_on_the_large_panel_and_only_where_wanted():
    inputs = inputs_of()
    latest = latest_of(inputs, slope(), boxes=[[200, 100, 300, 250, 0.9, 0]])
    whole = scene(latest, inputs).picture(View("all", 0, True))
    for left, right, corner in ((0, 480, (100, 250)), (480, 720, (50, 125))):
        assert tuple(whole[:, left:right][corner]) == COLOURS[0]
    above = (whole[85:98, 205:290] == COLOURS[0]).all(2)
    assert above.mean() > 0.3  # the tag
    assert not (whole[40:47, 480 + 105 : 480 + 145] == COLOURS[0]).all(2).any()
    assert (scene(latest, inputs).picture(View("rgb", 0, False)) == GREY).all()


@pytest.mark.parametrize(
    "answer",
    [
        MapAnswer(0, np.ones((90, 120), np.uint8), np.ones((90, 120), np.float32), (360, 480)),
        LabelAnswer(0, np.array([0.1, 0.9], np.float32), (360, 480)),
    ],
)
def test_every_task_is_drawn(answer):
    inputs = inputs_of()
    pair, prepared, _ = latest_of(inputs, slope())
    picture = scene(Latest(pair, prepared, answer), inputs).picture(View("rgb", 0, True))
    assert (picture != GREY).any()


@pytest.mark.parametrize("size", [(90, 161), (719, 1283)])
def test_a_camera_of_any_size_gives_a_picture_that_jpeg_likes(size):
    inputs = InputSpec(
        rgb_size=(128, 128), thermal_size=(128, 128), letterbox=True, thermal=ThermalSpec(unit="celsius")
    )
    latest = latest_of(inputs, slope(size), size=size)
    whole = scene(latest, inputs).picture(View("all", 50, True))
    height, width = whole.shape[:2]
    assert height % 4 == 0 and width % 6 == 0 and 356 <= height <= 540
    assert width * 2 / 3 / height == pytest.approx(size[1] / size[0], rel=0.03)


def test_colours_follow_the_scene_slowly_and_jump_to_another():
    scale = ThermalScale(ThermalSpec(unit="celsius"))
    assert scale.ends is None
    low, high = scale.follow(slope())
    assert (low, high) == (pytest.approx(0.2, abs=0.3), pytest.approx(39.8, abs=0.3))
    slid = scale.follow(slope(low=10, high=50))
    assert low < slid[0] < 3 and high < slid[1] < 43
    assert scale.follow(slope(low=200, high=240))[0] == pytest.approx(200.2, abs=0.3)
    assert scale.ends[1] > 239


def test_one_hot_pixel_and_a_flat_frame_do_not_spoil_the_colours():
    spec = ThermalSpec(unit="celsius")
    hot = slope()
    hot[50, 50] = 900
    assert ThermalScale(spec).follow(hot)[1] < 41
    low, high = ThermalScale(spec).follow(np.full((30, 40), 20, np.float32))
    assert high - low == pytest.approx(spec.min_span)
    dead = np.full((30, 40), spec.invalid, np.float32)
    assert ThermalScale(spec).follow(dead) == (0.0, 1.0)
    assert (false_colour(dead, spec.invalid, (0.0, 1.0)) == 0).all()


@pytest.mark.parametrize(
    ("unit", "raw", "fields", "told"),
    [
        ("celsius", np.float32(36.5), {}, (36.5, "°C")),
        ("counts16", np.uint16(21500), {}, (21500, "counts")),
        ("intensity8", np.uint8(77), {}, (77, "levels")),
        ("counts16", np.uint16(14000), {"planck": PLANCK}, (None, "°C")),
    ],
)
def test_a_place_is_read_in_the_unit_that_means_something(unit, raw, fields, told):
    inputs = inputs_of(unit, **fields)
    thermal = np.full((360, 480), raw + 5, inputs.thermal.dtype)
    thermal[180:, 240:] = raw
    reading = Thermometer(inputs).at(latest_of(inputs, thermal), 0.75, 1.0)
    value = counts_to_celsius(np.array([raw]), PLANCK)[0] if told[0] is None else told[0]
    assert (reading.value, reading.unit) == (pytest.approx(float(value)), told[1])
    assert Thermometer(inputs).at(latest_of(inputs, thermal), 0.1, 0.1).value != pytest.approx(float(value))


def test_nothing_is_read_where_thermal_shows_nothing():
    inputs = inputs_of()
    thermal = slope()
    thermal[:180] = inputs.thermal.invalid
    meter = Thermometer(inputs)
    assert meter.at(latest_of(inputs, thermal), 0.5, 0.1).value is None
    assert meter.at(latest_of(inputs, thermal), 0.5, 0.9).value == pytest.approx(20, abs=0.2)
    assert meter.at(latest_of(inputs, None), 0.5, 0.5).value is None


def test_a_place_on_a_canvas_is_a_place_of_the_cameras_view():
    inputs = InputSpec(
        rgb_size=(128, 128), thermal_size=(128, 128), letterbox=True, thermal=ThermalSpec(unit="celsius")
    )
    latest = latest_of(inputs, slope((180, 360)), size=(180, 360))
    assert Thermometer(inputs).at(latest, 0.999, 0.999).value == pytest.approx(40, abs=0.5)
    assert Thermometer(inputs).at(latest, 0.25, 0.5).value == pytest.approx(10, abs=0.5)
