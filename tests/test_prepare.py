import numpy as np
import pytest

from data.errors import DataError
from data.prepare import RGB_PADDING, InputSpec, Preparer, fit, place
from data.rig import Rig
from data.thermal import ThermalSpec

COUNTS = ThermalSpec(unit="counts16")
FIXED = InputSpec(rgb_size=(40, 60), thermal_size=(20, 30), thermal=COUNTS)
CANVAS = InputSpec(rgb_size=(64, 64), thermal_size=(64, 64), letterbox=True, thermal=COUNTS)


def pair(rgb=(40, 60), thermal=(20, 30)):
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (*rgb, 3), np.uint8), rng.integers(1, 65535, thermal, np.uint16)


def test_frames_of_the_declared_size_pass_unchanged():
    rgb, thermal = pair()
    prepared = Preparer(FIXED, Rig())(rgb, thermal)
    assert np.array_equal(prepared.rgb, rgb) and np.array_equal(prepared.thermal, thermal)
    assert prepared.present.tolist() == [1, 1] and prepared.scale == 1


@pytest.mark.parametrize("absent", ["rgb", "thermal"])
def test_an_absent_sensor_is_zeros_of_the_declared_size(absent):
    rgb, thermal = pair()
    prepared = Preparer(FIXED, Rig())(*((None, thermal) if absent == "rgb" else (rgb, None)))
    assert prepared.present.tolist() == ([0, 1] if absent == "rgb" else [1, 0])
    assert not getattr(prepared, absent).any()
    assert prepared.rgb.shape == (40, 60, 3) and prepared.thermal.shape == (20, 30)


@pytest.mark.parametrize("inputs", [FIXED, CANVAS])
def test_valid_pixels_never_carry_the_invalid_value(inputs):
    rgb, thermal = pair()
    thermal[3, 4] = 0
    assert Preparer(inputs, Rig())(rgb, thermal).thermal[:6, :6].min() > 0


def test_wrong_sizes_and_dtypes_are_named():
    rgb, thermal = pair()
    preparer = Preparer(FIXED, Rig())
    with pytest.raises(DataError, match=r"^pair 7: RGB frame is 50×40 \(width×height\), expected 60×40"):
        preparer(rgb[:, :50], thermal, "pair 7")
    with pytest.raises(DataError, match=r"^pair 7: thermal frame is 29×20 .*expected 30×20"):
        preparer(rgb, thermal[:, :29], "pair 7")
    with pytest.raises(DataError, match="RGB is uint16"):
        preparer(rgb.astype(np.uint16), thermal)
    with pytest.raises(DataError, match="thermal is uint8"):
        preparer(rgb, thermal.astype(np.uint8))


def test_a_canvas_takes_any_size_and_pads_right_and_below():
    rgb, thermal = pair((80, 128), (40, 64))
    prepared = Preparer(CANVAS, Rig())(rgb, thermal)
    assert prepared.scale == 0.5
    assert prepared.rgb.shape == (64, 64, 3) and prepared.thermal.shape == (64, 64)
    assert (prepared.rgb[40:] == RGB_PADDING).all() and (prepared.thermal[40:] == COUNTS.invalid).all()
    assert (prepared.thermal[:40] > 0).all()


def test_on_a_canvas_thermal_alone_lies_where_it_lies_beside_rgb():
    rgb, thermal = pair((80, 120), (64, 80))
    preparer = Preparer(CANVAS, Rig())
    both = preparer(rgb, thermal)
    alone = preparer(None, thermal, rgb_size=(80, 120))
    assert np.array_equal(both.thermal, alone.thermal) and both.scale == alone.scale


def test_on_a_canvas_marked_pixels_stay_apart():
    marked = InputSpec(**{**CANVAS.model_dump(), "thermal": ThermalSpec(unit="counts16", marked=True)})
    rgb, _ = pair((80, 128))
    thermal = np.full((40, 64), 5000, np.uint16)
    thermal[:, :7] = 0
    placed = Preparer(marked, Rig())(rgb, thermal).thermal[:40]
    assert set(np.unique(placed)) == {0, 5000}


def test_a_quarter_turn_swaps_the_thermal_size():
    turned = InputSpec(rgb_size=(40, 60), thermal_size=(30, 20), thermal=COUNTS)
    rgb, thermal = pair()
    prepared = Preparer(turned, Rig(rotate=90))(rgb, thermal)
    assert np.array_equal(prepared.thermal, np.rot90(thermal, -1))


def test_fit_and_place():
    assert fit((100, 50), (64, 64)) == (0.64, (64, 32))
    image = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(place(image, (2, 3), (4, 4), 9.0)[:2, :3], image)


def test_json_round_trip():
    assert InputSpec.model_validate_json(CANVAS.model_dump_json()) == CANVAS
    with pytest.raises(ValueError, match="one size for both"):
        InputSpec(rgb_size=(64, 64), thermal_size=(32, 32), letterbox=True, thermal=COUNTS)
